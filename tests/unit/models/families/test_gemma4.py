import torch

from lalm_mer.models.families.base import LanguageInputs
from lalm_mer.models.families.gemma4 import Gemma4
from lalm_mer.models.families.parts.gemma import sliding_masks
from lalm_mer.models.families.parts.keys_values import KeysValues
from lalm_mer.models.families.parts.tiny_shape import TinyShape
from lalm_mer.prompting.conversation import Conversation, Message, Part


def test_each_of_two_adjacent_slots_has_its_own_markers(tmp_path):
    Gemma4.build_tiny(tmp_path, TinyShape(("one two three",), 1, hidden_size=32))
    family = Gemma4.load(tmp_path, revision=None, dtype="float32", attn_implementation="sdpa")
    conversation = Conversation((Message("user", (Part("audio"), Part("audio"), Part("words", "one"))),))
    assert family.tokenizer.decode(family.prompt_ids(conversation, [2, 1])) == (
        "<bos><|turn>user\n<|audio><|audio|><|audio|><audio|><|audio><|audio|><audio|>one<turn|>\n<|turn>model\n"
    )


def test_sliding_attention_counts_positions_not_tokens():
    least = torch.finfo(torch.float32).min
    positions = torch.tensor([[0, 1, 2, 3, 3]])  # two answers, a token each
    mask = torch.zeros(1, 1, 5, 5)
    both = sliding_masks(LanguageInputs(positions, positions, mask), None, 3, torch.float32)
    assert both["full_attention"] is mask
    far = both["sliding_attention"][0, 0] == least
    assert far.nonzero().tolist() == [[3, 0], [4, 0]]


def test_the_window_of_a_token_after_padding_counts_positions_and_no_padding():
    cache = KeysValues()
    cache.position_ids = torch.tensor([[0, 1, 2, 3], [0, 1, 0, 0]])  # the second row has two tokens
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 1]])
    inputs = LanguageInputs(torch.tensor([[7], [7]]), torch.tensor([[4], [2]]), mask)
    both = sliding_masks(inputs, cache, 3, torch.float32)
    assert (both["full_attention"][:, 0, 0] == 0).tolist() == [[True] * 5, [True, True, False, False, True]]
    assert (both["sliding_attention"][:, 0, 0] == 0).tolist() == [
        [False, False, True, True, True],
        [True, True, False, False, True],
    ]
