"""LoRA: where it lands, what it trains, and that others can load it."""

import json
import re
import shutil

import pytest
import torch
from closeness import assert_close
from fabricated import fabricated_run_json
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback, TrainingArguments

from lalm_mer.core.errors import AdapterError
from lalm_mer.core.provenance import hash_file
from lalm_mer.models.adapters import ALL_LINEAR, add_adapter, load_adapter, tower_of
from lalm_mer.models.digest import base_digest
from lalm_mer.recognizers.training import RecognizerTrainer
from lalm_mer.sharing.merging import merge

TOWERS = ("language_model", "projector", "audio_tower")
RANK = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0}


def everywhere(family):
    return {tower: [ALL_LINEAR] for tower in family.towers}


def linear_layers(family, tower):
    """Full names; a layer within two towers is the inner one's."""
    root = family.towers[tower]
    modules = {f"{root}.{name}".rstrip("."): module for name, module in family.submodule(tower).named_modules()}
    return [
        name for name, module in modules.items() if isinstance(module, nn.Linear) and tower_of(family, name) == tower
    ]


def linear_names(family, tower):
    return sorted({name.rpartition(".")[2] for name in linear_layers(family, tower)})


def size(family, tower):
    parameters = family.submodule(tower).named_parameters(prefix=family.towers[tower])
    return sum(parameter.numel() for name, parameter in parameters if tower_of(family, name) == tower)


def perturb(model, seed=0):
    """Give fresh adapters weights, so that they change scores.

    In double precision merging changes no bit of a score; with larger weights float32 rounds by more than 1e-5.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if "lora_" in name:
                parameter.normal_(std=0.1, generator=generator)


def test_a_family_names_three_towers(family):
    assert sorted(family.towers) == sorted(TOWERS)


def test_default_targets_are_in_the_named_towers_of_the_family(fresh_family):
    targets = fresh_family.adapter_targets
    assert set(targets) == {"language_model", "projector"}
    _, report = add_adapter(fresh_family, targets, RANK)
    assert {row.tower for row in report if row.modules} == set(targets)
    adapted = {name.partition(".lora_A")[0] for name, _ in fresh_family.model.named_parameters() if ".lora_A" in name}
    assert {name.rpartition(".")[2] for name in adapted} == {name for names in targets.values() for name in names}


@pytest.mark.parametrize("tower", TOWERS)
def test_lora_is_only_added_to_the_chosen_tower(fresh_family, tower):
    family = fresh_family
    targets = linear_names(family, tower)
    before = {name: size(family, name) for name in family.towers}
    expected = len(linear_layers(family, tower))
    model, report = add_adapter(family, {tower: targets}, RANK)
    trained = {name for name, parameter in family.model.named_parameters() if parameter.requires_grad}
    assert trained
    assert all(tower_of(family, name) == tower and ".lora_" in name for name in trained)
    reached = {re.split(r"\.lora_", name)[0].rpartition(".")[2] for name in trained}
    assert reached == set(targets)
    rows = {row.tower: row for row in report}
    assert set(rows) == set(family.towers)
    assert rows[tower].modules == expected == len(trained) // 2
    assert {name: row.base_parameters for name, row in rows.items()} == before
    assert [rows[name].adapter_parameters for name in family.towers if name != tower] == [0, 0]
    assert rows[tower].adapter_parameters == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_a_report_over_all_towers_adds_up(fresh_family):
    base = sum(parameter.numel() for parameter in fresh_family.model.parameters())
    outside = base - sum(size(fresh_family, tower) for tower in TOWERS)
    model, report = add_adapter(fresh_family, everywhere(fresh_family), RANK)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert sum(row.adapter_parameters for row in report) == trained == model.get_nb_trainable_parameters()[0]
    assert sum(row.base_parameters for row in report) + outside == base
    assert all(row.modules for row in report)
    assert all(("lora_" in name) == parameter.requires_grad for name, parameter in model.named_parameters())


@pytest.mark.parametrize(
    ("towers", "expected"),
    [
        (
            {"language_model": ["q_projj"]},
            "argument 'towers.language_model': target 'q_projj' matches no linear layer",
        ),
        ({"language_model": ["o_proj", "no_such"]}, "target 'no_such' matches no linear layer"),
        ({"language_model": ["embed_tokens"]}, "target 'embed_tokens' matches no linear layer"),
        ({"language_model": [".*"]}, "target '.*' matches no linear layer"),
        ({"language_model": ["o_proj"], "decoder": ["o_proj"]}, "argument 'towers': unknown tower 'decoder'"),
        ({}, "argument 'towers': no tower has a target"),
        ({"language_model": [], "projector": []}, "argument 'towers': no tower has a target"),
    ],
)
def test_a_wrong_target_names_its_key(fresh_family, towers, expected):
    with pytest.raises(AdapterError, match=re.escape(expected)):
        add_adapter(fresh_family, towers, RANK)
    assert not any("lora_" in name for name, _ in fresh_family.model.named_parameters())


def test_a_target_of_one_tower_is_not_found_in_another(fresh_family):
    alone = set(linear_names(fresh_family, "language_model")) - set(linear_names(fresh_family, "projector"))
    with pytest.raises(AdapterError, match=r"argument 'towers.projector'.*the projector of .* has"):
        add_adapter(fresh_family, {"projector": [min(alone)]}, RANK)


def test_gradients_reach_the_adapters_of_every_tower(fresh_family, prompts, examples, recognizer_of, training_batch):
    model, _ = add_adapter(fresh_family, everywhere(fresh_family), RANK)
    recognizer = recognizer_of(fresh_family, prompts["audio_transcript"], model).train()
    batch = training_batch(recognizer, examples[:2])
    perturb(model)  # at the start every lora_B is zero, and so is the gradient of every lora_A
    recognizer(**batch)["losses"].sum().backward()
    for tower, root in fresh_family.towers.items():
        adapted = {n: p for n, p in fresh_family.model.named_parameters() if n.startswith(root) and p.requires_grad}
        dead = [name for name, parameter in adapted.items() if parameter.grad is None or not parameter.grad.any()]
        assert adapted, tower
        assert dead == []
    frozen = [parameter for parameter in fresh_family.model.parameters() if not parameter.requires_grad]
    assert all(parameter.grad is None for parameter in frozen)


class Gradients(TrainerCallback):
    """Keeps the gradients of the last step."""

    def on_pre_optimizer_step(self, args, state, control, model, **_):
        self.found = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
        self.checkpointed = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


@pytest.mark.parametrize("towers", [("language_model",), TOWERS], ids=["language model", "every tower"])
def test_checkpointed_activations_change_no_gradient(load_family, prompts, examples, recognizer_of, tmp_path, towers):
    steps = []
    for checkpointed in (False, True):
        family = load_family()
        model, _ = add_adapter(family, {tower: [ALL_LINEAR] for tower in towers}, RANK)
        perturb(model)
        arguments = TrainingArguments(
            output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=2, gradient_checkpointing=checkpointed,
            max_grad_norm=0.0, save_strategy="no", use_cpu=True, report_to="none", remove_unused_columns=False,
            disable_tqdm=True, dataloader_pin_memory=False,
        )  # fmt: skip
        steps.append(Gradients())
        recognizer = recognizer_of(family, prompts["audio_transcript"], model)
        trainer = RecognizerTrainer(recognizer, arguments, train_examples=examples[:2], callbacks=steps[-1:])
        super(RecognizerTrainer, trainer).train()  # no checkpoint is kept to choose from
    assert [step.checkpointed for step in steps] == [False, True]
    assert all(gradient.any() for gradient in steps[1].found.values())
    for name, gradient in steps[0].found.items():
        assert_close(steps[1].found[name], gradient, name=name)


@pytest.fixture(scope="module")
def saved(load_family, prompts, inputs, score, recognizer_of, tmp_path_factory):
    """A saved adapter that moves the scores, and what it makes of them."""
    family, prompt = load_family(), prompts["audio_transcript"]
    before = score(family, prompt, inputs[:2])
    model, _ = add_adapter(family, everywhere(family), RANK)
    untouched = score(family, prompt, inputs[:2], model)
    assert_close(untouched, before)  # a new adapter changes nothing
    perturb(model)
    scores = score(family, prompt, inputs[:2], model)
    assert (scores - before).abs().max() > 1e-2
    folder = tmp_path_factory.mktemp("saved") / "adapter"
    recognizer_of(family, prompt, model).save_trained(folder)
    return folder, scores


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of the saved adapter that a test may spoil."""
    return shutil.copytree(saved[0], tmp_path / "adapter")


def test_a_saved_adapter_is_what_peft_writes(folder):
    assert {path.name for path in folder.iterdir()} >= {"adapter_model.safetensors", "adapter_config.json"}
    assert not list(folder.glob("*.bin"))


def test_plain_peft_loads_it_and_the_models_own_forward_agrees(
    saved, family, tiny_folder, family_name, prompts, inputs, own_scores
):
    folder, scores = saved
    plain = type(family.model).from_pretrained(tiny_folder(family_name), dtype=torch.float32)
    plain = PeftModel.from_pretrained(plain, folder).eval()
    alone = own_scores(family, prompts["audio_transcript"], inputs[:2], plain)
    assert_close(scores.double(), alone)


def test_a_saved_adapter_loads_and_merging_changes_no_score(saved, fresh_family, prompts, inputs, score):
    folder, scores = saved
    model = load_adapter(fresh_family, folder)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert_close(score(fresh_family, prompts["audio_transcript"], inputs[:2], model), scores)
    merged = model.merge_and_unload()
    assert not any("lora_" in name for name, _ in merged.named_parameters())
    assert_close(score(fresh_family, prompts["audio_transcript"], inputs[:2]), scores)


def test_a_projector_in_full_changes_scores(load_family, prompts, inputs, score, tmp_path):
    family, prompt = load_family(), prompts["audio_transcript"]
    before = score(family, prompt, inputs[:2])
    target = linear_names(family, "language_model")[-1]
    model, report = add_adapter(family, {"language_model": [target]}, {"r": 2}, full=["projector"])
    with torch.no_grad():
        for parameter in family.submodule("projector").parameters():
            if parameter.requires_grad:
                parameter += 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    scores = score(family, prompt, inputs[:2], model)
    assert (scores - before).abs().max() > 1e-4
    assert {row.tower: row.full_parameters for row in report}["projector"] == size(load_family(), "projector")
    model.save_pretrained(tmp_path)
    family = load_family()
    again = load_adapter(family, tmp_path)
    assert_close(score(family, prompt, inputs[:2], again), scores)


def test_a_merged_model_is_loaded_without_the_adapter(saved, load_family, family, tmp_path, prompts, inputs, score):
    folder, scores = saved
    (tmp_path / "run").mkdir()
    shutil.copytree(folder, tmp_path / "run" / "adapter")
    base = family.model.config._name_or_path
    model = {
        "family": family.name, "id": base, "revision": None, "dtype": "float32", "attn_implementation": "sdpa",
        "quantization": "nf4",
    }  # fmt: skip
    hashes = {"data": "d", "folds": "f", "prompt": "p", "base_model": base_digest(base)}
    record = fabricated_run_json(hashes=hashes, config={"model": model})
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    out = merge(str(tmp_path / "run"), tmp_path / "merged")
    assert not list(out.glob("*.bin")) + list(out.glob("adapter*"))
    merged_from = json.loads((out / "merged_from.json").read_text())
    assert merged_from["adapter"] == hash_file(folder / "adapter_model.safetensors")
    assert merged_from["trained_with"]["quantization"] == "nf4"
    merged = type(family).load(out, revision=None, dtype="float32", attn_implementation="sdpa")
    merged.model.eval()
    assert merged.randomly_initialised
    prompt = prompts["audio_transcript"]
    assert_close(score(merged, prompt, inputs[:2]), scores)
    record["hashes"]["base_model"] = "0" * 64
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    with pytest.raises(AdapterError, match="was trained on another base model than"):
        merge(str(tmp_path / "run"), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_loaded_adapter_can_be_trained_further(folder, fresh_family):
    model = load_adapter(fresh_family, folder, trainable=True)
    assert all(("lora_" in name) == parameter.requires_grad for name, parameter in model.named_parameters())


def test_a_pickled_adapter_is_refused(folder, fresh_family):
    tensors = load_file(folder / "adapter_model.safetensors")
    (folder / "adapter_model.safetensors").unlink()
    torch.save(tensors, folder / "adapter_model.bin")
    with pytest.raises(AdapterError, match=rf"{re.escape(str(folder))}: no adapter_model.safetensors"):
        load_adapter(fresh_family, folder)


def test_a_folder_without_a_config_or_at_all_is_refused(folder, fresh_family):
    (folder / "adapter_config.json").unlink()
    with pytest.raises(AdapterError, match=rf"{re.escape(str(folder))}: no adapter_config.json"):
        load_adapter(fresh_family, folder)
    with pytest.raises(AdapterError, match=r"no adapter_config.json"):
        load_adapter(fresh_family, folder / "nowhere")


@pytest.mark.filterwarnings("ignore:Found missing adapter keys")
@pytest.mark.parametrize("change", ["one less", "one more"])
def test_an_adapter_of_other_tensors_is_refused(folder, fresh_family, change):
    tensors = load_file(folder / "adapter_model.safetensors")
    name = min(tensors) if change == "one less" else "other.lora_A.weight"
    changed = {key: value for key, value in tensors.items() if key != name}
    save_file(
        changed if change == "one less" else {**tensors, name: torch.zeros(2, 2)}, folder / "adapter_model.safetensors"
    )
    with pytest.raises(AdapterError, match=rf"{re.escape(str(folder))}: the adapter does not fit .*{re.escape(name)}"):
        load_adapter(fresh_family, folder)


def test_an_adapter_of_another_size_is_refused(folder, fresh_family):
    config = folder / "adapter_config.json"
    assert '"r": 4' in config.read_text()
    config.write_text(config.read_text().replace('"r": 4', '"r": 8'))
    with pytest.raises(AdapterError, match=r"does not fit .*size mismatch"):
        load_adapter(fresh_family, folder)


@pytest.mark.parametrize("variant", ["use_rslora", "use_dora"])
def test_rslora_and_dora_are_saved_as_by_peft(fresh_family, prompts, inputs, score, load_family, tmp_path, variant):
    towers = {tower: linear_names(fresh_family, tower)[-2:] for tower in ("language_model", "audio_tower")}
    model, report = add_adapter(fresh_family, towers, RANK | {variant: True})
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert sum(row.adapter_parameters for row in report) == trained
    perturb(model)
    scores = score(fresh_family, prompts["audio_transcript"], inputs[:2], model)
    model.save_pretrained(tmp_path / "adapter")
    family = load_family()
    again = load_adapter(family, tmp_path / "adapter")
    assert getattr(again.peft_config["default"], variant)
    assert_close(score(family, prompts["audio_transcript"], inputs[:2], again), scores)
