"""Recipes train on balanced and augmented data, and record it."""

import json
from pathlib import Path

import pytest
import yaml

AUGMENTED = ("balance.sampling=class_and_group", "augment.noise.p=1.0", "augment.speed.p=0.5", "train.max_steps=4")


def test_a_run_is_trained_and_its_record_has_the_counts(workplace):
    out = workplace.folder / "balanced"
    workplace.run("finetune", out, *AUGMENTED, "balance.class_weights=balanced", "train.eval_strategy=steps",
                  "train.eval_steps=2")  # fmt: skip
    run = json.loads((out / "run.json").read_text("utf-8"))
    before, after = run["balance"]["before"], run["balance"]["after"]
    assert before["classes"] == {"angry": 6, "content": 6, "happy": 4, "sad": 4}
    assert after["classes"] == dict.fromkeys(before["classes"], 6)
    assert {n for cell in after["groups"].values() for n in cell.values()} == {3}
    assert set(run["class_weights"].values()) == {1.0}
    assert len(run["hashes"]["augmentation"]) == 64
    assert (out / "metrics.json").is_file()


@pytest.fixture
def baseline(workplace, tmp_path):
    """The workplace with a YAML of a baseline."""
    settings = yaml.safe_load(Path(workplace.config("zero_shot")).read_text("utf-8"))
    settings = {name: settings[name] for name in ("data", "split", "output")}
    settings["baseline"] = {
        "audio": {"encoder": {"kind": "log_mel"}}, "transcript": {"encoder": {"kind": "scratch"}},
        "cache_dir": str(workplace.folder / "cache"),
    }  # fmt: skip
    return workplace.with_config("train_baseline", settings, tmp_path)


@pytest.mark.slow
def test_the_baseline_is_trained_on_augmented_features(baseline, tmp_path):
    histories = {}
    for name, overrides in {
        "bare": ["train.max_steps=4"], "augmented": [*AUGMENTED], "repeated": [*AUGMENTED],
        "weighted": ["train.max_steps=4", "balance.class_weights=balanced"],
    }.items():  # fmt: skip
        out = tmp_path / name
        more = ("train.logging_steps=1", "train.per_device_train_batch_size=4")
        assert baseline.again("train_baseline", f"output.dir={out}", *overrides, *more) == 0
        histories[name] = (out / "history.jsonl").read_text("utf-8")
    assert histories["augmented"] == histories["repeated"]
    assert len(set(histories.values())) == 3
    weights = json.loads((tmp_path / "weighted" / "run.json").read_text("utf-8"))["class_weights"]
    assert weights == {"angry": 20 / 24, "content": 20 / 24, "happy": 20 / 16, "sad": 20 / 16}


def test_augmentation_is_refused_without_audio(baseline, tmp_path, capsys):
    settings = ("baseline.modalities=transcript", "augment.gain.p=1.0", f"output.dir={tmp_path / 'run'}")
    assert baseline.again("train_baseline", *settings) == 1
    assert "augment.gain.p" in capsys.readouterr().err
