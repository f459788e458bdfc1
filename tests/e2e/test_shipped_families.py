"""``model.family=...`` alone runs a shipped YAML with another family."""

from itertools import product

import pytest
from representatives import QUICK_FAMILIES, slow_except
from safetensors.numpy import load_file

from lalm_mer.core.run_record import read_record
from lalm_mer.models.families import DUAL_ENCODERS, FAMILIES
from lalm_mer.models.registry import model_class

ZERO_SHOT, LORA, QLORA = (f"recipes/ravdess/{method}.yaml" for method in ("zero_shot", "lora", "qlora"))


@pytest.fixture
def recorded(run_shipped, tmp_path):
    """Runs a YAML; returns its run folder and record."""

    def run(file, *overrides):
        folder = run_shipped(file, *overrides)
        return tmp_path / folder, read_record(tmp_path / folder / "run.json")

    return run


@pytest.fixture
def refused(shipped_command, run_script, capsys):
    """Runs a YAML that must be refused; returns the line of the error."""

    def run(file, *overrides):
        assert run_script(*shipped_command(file, *overrides)) == 1
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        return line

    return run


def trained_towers(folder, towers):
    """Towers of an adapter's weights, and the last names of the adapted layers."""
    found = {}
    for key in load_file(folder / "adapter" / "adapter_model.safetensors"):
        path = key.removeprefix("base_model.model.").rpartition(".lora_")[0]
        inside = [name for name, prefix in towers.items() if f"{path}.".startswith(f"{prefix}.")]
        tower = max(inside, key=lambda name: len(towers[name]))  # a projector may be inside an audio tower
        found.setdefault(tower, set()).add(path.rpartition(".")[2])
    return found


@pytest.mark.parametrize("family", slow_except(sorted(FAMILIES), QUICK_FAMILIES))
def test_a_family_is_scored(family, recorded):
    folder, record = recorded(ZERO_SHOT, f"model.family={family}")
    assert folder.name == f"{family}-tiny_{family}_zero_shot_audio_fold1_seed0"
    assert record.config["prompt"]["file"] == "prompts/audio.yaml"
    assert record.randomly_initialised


@pytest.mark.parametrize("family", slow_except(sorted(FAMILIES), QUICK_FAMILIES))
def test_a_family_is_fine_tuned_in_its_default_targets(family, recorded):
    folder, record = recorded(LORA, f"model.family={family}")
    targets = {tower: list(names) for tower, names in model_class(family).adapter_targets.items()}
    assert record.config["adapter"]["towers"] == targets
    found = trained_towers(folder, model_class(family).towers)
    assert found.keys() == targets.keys()
    assert all(names <= set(targets[tower]) for tower, names in found.items())


ONE_BY_ONE = ("train.per_device_eval_batch_size=1", "train.per_device_train_batch_size=1")


@pytest.mark.parametrize(("file", "key"), [(ZERO_SHOT, "scoring"), (LORA, "train")])
def test_a_model_without_a_family_is_refused_batches(file, key, refused, tmp_path):
    assert refused(file, "model.family=generic") == (
        f"error: key '{key}.per_device_eval_batch_size': 8; generic takes one utterance at a time: set it to 1"
    )
    assert not list(tmp_path.rglob("run.json"))


@pytest.mark.parametrize(
    ("family", "why"),
    [("generic", "generic takes one utterance at a time"), ("clap", "clap has no rows of tokens")],
)
def test_models_without_rows_are_refused_packing(family, why, refused):
    override = ("prompt.file=prompts/ensembles/emotion.yaml",) if family == "clap" else ()
    found = refused(ZERO_SHOT, f"model.family={family}", "scoring.packing=true", *override)
    assert found == f"error: key 'scoring.packing': true, but {why}; set it to false"


def test_a_model_without_a_family_is_scored_one_by_one(recorded, capsys):
    folder, record = recorded(ZERO_SHOT, "model.family=generic", "scoring.per_device_eval_batch_size=1")
    assert folder.name == "generic-tiny_qwen2_audio_zero_shot_audio_fold1_seed0"
    assert record.config["prompt"]["file"] == "prompts/audio.yaml"
    printed = capsys.readouterr().out
    assert "preflight: batch parity: not checked, because generic takes one utterance at a time" in printed
    assert "preflight: uses the audio: swapping it changes label scores" in printed


@pytest.mark.slow
def test_a_model_without_a_family_is_fine_tuned_in_the_targets_of_the_config(refused, recorded):
    options = ["model.family=generic", *ONE_BY_ONE]
    assert refused(LORA, *options) == (
        "error: key 'adapter.towers': no tower has a target; name at least one, for example q_proj"
    )
    folder, _ = recorded(LORA, *options, "adapter.towers={language_model: [q_proj]}")
    assert trained_towers(folder, {"language_model": "model.language_model"}) == {"language_model": {"q_proj"}}


@pytest.mark.parametrize(
    ("family", "file"),
    slow_except(list(product(DUAL_ENCODERS, [ZERO_SHOT, LORA, QLORA])), [("clap", LORA), ("composed_clap", ZERO_SHOT)]),
)
def test_a_dual_encoder_is_a_family_like_others(family, file, recorded):
    if file == QLORA:
        pytest.importorskip("bitsandbytes", reason="the extra `quant` is not installed")
    folder, record = recorded(file, f"model.family={family}")
    recognizer, method = {
        ZERO_SHOT: (f"{family}-tiny_{family}", "zero_shot"),
        LORA: (f"{family}-tiny_{family}", "lora"),
        QLORA: (f"{family}-tiny_{family}-nf4", "lora"),
    }[file]
    assert folder.name == f"{recognizer}_{method}_audio_fold1_seed0"
    assert record.config["prompt"]["file"] == "prompts/ensembles/emotion.yaml"
    if file == ZERO_SHOT:
        return
    targets = {tower: list(names) for tower, names in model_class(family).adapter_targets.items()}
    assert record.config["adapter"]["towers"] == targets
    assert trained_towers(folder, model_class(family).towers).keys() == targets.keys()


@pytest.mark.parametrize("modalities", ["audio+transcript", "transcript"])
def test_clap_is_refused_transcripts(modalities, refused):
    assert refused(ZERO_SHOT, "model.family=clap", f"prompt.modalities={modalities}") == (
        f"error: key 'prompt.modalities': '{modalities}'; clap only uses audio; set it to audio"
    )


def test_a_prompt_without_audio_trains_only_the_language_model(recorded):
    folder, record = recorded(LORA, "prompt.modalities=transcript")
    assert folder.name.endswith("_lora_transcript_fold1_seed0")
    assert list(record.config["adapter"]["towers"]) == ["language_model"]
