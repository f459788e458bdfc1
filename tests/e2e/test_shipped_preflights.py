"""Every shipped run passes its preflight in at most four passes, with its own precision and batch sizes, and so does
every kind of family.

The recipe runs in this process, on a miniature of its corpus and with a tiny model, and stops after the preflight. What
else a run does is tested in ``test_shipped_runs``.
"""

import shlex

import pytest
from shipped import CHANGED, SERVED, of_recipe, opening, quick_or_slow, script

from lalm_mer.launch.run import preflight

SECTIONS = {"recipes/zero_shot.py": "scoring", "recipes/finetune.py": "train"}
RUNS = [file for file in of_recipe("zero_shot", "finetune") if file != SERVED]
_OVERRIDES = {file: shlex.split(opening(file)["One override"]) for file in RUNS}
_CHANGES = ("model.family", "prompt", "loss")
OVERRIDDEN = [file for file, (first, *_) in _OVERRIDES.items() if first.startswith(_CHANGES)]


@pytest.fixture
def checked(monkeypatch, shipped_command, run_script, capsys):
    """Runs a YAML up to the end of its preflight; returns what it printed."""
    whole = preflight.preflight

    batches = []

    def check_and_stop(loaded, model, *arguments):
        def count(module, given, keywords):
            batches.append(len(next(iter(keywords.values()))))

        with model.register_forward_pre_hook(count, with_kwargs=True):
            whole(loaded, model, *arguments)
        raise SystemExit(0)

    monkeypatch.setattr(preflight, "preflight", check_and_stop)

    def run(file, *overrides):
        batches.clear()
        section = SECTIONS[script(file)]
        on_cpu = [f"{section}.use_cpu=true", f"{section}.dataloader_num_workers=0"]
        command = [word for word in shipped_command(file, *overrides) if word not in CHANGED[script(file)]]
        assert run_script(*command, *on_cpu) == 0, capsys.readouterr().err
        assert 0 < len(batches) <= 4
        return capsys.readouterr().out, list(batches)

    return run


@pytest.mark.parametrize("file", quick_or_slow(RUNS))
def test_a_shipped_run_passes_its_preflight(file, checked):
    assert "preflight: done in " in checked(file)[0]


@pytest.mark.parametrize("file", quick_or_slow(OVERRIDDEN))
def test_it_passes_with_another_model_or_prompt_of_its_header(file, checked):
    assert "preflight: done in " in checked(file, *_OVERRIDES[file])[0]


@pytest.mark.parametrize(("family", "prompt", "expected"), [
    ("qwen2_audio", "audio_transcript", [8, 1, 8, 1]),
    ("qwen2_audio", "audio", [4, 1, 4, 1]),
    ("granite_speech", "audio_transcript", [8, 1, 8, 1]),  # scores depend on the batch
    ("generic", "audio_transcript", [1, 1, 1, 1]),  # one utterance at a time
])  # fmt: skip
def test_each_kind_of_family_passes_with_four_passes(checked, family, prompt, expected):
    overrides = [f"model.family={family}", f"prompt.file=prompts/{prompt}.yaml"]
    printed, batches = checked("recipes/ravdess/zero_shot.yaml", *overrides, "scoring.per_device_eval_batch_size=1")
    assert batches == expected
    assert printed.count("preflight: uses the ") == prompt.count("_") + 1
