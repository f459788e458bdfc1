"""LAION's checkpoints: every name has its place, the embeddings are LAION's, and what does not fit is said."""

import importlib.util
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from closeness import assert_close
from transformers import ClapConfig, ClapModel, RobertaConfig, RobertaModel

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import ModelError
from lalm_mer.models.clap import Clap
from lalm_mer.models.families.parts.tiny_shape import TinyShape
from lalm_mer.models.laion_checkpoint import (
    convert_laion_checkpoint,
    read_laion_checkpoint,
    transformers_names,
)

NAMES = Path(__file__).with_name("laion_names.txt").read_text("utf-8").split()
"""The state dict of laion-clap 1.1.7's own CLAP: HTSAT-tiny, RoBERTa-base, fusion by aff_2d."""
BUFFERS = ("position_ids", "token_type_ids", "relative_position_index")
WORDS = ("the speaker sounds happy", "a sad voice")


@pytest.fixture(params=[False, True], ids=["unfused", "fused"])
def like(request, tmp_path):
    torch.manual_seed(0)
    folder = tmp_path / "like"
    Clap.build_tiny(folder, TinyShape(WORDS, 2, 32, 2, 300, 0.1), fuses=request.param)
    return folder


def under_laions_names(state):
    """A checkpoint as LAION would have saved it; written from the other side, on its own."""
    old = {}
    for name, value in state.items():
        if name.endswith(BUFFERS) and "relative" not in name:
            continue
        name = re.sub(r"^text_model\.", "text_branch.", name)
        name = re.sub(r"^(audio|text)_projection\.linear(\d)", lambda m: f"{m[1]}_projection.{2 * int(m[2]) - 2}", name)
        if name.startswith("audio_model.audio_encoder."):
            name = "audio_branch." + name.removeprefix("audio_model.audio_encoder.")
            name = name.replace("batch_norm.", "bn0.").replace("layernorm_before", "norm1")
            name = name.replace("layernorm_after", "norm2").replace("attention.output.dense", "attn.proj")
            name = name.replace("attention.self.", "attn.").replace("intermediate.dense", "mlp.fc1")
            name = name.replace("output.dense", "mlp.fc2")
            if re.search(r"attn\.(query|key|value)\.", name):
                joined = re.sub(r"attn\.(query|key|value)\.", "attn.qkv.", name)
                old[joined] = [*old.get(joined, []), value]
                continue
        old[name] = value
    weights = {name: torch.cat(value) if isinstance(value, list) else value for name, value in old.items()}
    extra = ("text_transform.sequential.0.weight", "audio_branch.head.bias", "text_branch.embeddings.position_ids")
    return weights | {name: torch.zeros(2) for name in extra}


def noises(seconds):
    generator = np.random.default_rng(0)
    sizes = [round(s * 48_000) for s in seconds]
    return [Waveform(generator.normal(scale=0.1, size=size).astype(np.float32), 48_000) for size in sizes]


def embeddings(clap, waveforms):
    words = clap.tokenizer(list(WORDS), padding=True, return_tensors="pt")
    with torch.no_grad():
        audio = clap.model.eval().get_audio_features(**clap.audio_inputs(waveforms)).pooler_output
        return audio, clap.model.get_text_features(**words).pooler_output


def test_names_are_mapped_one_to_one():
    places = [place for name in NAMES for place in transformers_names(name)]
    with torch.device("meta"):
        wanted = ClapModel(ClapConfig(audio_config={"enable_fusion": True, "fusion_type": "aff_2d"})).state_dict()
    assert len(places) == len(set(places))
    assert {p for p in places if not p.endswith(BUFFERS)} == {p for p in wanted if not p.endswith(BUFFERS)}
    assert set(places) <= set(wanted)
    unused = {name.split(".")[1] if name.startswith("audio_branch") else name.split(".")[0]
              for name in NAMES if not transformers_names(name) and "attn_mask" not in name}  # fmt: skip
    assert unused == {
        "spectrogram_extractor", "logmel_extractor", "tscam_conv", "head", "text_transform", "audio_transform"
    }  # fmt: skip


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_converted_checkpoint_is_the_original_model(like, tmp_path, prefix):
    original = Clap.load(like)
    weights = under_laions_names(original.model.state_dict())
    content = {
        "epoch": 45, "name": "a run", "best": np.float64(0.25), "optimizer": {},
        "state_dict": {prefix + name: value for name, value in weights.items()},
    }  # fmt: skip
    torch.save(content, tmp_path / "laion.pt")
    convert_laion_checkpoint(tmp_path / "laion.pt", tmp_path / "converted", like=str(like))
    converted = Clap.load(tmp_path / "converted")
    waveforms = noises((1.0, 2.0, 3.1))
    for ours, theirs in zip(embeddings(converted, waveforms), embeddings(original, waveforms), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert original.randomly_initialised
    assert not converted.randomly_initialised
    assert [path.name for path in (tmp_path / "converted").glob("model*")] == ["model.safetensors"]


def test_a_state_dict_is_read(tmp_path):
    torch.save({"logit_scale_a": torch.ones(())}, tmp_path / "bare.pt")
    assert read_laion_checkpoint(tmp_path / "bare.pt") == {"logit_scale_a": torch.ones(())}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w.pop("audio_branch.bn0.bias"), "1 weights missing ['audio_model.audio_encoder.batch_norm.bias']"),
        (lambda w: w.update({"audio_branch.new.bias": torch.ones(1)}), "1 unexpected ['audio_model.audio_encoder.new"),
        (lambda w: w.update({"logit_scale_a": torch.ones(3)}), "1 of another shape ['logit_scale_a is [3], not []']"),
    ],
)
def test_weights_that_do_not_fit_are_named(like, tmp_path, change, said):
    weights = under_laions_names(Clap.load(like).model.state_dict())
    change(weights)
    torch.save({"state_dict": weights}, tmp_path / "laion.pt")
    with pytest.raises(ModelError, match=re.escape(said)):
        convert_laion_checkpoint(tmp_path / "laion.pt", tmp_path / "converted", like=str(like))
    assert not (tmp_path / "converted").exists()


class Code:
    def __reduce__(self):
        return print, ("run",)


def test_code_in_a_checkpoint_is_not_run(tmp_path, capsys):
    torch.save({"state_dict": {"a": torch.ones(1)}, "epoch": Code()}, tmp_path / "code.pt")
    with pytest.raises(ModelError, match=r"code\.pt: not a checkpoint that can be read as weights only"):
        read_laion_checkpoint(tmp_path / "code.pt")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {}}, {"state_dict": {"a": 1}}])
def test_a_file_without_weights_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "none.pt")
    with pytest.raises(ModelError, match="no weights in it"):
        read_laion_checkpoint(tmp_path / "none.pt")


def test_a_missing_or_broken_file_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"no\.pt"):
        read_laion_checkpoint(tmp_path / "no.pt")
    (tmp_path / "half.pt").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(ModelError, match=r"half\.pt"):
        read_laion_checkpoint(tmp_path / "half.pt")


@pytest.fixture
def laion_clap_class(monkeypatch):
    """laion-clap's own CLAP class. Its package imports torchvision, which it only needs for images, and downloads."""
    spec = importlib.util.find_spec("laion_clap")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("laion-clap is not installed; pip install -e '.[clap]' to compare with LAION's own class")
    if importlib.util.find_spec("torchvision") is None:
        for name in ("torchvision", "torchvision.ops", "torchvision.ops.misc", "torchvision.transforms"):
            stub = types.ModuleType(name)
            for word in IMAGE_WORDS:
                setattr(stub, word, type(word, (torch.nn.Module,), {}))
            monkeypatch.setitem(sys.modules, name, stub)
    monkeypatch.syspath_prepend(spec.submodule_search_locations[0])
    model = importlib.import_module("clap_module.model")

    def random_text_encoder(name):
        assert name == "roberta-base"
        return RobertaModel(RobertaConfig(**TEXT_SIZES, attn_implementation="eager"))

    monkeypatch.setattr(model.RobertaModel, "from_pretrained", random_text_encoder)
    return model.CLAP


IMAGE_WORDS = (
    "FrozenBatchNorm2d", "Normalize", "Compose", "RandomResizedCrop", "InterpolationMode", "ToTensor", "Resize",
    "CenterCrop",
)  # fmt: skip
TEXT_SIZES = {
    "num_hidden_layers": 2, "intermediate_size": 64, "max_position_embeddings": 130, "type_vocab_size": 1,
    "layer_norm_eps": 1e-5, "vocab_size": 300, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip
HTSAT = {
    "audio_length": 1024, "clip_samples": 480_000, "mel_bins": 64, "sample_rate": 48_000, "window_size": 1024,
    "hop_size": 480, "fmin": 50, "fmax": 14_000, "class_num": 527, "model_type": "HTSAT", "model_name": "tiny",
}  # fmt: skip
TEXT = {"context_length": 77, "vocab_size": 49_408, "width": 512, "heads": 8, "layers": 12, "model_type": "roberta"}


@pytest.mark.parametrize("fuses", [False, True])
def test_embeddings_equal_those_of_laion_clap(laion_clap_class, tmp_path, fuses):
    torch.manual_seed(0)
    laion = laion_clap_class(768, HTSAT, TEXT, enable_fusion=fuses, fusion_type="aff_2d").eval()
    with torch.no_grad():
        for name, value in laion.named_buffers():
            if name.endswith(("running_mean", "running_var")):  # 0 and 1 would hide a norm that was not loaded
                value.copy_(torch.rand_like(value) + 0.5)
        for name, parameter in laion.named_parameters():
            if "_extractor." in name:
                continue  # the Fourier transform and the mel bands
            std = 0.5 if name.endswith("relative_position_bias_table") else 0.02
            parameter.add_(torch.randn_like(parameter) * std)  # so that no two norms or biases are alike
    torch.save({"epoch": 1, "state_dict": {f"module.{n}": v for n, v in laion.state_dict().items()}}, tmp_path / "l.pt")
    Clap.build_tiny(tmp_path / "tiny", TinyShape(WORDS, 10, 32, 2, 300), fuses=fuses)
    processor = Clap.load(tmp_path / "tiny").processor
    audio_config = {"enable_fusion": fuses, "fusion_type": "aff_2d"}
    text_config = {name: value for name, value in TEXT_SIZES.items() if name != "layer_norm_eps"}
    ClapConfig(text_config=text_config, audio_config=audio_config).save_pretrained(tmp_path / "like")
    processor.save_pretrained(tmp_path / "like")
    convert_laion_checkpoint(tmp_path / "l.pt", tmp_path / "converted", like=str(tmp_path / "like"))
    clap = Clap.load(tmp_path / "converted")

    waveforms = noises((10.0, 10.0, 13.7) if fuses else (10.0, 10.0))
    ours_audio, ours_text = embeddings(clap, waveforms)
    words = clap.tokenizer(list(WORDS), padding=True, return_tensors="pt")
    if fuses:  # its front end for fusion needs torchaudio: the same spectrograms go into both
        inputs = clap.audio_inputs(waveforms)
        sounds = [
            {"mel_fusion": mel, "longer": longer}
            for mel, longer in zip(inputs["input_features"], inputs["is_longer"], strict=True)
        ]
    else:
        sounds = [{"waveform": torch.from_numpy(waveform.samples)} for waveform in waveforms]
    with torch.no_grad():
        theirs_audio, theirs_text = laion.get_audio_embedding(sounds), laion.get_text_embedding(dict(words))
    assert (theirs_audio[0] - theirs_audio[1]).abs().max() > 1e-3
    assert_close(ours_text, theirs_text)
    assert_close(ours_audio, theirs_audio)
