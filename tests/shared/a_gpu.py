"""A machine with one NVIDIA GPU, in what torch says about it."""

from types import SimpleNamespace

import torch


def a_gpu(monkeypatch, name="Tesla T4", capability=(7, 5), gib=15):
    """Let torch find one such GPU, which emulates bfloat16 if it has none."""
    found = SimpleNamespace(name=name, total_memory=gib * 2**30, major=capability[0], minor=capability[1])
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: name)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device=None: found)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
