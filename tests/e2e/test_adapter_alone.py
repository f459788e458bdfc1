"""The adapter of a finished run is complete: it can be opened without the run folder."""

import shutil

import numpy as np
import pandas as pd
import pytest
from closeness import assert_close
from safetensors.numpy import load_file

from lalm_mer import open_recognizer
from lalm_mer.serving.predict import predict


@pytest.mark.parametrize("family", ["qwen2_audio", "clap"])
def test_an_adapter_predicts_without_its_run(family, run_shipped, miniature, tmp_path):
    learns = ("train.learning_rate=1e-2", "train.warmup_steps=0.0")
    run = tmp_path / run_shipped("recipes/ravdess/lora.yaml", f"model.family={family}", *learns)
    weights = load_file(run / "adapter" / "adapter_model.safetensors")
    assert all(tensor.any() for name, tensor in weights.items() if ".lora_B." in name)
    expected = pd.read_parquet(run / "predictions.parquet").set_index("utterance_id").filter(like="log_prob_")
    shutil.move(run / "adapter", tmp_path / "alone")
    shutil.rmtree(tmp_path / "outputs")
    clips = {path.stem: path for path in (miniature("ravdess").parent / "release").rglob("*.wav")}
    recognizer = open_recognizer(tmp_path / "alone", device="cpu")
    assert recognizer.label_set.labels == tuple(column.removeprefix("log_prob_") for column in expected)
    rows = list(predict(recognizer, [clips[name] for name in expected.index]))
    assert len(rows) == 4
    found = [[row.probabilities[label] for label in recognizer.label_set.labels] for row in rows]
    assert_close(found, np.exp(expected.to_numpy()), 1e-6)
