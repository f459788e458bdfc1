"""A baseline from its training to the Hub and back, by the commands that users write."""

import numpy as np
import pandas as pd
import pytest
import yaml
from hub_server import serve, speak_to
from small_runs import small_baseline

from lalm_mer.cli import main


@pytest.fixture(scope="module")
def trained(workplace, tmp_path_factory):
    """A finished run of log-mel bands and a small BERT."""
    folder = tmp_path_factory.mktemp("trained")
    config = small_baseline(workplace)
    parts = config["baseline"] | {"modalities": "audio+transcript", "audio": {"encoder": {"kind": "log_mel"}}}
    config |= {"baseline": parts, "output": {"dir": str(folder / "run")}}
    (folder / "baseline.yaml").write_text(yaml.safe_dump(config))
    assert workplace.script("recipes/train_baseline.py", "--config", str(folder / "baseline.yaml")) == 0
    return folder / "run"


def predicted(source, clip, out):
    """Probabilities of a clip by ``lalm-mer predict``."""
    command = ["predict", str(clip), "--transcript", "The door is number 3.", "--run", str(source), "--out", str(out)]
    assert main([*command, "--device", "cpu", "--strict"]) == 0
    return pd.read_parquet(out).filter(like="prob_").to_numpy()


def test_a_baseline_is_pushed_and_predicts_the_same(trained, workplace, tmp_path, monkeypatch, capsys):
    push = ["recipes/push_adapter.py", str(trained), "--repo", "jane/baseline"]
    assert workplace.script(*push, "--dry-run", "--out", str(tmp_path / "refused")) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "learnt from transcripts" in line
    assert "--push-vocabulary" in line
    push.append("--push-vocabulary")
    assert workplace.script(*push, "--dry-run", "--out", str(tmp_path / "out")) == 0
    printed = capsys.readouterr().out
    files = {path.relative_to(tmp_path / "out").as_posix(): path.read_bytes()
             for path in (tmp_path / "out").rglob("*") if path.is_file()}  # fmt: skip
    assert all(name in printed for name in files)
    assert set(files) == {
        "README.md", "metrics.json", "model.safetensors", "network.json", "run.json", "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
    }  # fmt: skip
    table = pd.read_parquet(trained / "predictions.parquet")
    private = [str(workplace.folder), str(trained.parent), "door", *table["utterance_id"]]
    for name, content in files.items():
        of_vocabulary = name == "tokenizer/tokenizer.json"
        assert [text for text in private if text.encode() in content] == (["door"] if of_vocabulary else []), name
    clip = workplace.folder / "clips" / "s1_1.wav"
    expected = predicted(trained, clip, tmp_path / "run.parquet")
    with serve() as server:
        speak_to(server, tmp_path / "cache", monkeypatch)
        assert workplace.script(*push) == 0
        assert "pushed: " in capsys.readouterr().out
        assert {name: server.hub.head("jane/baseline")[1][name] for name in files} == files
        for number, source in enumerate(("jane/baseline", tmp_path / "out")):
            assert np.array_equal(predicted(source, clip, tmp_path / f"{number}.parquet"), expected)
