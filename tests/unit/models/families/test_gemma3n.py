import pytest
import torch
from safetensors.torch import load_file, save_file

from lalm_mer.core.audio import Waveform
from lalm_mer.models.families.base import LanguageInputs
from lalm_mer.models.families.gemma3n import Gemma3n
from lalm_mer.models.families.parts.tiny_shape import TinyShape
from lalm_mer.prompting.conversation import Conversation, Message, Part


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    Gemma3n.build_tiny(tmp_path, TinyShape(("one two three",), 2, hidden_size=32, initializer_range=0.1))
    return tmp_path


def load(folder):
    family = Gemma3n.load(folder, revision=None, dtype="float32", attn_implementation="sdpa")
    family.model.eval()
    return family


def test_the_published_vision_tower_is_not_loaded(folder):
    weights = load_file(folder / "model.safetensors")
    eyes = {"model.vision_tower.timm_model.conv_stem.conv.weight": torch.ones(3)}
    save_file(weights | eyes, folder / "model.safetensors", {"format": "pt"})
    family = load(folder)
    assert not any("vision_tower" in name for name, _ in family.model.named_modules())
    _, found = type(family.model).from_pretrained(folder, output_loading_info=True)
    assert not found["unexpected_keys"] | found["missing_keys"]
    kept = family.model.state_dict()
    assert all(torch.equal(kept[name], weight) for name, weight in weights.items())


def test_the_system_message_is_put_into_the_first_user_turn(folder):
    family = load(folder)
    conversation = Conversation(
        (
            Message("system", (Part("words", "one"), Part("words", " two"))),
            Message("user", (Part("audio"), Part("words", "three"))),
        )
    )
    assert family.tokenizer.decode(family.prompt_ids(conversation, [2])) == (
        "<bos><start_of_turn>user\none two\n\n\n\n<start_of_audio><audio_soft_token><audio_soft_token><end_of_audio>"
        "\n\nthree<end_of_turn>\n<start_of_turn>model\n"
    )


def test_placeholders_after_the_audio_have_the_embedding_of_padding(folder):
    family = load(folder)
    noise = 0.1 * torch.randn(8000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        encoded = family.encode_audio(**family.audio_inputs([Waveform(noise.numpy(), 16000)]))
        projected = family.decoder.project(family, encoded.states)[0]
        last = torch.tensor([family.model.config.text_config.vocab_size - 1])
        padding = family.submodule("projector")(input_ids=last)[0]
    assert encoded.lengths.tolist() == [13]
    assert [bool(torch.equal(row, padding)) for row in projected] == [False] * 3 + [True] * 10


def test_training_clips_no_frozen_weight(folder):
    family = load(folder)
    family.model.train()
    family.model.config.text_config.altup_coef_clip = 1e-3
    before = {name: weight.clone() for name, weight in family.model.named_parameters() if "prediction_coefs" in name}
    ids = torch.tensor([family.prompt_ids(Conversation((Message("user", (Part("words", "one"),)),)), [])])
    family.hidden_states(LanguageInputs(ids, torch.arange(ids.shape[1])[None], torch.ones_like(ids)), None)
    after = dict(family.model.named_parameters())
    assert before
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
