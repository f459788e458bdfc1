from __future__ import annotations

import pytest
import torch
from closeness import assert_close

from lalm_mer.core.errors import ConfigError
from lalm_mer.recognizers.baselines.branches import Branch
from lalm_mer.recognizers.baselines.sequences import frame_mask
from lalm_mer.recognizers.baselines.settings import SequenceSettings

LENGTHS = torch.tensor([1, 2, 5, 9, 30, 31, 40, 17])
VARIANTS = [
    SequenceSettings(),
    SequenceSettings(layers=3, kernel_size=9, pooling="mean_std"),
    SequenceSettings(batch_norm=True, pooling="mean_std"),
    SequenceSettings(stride=2, batch_norm=True),
    SequenceSettings(stride=3, layers=3, kernel_size=3, pooling="mean_std"),
    SequenceSettings(batch_norm=True, noise_std=0.5, time_mask=0.5, feature_mask=0.5),
]


def batch() -> torch.Tensor:
    frames = torch.randn(8, 40, 6, generator=torch.Generator().manual_seed(0)) + 3
    return frames * frame_mask(LENGTHS, 40)[..., None]


def vectors(branch: Branch, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    return branch.pool(*branch(frames, lengths))


def branch_of(settings: SequenceSettings) -> Branch:
    torch.manual_seed(0)
    branch = Branch(6, settings)
    branch.set_normalisation([3.0] * 6, [1.0] * 6)
    vectors(branch.train(), batch(), LENGTHS)  # moves the running statistics away from their start
    return branch


@pytest.mark.parametrize("settings", VARIANTS)
def test_batch_of_one_equals_batch_of_eight(settings):
    branch = branch_of(settings).eval()
    together = vectors(branch, batch(), LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        alone = vectors(branch, batch()[row : row + 1, :length], LENGTHS[row : row + 1])
        assert_close(alone[0], together[row])
    assert together.shape == (8, branch.output_size)


def test_batch_norm_in_training_ignores_padding():
    settings = SequenceSettings(batch_norm=True, dropout=0.0)
    lengths = torch.tensor([20, 20])
    short, long = branch_of(settings).train(), branch_of(settings).train()
    frames = batch()[4:6]
    torch.testing.assert_close(
        vectors(short, frames[:, :20], lengths), vectors(long, frames * frame_mask(lengths, 40)[..., None], lengths)
    )
    torch.testing.assert_close(short.sequence.norms[0].running_var, long.sequence.norms[0].running_var)


def test_noise_and_masks_act_in_training_only():
    settings = SequenceSettings(dropout=0.0, noise_std=0.5, time_mask=0.5, feature_mask=0.5)
    branch = branch_of(settings)
    assert not torch.equal(vectors(branch, batch(), LENGTHS), vectors(branch, batch(), LENGTHS))
    branch.eval()
    assert torch.equal(vectors(branch, batch(), LENGTHS), vectors(branch, batch(), LENGTHS))


def test_constant_feature_stays_finite_and_gradients_too():
    branch = Branch(6, SequenceSettings(pooling="mean_std"))
    branch.set_normalisation([3.0] * 6, [0.0] * 6)
    vectors(branch, torch.full((2, 4, 6), 3.0), torch.tensor([4, 1])).sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in branch.parameters())


@pytest.mark.parametrize(
    ("values", "message"),
    [({"kernel_size": 4}, "'kernel_size': 4; expected an odd number"),
     ({"pooling": "sum"}, "'pooling': 'sum'; expected one of mean, mean_std, max, attentive"),
     ({"dropout": 1.0}, "'dropout': 1.0; expected 0 or more and less than 1"),
     ({"layers": 0}, "'layers': 0; expected 1 to 64"),
     ({"noise_std": -1.0}, "'noise_std': -1.0; expected 0 or more")],
)  # fmt: skip
def test_settings_out_of_range(values, message):
    with pytest.raises(ConfigError, match=message):
        SequenceSettings(**values)
