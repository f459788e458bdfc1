"""Fine-tuning with a tower in full, and merging: the merged model gives the scores of the run."""

import io
import json
from contextlib import redirect_stdout

import pandas as pd
import pytest
from closeness import assert_close

from lalm_mer.core.notes import NoteCode
from lalm_mer.core.provenance import hash_file
from lalm_mer.evaluation.runs import read_run


@pytest.fixture(scope="module")
def in_full(workplace):
    """Run folder of a short run that trained the projector in full, and a LoRA without dropout."""
    run = workplace.folder / "in_full"
    towers = "{language_model: [q_proj], projector: [], audio_tower: []}"
    with redirect_stdout(io.StringIO()) as printed:
        workplace.run("finetune", run, f"adapter.towers={towers}", "adapter.full=[projector]", "train.max_steps=6")
    assert "adapter in projector: 0 modules, 0 trainable parameters, 1,056 frozen, 1,056 in full" in printed.getvalue()
    return run


def test_a_merged_model_gives_the_scores_of_the_run(in_full, workplace, tmp_path, capsys):
    assert workplace.script("recipes/merge_adapter.py", str(in_full), "--out", str(tmp_path / "model")) == 0
    assert str(tmp_path / "model") in capsys.readouterr().out
    merged_from = json.loads((tmp_path / "model" / "merged_from.json").read_text())
    assert merged_from["base_model"] == str(workplace.folder / "model")
    assert merged_from["adapter"] == hash_file(in_full / "adapter" / "adapter_model.safetensors")
    assert merged_from["trained_with"]["fold"] == 1

    bare = [f"model.id={tmp_path / 'model'}", f"output.dir={tmp_path / 'merged'}"]
    assert workplace.again("zero_shot", *bare) == 0
    before, after = (pd.read_parquet(run / "predictions.parquet") for run in (in_full, tmp_path / "merged"))
    assert_close(after, before)
    run = read_run(tmp_path / "merged").record
    assert run.method == "zero_shot"
    assert [note.code for note in run.notes if note.split is None] == [
        NoteCode.RANDOMLY_INITIALISED,
        NoteCode.MERGED_BASE_MODEL,
    ]

    assert workplace.again("zero_shot", *bare, "split.fold=2", f"output.dir={tmp_path / 'leak'}") == 1
    assert "trained on fold 1 of the same folds" in capsys.readouterr().err
    assert not (tmp_path / "leak").exists()


def test_adapters_that_cannot_be_merged_are_refused_in_one_line(in_full, prompted, workplace, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("kept")
    other = tmp_path / "other"
    for arguments, said in (
        ([str(in_full), "--out", str(tmp_path / "full")], "is not an empty folder"),
        ([str(prompted), "--out", str(other)], "no adapter_config.json"),
        ([str(tmp_path / "no" / "such" / "run"), "--out", str(other)], "error: RUN: "),
        ([str(in_full), "--out", str(other), "--base-model", str(tmp_path)], "cannot be loaded as qwen2_audio"),
    ):
        assert workplace.script("recipes/merge_adapter.py", *arguments) == 1
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("error: ")
        assert said in line
        assert not other.exists()
