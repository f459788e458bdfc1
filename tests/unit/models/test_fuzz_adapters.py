"""Folders of adapters that were made to harm: one line, quickly, and nothing is written or filled.

The configs and weights are those of a valid adapter with one or several values replaced.
"""

import json
import random
import shutil
import time

import psutil
import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file

from lalm_mer.core.errors import AdapterError
from lalm_mer.models.adapter_kinds import KINDS
from lalm_mer.models.adapters import add_adapter, load_adapter
from lalm_mer.models.clap import Clap
from lalm_mer.models.tiny import build_tiny

N = 240
LONG = "(" * 200 + "a+)+" * 50
VALUES = (
    None, True, False, 0, -1, 10**9, 10**18, -(10**30), 1e308, float("nan"), float("inf"), "", "a", ".*", "(a+)+$",
    LONG, "x" * 2_000_000, "../../../etc/passwd", "q_proj\nk_proj", "\x1b[31m", [], [None], [1, 2], ["(a+)+$"], [LONG],
    ["q_proj"] * 200_000, {}, {"(a|a)*$": 10**9}, {"q_proj": None}, {"parent_library": "os"}, {"parent_library": [1]},
    [[[[[]]]]], "lora", ["linear1", "linear2"], {"linear1": 3},
)  # fmt: skip
RAW = (
    b"", b"null", b"[]", b'"x"', b"{", b"\xff\xfe{}", b"[" * 100_000, b'{"r": ' + b"9" * 5_000 + b"}", b"{}" * 2,
    b'{"peft_type": {}}', b'{"peft_type": ["LORA"]}',
)  # fmt: skip
WEIGHTS = (b"", b"\x00" * 8, b"\xff" * 64, b"\x02\x00\x00\x00\x00\x00\x00\x00{}", b"PK\x03\x04", b"\x80\x04.")


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """The folder of a tiny CLAP, and that of an adapter of each kind."""
    folder = tmp_path_factory.mktemp("fuzz")
    build_tiny("clap", folder / "model", words=["happy sad"], window_s=2, hidden_size=32, layers=1)
    for kind in KINDS:
        add_adapter(Clap.load(folder / "model"), {"audio_projector": ["linear1"]}, {}, kind=kind)[0].save_pretrained(
            folder / kind
        )
    return folder


def spoil(folder, draw):
    """Replace one to three values of the config, its bytes, or the weights."""
    file, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    config = json.loads(file.read_text())
    part = draw.random()
    if part < 0.12:
        file.write_bytes(draw.choice(RAW))
    elif part < 0.2:
        weights.write_bytes(draw.choice(WEIGHTS))
    elif part < 0.3:
        tensors = load_file(weights)
        name = draw.choice(sorted(tensors))
        value = tensors.pop(name)
        if draw.random() < 0.7:
            tensors[draw.choice([name, name + ".x", "x" * 5_000, "base_model.model.logit_scale_a"])] = draw.choice(
                [value.flatten(), torch.zeros(0), torch.zeros(1, 7), value.to(torch.int8), value * float("nan")]
            )
        save_file(tensors, weights)
    else:
        for key in draw.sample(sorted(config), draw.randint(1, 3)):
            config[key] = draw.choice(VALUES)
        if draw.random() < 0.2:
            config["x" * draw.randint(1, 9)] = draw.choice(VALUES)
        file.write_text(json.dumps(config))


def refusal(base, folder):
    """The message of the error; None for an adapter that is loaded."""
    try:
        load_adapter(base, folder)
    except AdapterError as error:
        return str(error)
    return None


@pytest.mark.slow
def test_an_adapter_made_to_harm_is_one_line(material, tmp_path):
    draw, process, refused = random.Random(10), psutil.Process(), 0
    base, tree = Clap.load(material / "model"), {path.name for path in tmp_path.iterdir()}
    before = process.memory_info().rss
    for number in range(N):
        folder = shutil.copytree(material / draw.choice(sorted(KINDS)), tmp_path / "adapter")
        spoil(folder, draw)
        files = sorted(path.name for path in folder.iterdir())
        started = time.monotonic()
        message = refusal(base, folder)
        refused += message is not None
        assert message is None or ("\n" not in message and len(message) < 1_500), number
        if any(isinstance(module, BaseTunerLayer) for module in base.model.modules()):
            base = Clap.load(material / "model")
        assert time.monotonic() - started < 5, number
        assert sorted(path.name for path in folder.iterdir()) == files, number
        shutil.rmtree(folder)
    assert process.memory_info().rss - before < 1_000_000_000
    assert {path.name for path in tmp_path.iterdir()} == tree
    assert N * 0.6 < refused < N
