"""A baseline starts from the branches of other runs on the same fold."""

import json
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

PARTS = {
    "audio": {"encoder": {"kind": "log_mel", "bands": 8}, "sequence": {"channels": 8, "layers": 1}},
    "transcript": {
        "encoder": {"kind": "embeddings", "embeddings": {"size": 8}}, "sequence": {"channels": 8, "layers": 1},
    },
}  # fmt: skip


@pytest.fixture
def train(workplace, tmp_path):
    """Trains a small baseline in a folder; returns the exit status."""
    settings = yaml.safe_load(Path(workplace.config("zero_shot")).read_text("utf-8"))
    settings = {name: settings[name] for name in ("data", "split", "output")}
    settings["baseline"] = {**PARTS, "cache_dir": str(tmp_path / "cache"), "processes": 1}
    file = tmp_path / "train_baseline.yaml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")

    def run(name, *overrides):
        options = [f"output.dir={tmp_path / name}", "train.max_steps=2", "train.use_cpu=true", *overrides]
        return workplace.script("recipes/train_baseline.py", "--config", str(file), *options)

    return run


def test_a_frozen_branch_of_another_run_keeps_its_weights(train, tmp_path, capsys):
    assert train("audio_fold1", "baseline.modalities=audio") == 0
    start = ["baseline.audio.frozen=true", f"baseline.audio.start_from={tmp_path}/audio_fold{{fold}}"]
    assert train("both", *start) == 0
    alone, both = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("audio_fold1", "both"))
    names = [name for name in alone if name.startswith("branches.audio.")]
    assert names
    assert all(both[name].equal(alone[name]) for name in names)
    record = json.loads((tmp_path / "both" / "run.json").read_text("utf-8"))
    assert record["recognizer"] == "fusion (log_mel frozen, word embeddings)"
    assert len(record["hashes"]["start_audio"]) == 64
    capsys.readouterr()
    assert train("refused", *start, "split.fold=2") == 1
    assert "'baseline.audio.start_from'" in (error := capsys.readouterr().err)
    assert "is no finished run; run it first, on the same fold" in error
    assert train("refused", start[0], f"baseline.audio.start_from={tmp_path}/audio_fold1", "split.fold=2") == 1
    assert "was trained on fold 1 of synthetic_beeps_3fold, or on other data; expected" in capsys.readouterr().err
    (tmp_path / "audio_fold1" / "model" / "model.safetensors").rename(tmp_path / "moved")
    assert train("refused", *start) == 1
    assert "audio_fold1 has no model/model.safetensors; expected the folder of a finished" in capsys.readouterr().err
