"""Adapters to the Hub and back, by the real client, against a server in this process that speaks the Hub's API."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from closeness import assert_close
from hub_server import TOKEN, refuses, serve, speak_to

from lalm_mer.core.errors import AdapterError
from lalm_mer.core.provenance import hash_file
from lalm_mer.evaluation.runs import read_run
from lalm_mer.models.tiny import build_tiny
from lalm_mer.prompting.ensembles import load_ensemble
from lalm_mer.sharing.hub import load_adapter_from, push

ROOT = Path(__file__).resolve().parents[2]
SCORES = """
import sys
from pathlib import Path
import numpy
from lalm_mer.core.config import load_config
from lalm_mer.examples.dataset import InputDataset
from lalm_mer.launch.build.data import with_unscored
from lalm_mer.launch.build.model_run import open_model_run
from lalm_mer.launch.config.settings import (ZeroShotSettings)
from lalm_mer.models.adapters import load_adapter
from lalm_mer.recognizers.base import Scores
from lalm_mer.recognizers.scoring import score_inputs
from lalm_mer.sharing.hub import load_adapter_from

loaded = open_model_run(load_config(ZeroShotSettings, Path(sys.argv[1]))).load()
recognizer = loaded.recognizer(load_adapter(loaded.model, load_adapter_from("jane/adapter"))).eval()
rows = list(score_inputs(recognizer, InputDataset(loaded.data.scored_test), batch_size=4))
scores = Scores("single", recognizer.label_set.labels, numpy.stack(rows))
numpy.save(sys.argv[2], with_unscored(loaded.data, scores).values)
"""


@pytest.fixture
def server():
    """A Hub of its own for a test."""
    with serve() as running:
        yield running


@pytest.fixture
def online(server, tmp_path):
    """What a user's environment says, with this Hub in place of the other."""
    return {
        "HF_ENDPOINT": server.endpoint, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }  # fmt: skip


@pytest.fixture
def here(server, tmp_path, monkeypatch):
    """The same for calls in this process."""
    speak_to(server, tmp_path / "cache", monkeypatch)
    return server.hub


@pytest.fixture
def assembled(tmp_path):
    """A small folder with the files of an adapter."""
    folder = tmp_path / "assembled"
    folder.mkdir()
    for name in ("adapter_config.json", "labels.json", "run.json"):
        (folder / name).write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    (folder / "README.md").write_text("---\nlicense: unknown\n---\n# Adapter\n")
    return folder


def push_by_recipe(workplace, run, environment, *arguments):
    command = [
        sys.executable,
        "recipes/push_adapter.py",
        str(run),
        "--repo",
        "jane/adapter",
        "--push-vocabulary",
        *arguments,
    ]
    return subprocess.run(
        command, cwd=ROOT, env=workplace.environment() | environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_an_adapter_goes_to_the_hub_and_scores_the_same_when_it_comes_back(
    uninterrupted, workplace, server, here, online, tmp_path
):
    done = push_by_recipe(workplace, uninterrupted, online, "--licence", "cc-by-nc-4.0", "--private")
    assert done.returncode == 0, done.stderr
    assert f"pushed: {server.endpoint}/jane/adapter/commit/" in done.stdout
    commits = server.hub.repos["jane/adapter"]
    assert len(commits) == 2  # the one that made it, and ours
    assert server.hub.private["jane/adapter"]
    files = commits[-1][1]
    weights = (uninterrupted / "adapter" / "adapter_model.safetensors").read_bytes()
    assert files["adapter_model.safetensors"] == weights
    assert server.hub.verified == {hashlib.sha256(weights).hexdigest()}  # as a large file
    assert not [name for name in files if "checkpoint" in name or "predictions" in name or name.endswith(".pt")]
    everything = b"\n".join(content for name, content in files.items() if name != "tokenizer.json")
    ids = set(pd.read_parquet(uninterrupted / "predictions.parquet")["utterance_id"])
    for secret in [str(workplace.folder), "The door is number", *ids]:
        assert secret.encode() not in everything
    assert b"license: cc-by-nc-4.0" in files["README.md"]

    again = [
        str(uninterrupted),
        "--repo",
        "jane/adapter",
        "--push-vocabulary",
        "--licence",
        "cc-by-nc-4.0",
        "--private",
    ]
    assert workplace.script("recipes/push_adapter.py", *again) == 0
    assert len(server.hub.repos["jane/adapter"]) == 2  # nothing has changed

    scores = tmp_path / "scores.npy"
    loaded = subprocess.run(
        [sys.executable, "-c", SCORES, str(workplace.config("zero_shot")), str(scores)],
        cwd=ROOT, env=workplace.environment() | online, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert loaded.returncode == 0, loaded.stderr[-3000:]
    before = pd.read_parquet(uninterrupted / "predictions.parquet").filter(like="log_prob_").to_numpy()
    assert np.isfinite(before).sum() == 80
    assert_close(np.load(scores), before, 1e-6)
    assert ("HEAD", f"/jane/adapter/resolve/{commits[-1][0]}/adapter_model.safetensors") in server.hub.requests


@pytest.mark.slow
def test_zero_shot_scores_with_an_adapter_by_its_id(uninterrupted, workplace, server, here, online, tmp_path, capsys):
    assert (
        workplace.again(
            "finetune", f"output.dir={uninterrupted}", "output.push_to=jane/adapter", "hub.push_vocabulary=true"
        )
        == 0
    )
    assert f"pushed: {server.endpoint}/jane/adapter/commit/" in capsys.readouterr().out

    workplace.run("zero_shot", tmp_path / "adapted", "model.adapter=jane/adapter")
    before, after = (pd.read_parquet(run / "predictions.parquet") for run in (uninterrupted, tmp_path / "adapted"))
    assert_close(after, before, 1e-6)
    run = read_run(tmp_path / "adapted").record
    assert run.method == "lora"
    assert run.hashes["adapter"] == hash_file(uninterrupted / "adapter" / "adapter_model.safetensors")
    report = tmp_path / "report"
    assert workplace.script("eval/compare.py", str(tmp_path / "adapted"), "--out", str(report)) == 0

    offline = online | {"HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}  # the download is reused
    workplace.launch("zero_shot", tmp_path / "offline", "model.adapter=jane/adapter", **offline)


@pytest.mark.parametrize(
    ("family", "targets"),
    [("clap", ["query", "value"]), pytest.param("composed_clap", ["q_proj", "fc1"], marks=pytest.mark.slow)],
)
def test_a_dual_encoder_goes_to_the_hub_and_scores_the_same_when_it_comes_back(
    family, targets, workplace, here, tmp_path
):
    words = Path(ROOT / "prompts" / "ensembles" / "emotion.yaml").read_text("utf-8").splitlines()
    build_tiny(family, tmp_path / "model", words=words, window_s=2, hidden_size=32, layers=1, vocabulary=400,
               initializer_range=0.1)  # fmt: skip
    config = yaml.safe_load(workplace.config("finetune").read_text())
    config["prompt"]["file"] = "prompts/ensembles/emotion.yaml"
    config["model"] |= {"family": family, "id": str(tmp_path / "model")}
    config["output"]["dir"] = str(tmp_path / "run")
    (tmp_path / "zero_shot.yaml").write_text(
        yaml.safe_dump({key: config[key] for key in ("data", "split", "prompt", "model", "output")})
    )
    config["adapter"]["towers"] = {"audio_tower": targets, "text_projector": []}
    config["adapter"]["full"] = ["audio_projector", "text_projector"]
    config["train"]["num_train_epochs"] = 1
    (tmp_path / "finetune.yaml").write_text(yaml.safe_dump(config))
    assert workplace.script("recipes/finetune.py", "--config", str(tmp_path / "finetune.yaml")) == 0

    pushed = workplace.script(
        "recipes/push_adapter.py", str(tmp_path / "run"), "--repo", "jane/adapter", "--push-vocabulary"
    )
    assert pushed == 0
    files = here.head("jane/adapter")[1]
    assert {"adapter_model.safetensors", "prompt.yaml", "labels.json", "tokenizer.json", "README.md"} <= set(files)
    (tmp_path / "pushed.yaml").write_bytes(files["prompt.yaml"])
    assert load_ensemble(tmp_path / "pushed.yaml").digest == read_run(tmp_path / "run").record.hashes["prompt"]
    assert "descriptions" in files["README.md"].decode()
    assert not [name for name, content in files.items() if str(tmp_path).encode() in content]

    overrides = ["model.adapter=jane/adapter", f"prompt.file={tmp_path / 'pushed.yaml'}"]
    config = str(tmp_path / "zero_shot.yaml")
    for out, options in (("adapted", overrides), ("bare", [])):
        options = [*options, f"output.dir={tmp_path / out}"]
        assert workplace.script("recipes/zero_shot.py", "--config", config, *options) == 0
    run, adapted, bare = (pd.read_parquet(tmp_path / out / "predictions.parquet") for out in ("run", "adapted", "bare"))
    assert_close(adapted, run, 1e-6)
    assert (bare.filter(like="log_prob_") - run.filter(like="log_prob_")).abs().max().max() > 1e-4


def test_a_vocabulary_from_transcripts_is_refused_before_the_training(uninterrupted, workplace, here, tmp_path, capsys):
    expected = "its vocabulary was learnt from transcripts by build_tiny_model.py"
    for run in (uninterrupted, tmp_path / "new"):  # a finished run and a new one
        assert workplace.again("finetune", f"output.dir={run}", "output.push_to=jane/adapter") == 1
        assert expected in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert workplace.script("recipes/push_adapter.py", str(uninterrupted), "--repo", "jane/adapter") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line
    assert here.requests == []


def test_a_hub_that_fails_after_training_leaves_the_run_and_the_push_can_be_repeated(
    uninterrupted, workplace, here, capsys
):
    command = ("finetune", f"output.dir={uninterrupted}", "output.push_to=jane/adapter", "hub.push_vocabulary=true")
    before = {path: path.read_bytes() for path in uninterrupted.rglob("*") if path.is_file()}
    here.faults = [("POST /api/models/jane/adapter/commit", refuses(403))]
    assert workplace.again(*command) == 1
    assert "jane/adapter: cannot be pushed to the Hub, the commit failed" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in uninterrupted.rglob("*") if path.is_file()} == before
    here.faults = []
    assert workplace.again(*command) == 0
    assert "adapter_model.safetensors" in here.head("jane/adapter")[1]


def test_an_adapter_is_not_scored_on_another_fold(uninterrupted, workplace, tmp_path, capsys):
    overrides = [f"model.adapter={uninterrupted}", "split.fold=2", f"output.dir={tmp_path / 'out'}"]
    assert workplace.again("zero_shot", *overrides) == 1
    assert "key 'split.fold': 2, but the adapter was trained on fold 1 of the same folds" in capsys.readouterr().err
    overrides[1] = "model.adapter_revision=main"
    assert workplace.again("zero_shot", *overrides) == 1
    assert "key 'model.adapter_revision': 'main', but " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_finetune_takes_no_adapter(uninterrupted, workplace, capsys):
    assert workplace.again("finetune", f"model.adapter={uninterrupted}") == 1
    assert "zero_shot.py scores with one" in capsys.readouterr().err


def test_a_dry_run_writes_the_folder_and_sends_no_request(uninterrupted, workplace, here, tmp_path, capsys):
    dry = [
        str(uninterrupted),
        "--repo",
        "jane/adapter",
        "--push-vocabulary",
        "--dry-run",
        "--out",
        str(tmp_path / "out"),
    ]
    assert workplace.script("recipes/push_adapter.py", *dry) == 0
    assert "nothing was pushed" in capsys.readouterr().out
    assert here.requests == []
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"adapter_model.safetensors", "README.md", "prompt.yaml", "labels.json", "tokenizer.json"} <= written
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "n = 21 utterances" in card
    assert "20 scored, 1 unscored" in card
    assert "model-index" not in card  # the base model's weights are random


@pytest.mark.parametrize("seconds", ["-3", "0", "nan"])
def test_a_wait_that_cannot_be_is_refused(workplace, tmp_path, capsys, seconds):
    arguments = [str(tmp_path), "--repo", "jane/adapter", "--timeout", seconds]
    assert workplace.script("recipes/push_adapter.py", *arguments) == 2
    assert f"--timeout {seconds}: expected more than 0 seconds" in capsys.readouterr().err


def test_a_zero_shot_run_is_refused_in_one_line(prompted, workplace, capsys):
    assert workplace.script("recipes/push_adapter.py", str(prompted), "--repo", "jane/adapter") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {prompted}: method zero_shot; only an adapter (finetune.py) or a baseline ")


def test_a_wrong_token_is_one_line(here, assembled, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(AdapterError, match="cannot be pushed to the Hub") as caught:
        push(assembled, "jane/adapter")
    assert "\n" not in str(caught.value)
    assert "hf_wrong" not in str(caught.value)
    assert here.repos == {}


def test_a_repository_of_something_else_is_left_alone(here, assembled):
    here.commit("jane/model", {"config.json": b"{}", "model.safetensors": b"years of work"})
    with pytest.raises(AdapterError, match=r"contains config\.json and no adapter_config\.json"):
        push(assembled, "jane/model")
    assert len(here.repos["jane/model"]) == 1


def test_what_an_earlier_push_left_is_removed_in_the_same_commit(here, assembled):
    earlier = {"adapter_config.json": b"{}", "vocab.json": b"{}", "notes/mine.json": b"{}", "plot.png": b"png"}
    here.commit("jane/adapter", earlier)
    push(assembled, "jane/adapter")
    assert len(here.repos["jane/adapter"]) == 2
    files = here.repos["jane/adapter"][-1][1]
    assert set(files) == {path.name for path in assembled.iterdir()} | {"notes/mine.json", "plot.png"}


def test_private_is_not_said_of_what_is_public(here, assembled):
    push(assembled, "jane/adapter")
    with pytest.raises(AdapterError, match="is public; make it private"):
        push(assembled, "jane/adapter", private=True)


def test_only_harmless_files_are_downloaded(here, tiny_adapter):
    more = {"adapter_model.bin": b"pickle", "evil.py": b"x", "checkpoints/run.json": b"{}"}
    here.commit("jane/adapter", tiny_adapter | more)
    folder = load_adapter_from("jane/adapter")
    assert {path.name for path in folder.rglob("*")} == set(tiny_adapter)


def test_a_revision_is_loaded_as_it_was(here, tiny_adapter):
    first = here.commit("jane/adapter", tiny_adapter | {"labels.json": b'{"old": 1}'})
    here.commit("jane/adapter", tiny_adapter | {"labels.json": b'{"new": 1}'})
    assert json.loads((load_adapter_from("jane/adapter", first) / "labels.json").read_text()) == {"old": 1}
    assert json.loads((load_adapter_from("jane/adapter") / "labels.json").read_text()) == {"new": 1}


@pytest.mark.parametrize(("source", "revision"), [("jane/nothing", None), ("jane/adapter", "nowhere")])
def test_what_is_not_on_the_hub_is_said_in_one_line(here, tiny_adapter, source, revision):
    here.commit("jane/adapter", tiny_adapter)
    with pytest.raises(AdapterError, match=f"{source}: cannot be loaded from the Hub") as caught:
        load_adapter_from(source, revision)
    assert "\n" not in str(caught.value)


def test_a_pickled_adapter_is_refused(here):
    here.commit("jane/adapter", {"adapter_config.json": b'{"peft_type": "LORA"}', "adapter_model.bin": b"pickle"})
    with pytest.raises(AdapterError, match=r"jane/adapter: no adapter_model\.safetensors"):
        load_adapter_from("jane/adapter")


@pytest.fixture
def tiny_adapter(uninterrupted):
    """Files of an adapter, as a repository holds them."""
    names = ("adapter_config.json", "adapter_model.safetensors")
    return {name: (uninterrupted / "adapter" / name).read_bytes() for name in names}
