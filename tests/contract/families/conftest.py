"""One tiny model of each family, its batches, and results of the transformers model."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from representatives import QUICK_FAMILIES, slow_except

from lalm_mer.core.audio import Waveform
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.schema import Example, Input, Turn
from lalm_mer.models.families import FAMILIES, family_class, is_supported
from lalm_mer.prompting.prompts import load_prompt
from lalm_mer.recognizers.language.prompt_setup import PromptSetup
from lalm_mer.recognizers.language.recognizer import LanguageRecognizer

PROMPTS = Path(__file__).resolve().parents[3] / "prompts"
LABELS = LabelSet(
    ("happy", "angry", "calm", "sad"),
    {"happy": ("happy", "joyful", "full of joy"), "angry": ("angry", "very much annoyed"), "sad": ("sad",)},
)
SENTENCES = (
    "hello there",
    "Kids are talking by the door.",
    "x",
    "I never said that, and you know it. Not once, not to anybody, not in all those years!",
    "Ça va, mein Schöner? 你好",
    "no",
    "He said “{{ labels }}” <|im_end|> and left",
    "Dogs are sitting by the door.",
)
SECONDS = (1.0, 2.0, 0.37, 1.5001, 0.5, 0.021, 1.99, 0.8)


@pytest.fixture(scope="session", params=slow_except(sorted(FAMILIES), QUICK_FAMILIES))
def family_name(request):
    if not is_supported(request.param):
        pytest.skip(f"{request.param} needs a newer transformers")
    return request.param


@pytest.fixture(scope="session")
def load_family(family_name, tiny_folder):
    """A maker of freshly loaded models, in evaluation mode."""

    def load(attn_implementation="sdpa"):
        family = family_class(family_name).load(
            tiny_folder(family_name), revision=None, dtype="float32", attn_implementation=attn_implementation
        )
        family.model.eval()
        return family

    return load


@pytest.fixture(scope="session")
def family(load_family):
    """A model that tests may not change."""
    return load_family()


@pytest.fixture
def fresh_family(load_family):
    """A model that a test may change."""
    return load_family()


@pytest.fixture(scope="session")
def label_set():
    return LABELS


@pytest.fixture(scope="session")
def prompts():
    files = [path for pattern in ("*.yaml", "dialogue/*.yaml", "described/*.yaml") for path in PROMPTS.glob(pattern)]
    return {path.relative_to(PROMPTS).with_suffix("").as_posix(): load_prompt(path) for path in sorted(files)}


@pytest.fixture(scope="session")
def noise(family):
    """A maker of waveforms at the family's rate, the same each time."""

    def make(samples, seed=0):
        values = np.random.default_rng(seed).normal(scale=0.1, size=samples)
        return Waveform(values.astype(np.float32), family.sampling_rate)

    return make


@pytest.fixture(scope="session")
def examples(family, noise):
    """Eight utterances of different lengths."""
    inputs = [
        Input(
            f"u{number}", sentence, noise(round(s * family.sampling_rate), number), "s",
            context=(Turn("t", "Who is there?"),), descriptors="pitch high, energy low",
        )
        for number, (sentence, s) in enumerate(zip(SENTENCES, SECONDS, strict=True))
    ]  # fmt: skip
    return [Example(given, LABELS.labels[number % 4]) for number, given in enumerate(inputs)]


@pytest.fixture(scope="session")
def inputs(examples):
    """The same without their labels."""
    return [example.input for example in examples]


@pytest.fixture(scope="session")
def recognizer_of():
    """A maker of recognizers of ``LABELS`` by one prompt."""

    def make(family, prompt, model=None):
        return LanguageRecognizer(family, PromptSetup((prompt,), LABELS, (LABELS.labels,)), model)

    return make


@pytest.fixture(scope="session")
def training_batch():
    """The part of a training batch that the recognizer gets: the Trainer keeps ``labels``."""

    def make(recognizer, examples):
        return {name: tensor for name, tensor in recognizer.training_collator(examples).items() if name != "labels"}

    return make


@pytest.fixture(scope="session")
def score(recognizer_of):
    """Label log-probabilities (N, K) by this library: a shared prompt, all answers packed."""

    def run(family, prompt, inputs, model=None):
        recognizer = recognizer_of(family, prompt, model).eval()
        with torch.no_grad():
            return recognizer(**recognizer.scoring_collators[0](inputs))["log_probs"]

    return run


@pytest.fixture(scope="session")
def own_inputs():
    """Keyword arguments of the transformers model's own forward: our token ids, the processor's own audio."""

    def make(family, rows, waveforms):
        width = max(len(ids) for ids in rows)
        inputs = {
            "input_ids": torch.tensor([ids + [family.pad_token_id] * (width - len(ids)) for ids in rows]),
            "attention_mask": torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in rows]),
        }
        if waveforms:
            inputs |= {name: value for name, value in own_audio(family, waveforms).items() if name not in inputs}
        return inputs

    return make


@pytest.fixture(scope="session")
def processor_audio():
    """Inputs that a family's processor makes of waveforms."""
    return own_audio


@pytest.fixture(scope="session")
def processor_prompt():
    """Token ids that a family's processor makes of a conversation."""
    return own_prompt


@pytest.fixture(scope="session")
def trait(family):
    """A getter of names in ``own/<family>.py``; None if a name is missing."""
    return lambda name: own(family, name)


def own(family, name):
    """A value of ``own/<family>.py``, which states how a family, its processor or its transformers model differs."""
    file = Path(__file__).parent / "own" / f"{family.name}.py"
    return runpy.run_path(str(file)).get(name) if file.is_file() else None


def own_prompt(family, conversation, waveforms):
    if special := own(family, "own_prompt"):
        return special(family, conversation, waveforms)
    messages = [
        {
            "role": message.role,
            "content": [
                {"type": "audio"} if part.kind == "audio" else {"type": "text", "text": part.words}
                for part in message.parts
            ],
        }
        for message in conversation.messages
    ]
    rendered = family.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    sound = {"audio": [each.samples for each in waveforms], "sampling_rate": family.sampling_rate}
    sound = sound if waveforms else {"audio": None}
    return family.processor(text=[rendered], return_tensors="pt", **sound)["input_ids"][0].tolist()


def own_audio(family, waveforms):
    if special := own(family, "own_audio"):
        return special(family, waveforms)
    return family.processor(
        text=[family.audio_token] * len(waveforms),
        audio=[waveform.samples for waveform in waveforms],
        sampling_rate=family.sampling_rate,
        padding=True,
        return_tensors="pt",
    )


@pytest.fixture(scope="session")
def own_scores(own_inputs):
    """Label log-probabilities (N, K) by the transformers model, one sequence per answer, one at a time."""

    def run(family, prompt, inputs, model=None):
        rows = []
        for given in inputs:
            waveforms = [given.waveform] if prompt.uses_audio else []
            counts = [family.audio_token_count(len(waveform.samples)) for waveform in waveforms]
            prompt_ids = family.prompt_ids(prompt.conversation(given, LABELS), counts)
            batch = own_inputs(family, [prompt_ids], waveforms)
            of_label = []
            for label in LABELS.labels:
                of_form = []
                for form in LABELS.forms_of(label):
                    answer = family.tokenizer(form, add_special_tokens=False)["input_ids"] + [family.stop_token_id]
                    batch |= own_inputs(family, [prompt_ids + answer], [])
                    with torch.no_grad():
                        log_probs = (model or family.model)(**batch).logits[0].double().log_softmax(-1)
                    of_form.append(sum(log_probs[len(prompt_ids) + i - 1, token] for i, token in enumerate(answer)))
                of_label.append(torch.stack(of_form).logsumexp(0))
            rows.append(torch.stack(of_label).log_softmax(0))
        return torch.stack(rows)

    return run
