"""Compiled layers through the recipes, on the CPU: the same results, and nothing of them in the files."""

import pandas as pd
import pytest
from closeness import assert_close
from safetensors.numpy import load_file

COMPILED = "model.torch_compile=true"


def scores(run):
    return pd.read_parquet(run / "predictions.parquet").filter(like="log_prob_")


@pytest.mark.slow
def test_a_compiled_zero_shot_run_has_the_same_scores(workplace, prompted, tmp_path, capsys):
    assert workplace.again("zero_shot", f"output.dir={tmp_path / 'run'}", COMPILED) == 0
    assert "speed: audio_tower sdpa, language_model sdpa, float32, compiled\n" in capsys.readouterr().out
    assert_close(scores(tmp_path / "run"), scores(prompted))


@pytest.mark.slow
def test_a_compiled_training_saves_what_another_saves(workplace, tmp_path, capsys):
    same = ["train.max_steps=2", "adapter.lora_dropout=0.0", "train.gradient_checkpointing=true", "train.packing=true"]
    for name, option in (("plain", "model.torch_compile=false"), ("compiled", COMPILED)):
        assert workplace.again("finetune", f"output.dir={tmp_path / name}", *same, option) == 0
    assert "float32, packing, compiled, gradient checkpointing\n" in capsys.readouterr().out
    assert_close(scores(tmp_path / "compiled"), scores(tmp_path / "plain"), 1e-4)
    plain, compiled = (
        load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("plain", "compiled")
    )
    assert plain.keys() == compiled.keys()
    for name, value in plain.items():
        assert_close(compiled[name], value, 1e-4, name)


def test_what_would_have_no_effect_is_refused(workplace, tmp_path, capsys):
    for option in ("prompt.shots=2", "answering.mode=generation"):
        assert workplace.again("zero_shot", f"output.dir={tmp_path / 'run'}", COMPILED, option) == 1
        (line,) = [each for each in capsys.readouterr().err.splitlines() if each.startswith("error: ")]
        assert line.startswith("error: key 'model.torch_compile': true; passes after stored keys and values")
