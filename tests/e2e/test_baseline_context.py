"""A baseline with the turns before each utterance, from the recipe."""

import json

from safetensors.torch import load_file

MELD, TURN = "recipes/demo/meld_transcript_baseline.yaml", "baseline.transcript.context_turns=1"


def test_the_turns_before_are_a_second_vector(shipped_command, run_script, tmp_path):
    folder = tmp_path / "run"
    assert run_script(*shipped_command(MELD), TURN, f"output.dir={folder}", "train.max_steps=2") == 0
    settings = json.loads((folder / "model" / "network.json").read_text("utf-8"))["settings"]["transcript"]
    assert settings["context_turns"] == 1
    assert load_file(folder / "model" / "model.safetensors")["head.weight"].shape == (
        7, 2 * settings["sequence"]["channels"]
    )  # fmt: skip


def test_a_corpus_without_dialogues_is_refused_in_one_line(shipped_command, run_script, tmp_path, capsys):
    command = [*shipped_command("recipes/demo/ravdess_baseline.yaml"), TURN, f"output.dir={tmp_path / 'run'}"]
    assert run_script(*command) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "key 'baseline.transcript.context_turns': 1, but corpus ravdess has no dialogue" in line
