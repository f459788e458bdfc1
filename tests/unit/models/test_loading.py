"""What comes from the folder of a model runs nothing, and adds no adapter that nobody named."""

import io
import json
import multiprocessing
import os
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext, suppress

import pytest
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from lalm_mer.core.errors import LalmMerError, ModelError
from lalm_mer.core.provenance import hash_file
from lalm_mer.models.digest import base_digest
from lalm_mer.models.encoders.pretrained_text import PretrainedText
from lalm_mer.models.registry import FAMILIES, model_class
from lalm_mer.models.transcriber import Transcriber

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
        PretrainedText(str(folder))


@pytest.fixture(scope="module")
def published(tiny_folder, tmp_path_factory):
    """Folders of the families whose weights are published with an adapter, and the folder of the adapter."""
    found = {}
    for family, subfolder, ending in (("granite_speech", ".", "q_proj"), ("phi4_multimodal", "speech-lora", "o_proj")):
        folder = shutil.copytree(tiny_folder(family), tmp_path_factory.mktemp("published") / family)
        config = json.loads((folder / "config.json").read_text())
        config.pop("randomly_initialised", None)
        (folder / "config.json").write_text(json.dumps(config))
        model = model_class(family).model_class.from_pretrained(folder)
        inner = model.get_submodule(model_class(family).towers["language_model"])
        targets = [
            name for name, module in model.named_modules() if name.endswith(ending) and module in inner.modules()
        ]
        adapted = get_peft_model(model, LoraConfig(r=2, target_modules=targets))
        for name, parameter in adapted.named_parameters():
            if ".lora_B." in name:
                nn.init.ones_(parameter)
        adapted.save_pretrained(folder / subfolder)
        found[family] = (folder, folder / subfolder)
    return found


FAMILIES_WITH_ADAPTER = ("granite_speech", "phi4_multimodal")


@pytest.mark.parametrize("family", FAMILIES_WITH_ADAPTER)
def test_base_weights_are_those_of_the_folder_whatever_its_adapter_names(family, published, tiny_folder, tmp_path):
    folder, adapter = published[family]
    before = model_class(family).load(folder).model.state_dict()
    other = shutil.copytree(tiny_folder(family), tmp_path / "other")
    zeros = {name: tensor * 0 for name, tensor in load_file(other / "model.safetensors").items()}
    save_file(zeros, other / "model.safetensors", {"format": "pt"})
    changed = shutil.copytree(folder, tmp_path / "model")
    configure(changed / adapter.relative_to(folder), base_model_name_or_path=str(other))
    after = model_class(family).load(changed).model.state_dict()
    assert all(bool((before[name] == after[name]).all()) for name in before)
    assert any(bool(tensor.any()) for tensor in after.values())


def configure(adapter, **changes):
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("family", FAMILIES_WITH_ADAPTER)
def test_a_regular_expression_of_a_published_adapter_is_not_evaluated(family, published, tmp_path):
    """Phi-4 has one; this one would take longer than the universe."""
    folder, adapter = published[family]
    copy = shutil.copytree(folder, tmp_path / "model")
    expected = model_class(family).load(copy).model.state_dict()
    configure(copy / adapter.relative_to(folder), target_modules=r"(\w+\.?)+X")
    started = time.monotonic()
    found = model_class(family).load(copy).model.state_dict()
    assert time.monotonic() - started < 5
    assert all(bool((expected[name] == found[name]).all()) for name in expected)


HARMFUL = (
    {"rank_pattern": {r"(\w+\.?)+X": 8}}, {"exclude_modules": r"(\w+\.?)+X"}, {"r": 10**8}, {"r": None}, {"r": "2"},
    {"peft_type": "X"}, {"peft_type": "LOHA"}, {"target_modules": 5}, {"init_lora_weights": "pissa"},
    {"init_lora_weights": "eva"}, {"modules_to_save": ["lm_head"]}, {"auto_mapping": {"parent_library": "evil"}},
)  # fmt: skip


@pytest.mark.parametrize(
    "family", [FAMILIES_WITH_ADAPTER[0], pytest.param(FAMILIES_WITH_ADAPTER[1], marks=pytest.mark.slow)]
)
def test_a_published_adapter_made_to_harm_is_one_line(family, published, tmp_path):
    folder, adapter = published[family]
    copy = shutil.copytree(folder, tmp_path / "model")
    file = copy / adapter.relative_to(folder) / "adapter_config.json"
    good = json.loads(file.read_text())
    for content in [json.dumps(good | each) for each in HARMFUL] + ["null", "[]", '"x"', "{", ""]:
        file.write_text(content)
        started = time.monotonic()
        with pytest.raises(ModelError, match="adapter") as caught:
            model_class(family).load(copy)
        assert "\n" not in str(caught.value), content
        assert time.monotonic() - started < 5, content


@pytest.mark.parametrize("named", ["../other/model.safetensors", "inner/model.safetensors", "/tmp/x.safetensors", 5])
def test_weights_outside_the_folder_are_refused(named, tiny_folder, tmp_path):
    """What is hashed is what is loaded: the digest covers no other folder."""
    folder = shutil.copytree(tiny_folder("clap"), tmp_path / "model")
    for place in ("other", "model/inner"):
        (tmp_path / place).mkdir()
        shutil.copy(folder / "model.safetensors", tmp_path / place)
    names = load_file(folder / "model.safetensors").keys()
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, named)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"model: takes weights from .*; expected the name of a file in this folder"):
        model_class("clap").load(folder)
    index["weight_map"] = None
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="takes weights from None"):
        model_class("clap").load(folder)


@pytest.mark.parametrize("family", ["qwen2_audio", "clap"])
def test_settings_of_a_wrong_shape_are_one_line(family, tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder(family), tmp_path / "model")
    files = [file for file in sorted(folder.glob("*.json")) if file.name != "tokenizer.json"]
    assert len(files) >= 3
    for file in files:
        content = file.read_bytes()
        for wrong in (b"null", b"[]", b'"x"', b"5", b"", b"{", b"[" * 20_000, b"\xff\xfe"):
            file.write_bytes(wrong)
            with pytest.raises(ModelError, match=file.name) as caught:
                model_class(family).load(folder)
            assert "\n" not in str(caught.value), wrong
        file.write_bytes(content)
    (folder / "config.json").write_text("{}")  # the defaults are those of a model of 7 billion parameters
    with pytest.raises(ModelError, match=r"config\.json: has no model_type"):
        model_class(family).load(folder)


@pytest.mark.parametrize("architectures", ["pipeline", ["pipeline"], [5], {"a": 1}, ["AutoModel"], []])
def test_only_a_model_is_opened_as_the_class_of_a_config(architectures, tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder("qwen2_audio"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": architectures}))
    with pytest.raises(ModelError, match=r"its class is .*, a model that transformers") as caught:
        model_class("generic").load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["config.json", "processor_config.json", "preprocessor_config.json",
                                  "tokenizer_config.json", "generation_config.json"])  # fmt: skip
@pytest.mark.parametrize("family", ["qwen2_audio", "generic", "clap"])
def test_code_is_not_run_when_the_answer_would_be_yes(family, file, tiny_folder, tmp_path, monkeypatch):
    """Of classes that only the code has, for which transformers asks by default."""
    folder = tmp_path / "model"
    marker = with_code(tiny_folder("qwen2_audio" if family == "generic" else family), folder, renamed=False)
    content = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
    kinds = ("processor_class", "tokenizer_class", "feature_extractor_type", *["model_type"] * (file == "config.json"))
    content |= dict.fromkeys(kinds, "Evil") | {"auto_map": dict.fromkeys(CLASSES, "evil.Evil")}
    (folder / file).write_text(json.dumps(content))
    answers = io.StringIO("y\n" * 9)
    monkeypatch.setattr(sys, "stdin", answers)
    with suppress(ModelError):
        model_class(family).load(folder)
    assert not marker.exists()
    assert answers.tell() == 0


def test_code_that_a_model_needs_is_one_line_without_bad_advice(tiny_folder, tmp_path):
    folder = tmp_path / "model"
    with_code(tiny_folder("clap"), folder, renamed=False)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "evil"}))
    with pytest.raises(ModelError, match=r"needs code of its own .* never run") as caught:
        model_class("generic").load(folder)
    assert "trust_remote_code" not in str(caught.value)


def test_the_digest_of_a_model_on_the_hub_has_its_commit(tiny_folder, tmp_path, monkeypatch):
    """transformers 5.23 no longer returns the commit with the config, so that all revisions had the digest id@None."""
    for revision, commit in (("main", "a" * 40), ("old", "b" * 40)):
        model = tmp_path / "models--group--model"
        shutil.copytree(tiny_folder("clap"), model / "snapshots" / commit)
        (model / "refs").mkdir(exist_ok=True)
        (model / "refs" / revision).write_text(commit)
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert base_digest("group/model") == f"group/model@{'a' * 40}"
    assert base_digest("group/model", "old") == f"group/model@{'b' * 40}"


def test_a_damaged_cache_of_digests_is_written_again(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    expected = base_digest(str(tiny_folder("clap")))
    cache = tmp_path / "lalm_mer" / "model_digests.json"
    for content in ("", "null", "[]", '{"a": ', json.dumps(dict.fromkeys(json.loads(cache.read_text()), 5))):
        cache.write_text(content)
        assert base_digest(str(tiny_folder("clap"))) == expected
        assert list(json.loads(cache.read_text()).values()) == [expected]


def test_several_processes_hash_a_folder_once_and_again_after_a_change(tiny_folder, tmp_path, monkeypatch):
    folder = shutil.copytree(tiny_folder("clap"), tmp_path / "model")
    files = sorted(path.name for path in folder.iterdir())
    hashed = tmp_path / "hashed"

    def logged(path):
        with hashed.open("a") as file:
            file.write(f"{path.name}\n")
        return hash_file(path)

    def names():
        found = hashed.read_text().split() if hashed.exists() else []
        hashed.unlink(missing_ok=True)
        return sorted(found)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("lalm_mer.models.digest.hash_file", logged)
    with ProcessPoolExecutor(3, multiprocessing.get_context("fork")) as pool:
        (first,) = set(pool.map(base_digest, [str(folder)] * 3))
    assert names() == files
    assert base_digest(str(folder)) == first  # of a later run
    assert names() == []
    weights = folder / "model.safetensors"
    content, status = bytearray(weights.read_bytes()), weights.stat()
    content[-1] ^= 1
    weights.write_bytes(content)
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))  # size and time as before
    assert base_digest(str(folder)) != first
    assert names() == files


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
