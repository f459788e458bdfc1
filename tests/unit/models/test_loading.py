"""What comes from the folder of a model runs nothing, and adds no adapter that nobody named."""

import json
import shutil
import sys
from contextlib import nullcontext, suppress

import pytest
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from lalm_mer.core.errors import LalmMerError, ModelError
from lalm_mer.models.digest import base_digest
from lalm_mer.models.registry import FAMILIES, model_class
from lalm_mer.models.transcriber import Transcriber
from lalm_mer.recognizers.baselines.word_embeddings import FrozenBert

CLASSES = (
    "AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoModelForMultimodalLM", "AutoModelForSeq2SeqLM",
    "AutoProcessor", "AutoFeatureExtractor", "AutoVideoProcessor", "AutoImageProcessor",
)  # fmt: skip


def with_code(folder, out, *, renamed):
    """A copy whose JSON files all name code that writes a file; if ``renamed``, of a class that only the code has."""
    shutil.copytree(folder, out)
    marker = out.parent / "ran"
    (out / "evil.py").write_text(f"import pathlib\npathlib.Path({str(marker)!r}).touch()\nclass Evil: pass\n")
    for file in out.glob("*.json"):
        content = json.loads(file.read_text())
        if isinstance(content, dict) and file.name not in ("tokenizer.json", "vocab.json", "tekken.json"):
            content["auto_map"] = dict.fromkeys(CLASSES, "evil.Evil") | {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
            if renamed:
                kinds = {"processor_class", "tokenizer_class", "feature_extractor_type"} & content.keys()
                content |= dict.fromkeys(kinds, "Evil")
            file.write_text(json.dumps(content))
    (out / "custom_generate").mkdir()
    shutil.copy(out / "evil.py", out / "custom_generate/generate.py")
    return marker


@pytest.fixture
def _willing(monkeypatch):
    """A user who would answer yes, to a question that must not come."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked to run code"))
    monkeypatch.setattr(sys, "stdin", None)


@pytest.mark.usefixtures("_willing")
@pytest.mark.parametrize("renamed", [False, True])
@pytest.mark.parametrize("family", [*sorted(FAMILIES), "clap"])
def test_code_of_a_model_folder_is_never_run(family, renamed, tiny_folder, tmp_path):
    marker = with_code(tiny_folder(family), tmp_path / "model", renamed=renamed)
    with nullcontext() if not renamed else suppress(LalmMerError):
        model_class(family).load(tmp_path / "model")
    assert not marker.exists()


@pytest.mark.usefixtures("_willing")
def test_code_beside_whisper_is_never_run(tiny_whisper_folder, tmp_path):
    marker = with_code(tiny_whisper_folder, tmp_path / "model", renamed=False)
    Transcriber.load(str(tmp_path / "model"))
    assert not marker.exists()


def add_adapter(folder, base="elsewhere/else"):
    """What peft would save beside the weights of a model."""
    config = LoraConfig(r=2, target_modules=["q_proj"], base_model_name_or_path=base)
    config.save_pretrained(folder)
    save_file({}, folder / "adapter_model.safetensors")


@pytest.mark.parametrize("family", ["qwen2_audio", "generic", "clap"])
def test_an_adapter_beside_base_weights_is_refused(family, tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder("qwen2_audio" if family == "generic" else family), tmp_path / "model")
    add_adapter(folder)
    with pytest.raises(ModelError, match=r"model '.*model': has adapter_config\.json, an adapter that would change"):
        model_class(family).load(folder)


def test_an_adapter_beside_whisper_or_a_bert_is_refused(tiny_whisper_folder, tmp_path):
    folder = shutil.copytree(tiny_whisper_folder, tmp_path / "model")
    add_adapter(folder)
    with pytest.raises(ModelError, match=r"has adapter_config\.json"):
        Transcriber.load(str(folder))
    with pytest.raises(ModelError, match=r"has adapter_config\.json"):
        FrozenBert(str(folder))


def test_base_weights_are_those_of_the_folder_whatever_its_adapter_names(tiny_folder, tmp_path):
    """Granite Speech is published with an adapter; the weights beside it count, not those that the adapter names."""
    folder, other = (shutil.copytree(tiny_folder("granite_speech"), tmp_path / name) for name in ("model", "other"))
    zeros = {name: tensor * 0 for name, tensor in load_file(other / "model.safetensors").items()}
    save_file(zeros, other / "model.safetensors", {"format": "pt"})
    before = model_class("granite_speech").load(folder).model.state_dict()
    for config in folder.glob("adapter_config.json"):
        config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": str(other)}))
    after = model_class("granite_speech").load(folder).model.state_dict()
    assert all(bool((before[name] == after[name]).all()) for name in before)


def test_the_digest_covers_subfolders_but_no_cache_of_a_download(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder("qwen2_audio"), tmp_path / "model")
    plain = base_digest(str(folder))
    (folder / ".cache").mkdir()
    (folder / ".cache/lock").write_text("x")
    assert base_digest(str(folder)) == plain
    (folder / "speech-lora").mkdir()
    (folder / "speech-lora/adapter_model.safetensors").write_bytes(b"1")
    first = base_digest(str(folder))
    (folder / "speech-lora/adapter_model.safetensors").write_bytes(b"2")
    assert len({plain, first, base_digest(str(folder))}) == 3
