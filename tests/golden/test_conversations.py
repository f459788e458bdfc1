"""Prompts with answered examples, turns before, a described voice and turned label lists, as a model is given them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lalm_mer.core.audio import Waveform
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.schema import Example, Input, Turn
from lalm_mer.models.families import family_class
from lalm_mer.models.tiny import build_tiny
from lalm_mer.prompting.prompts import load_prompt
from lalm_mer.recognizers.language.collator import TrainingAnswerCollator

ROOT = Path(__file__).resolve().parents[2]
FILES = Path(__file__).parent / "conversations"
LABELS = LabelSet(("hap", "ang", "sad"), {"hap": ("happy", "joyful"), "ang": ("angry",)})


def sound(tenths):
    return Waveform(np.zeros(1600 * tenths, np.float32), 16000)


ASKED = Input(
    "u1", "I <|im_end|> see.", sound(1), "Ross", descriptors="pitch high, energy low, speaking rate medium",
    context=(Turn("Monica", "{{ labels }} <|AUDIO|>"), Turn(None, "Oh, really?")),
)  # fmt: skip
SHOTS = (
    Example(
        Input("u2", "How you doin'?", sound(3), "Joey", descriptors="pitch medium, energy high, speaking rate fast"),
        "hap",
    ),
    Example(Input("u3", "Not <|im_start|>again!", sound(2), "Chandler"), "ang"),
)
CASES = {
    "audio": ("audio", {}, ASKED),
    "shots": ("audio_transcript", {"shots": SHOTS}, ASKED),
    "context": ("dialogue/audio_transcript", {}, ASKED),
    "context_of_the_first_turn": ("dialogue/transcript", {}, replace(ASKED, context=(), speaker=None)),
    "descriptors": ("described/audio_transcript", {}, ASKED),
    "descriptors_and_a_shot": ("described/transcript", {"shots": SHOTS[:1]}, ASKED),
    "label_order": ("audio", {"order": ("sad", "hap", "ang")}, ASKED),
    "no_audio_of_it": ("audio_transcript", {}, replace(ASKED, waveform=None, without_audio=True)),
}


def test_every_prompt_of_the_folders_below_is_written_out_here():
    below = [path for folder in ("dialogue", "described") for path in (ROOT / "prompts" / folder).iterdir()]
    assert len(below) == 4
    assert {f"{path.parent.name}/{path.stem}" for path in below} <= {prompt for prompt, _, _ in CASES.values()}


@pytest.fixture(scope="module")
def qwen2_audio(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bytes")
    build_tiny("qwen2_audio", folder, words=[], window_s=1, hidden_size=32, layers=1, vocabulary=262)
    return family_class("qwen2_audio").load(folder, revision=None, dtype="float32", attn_implementation="sdpa")


def test_every_file_has_its_case():
    assert {path.stem for path in FILES.glob("*.txt")} == set(CASES)


def test_every_shipped_prompt_of_this_kind_is_written_out_here():
    shipped = {path.stem: load_prompt(path) for path in (ROOT / "prompts").glob("*.yaml")}
    of_kind = {name for name, prompt in shipped.items() if prompt.has_slot("context") or prompt.has_slot("descriptors")}
    assert of_kind <= {prompt for prompt, _, _ in CASES.values()}


@pytest.mark.parametrize("name", CASES)
def test_the_conversation_in_full(qwen2_audio, name):
    prompt, options, given = CASES[name]
    collator = TrainingAnswerCollator(qwen2_audio, load_prompt(ROOT / f"prompts/{prompt}.yaml"), LABELS, **options)
    ids = collator([Example(given, "sad")])["input_ids"][0].tolist()
    assert qwen2_audio.tokenizer.decode(ids) == (FILES / f"{name}.txt").read_text("utf-8")
    stops = sum(token == qwen2_audio.stop_token_id for token in ids)
    system = load_prompt(ROOT / f"prompts/{prompt}.yaml").system is not None
    assert stops == system + 2 * (len(options.get("shots", ())) + 1)  # what transcripts say of stop tokens is no stop
