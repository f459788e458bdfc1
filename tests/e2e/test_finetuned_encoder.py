"""A baseline whose encoder of transcripts is trained: its run folder, its use without the encoder, and resuming."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from closeness import assert_close
from safetensors.numpy import load_file
from small_runs import small_baseline
from transformers import BertConfig, BertModel

from lalm_mer import open_recognizer
from lalm_mer.core.run_record import read_record
from lalm_mer.core.schema import Input
from lalm_mer.examples.feature_store import FeatureStore
from lalm_mer.models.encoders.settings import ScratchSettings
from lalm_mer.recognizers.baselines.learnt_text import train_tokenizer

RECIPE = "train_baseline"


@pytest.fixture
def own(workplace, tmp_path):
    """A workplace with a YAML of a tiny BERT, random but in the format of a published one, in a folder beside it."""
    table = pd.read_csv(workplace.folder / "clips" / "manifest.csv")
    tokenizer = train_tokenizer(list(table["transcript"]), ScratchSettings())
    tokenizer.save(tmp_path / "bert")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(tokenizer.tokenizer), **sizes)).save_pretrained(tmp_path / "bert")
    content = small_baseline(workplace)
    encoder = {"kind": "finetuned", "model": str(tmp_path / "bert"), "layers": "all", "learning_rate": 1e-3}
    content["baseline"]["transcript"]["encoder"] = encoder
    content["train"] |= {"num_train_epochs": 2, "learning_rate": 1e-2}
    return workplace.with_config(RECIPE, content, tmp_path)


def test_its_run_is_complete_without_the_pretrained_model(own, tmp_path, monkeypatch):
    monkeypatch.setattr(FeatureStore, "add", lambda *_, **__: pytest.fail("features of it were stored"))
    run, bert = tmp_path / "run", load_file(tmp_path / "bert" / "model.safetensors")
    own.run(RECIPE, run)
    record = read_record(run / "run.json")
    assert (record.recognizer, record.base_model) == (
        "fusion (opensmile, bert all layers fine-tuned)", str(tmp_path / "bert"),
    )  # fmt: skip
    weights = load_file(run / "model" / "model.safetensors")
    prefix = "branches.transcript.embedder.model."
    encoder = {name.removeprefix(prefix): each for name, each in weights.items() if name.startswith(prefix)}
    assert encoder.keys() == {name for name in bert if "pooler" not in name}
    assert not [name for name, each in encoder.items() if "position" not in name and np.array_equal(each, bert[name])]
    assert record.parameters.trained == record.parameters.all > sum(each.size for each in encoder.values())
    shutil.rmtree(tmp_path / "bert")
    table = pd.read_parquet(run / "predictions.parquet").set_index("utterance_id")
    given = [Input(name, row.transcript, None) for name, row in transcripts(own).iterrows() if name in table.index]
    recognizer = open_recognizer(run, device="cpu")
    with torch.no_grad():
        scores = recognizer(**recognizer.joint_collator(given))["log_probs"]
    assert_close(scores, table.loc[[each.utterance_id for each in given]].filter(like="log_prob_").to_numpy())


def transcripts(own):
    table = pd.read_csv(own.folder / "clips" / "manifest.csv")
    return table.set_index(table["path"].str.removesuffix(".wav"))


def test_an_interrupted_run_is_resumed_to_the_same_figures(own, tmp_path, capsys):
    run = tmp_path / "run"
    own.run(RECIPE, run)
    expected = shutil.copytree(run, tmp_path / "expected")
    for name in ("metrics.json", "predictions.parquet", "dev_predictions.parquet"):
        (run / name).unlink()
    first, last = sorted(int(path.name.rpartition("-")[2]) for path in (run / "checkpoints").iterdir())
    for folder in ("model", f"checkpoints/checkpoint-{last}"):
        shutil.rmtree(run / folder)
    capsys.readouterr()
    own.run(RECIPE, run)
    assert f"resuming from step {first}: " in capsys.readouterr().out
    for name in ("history.jsonl", "metrics.json"):
        assert (run / name).read_text() == (expected / name).read_text()
    before, after = (load_file(folder / "model" / "model.safetensors") for folder in (expected, run))
    assert all(np.array_equal(after[name], value) for name, value in before.items())
    rates = [json.loads(line).get("learning_rate") for line in (run / "history.jsonl").read_text().splitlines()]
    assert max(filter(None, rates)) > 1e-3  # those of the head
