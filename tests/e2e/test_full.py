"""Training in full: its run folder, the model in it, how that model is used again, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
import yaml
from closeness import assert_close
from safetensors.numpy import load_file
from small_runs import IN_FULL, run_in_full  # noqa: F401 a fixture
from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration

from lalm_mer import open_recognizer
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.notes import NoteCode
from lalm_mer.core.run_record import read_record
from lalm_mer.core.schema import Input
from lalm_mer.models.families import family_class
from lalm_mer.models.tiny import build_tiny
from lalm_mer.prompting.prompts import load_prompt

TOWERS = ["audio_tower", "projector", "language_model"]
RUN = {"run.json", "predictions.parquet", "dev_predictions.parquet", "metrics.json", "history.jsonl", "printed.txt"}


def weights(folder):
    return load_file(folder / "model.safetensors")


def scores(folder):
    table = pd.read_parquet(folder / "predictions.parquet").set_index("utterance_id")
    return table[table["status"] == "scored"].filter(like="log_prob_")


def transcripts(workplace):
    return pd.read_csv(workplace.folder / "clips" / "manifest.csv").set_index("path")["transcript"]


def test_the_run_folder_has_a_complete_model(in_full, workplace):
    assert {path.name for path in in_full.iterdir() if path.is_file()} <= RUN
    assert not (in_full / "adapter").exists()
    record = read_record(in_full / "run.json")
    assert record.method == "full"
    assert record.recognizer == "qwen2_audio (model)"
    assert (record.config["adapter"]["towers"], record.config["adapter"]["full"]) == ({}, TOWERS)
    origin = json.loads((in_full / "model" / "merged_from.json").read_text())
    assert (origin["base_model"], origin["adapter"], origin["earlier"]) == (str(workplace.folder / "model"), None, [])
    assert (origin["trained_with"]["fold"], origin["trained_with"]["quantization"]) == (1, None)
    base, own = weights(workplace.folder / "model"), weights(in_full / "model")
    assert own.keys() == base.keys()
    constant = {name for name in base if np.array_equal(own[name], base[name])}
    assert {name for name in constant if "embed_positions" not in name and "k_proj.bias" not in name} == set()
    rows = [json.loads(line) for line in (in_full / "history.jsonl").read_text().splitlines()]
    dev = [row["loss"] for row in rows if row["split"] == "dev"]
    assert len(dev) == 2
    assert dev[-1] < dev[0]


def test_transformers_alone_gives_its_scores(in_full, workplace):
    """Each answer by the model's own forward, from the files of the folder, with the processor's own audio."""
    model = Qwen2AudioForConditionalGeneration.from_pretrained(in_full / "model").eval()
    processor = AutoProcessor.from_pretrained(in_full / "model")
    family = family_class("qwen2_audio")(model, processor)  # for the ids of the prompt, whose slots are tokenised alone
    labels = LabelSet(read_record(in_full / "run.json").labels)
    prompt, expected = load_prompt(Path("prompts/audio_transcript.yaml")), scores(in_full)
    for name in expected.index[:2]:
        samples, _ = soundfile.read(workplace.folder / "clips" / f"{name}.wav", dtype="float32")
        given = Input(name, transcripts(workplace)[f"{name}.wav"], None)
        ids = family.prompt_ids(prompt.conversation(given, labels), [family.audio_token_count(len(samples))])
        audio = processor(text=[family.audio_token], audio=[samples], sampling_rate=16_000, return_tensors="pt")
        found = []
        for label in labels.labels:
            answer = family.answer_ids(label)
            tokens = torch.tensor([[*ids, *answer]])
            batch = {**audio, "input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
            with torch.no_grad():
                log_probs = model(**batch).logits[0, -len(answer) - 1 : -1].log_softmax(-1)
            found.append(sum(row[token] for row, token in zip(log_probs, answer, strict=True)))
        assert_close(torch.stack(found).log_softmax(0).double().numpy(), expected.loc[name].to_numpy(), 1e-4)


def test_its_model_predicts_the_same_zero_shot_and_only_on_its_fold(in_full, workplace, tmp_path, capsys):
    named = f"model.id={in_full / 'model'}"
    workplace.run("zero_shot", tmp_path / "again", named)
    assert_close(scores(tmp_path / "again"), scores(in_full), 1e-4)
    record = read_record(tmp_path / "again" / "run.json")
    assert (record.method, record.recognizer) == ("zero_shot", "qwen2_audio (model, full)")
    assert [note.code for note in record.notes if note.split is None] == [
        NoteCode.RANDOMLY_INITIALISED,
        NoteCode.TRAINED_BASE_MODEL,
    ]
    compared = ["eval/compare.py", str(in_full), str(tmp_path / "again"), "--out", str(tmp_path / "out")]
    assert workplace.script(*compared) == 0
    assert list(pd.read_csv(tmp_path / "out" / "comparison.csv")["method"]) == ["full", "zero_shot"]
    assert "full fine-tuning" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for recipe in ("zero_shot", "finetune"):
        assert workplace.again(recipe, named, "split.fold=2", f"output.dir={tmp_path / 'leak'}") == 1
        said = "key 'split.fold': 2, but the model was trained on fold 1 of the same folds"
        assert said in capsys.readouterr().err
        assert not (tmp_path / "leak").exists()


def test_its_model_is_adapted_further_and_its_training_is_remembered(in_full, workplace, tmp_path):
    steps = ["train.max_steps=1", "preflight=false"]
    workplace.run("finetune", tmp_path / "lora", f"model.id={in_full / 'model'}", *steps)
    assert NoteCode.TRAINED_BASE_MODEL in [note.code for note in read_record(tmp_path / "lora" / "run.json").notes]
    merged = tmp_path / "merged"
    assert workplace.script("recipes/merge_adapter.py", str(tmp_path / "lora"), "--out", str(merged)) == 0
    origin = json.loads((merged / "merged_from.json").read_text())
    first = json.loads((in_full / "model" / "merged_from.json").read_text())
    assert origin["adapter"] is not None
    assert origin["earlier"] == [first["trained_with"]]


def test_chosen_towers_alone_change_and_a_frozen_audio_tower_is_cached(workplace, tmp_path, capsys):
    workplace.run("finetune", tmp_path, *IN_FULL, "adapter.full=[language_model]", "train.max_steps=2")
    printed = capsys.readouterr().out
    assert "tower cache: " in printed
    assert "tower cache: not used" not in printed
    assert "preflight: audio_tower: 0 parameters trained in full, " in printed
    base, own = weights(workplace.folder / "model"), weights(tmp_path / "model")
    changed = {name for name in base if not np.array_equal(own[name], base[name])}
    assert {name.split(".")[0] for name in changed} == {"language_model"}
    assert "language_model.lm_head.weight" in changed
    assert not [name for name in base if name.startswith("language_model.") and name not in changed]


def test_all_towers_in_full_use_no_cache(workplace, tmp_path, capsys):
    workplace.run("finetune", tmp_path, *IN_FULL, "train.max_steps=1")
    assert "tower cache: not used, because the audio tower is trained" in capsys.readouterr().out


def test_an_interrupted_run_is_resumed_to_the_same_figures(workplace, tmp_path, capsys):
    run = tmp_path / "run"
    workplace.run("finetune", run, *IN_FULL)
    expected = shutil.copytree(run, tmp_path / "expected")
    for name in ("metrics.json", "predictions.parquet", "dev_predictions.parquet"):
        (run / name).unlink()
    for folder in ("model", "checkpoints/checkpoint-20"):
        shutil.rmtree(run / folder)
    capsys.readouterr()
    workplace.run("finetune", run, *IN_FULL)
    assert "resuming from step 10: " in capsys.readouterr().out
    for name in ("history.jsonl", "metrics.json"):
        assert (run / name).read_text() == (expected / name).read_text()
    pd.testing.assert_frame_equal(scores(run), scores(expected), check_exact=True)
    before, after = weights(expected / "model"), weights(run / "model")
    assert all(np.array_equal(after[name], value) for name, value in before.items())
    assert workplace.again("finetune", f"output.dir={run}", *IN_FULL) == 0
    assert f"{run} is finished; nothing to do" in capsys.readouterr().out


def test_a_clap_is_trained_in_full_and_no_baseline_of_another_fold_uses_it(workplace, tmp_path, capsys):
    build_tiny("clap", tmp_path / "clap", words=["happy sad"], window_s=2, hidden_size=32, layers=1, vocabulary=400)
    content = yaml.safe_load(workplace.config("finetune").read_text()) | {
        "prompt": {"file": "prompts/ensembles/emotion.yaml"},
        "model": {"family": "clap", "id": str(tmp_path / "clap"), "dtype": "float32"},
        "adapter": {"kind": "full"},
        "train": {"max_steps": 2},
    }
    own, run = workplace.with_config("finetune", content, tmp_path), tmp_path / "run"
    own.run("finetune", run)
    assert read_record(run / "run.json").config["adapter"]["full"] == [
        "audio_tower", "audio_projector", "text_tower", "text_projector",
    ]  # fmt: skip
    bare = content | {"model": content["model"] | {"id": str(run / "model")}}
    bare = {key: bare[key] for key in ("data", "split", "prompt", "model")} | {"output": {"dir": "unused"}}
    workplace.with_config("zero_shot", bare, tmp_path).run("zero_shot", tmp_path / "again")
    assert_close(scores(tmp_path / "again"), scores(run), 1e-4)
    encoder = {"kind": "pretrained", "model": str(run / "model")}
    baseline = {key: content[key] for key in ("data", "split")} | {
        "baseline": {"modalities": "audio", "audio": {"encoder": encoder}, "cache_dir": str(tmp_path / "features")},
        "output": {"dir": str(tmp_path / "baseline")},
    }
    small = workplace.with_config("train_baseline", baseline, tmp_path)
    assert small.again("train_baseline", "split.fold=2") == 1
    said = "key 'split.fold': 2, but the model was trained on fold 1 of the same folds"
    assert said in capsys.readouterr().err
    small.run("train_baseline", tmp_path / "baseline", "train.max_steps=1")
    assert NoteCode.TRAINED_BASE_MODEL in [note.code for note in read_record(tmp_path / "baseline/run.json").notes]


# What is refused


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["adapter.r=8"], "key 'adapter.r': 8; adapter.kind=full has no adapter"),
        (["adapter.options={alpha: 1}"], "key 'adapter.options': {'alpha': 1}; adapter.kind=full has no adapter"),
        (["adapter.towers={projector: [linear]}"], "key 'adapter.towers.projector': linear; adapter.kind=full"),
        (["model.dtype=bfloat16"], "key 'model.dtype': bfloat16; adapter.kind=full trains the weights themselves"),
        (["model.quantization=nf4"], "key 'model.quantization': nf4; adapter.kind=full"),
        (["output.push_to=jane/model"], "key 'output.push_to': jane/model; only adapters are pushed"),
        (["adapter.full=[decoder]"], "key 'adapter.full': unknown tower 'decoder'; expected audio_tower"),
        (
            ["adapter.full=[audio_tower]", "prompt.file=prompts/transcript.yaml"],
            "key 'adapter.full': the prompt has no audio slot, so nothing in the audio_tower would be trained",
        ),
    ],
)
def test_settings_that_do_not_fit_name_their_key(overrides, said, workplace, tmp_path, capsys):
    assert workplace.again("finetune", f"output.dir={tmp_path / 'run'}", *IN_FULL, *overrides) == 1
    assert f"error: {said}" in capsys.readouterr().err


def test_it_has_no_adapter_to_push_merge_or_name(in_full, workplace, tmp_path, capsys):
    model = in_full / "model"
    for script, arguments, said in (
        ("push_adapter", [str(in_full), "--repo", "jane/model"], f"upload it with `hf upload USER/NAME {model}`"),
        ("merge_adapter", [str(in_full), "--out", str(tmp_path / "out")], f"use {model} as model.id"),
    ):
        assert workplace.script(f"recipes/{script}.py", *arguments) == 1
        assert said in capsys.readouterr().err
    for source in (in_full, model):
        named = [f"model.adapter={source}", f"output.dir={tmp_path / 'run'}"]
        assert workplace.again("zero_shot", *named) == 1
        said = f"error: {source}: has no adapter, but a complete model; use {model} as model.id"
        assert said in capsys.readouterr().err


def test_a_run_whose_model_is_missing_or_of_another_run_is_not_opened(in_full, tmp_path):
    run = shutil.copytree(in_full, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"base_model: elsewhere, but .* has a complete model of its own; omit it"):
        open_recognizer(run, base_model="elsewhere")
    origin = json.loads((run / "model" / "merged_from.json").read_text())
    origin["trained_with"]["fold"] = 2
    (run / "model" / "merged_from.json").write_text(json.dumps(origin))
    with pytest.raises(ConfigError, match=r"run/model: is the model of another run; expected"):
        open_recognizer(run)
    shutil.rmtree(run / "model")
    with pytest.raises(ConfigError, match=r"run/model: is missing; expected the model that this run trained"):
        open_recognizer(run)
