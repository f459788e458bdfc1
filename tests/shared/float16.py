"""Mixed precision with float16 and a scaled loss on the CPU, where accelerate has none."""

import torch


def scaled_in_float16(trainer, scale=2.0**16):
    """Make a trainer on the CPU compute as on a GPU with ``fp16``; a step whose gradients overflow is skipped."""
    accelerator = trainer.accelerator
    accelerator.native_amp = True
    accelerator.state._mixed_precision = "fp16"
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return trainer
