"""Batches by tokens, the search for a batch size and 8-bit optimisers, as a user starts them."""

import importlib.util
import json

import pandas as pd
import pytest
import torch
from closeness import assert_close

from lalm_mer.recognizers import waiting
from lalm_mer.recognizers.language.recognizer import LanguageRecognizer
from lalm_mer.recognizers.training import RecognizerTrainer


def test_batches_of_tokens_packed_by_a_worker_give_the_same_scores(workplace, prompted, tmp_path, monkeypatch, capsys):
    shapes, step = [], RecognizerTrainer.prediction_step

    def noted(self, model, inputs, *args, **kwargs):
        shapes.append((len(inputs["targets"]), inputs["input_ids"].numel()))
        return step(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(RecognizerTrainer, "prediction_step", noted)
    settings = ("scoring.tokens_per_batch=700", "scoring.packing=true", "scoring.dataloader_num_workers=1")
    workplace.run("zero_shot", tmp_path / "run", *settings)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "preflight: memory" in line]
    assert f"(batch of {shapes[0][0]}, all as long as " in line  # the longest utterances are the first batch
    assert 1 < shapes[0][0] < shapes[-2][0]
    assert all(400 < tokens <= 700 for _, tokens in shapes[:-1])
    assert sum(count for count, _ in shapes) == 20
    tables = [pd.read_parquet(run / "predictions.parquet") for run in (tmp_path / "run", prompted)]
    assert_close(*tables, 1e-5)


@pytest.mark.slow
def test_a_found_batch_size_and_an_8_bit_optimizer_are_printed_and_recorded(workplace, tmp_path, monkeypatch, capsys):
    forward, steps = LanguageRecognizer.forward, []

    def limited(self, input_ids, truth=None, **batch):
        if self.training and len(input_ids) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(self, input_ids, truth, **batch)

    monkeypatch.setattr(LanguageRecognizer, "forward", limited)
    monkeypatch.setattr(waiting, "_LEAST_S", 0.0)
    monkeypatch.setattr(waiting, "_LEAST_SHARE", 0.0)
    train = RecognizerTrainer.train
    monkeypatch.setattr(
        RecognizerTrainer,
        "train",
        lambda self, *args, **kwargs: steps.append(train(self, *args, **kwargs)) or steps[-1],
    )
    has_bitsandbytes = importlib.util.find_spec("bitsandbytes") is not None
    optim = "adamw_bnb_8bit" if has_bitsandbytes else "adafactor"
    settings = ("train.per_device_train_batch_size=6", "train.max_steps=2", f"train.optim={optim}")
    workplace.run("finetune", tmp_path / "run", *settings, "train.auto_find_batch_size=true")
    out = capsys.readouterr().out
    assert "Batches of 2 utterances fit into memory, of at most 6; 3 are accumulated per optimiser step, so that" in out
    assert f"optimizer: {'AdamW of bitsandbytes' if has_bitsandbytes else 'Adafactor'}" in out
    for doing in ("training", "scoring"):
        (line,) = [line for line in out.splitlines() if line.startswith(f"{doing} waited ")]
        assert "for data; raise dataloader_num_workers (now 0), or store tower outputs (model.tower_cache)" in line
    assert steps[0].global_step == 2
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    (note,) = [note for note in record["notes"] if note["code"] == "found_batch_size"]
    assert note["facts"] == {"found": 2, "largest": 6, "accumulated": 3}
    assert record["config"]["train"]["per_device_train_batch_size"] == 6


@pytest.mark.parametrize(
    ("recipe", "overrides", "says"),
    [
        (
            "finetune",
            ["train.tokens_per_batch=400"],
            "key 'train.per_device_eval_batch_size': 4, but train.tokens_per_batch=400",
        ),
        (
            "zero_shot",
            ["scoring.tokens_per_batch=400", "answering.mode=generation"],
            "key 'scoring.tokens_per_batch': 400, but answers are generated in rows of their own; remove it",
        ),
        ("finetune", ["train.optim=adamw_8bits"], "'adamw_8bits'; expected one of adamw_torch_fused, adamw_torch"),
        ("finetune", ["train.optim=paged_adamw_8bit"], "key 'train.optim': paged_adamw_8bit"),
    ],
)
def test_what_is_not_possible_is_one_line_before_the_run(recipe, overrides, says, workplace, tmp_path, capsys):
    config = ["--config", str(workplace.config(recipe)), f"output.dir={tmp_path / 'run'}", *overrides]
    assert workplace.script(f"recipes/{recipe}.py", *config) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert says in line
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.slow
def test_a_training_by_tokens_is_the_same_with_a_worker(workplace, tmp_path):
    settings = [
        "train.per_device_train_batch_size=null", "train.per_device_eval_batch_size=null", "train.tokens_per_batch=600",
        "train.packing=true", "train.num_train_epochs=2",
    ]  # fmt: skip
    for workers in ("0", "1"):
        workplace.run("finetune", tmp_path / workers, *settings, f"train.dataloader_num_workers={workers}")
    histories = [(tmp_path / workers / "history.jsonl").read_text() for workers in ("0", "1")]
    assert histories[0] == histories[1]
    tables = [pd.read_parquet(tmp_path / workers / "predictions.parquet") for workers in ("0", "1")]
    pd.testing.assert_frame_equal(*tables)
