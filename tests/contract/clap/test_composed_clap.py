"""What is a composed dual encoder's own: true length, the temperature, projections in full."""

import pytest
import torch
from closeness import assert_close
from dual_inputs import KINDS, RANK, SETUP, noise, score, training_batch

from lalm_mer.models.adapters import add_adapter, load_adapter
from lalm_mer.recognizers.clap import ClapRecognizer

PROJECTORS = ["audio_projector", "text_projector"]


@pytest.fixture(scope="module")
def kind():
    return KINDS["composed"]


def test_audio_is_encoded_at_its_own_length(clap):
    batch = clap.audio_inputs([noise(0.5, 0, 16_000), noise(0.3, 1, 16_000)])
    assert batch["audio_frames"].tolist() == [50, 30]
    assert batch["input_features"].shape[-1] < 60  # and not 200, the window
    with torch.no_grad():
        embeddings = clap.model.get_audio_features(**batch).pooler_output
        padded = torch.nn.functional.pad(batch["input_features"], (0, 140), value=3.0)
        padded[..., : batch["input_features"].shape[-1]] = batch["input_features"]
        again = clap.model.get_audio_features(padded, batch["audio_frames"]).pooler_output
    assert_close(again, embeddings, 1e-6)


@pytest.mark.parametrize(
    ("seconds", "says"), [(2.0, None), (2.01, "2.01 s long; composed_clap takes 2 s at most"), (1e-5, "has no sample")]
)
def test_what_is_longer_than_the_window_or_empty_is_refused(clap, seconds, says):
    reason = clap.refuses(seconds)
    assert reason == says or says in reason


@pytest.mark.parametrize("objective", ["cross_entropy", "contrastive"])
def test_projections_in_full_train_and_save_the_temperature(clap, opened, examples, inputs, objective, tmp_path):
    model, report = add_adapter(clap, {"audio_tower": ["q_proj"]}, RANK, full=PROJECTORS)
    assert [row.tower for row in report if row.full_parameters] == PROJECTORS
    recognizer = ClapRecognizer(clap, SETUP, model, objective=objective).train()
    before = clap.scales()[0].item()
    optimiser = torch.optim.SGD([each for each in recognizer.parameters() if each.requires_grad], lr=0.1)
    recognizer(**training_batch(recognizer, examples))["losses"].mean().backward()
    missing = [name for name, each in recognizer.named_parameters() if each.requires_grad and each.grad is None]
    assert missing == []
    optimiser.step()
    after = [scale.item() for scale in clap.scales()]
    assert after[0] == after[1]
    assert abs(after[0] - before) > 1e-3
    expected = score(recognizer, inputs)
    recognizer.save_trained(tmp_path)
    again = opened()
    loaded = ClapRecognizer(again, SETUP, load_adapter(again, tmp_path))
    assert again.scales()[0].item() == after[0]
    assert_close(score(loaded, inputs), expected)


def test_a_scale_above_100_is_cut(clap):
    with torch.no_grad():
        clap.model.audio_projection.logit_scale.fill_(9.0)
    assert [scale.item() for scale in clap.scales()] == [100.0, 100.0]


def test_a_tiny_one_is_marked_as_random(clap):
    assert clap.randomly_initialised
