"""The published Omni models have thinker, talker and codec, and a processor that also takes images."""

import json

import pytest
import torch
import transformers
from closeness import assert_close
from safetensors.torch import load_file, save_file

from lalm_mer.core.audio import Waveform
from lalm_mer.models.families import family_class

COMPLETE = {"qwen2_5_omni": "Qwen2_5Omni", "qwen3_omni_moe": "Qwen3OmniMoe"}


def opened(name, folder):
    return family_class(name).load(folder, revision=None, dtype="float32", attn_implementation="sdpa")


@pytest.fixture(params=sorted(COMPLETE))
def thinker(request, tiny_folder):
    return opened(request.param, tiny_folder(request.param))


@pytest.fixture
def complete(thinker, tmp_path):
    """A folder as on the Hub: all weights under ``thinker.``, those of the talker, legacy processor files."""
    kind = COMPLETE[thinker.name]
    config = getattr(transformers, f"{kind}Config")(
        thinker_config=thinker.model.config.to_dict(), enable_audio_output=False
    )
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config)
    model.thinker.load_state_dict(thinker.model.state_dict())
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert all(name.startswith("thinker.") for name in weights)
    save_file({**weights, "talker.model.norm.weight": torch.ones(3)}, tmp_path / "model.safetensors", {"format": "pt"})
    thinker.tokenizer.save_pretrained(tmp_path)
    extractor = thinker.processor.feature_extractor.to_dict()
    extractor |= {"image_processor_type": "Qwen2VLImageProcessor", "patch_size": 14, "processor_class": kind}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(extractor))
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": thinker.processor.chat_template}))
    return tmp_path


def test_the_thinker_is_extracted_from_the_complete_model(thinker, complete):
    taken = opened(thinker.name, complete)
    assert type(taken.model) is type(thinker.model)
    expected, found = thinker.model.state_dict(), taken.model.state_dict()
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert taken.processor.chat_template == thinker.processor.chat_template
    assert taken.longest_audio_s == thinker.longest_audio_s
    assert taken.word_ids("<tool_call>") == thinker.word_ids("<tool_call>")


def test_an_added_token_that_is_not_special_remains_words(thinker):
    added = thinker.tokenizer.convert_tokens_to_ids("<tool_call>")
    assert added in thinker.tokenizer("a<tool_call>b", split_special_tokens=True)["input_ids"]  # it would not by itself
    ids = thinker.word_ids("a<tool_call>b")
    assert added not in ids
    assert thinker.tokenizer.decode(ids) == "a<tool_call>b"


def test_the_output_of_a_tower_over_chunks_does_not_depend_on_the_batch(thinker):
    """Clips shorter than a chunk, and longer ones that end inside one, alone and together."""
    generator = torch.Generator().manual_seed(0)
    lengths = (1, 900, 7000, 16000, 24001, 32000)
    waves = [0.1 * torch.randn(samples, generator=generator).numpy() for samples in lengths]
    waveforms = [Waveform(wave, 16000) for wave in waves]
    with torch.no_grad():
        together = thinker.encode_audio(**thinker.audio_inputs(waveforms))
        for row, waveform in enumerate(waveforms):
            alone = thinker.encode_audio(**thinker.audio_inputs([waveform]))
            count = int(alone.lengths[0])
            assert count == int(together.lengths[row]) == thinker.audio_token_count(len(waveform.samples))
            assert_close(together.states[row, :count], alone.states[0, :count])
