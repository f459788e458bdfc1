"""peft's other methods, towers trained in full, several adapters on one model, and what is refused, on two families."""

import json
import re

import pytest
import torch
from closeness import assert_close
from representatives import slow_except
from safetensors.torch import load_file, save_file
from transformers import TrainingArguments

from lalm_mer.core.errors import AdapterError, ConfigError
from lalm_mer.models.adapter_kinds import KINDS
from lalm_mer.models.adapters import ALL_LINEAR, add_adapter, load_adapter, tower_of
from lalm_mer.models.families import family_class
from lalm_mer.recognizers.training import RecognizerTrainer

OPTIONS = {
    "lora": {"r": 4, "init_lora_weights": "gaussian"},
    "loha": {"r": 4},
    "lokr": {"r": 4},
    "vera": {"r": 8},
    "ia3": {"feedforward_modules": ["down_proj"]},
    "oft": {"oft_block_size": 4},
}
TOWERS = {"language_model": [ALL_LINEAR], "audio_tower": [ALL_LINEAR]}

pytestmark = pytest.mark.parametrize(
    "family_name", slow_except(["phi4_multimodal", "qwen2_audio"], ["qwen2_audio"]), indirect=True, scope="session"
)


def perturb(model, seed=0):
    """Move what is trained, so that it says something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05 if "oft_" in name else 0.2)


@pytest.fixture
def saved(load_family, prompts, inputs, score, recognizer_of, tmp_path):
    """A maker of a saved adapter that moves the scores, with its report and scores."""

    def make(name="adapter", seed=0, **asked):
        family = load_family()
        before = score(family, prompts["audio_transcript"], inputs[:2])
        torch.manual_seed(seed)  # adapters start at random
        model, report = add_adapter(family, asked.pop("towers", TOWERS), asked.pop("options", {"r": 2}), **asked)
        new = score(family, prompts["audio_transcript"], inputs[:2], model)
        assert_close(new, before)  # a new adapter says nothing yet
        perturb(model, seed)
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        assert sum(row.adapter_parameters + row.full_parameters for row in report) == trained
        scores = score(family, prompts["audio_transcript"], inputs[:2], model)
        assert (scores - before).abs().max() > 1e-3
        recognizer_of(family, prompts["audio_transcript"], model).save_trained(tmp_path / name)
        return tmp_path / name, report, scores

    return make


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_kind_is_saved_loaded_and_merged_without_loss(saved, load_family, prompts, inputs, score, kind):
    folder, _, scores = saved(options=OPTIONS[kind], kind=kind)
    content = json.loads((folder / "adapter_config.json").read_text())
    assert content["peft_type"] == kind.upper()
    if kind == "ia3":
        assert all(name.endswith("down_proj") for name in content["feedforward_modules"])
    family = load_family()
    model = load_adapter(family, folder)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert_close(score(family, prompts["audio_transcript"], inputs[:2], model), scores)
    model.merge_and_unload(safe_merge=True)
    assert_close(score(family, prompts["audio_transcript"], inputs[:2]), scores)


@pytest.mark.parametrize("tower", ["projector", "audio_tower"])
def test_a_tower_in_full_is_trained_saved_and_merged(
    saved, load_family, prompts, examples, inputs, score, recognizer_of, training_batch, tmp_path, tower
):
    towers = {"language_model": ["o_proj"]}
    folder, report, scores = saved(towers=towers, full=[tower])
    family = load_family()
    size = {tower: sum(p.numel() for p in family.submodule(tower).parameters()) for tower in family.towers}
    assert {row.tower: row.full_parameters for row in report if row.full_parameters} == {tower: size[tower]}
    assert {row.tower: row.base_parameters for row in report} == size
    model = load_adapter(family, folder, trainable=True)
    assert_close(score(family, prompts["audio_transcript"], inputs[:2], model), scores)

    recognizer = recognizer_of(family, prompts["audio_transcript"], model).train()
    recognizer(**training_batch(recognizer, examples[:2]))["losses"].sum().backward()
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    copies = [p for name, p in learning.items() if ".modules_to_save." in name]
    assert sum(p.numel() for p in copies) == size[tower]
    assert all(p.grad is not None for p in copies)
    assert sum(bool(p.grad.any()) for p in copies) > 0.8 * len(copies)  # a key's bias has no gradient
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)

    arguments = TrainingArguments(output_dir=str(tmp_path / "out"), use_cpu=True, report_to="none")
    trainer = RecognizerTrainer(recognizer, arguments)
    trainer.save_model(str(tmp_path / "checkpoint"))
    in_checkpoint = load_file(tmp_path / "checkpoint" / "trained.safetensors")
    assert {f"model.{name}" for name in learning} <= set(in_checkpoint)

    family = load_family()
    load_adapter(family, folder).merge_and_unload(safe_merge=True)
    assert_close(score(family, prompts["audio_transcript"], inputs[:2]), scores)


def test_two_adapters_on_one_model_are_active_one_at_a_time(saved, load_family, prompts, inputs, score):
    asked = {"a": {}, "b": {"towers": {"language_model": ["o_proj"]}, "full": ["projector"]}}
    each = {name: saved(name, seed, **asked[name]) for seed, name in enumerate(asked)}
    family = load_family()
    model = load_adapter(family, each["a"][0], name="a")
    assert load_adapter(family, each["b"][0], name="b", onto=model) is model
    for name in ("a", "b", "a"):
        model.set_adapter(name)
        scores = score(family, prompts["audio_transcript"], inputs[:2], model)
        assert_close(scores, each[name][2])
    with pytest.raises(AdapterError, match="has an adapter already"):
        load_adapter(family, each["a"][0])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"kind": "adalora"}, "argument 'kind': 'adalora'; expected lora, loha, lokr, vera, ia3, oft; adalora would"),
        ({"kind": "prefix_tuning"}, "argument 'kind': 'prefix_tuning'; expected lora"),
        ({"kind": "loha", "options": {"lora_alpha": 2}}, "argument 'options.lora_alpha': not for loha; expected r, al"),
        ({"options": {"modules_to_save": ["lm_head"]}}, "argument 'options.modules_to_save': not for lora"),
        ({"options": {"megatron_core": "os"}}, "argument 'options.megatron_core': not for lora"),
        ({"options": {"init_lora_weights": "pissa"}}, "argument 'options.init_lora_weights': 'pissa'; expected true"),
        ({"options": {"r": "four"}}, "argument 'options.r': 'four'; expected a number such as 8"),
        ({"kind": "oft", "options": {"r": 2, "oft_block_size": 2}}, "argument 'options': You can only specify"),
        ({"full": ["decoder"]}, "argument 'full': unknown tower 'decoder'"),
        ({"full": ["language_model"]}, "trained in full and adapted; set towers.language_model=[]"),
    ],
)  # fmt: skip
def test_unsupported_options_are_refused_in_one_line(fresh_family, asked, message):
    with pytest.raises((AdapterError, ConfigError), match=re.escape(message)) as caught:
        add_adapter(fresh_family, {"language_model": ["o_proj"]}, **{"options": {}} | asked)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    ("kind", "quantization"),
    [*((kind, None) for kind in sorted(KINDS)), *((kind, "nf4") for kind in sorted(KINDS) if KINDS[kind].on_4_bits)],
)
def test_an_adapter_is_trained_in_float32_whatever_its_model_has(family_name, tiny_folder, kind, quantization, dtype):
    """A scaled loss needs it."""
    if quantization is not None:
        pytest.importorskip("bitsandbytes", reason="the extra `quant` is not installed")
    family = family_class(family_name).load(tiny_folder(family_name), dtype=dtype, quantization=quantization)
    model, _ = add_adapter(family, {"language_model": [ALL_LINEAR]}, {}, kind=kind)
    assert {each.dtype for each in model.parameters() if each.requires_grad} == {torch.float32}


def test_a_tower_in_half_precision_is_not_trained_in_full(fresh_family):
    fresh_family.model.bfloat16()
    with pytest.raises(AdapterError, match=r"is in bfloat16, which loses small steps; load it in float32"):
        add_adapter(fresh_family, {"language_model": ["o_proj"]}, {}, full=["projector"])


def test_a_tower_that_shares_weights_is_not_trained_in_full(fresh_family):
    fresh_family.model.lm_head.weight = fresh_family.submodule("projector").get_parameter(
        next(name for name, _ in fresh_family.submodule("projector").named_parameters())
    )
    with pytest.raises(AdapterError, match=r"the projector of .* shares weights with lm_head\.weight"):
        add_adapter(fresh_family, {"language_model": ["o_proj"]}, {}, full=["projector"])


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"peft_type": "XLORA"}, "says peft_type 'XLORA'; expected LORA, LOHA"),
        ({"peft_type": None}, "says peft_type None"),
        ({"auto_mapping": {"parent_library": "evil.modeling"}}, "says auto_mapping .*evil.modeling"),
        ({"megatron_core": "evil"}, "says megatron_core 'evil'"),
        ({"trainable_token_indices": [1]}, r"says trainable_token_indices \[1\]"),
        ({"bias": "all"}, "says bias 'all'; expected 'none'"),
        ({"init_lora_weights": "pissa"}, "says init_lora_weights 'pissa', which changes the base weights"),
        ({"modules_to_save": ["lm_head"]}, "'lm_head' would replace a part of the base model"),
        ({"modules_to_save": "lm_head"}, "says modules_to_save 'lm_head'; expected a list"),
    ],
)
def test_an_adapter_with_unsupported_options_is_refused(fresh_family, tmp_path, written, message):
    model, _ = add_adapter(fresh_family, {"language_model": ["o_proj"]}, {"r": 2, "lora_alpha": 2, "lora_dropout": 0.0})
    model.save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | written))
    bare = model.unload()
    before = {name: parameter.clone() for name, parameter in bare.named_parameters()}
    with pytest.raises(AdapterError, match=message) as caught:
        load_adapter(fresh_family, tmp_path)
    assert "\n" not in str(caught.value)
    assert all((parameter == before[name]).all() for name, parameter in bare.named_parameters())


def test_a_saved_module_that_the_config_does_not_name_is_refused(saved, fresh_family):
    folder, _, _ = saved(towers={"language_model": ["o_proj"]})
    tensors = load_file(folder / "adapter_model.safetensors")
    root = fresh_family.towers["projector"]
    odd = {f"base_model.model.{root}.weight": torch.zeros(2, 2)}
    save_file(tensors | odd, folder / "adapter_model.safetensors")
    assert tower_of(fresh_family, f"{root}.weight") == "projector"
    with pytest.raises(AdapterError, match=rf"{re.escape(root)}.weight'; expected only what its config names"):
        load_adapter(fresh_family, folder)
