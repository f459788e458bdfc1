"""Layer probes: every layer in every fold from one pass over the audio; dev alone chooses the layer of a fold."""

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import recall_score

from lalm_mer.core.config import read_yaml
from lalm_mer.models.encoders.pretrained_audio import PretrainedAudio

RECIPE = "probe_layers"
TONE = 8000
"""Samples of the tone by which an encoder measures its layers."""


@pytest.fixture(scope="module")
def probes(workplace, tiny_whisper_folder, tmp_path_factory):
    """A workplace with a YAML of probes of a tiny Whisper."""
    folder = tmp_path_factory.mktemp("probes")
    shared = read_yaml(workplace.config("zero_shot"))
    audio = {"kind": "pretrained", "model": str(tiny_whisper_folder), "pooled": True}
    linear = {"modalities": "audio", "audio": audio, "c": [0.01, 1.0], "processes": 1}
    content = {key: shared[key] for key in ("data", "split", "output")} | {"linear": linear}
    (folder / "linear.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    systems = {"tiny": {"recipe": "train_linear", "config": str(folder / "linear.yaml")}}
    return workplace.with_config(RECIPE, {"systems": systems, "output": {"dir": str(folder / "unused")}}, folder)


def uar(folder, name):
    """UAR of a table of predictions, by scikit-learn alone."""
    table = pd.read_parquet(folder / name)
    return recall_score(table["truth"], table["prediction"], average="macro")


def test_every_layer_is_probed_from_one_pass_and_dev_chooses(probes, tmp_path, capsys, monkeypatch):
    encoded, whisper = [], PretrainedAudio._whisper
    monkeypatch.setattr(
        PretrainedAudio, "_whisper", lambda self, samples: encoded.append(len(samples)) or whisper(self, samples)
    )
    command = [RECIPE, f"output.dir={tmp_path}", f"overrides=[linear.cache_dir={tmp_path / 'cache'}]"]
    assert probes.again(*command, "--worker") == 0
    runs = sorted(path.parent.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("metrics.json"))
    assert runs == [f"layer_{layer}/runs/tiny/fold{fold}_seed0" for layer in range(3) for fold in (1, 2, 3)]
    # 60 clips, and one of 40 s in 20 windows
    assert len([count for count in encoded if count != TONE]) == 60 + 20
    changed = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("run.json")}
    capsys.readouterr()

    assert probes.again(*command) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("run.json")} == changed
    last = capsys.readouterr().out.splitlines()[-1]

    table = pd.read_csv(tmp_path / "layer_probes.csv")
    of_fold = table[table["fold"] != "pooled"]
    assert len(of_fold) == 9
    for row in of_fold.itertuples():
        folder = tmp_path / f"layer_{row.layer}/runs/tiny/fold{row.fold}_seed0"
        assert row.dev == pytest.approx(uar(folder, "dev_predictions.parquet"))
        assert row.test == pytest.approx(uar(folder, "predictions.parquet"))
    picked = []
    for fold, rows in of_fold.groupby("fold"):
        (layer,) = rows.loc[rows["chosen"].astype(str) == "True", "layer"]
        assert layer == rows.sort_values("layer")["layer"].iloc[np.argmax(rows.sort_values("layer")["dev"])]
        picked.append(pd.read_parquet(tmp_path / f"layer_{layer}/runs/tiny/fold{fold}_seed0/predictions.parquet"))
    pooled = pd.concat(picked)
    expected = recall_score(pooled["truth"], pooled["prediction"], average="macro")
    (chosen,) = table.loc[table["layer"] == "chosen on dev", "test"]
    assert chosen == pytest.approx(expected)
    layers = " ".join(of_fold.loc[of_fold["chosen"].astype(str) == "True"].sort_values("fold")["layer"])
    assert last.startswith(
        f"tiny, layer chosen on dev of each fold ({layers}): test uar {100 * expected:.1f}% (95% interval "
    )
    assert "data:image/svg" in (tmp_path / "report.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["layers=[0,7]"], "key 'layers': 7, but "),
        (["layers=[1,1]"], "key 'layers': [1, 1] has a value twice"),
        (["overrides=[linear.audio.layers=all]"], "override 'linear.audio.layers=all': each run has its own"),
        (["overrides=['linear={seed: 1}']"], "override 'linear={seed: 1}': each run has its own"),
        (
            ["overrides=[linear.audio.kind=log_mel]"],
            "system tiny: key 'linear.audio.kind': log_mel; expected pretrained",
        ),
        (["overrides=[linear.modalities=audio+transcript]"], "a probe is of one encoder: choose audio or transcript"),
        (["overrides=[split.score_test=false]"], "a probe is scored on test, too"),
        (
            ["systems={tiny: {recipe: train_baseline}}"],
            "key 'systems.tiny.recipe': train_baseline; a probe is a linear",
        ),
        (["folds=[7]"], "key 'folds': 7; protocol synthetic_beeps_3fold"),
    ],
)
def test_a_mistake_is_one_line_before_anything_runs(overrides, says, probes, tmp_path, capsys):
    assert probes.again(RECIPE, f"output.dir={tmp_path / 'out'}", *overrides) == 1
    (line,) = [each for each in capsys.readouterr().err.splitlines() if each.startswith("error: ")]
    assert says in line
    assert not (tmp_path / "out").exists()
