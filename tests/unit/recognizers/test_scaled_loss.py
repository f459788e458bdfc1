"""Training in float16 with a scaled loss, whose first steps may overflow and are skipped."""

import pytest
import torch
from float16 import scaled_in_float16
from loudness import KillAt, Killed, trainer, uneven_examples

from lalm_mer.core.errors import ModelError
from lalm_mer.core.strict_json import read_object
from lalm_mer.recognizers.optimizers import OptimizerReport

TOO_LARGE = 2.0**40
"""A scale with which gradients of float16 overflow for many steps: each halves it."""


@pytest.fixture
def scaled(tmp_path):
    """A maker of trainers in float16."""

    def make(name, *callbacks, scale=TOO_LARGE, **settings):
        examples = uneven_examples()
        run = trainer(tmp_path / name, examples, examples, callbacks=callbacks, **settings)
        return scaled_in_float16(run, scale)

    return make


def test_a_step_that_was_skipped_has_no_norm_and_its_checkpoint_is_read_again(scaled, tmp_path):
    run = scaled("run", KillAt(4))
    with pytest.raises(Killed):
        run.train()
    assert torch.equal(run.model.linear.weight, scaled("untrained").model.linear.weight)
    state = read_object(tmp_path / "run" / "checkpoint-4" / "trainer_state.json")  # refuses numbers that are not finite
    rows = [row for row in state["log_history"] if "loss" in row]
    assert len(rows) == 4
    assert not any("grad_norm" in row for row in rows)


def test_a_resumed_training_is_that_without_the_interruption(scaled, tmp_path):
    complete = scaled("complete", scale=2.0**22)
    complete.train()
    norms = ["grad_norm" in row for row in complete.state.log_history if "loss" in row]
    assert not norms[0]
    assert norms[-1]
    with pytest.raises(Killed):
        scaled("cut", KillAt(4), scale=2.0**22).train()
    again = scaled("cut", scale=2.0**10)  # the checkpoint has the scale
    again.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-4"))
    torch.testing.assert_close(again.model.linear.weight, complete.model.linear.weight, rtol=0, atol=0)
    assert again.accelerator.scaler.get_scale() == complete.accelerator.scaler.get_scale()


@pytest.mark.parametrize(("content", "says"), [(None, "no scaler.pt"), (b"no file of torch", "cannot be read")])
def test_a_scale_that_was_lost_is_refused(scaled, tmp_path, content, says):
    with pytest.raises(Killed):
        scaled("cut", KillAt(2)).train()
    file = tmp_path / "cut" / "checkpoint-2" / "scaler.pt"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ModelError, match=says):
        scaled("cut").train(resume_from_checkpoint=str(file.parent))


def test_the_optimizer_is_described_after_the_first_step_that_was_made(scaled, capsys):
    seen = []

    class Skipped(OptimizerReport):
        def on_step_end(self, args, state, control, optimizer=None, **others):
            super().on_step_end(args, state, control, optimizer=optimizer, **others)
            seen.append((optimizer.step_was_skipped, "optimizer: " in capsys.readouterr().out))

    scaled("run", Skipped(), scale=2.0**22, optim="adamw_torch").train()
    assert [printed for skipped, printed in seen if skipped]
    assert not any(printed for skipped, printed in seen if skipped)
    assert [printed for skipped, printed in seen if not skipped] == [True] + [False] * (
        sum(not skipped for skipped, _ in seen) - 1
    )
