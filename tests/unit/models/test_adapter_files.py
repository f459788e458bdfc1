"""Folders of adapters from elsewhere are checked before peft or torch reads them."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from lalm_mer.core.errors import AdapterError
from lalm_mer.core.names import ADAPTERS
from lalm_mer.models.adapter_files import check_adapter_folder
from lalm_mer.models.adapter_kinds import KINDS
from lalm_mer.models.adapters import add_adapter, load_adapter, save_adapter
from lalm_mer.models.clap import Clap
from lalm_mer.models.tiny import build_tiny
from lalm_mer.sharing.hub import load_adapter_from

RANK = {"r": 2, "lora_alpha": 4, "lora_dropout": 0.0}


class Pickled:
    """What would leave a trace if anybody unpickled it."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (open, (str(self.trace), "w"))


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    build_tiny("clap", folder, words=["happy sad"], window_s=2, hidden_size=32, layers=1, initializer_range=0.1)
    return folder


@pytest.fixture(scope="module")
def saved(model_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    add_adapter(Clap.load(model_folder), {"audio_projector": ["linear1"]}, RANK)[0].save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy to spoil."""
    shutil.copytree(saved, tmp_path / "adapter")
    return tmp_path / "adapter"


def configure(folder, **changed):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))


def refused(folder, clap, said):
    """By both ways in, in one line."""
    for load in (lambda: load_adapter_from(str(folder)), lambda: load_adapter(clap, folder)):
        with pytest.raises(AdapterError, match=said) as caught:
            load()
        assert "\n" not in str(caught.value)
        assert str(folder) in str(caught.value)


@pytest.fixture(scope="module")
def clap(model_folder):
    return Clap.load(model_folder)


@pytest.mark.parametrize("content", ["", "{", "[1]", '"x"', "[" * 100_000, "\udcff"])
def test_a_config_that_is_no_object_is_refused(folder, clap, content):
    (folder / "adapter_config.json").write_bytes(content.encode(errors="surrogateescape"))
    refused(folder, clap, r"adapter_config\.json.*(not valid JSON|cannot be read|expected a JSON object)")


def test_every_kind_is_a_method_of_comparisons():
    assert set(KINDS) == set(ADAPTERS)


@pytest.mark.parametrize("kind", ["EVIL", "PROMPT_TUNING", None, ["LORA"]])
def test_another_type_of_adapter_is_refused(folder, clap, kind):
    configure(folder, peft_type=kind)
    refused(folder, clap, "peft_type .*expected LORA")


@pytest.mark.parametrize(
    "code", [{"auto_map": {"AutoModel": "evil.Model"}}, {"trust_remote_code": True}, {"megatron_config": {"a": 1}}]
)
def test_a_config_that_names_code_is_refused(folder, clap, code):
    configure(folder, **code, megatron_core="evil")
    (folder / "evil.py").write_text("raise SystemExit")
    refused(folder, clap, f"key '{next(iter(code))}': names code to run")


def test_code_and_pickles_next_to_the_adapter_are_not_read(folder, model_folder, tmp_path):
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w')")
    torch.save(Pickled(tmp_path / "trace"), folder / "adapter_model.bin")
    load_adapter(Clap.load(model_folder), load_adapter_from(str(folder)))
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.safetensors"])
def test_a_pickle_in_place_of_safetensors_is_refused(folder, clap, tmp_path, name):
    (folder / "adapter_model.safetensors").unlink()
    torch.save(Pickled(tmp_path / "trace"), folder / name)
    refused(folder, clap, "safetensors")
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("modules", [["audio_model.encoder"], ["text_model", "logit_scale_a"], "text_model", [1]])
def test_saved_modules_that_are_no_tower_are_refused(folder, clap, modules):
    configure(folder, modules_to_save=modules)
    with pytest.raises(AdapterError, match="modules_to_save") as caught:
        load_adapter(clap, folder)
    assert "\n" not in str(caught.value)


def test_a_complete_tower_is_accepted(folder):
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(tensors | {"base_model.model.audio_model.x": torch.zeros(1)}, folder / "adapter_model.safetensors")
    with pytest.raises(
        AdapterError, match=r"contains 'base_model\.model\.audio_model\.x'; expected only what its config names"
    ):
        check_adapter_folder(folder)
    configure(folder, modules_to_save=["audio_model"])
    check_adapter_folder(folder, towers=Clap.towers.values())


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "run.json"])
def test_links_out_of_the_folder_are_refused(folder, tmp_path, name):
    outside = tmp_path / "outside"
    if (folder / name).exists():
        (folder / name).rename(outside)
    else:
        outside.write_text("{}")
    (folder / name).symlink_to(outside)
    with pytest.raises(AdapterError, match=f"{name} is a link that leads out of the folder") as caught:
        load_adapter_from(str(folder))
    assert "\n" not in str(caught.value)


def test_a_link_within_the_folder_is_accepted(folder):
    (folder / "adapter_model.safetensors").rename(folder / "weights.safetensors")
    (folder / "adapter_model.safetensors").symlink_to("weights.safetensors")
    assert load_adapter_from(str(folder)) == folder


def test_an_adapter_of_another_model_is_refused(folder, tmp_path):
    build_tiny("clap", tmp_path / "other", words=["happy"], window_s=2, hidden_size=64, layers=1)
    with pytest.raises(AdapterError, match="does not fit this clap model") as caught:
        load_adapter(Clap.load(tmp_path / "other"), folder)
    assert "\n" not in str(caught.value)


def test_the_names_of_a_saved_config_are_in_order(model_folder, tmp_path):
    """peft keeps them as a set, whose order differs from process to process."""
    for kind, options in (("lora", RANK), ("ia3", {"feedforward_modules": ["intermediate.dense", "output.dense"]})):
        model, _ = add_adapter(Clap.load(model_folder), {"audio_tower": ["query", "key", "value"]}, options, kind=kind)
        save_adapter(model, tmp_path / kind)
        config = json.loads((tmp_path / kind / "adapter_config.json").read_text())
        assert len(config["target_modules"]) > 5
        assert config["target_modules"] == sorted(config["target_modules"])
