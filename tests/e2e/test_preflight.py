"""The preflight of a recipe: its output, the runs that it stops, and that it does not change results."""

import re

import pandas as pd
import pytest
from ignored_audio import ignore_audio
from small_runs import IN_FULL

SHORT = ("train.max_steps=2", "train.eval_strategy=steps", "train.eval_steps=2", "train.use_cpu=true")


def finetuned(workplace, out, capsys, *overrides):
    """Exit status, and what was printed."""
    status = workplace.again("finetune", f"output.dir={out}", *SHORT, *overrides)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.slow
def test_runs_with_and_without_it_are_identical(workplace, tmp_path, capsys):
    status, printed, _ = finetuned(workplace, tmp_path / "with", capsys)
    assert status == 0
    lines = [line.removeprefix("preflight: ") for line in printed.splitlines() if line.startswith("preflight: ")]
    assert [re.match("[a-z ]+", line)[0].strip() for line in lines] == [
        "adapter in audio", "adapter in projector", "adapter in language", "sampling rate", "supervised", "prompt",
        "batch parity", "uses the audio", "uses the transcript", "memory", "done in",
    ]  # fmt: skip
    assert printed.count("speed: audio_tower sdpa, language_model sdpa, float32\n") == 1
    assert "qwen2_audio takes 16000 Hz; corpus 16000 Hz, unchanged" in printed
    assert re.search(r"supervised: '(angry|content|happy|sad)' <\|im_end\|> \(\d tokens", printed)
    assert float(re.search(r"done in ([\d.]+) s", printed)[1]) < 20  # seconds, on a busy machine
    status, printed, _ = finetuned(workplace, tmp_path / "without", capsys, "preflight=false")
    assert status == 0
    assert re.findall("preflight: (?!adapter).*", printed) == ["preflight: skipped (preflight=false)"]
    for name in ("adapter/adapter_model.safetensors", "history.jsonl"):
        assert (tmp_path / "with" / name).read_bytes() == (tmp_path / "without" / name).read_bytes()
    tables = [pd.read_parquet(tmp_path / run / "predictions.parquet") for run in ("with", "without")]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    status, printed, _ = finetuned(workplace, tmp_path / "without", capsys)  # a setting without effect on results
    assert status == 0
    assert "nothing to do" in printed


@pytest.mark.parametrize("recipe", ["finetune", "zero_shot"])
def test_a_model_that_does_not_use_audio_is_refused_before_training_and_scoring(
    workplace, tmp_path, capsys, monkeypatch, recipe
):
    ignore_audio(monkeypatch)
    assert workplace.again(recipe, f"output.dir={tmp_path / 'run'}") == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(
        "error: qwen2_audio does not use the audio: swapping it changes the label scores by 0.0e+00 (median)"
    )
    assert "set preflight=false to skip this check" in error
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"run.json"}


def test_a_model_that_does_not_use_audio_is_accepted_without_preflight(workplace, tmp_path, capsys, monkeypatch):
    ignore_audio(monkeypatch)
    assert finetuned(workplace, tmp_path / "run", capsys, "preflight=false")[0] == 0


@pytest.mark.parametrize(("available", "said"), [(10**6, "WARNING: this may not fit; lower train.per"),
                                                 (10**5, "and transcript, and batches, are not checked")])  # fmt: skip
def test_little_memory_is_a_warning(workplace, tmp_path, capsys, monkeypatch, available, said):
    monkeypatch.setattr("lalm_mer.launch.run.preflight.available_bytes", lambda device, model: available)
    status, printed, _ = finetuned(workplace, tmp_path / "run", capsys)
    assert status == 0
    assert said in printed


@pytest.mark.parametrize(
    ("overrides", "said"), [([], "model.quantization=nf4"), (IN_FULL, "an adapter (adapter.kind=lora)")]
)
def test_what_would_need_less_memory_can_be_set(workplace, tmp_path, capsys, monkeypatch, overrides, said):
    monkeypatch.setattr("lalm_mer.launch.run.preflight.available_bytes", lambda device, model: 10**6)
    _, printed, _ = finetuned(workplace, tmp_path / "run", capsys, *overrides, "train.max_steps=1")
    (line,) = [line for line in printed.splitlines() if "this may not fit" in line]
    assert line.endswith(f"or {said}")


def test_labels_are_dumped_without_training(workplace, tmp_path, capsys):
    assert workplace.again("finetune", f"output.dir={tmp_path / 'run'}", "--dump-labels") == 0
    blocks = capsys.readouterr().out.split("utterance ")[1:]
    assert len(blocks) == 3
    for block in blocks:
        label = re.match(r".*, label (\w+): id, supervised, token", block)[1]
        rows = [line.split(maxsplit=2) for line in block.splitlines()[1:] if line]
        assert [row for row in rows if row[1] == "yes"] == rows[-len([row for row in rows if row[1] == "yes"]) :]
        learnt = "".join(row[2].strip("'") for row in rows if row[1] == "yes")
        assert learnt == f"{label}<|im_end|>"
        assert len([row for row in rows if re.fullmatch(r"<audio x \d+>", row[2])]) == 1
    assert not (tmp_path / "run").exists()


def test_memory_is_estimated_for_a_batch_no_larger_than_the_split(workplace, tmp_path, capsys):
    status, printed, _ = finetuned(workplace, tmp_path / "run", capsys, "train.per_device_train_batch_size=100000")
    assert status == 0
    (line,) = [line for line in printed.splitlines() if "(batch of 20, all as long as " in line]
    assert "WARNING" not in line
