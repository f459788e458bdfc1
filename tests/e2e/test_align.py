"""Alignment: questions about audio are trained on, and the aligned model is a base model for other recipes."""

import json
import re

import pandas as pd
import pytest
from closeness import assert_close
from ignored_audio import ignore_audio
from safetensors.torch import load_file
from shipped import load, of_recipe, quick_or_slow

from lalm_mer import corpora
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.notes import NoteCode
from lalm_mer.core.run_record import read_record
from lalm_mer.launch.config.alignment import AlignSettings
from lalm_mer.launch.config.sections import FolderSettings, ModelSettings

RECIPE = "align"
KINDS = {"transcribe", "sentence", "pitch", "energy", "rate"}  # the corpus states no gender


@pytest.fixture(scope="module")
def aligning(workplace, tmp_path_factory):
    """The workplace with a YAML of an alignment of its tiny model on its own corpus."""
    folder, place = workplace.folder, tmp_path_factory.mktemp("aligning")
    content = {
        "model": {"family": "qwen2_audio", "id": str(folder / "model"), "dtype": "float32",
                  "cache_dir": str(place / "cache")},
        "speech": {"beeps": {"dir": str(folder / "data"), "protocol": str(folder / "protocol.yaml"), "fold": 1}},
        "dev_questions": 40,
        "cache_dir": str(place / "measures"),
        "adapter": {"towers": {"language_model": ["q_proj"], "projector": [], "audio_tower": []},
                    "full": ["projector"], "r": 2},
        "train": {"num_train_epochs": 2, "learning_rate": 5e-3, "per_device_train_batch_size": 4, "logging_steps": 1},
        "output": {"dir": str(place / "unused")},
    }  # fmt: skip
    return workplace.with_config(RECIPE, content, place)


@pytest.fixture(scope="module")
def aligned(aligning, tmp_path_factory):
    """Run folder of an alignment."""
    out = tmp_path_factory.mktemp("aligned") / "run"
    aligning.run(RECIPE, out)
    return out


def test_the_run_has_a_figure_for_each_kind_of_question(aligned):
    table = pd.read_parquet(aligned / "dev_predictions.parquet")
    assert set(table["utterance_id"].str.rpartition("/")[2]) == KINDS
    assert len(table) == 40
    metrics = json.loads((aligned / "dev_metrics.json").read_text())
    assert metrics["labels"] == ["first", "second"]
    history = pd.read_json(aligned / "history.jsonl", lines=True)
    losses = history[history["split"] == "train"]["loss"]
    assert losses.iloc[-3:].mean() < losses.iloc[:3].mean()
    card = (aligned / "model" / "README.md").read_text("utf-8")
    assert all(f"| {kind} | " in card for kind in KINDS)
    assert "It was not trained to name emotions" in card
    assert (aligned / "model" / "alignment.png").read_bytes().startswith(b"\x89PNG")


def test_it_begins_with_the_checks_of_fine_tuning(aligning, tmp_path, capsys):
    prompts = "prompts=[prompts/alignment/transcribe.yaml]"
    assert aligning.again(RECIPE, f"output.dir={tmp_path / 'run'}", "train.max_steps=1", prompts) == 0
    printed = capsys.readouterr().out
    assert "preflight: sampling rate: qwen2_audio takes 16000 Hz; corpus 16000 Hz, unchanged" in printed
    said, name = re.search(
        r"preflight: supervised: '(.+)' <\|im_end\|> \(\d+ tokens, utterance (\S+)\)", printed
    ).groups()
    table = corpora.load(aligning.data).columns(["utterance_id", "transcript"])
    assert list(table.loc[table["utterance_id"] == name, "transcript"]) == [said]
    assert "preflight: uses the audio: swapping it changes label scores" in printed
    assert re.search(r"preflight: memory: about .* gradients .*\(batch of 4, all as long as", printed)
    assert re.search(r"preflight: batch parity: .*\n(.*\n)+preflight: done in .*\n(.*\n)*.*speed: ", printed)


def test_a_model_that_does_not_use_audio_is_refused_before_training(aligning, tmp_path, capsys, monkeypatch):
    ignore_audio(monkeypatch)
    assert aligning.again(RECIPE, f"output.dir={tmp_path / 'run'}") == 1
    assert "error: qwen2_audio does not use the audio: swapping it" in capsys.readouterr().err
    assert not (tmp_path / "run" / "history.jsonl").exists()


def test_projector_and_language_model_have_changed_and_the_tower_has_not(aligned, workplace):
    before, after = (
        load_file(folder / "model.safetensors") for folder in (workplace.folder / "model", aligned / "model")
    )
    changed = {name for name, weight in before.items() if not weight.equal(after[name])}
    assert {name.split(".")[1] if name.startswith("model.") else name.split(".")[0] for name in changed} == {
        "multi_modal_projector", "language_model",
    }  # fmt: skip
    assert all(".q_proj." in name for name in changed if "language_model" in name)


def test_the_aligned_model_is_a_base_model_that_knows_what_it_was_trained_on(aligned, workplace, tmp_path, capsys):
    bare = [f"model.id={aligned / 'model'}", f"output.dir={tmp_path / 'scored'}"]
    assert workplace.again("zero_shot", *bare) == 0
    record = read_record(tmp_path / "scored" / "run.json")
    codes = [note.code for note in record.notes if note.split is None]
    assert codes[:2] == [NoteCode.RANDOMLY_INITIALISED, NoteCode.MERGED_BASE_MODEL]
    capsys.readouterr()
    assert workplace.again("zero_shot", *bare, "split.fold=2", f"output.dir={tmp_path / 'leak'}") == 1
    assert "trained on fold 1 of the same folds" in capsys.readouterr().err


def test_it_is_finished_once_and_refused_with_other_settings(aligned, aligning, capsys):
    assert aligning.again(RECIPE, f"output.dir={aligned}") == 0
    assert "is finished; nothing to do" in capsys.readouterr().out
    assert aligning.again(RECIPE, f"output.dir={aligned}", "train.learning_rate=1e-3") == 1
    assert "learning_rate" in capsys.readouterr().err


def test_an_interrupted_run_resumes_to_the_same_scores(aligned, aligning, tmp_path, wait_for):
    out = tmp_path / "run"
    launched = aligning.start(RECIPE, f"output.dir={out}", "preflight=false")  # which does not change results
    wait_for(launched, lambda: any((out / "checkpoints").glob("checkpoint-*/WHOLE")))
    launched.kill()
    assert not (out / "dev_metrics.json").exists()
    aligning.launch(RECIPE, out)
    tables = [pd.read_parquet(run / "dev_predictions.parquet").filter(like="log_prob_") for run in (aligned, out)]
    assert_close(*tables)
    assert (out / "model" / "model.safetensors").is_file()


@pytest.mark.parametrize("file", quick_or_slow(of_recipe("align")))
def test_a_shipped_yaml_runs_on_a_tiny_composed_model(file, workplace, tiny_folder, tmp_path):
    (name,) = load(file).speech
    speech = f"speech={{{name}: {{dir: {workplace.data}, protocol: {workplace.folder / 'protocol.yaml'}}}}}"
    overrides = [
        f"model.id={tiny_folder('composed')}", f"model.cache_dir={tmp_path / 'cache'}", speech,
        f"cache_dir={tmp_path / 'cache'}", "dev_questions=8", "train.max_steps=2", f"output.dir={tmp_path / 'run'}",
    ]  # fmt: skip
    assert workplace.script("recipes/align.py", "--config", file, *overrides) == 0
    assert "| language model | " in (tmp_path / "run" / "model" / "README.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["prompts=[]"], "key 'prompts': is empty"),
        (["prompts=[prompts/audio.yaml]"], "key 'name': 'audio' is no kind of question"),
        (["prompts=[prompts/alignment/gender.yaml]"], "none of 20 utterances has a question of the kinds gender"),
        (["speech.beeps.fold=9"], "fold"),
        (["speech.beeps.dir=no/such/folder"], "no/such/folder: no such folder"),
        (["model.family=clap"], "key 'model.family': clap"),
    ],
)
def test_bad_settings_are_refused_in_one_line(aligning, tmp_path, capsys, overrides, says):
    assert aligning.again(RECIPE, f"output.dir={tmp_path / 'run'}", *overrides) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert says in error
    assert not (tmp_path / "run" / "dev_metrics.json").exists()


def test_without_speech_there_is_nothing_to_align_on():
    with pytest.raises(ConfigError, match="key 'speech': is empty"):
        AlignSettings(ModelSettings("composed"), FolderSettings("out"), {})
