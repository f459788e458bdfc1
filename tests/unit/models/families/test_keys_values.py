"""Keys and values of a row that several rows begin with."""

import pytest
import torch

from lalm_mer.models.families.parts.keys_values import KeysValues


@pytest.fixture
def stored():
    """Keys and values of six tokens in two layers of two heads."""
    made = KeysValues()
    for layer in range(2):
        made.update(torch.rand(1, 2, 6, 4), torch.rand(1, 2, 6, 4), layer)
    made.position_ids = torch.arange(6)[None]
    return made


@pytest.mark.parametrize("grows", [False, True])
def test_every_row_begins_with_the_first_tokens(stored, grows):
    begun = stored.beginning(3, 4, grows=grows)
    assert begun.get_seq_length() == 4
    assert begun.positions_with(torch.tensor([[4], [4], [9]])).tolist() == [[0, 1, 2, 3, last] for last in (4, 4, 9)]
    new = torch.rand(3, 2, 5, 4)
    keys, values = begun.update(new, new + 1, 1)
    for found, own, added in ((keys, stored.layers[1].keys, new), (values, stored.layers[1].values, new + 1)):
        assert torch.equal(found, torch.cat([own[:, :, :4].expand(3, -1, -1, -1), added], dim=2))
    assert begun.get_seq_length(1) == (9 if grows else 4)
    assert stored.get_seq_length() == 6


def test_no_copy_is_made_for_each_row(stored):
    """The rows are views of the one that is stored, also after a pass."""
    begun = stored.beginning(3, 4, grows=False)
    begun.update(torch.rand(3, 2, 5, 4), torch.rand(3, 2, 5, 4), 0)
    assert [layer.keys.data_ptr() for layer in begun.layers] == [layer.keys.data_ptr() for layer in stored.layers]
    assert begun.layers[0].keys.untyped_storage().nbytes() == stored.layers[0].keys.untyped_storage().nbytes()
