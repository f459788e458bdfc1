"""Planted faults are refused by name, and a correct model passes."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import ModelError
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.schema import Example, Input
from lalm_mer.models.adapters import add_adapter
from lalm_mer.models.clap import Clap
from lalm_mer.models.families import family_class
from lalm_mer.models.families.base import TowerOutput
from lalm_mer.models.families.parts.tiny_shape import TinyShape
from lalm_mer.prompting.ensembles import Ensemble
from lalm_mer.prompting.prompts import load_prompt
from lalm_mer.recognizers.clap import ClapRecognizer, ClapSetup
from lalm_mer.recognizers.language.prompt_setup import PromptSetup
from lalm_mer.recognizers.language.recognizer import LanguageRecognizer
from lalm_mer.recognizers.preflight import (
    Parity,
    batch_effects,
    evaluating,
    label_scores,
    require_change,
    require_parity,
    require_supervised,
    single_effects,
    swapped_audio,
    swapped_transcripts,
    token_rows,
)

ROOT = Path(__file__).resolve().parents[3]
LABELS = LabelSet(("happy", "angry", "sad"), {"happy": ("full of joy", "happy")})
PROMPT = load_prompt(ROOT / "prompts" / "audio_transcript.yaml")
SETUP = PromptSetup((PROMPT,), LABELS, (LABELS.labels,))
ENSEMBLE = Ensemble("one", ("The speaker sounds {{ label }}.",), {}, "digest")
CPU = torch.device("cpu")
EXACT = Parity(0.0, 1e-5, 2.0**-23)


@pytest.fixture
def family(tiny_folder):
    return family_class("qwen2_audio").load(
        tiny_folder("qwen2_audio"), revision=None, dtype="float32", attn_implementation="sdpa"
    )


@pytest.fixture
def model(family):
    return LanguageRecognizer(family, SETUP).eval()


@pytest.fixture
def collators(model):
    """The collators of batches to train on and to score."""
    return model.training_collator, model.scoring_collators[0]


@pytest.fixture(scope="module")
def inputs(examples):
    return [example.input for example in examples]


@pytest.fixture(scope="module")
def examples():
    made = []
    for number, (seconds, transcript) in enumerate([(0.5, "no"), (0.9, "the door"), (1.3, "no"), (1.6, "hello there")]):
        noise = np.random.default_rng(number).normal(scale=0.1, size=round(16_000 * seconds)).astype(np.float32)
        made.append(Example(Input(f"u{number}", transcript, Waveform(noise, 16_000), "s"), LABELS.labels[number % 3]))
    return made


SWAPS = {"audio": swapped_audio, "transcript": swapped_transcripts}


def measured(model, collator, inputs, *swapped):
    """Effect of a batch, and effects of what is swapped."""
    with evaluating(model, CPU):
        others = {what: SWAPS[what](inputs) for what in swapped}
        effects = batch_effects(model, collator, inputs, others, tolerance=1e-5)
    return effects.parity, effects.changes


def test_a_correct_model_passes(model, collators, inputs):
    parity, changes = measured(model, collators[1], inputs, "audio", "transcript")
    require_parity(parity, "qwen2_audio")
    for what, change in changes.items():
        least = require_change(change, what, "qwen2_audio", parity=parity, trained=True)
        assert least == pytest.approx(100 * max(parity.difference, 1e-6))
        assert change > least


@pytest.mark.parametrize("swapped", [(), ("audio",), ("transcript",), ("audio", "transcript")])
def test_effects_are_those_of_each_input_scored_alone(model, collators, inputs, swapped):
    _, changes = measured(model, collators[1], inputs, *swapped)
    assert changes.keys() == set(swapped)
    for what, change in changes.items():
        with torch.inference_mode():
            own, other = (
                torch.cat([label_scores(model, collators[1], [each]) for each in given])
                for given in (inputs, SWAPS[what](inputs))
            )
        assert change == pytest.approx(float((own - other).abs().amax(dim=1).median()), abs=1e-5)


def test_swapped_audio_keeps_every_length_and_changes_every_waveform(inputs):
    swapped = swapped_audio(inputs)
    for own, other, source in zip(inputs, swapped, [*inputs[1:], inputs[0]], strict=True):
        samples = other.waveform.samples
        assert len(samples) == len(own.waveform.samples)
        common = min(len(samples), len(source.waveform.samples))
        np.testing.assert_array_equal(samples[:common], source.waveform.samples[:common])
        assert replace(other, waveform=None) == replace(own, waveform=None)


def test_swapped_transcripts_differ_where_any_does(inputs):
    assert [each.transcript for each in swapped_transcripts(inputs)] == ["the door", "no", "hello there", "no"]
    assert swapped_transcripts(inputs[:1]) == inputs[:1]


@pytest.mark.parametrize("trained", [True, False])
def test_a_model_that_uses_only_the_duration_of_audio_is_refused(
    family, model, collators, inputs, trained, monkeypatch
):
    encode = family.encode_audio

    def zeros(**inputs):
        output = encode(**inputs)
        return TowerOutput(torch.zeros_like(output.states), output.lengths)

    monkeypatch.setattr(family, "encode_audio", zeros)
    parity, changes = measured(model, collators[1], inputs, "audio", "transcript")
    others = [*inputs[1:], inputs[0]]
    rotated = [replace(own, waveform=other.waveform) for own, other in zip(inputs, others, strict=True)]
    with evaluating(model, CPU):
        by_length = batch_effects(model, collators[1], inputs, {"audio": rotated}, tolerance=1e-5).changes["audio"]
    assert by_length > 1e-3  # lengths alone would hide it
    with pytest.raises(
        ModelError, match=r"qwen2_audio does not use the audio: swapping it changes the label scores by 0\.0e\+00"
    ):
        require_change(changes["audio"], "audio", "qwen2_audio", parity=parity, trained=trained)


class Fixed(nn.Linear):
    """Fixed log-probabilities, and the sizes of the batches that were scored."""

    def __init__(self, *rows):
        super().__init__(1, 1)
        self.rows, self.sizes = torch.tensor(rows), []

    def forward(self, row):
        self.sizes.append(len(row))
        return {"log_probs": self.rows[row]}


def by_number(inputs):
    return {"row": torch.tensor([int(given.utterance_id) for given in inputs])}


def numbered(count):
    return [Input(str(row), None, None) for row in range(count)]


def test_an_almost_certain_label_does_not_hide_that_the_others_change():
    given = numbered(4)
    certain = Fixed((0.0, -40.0), (0.0, -41.5), (0.0, -30.0), (0.0, -30.5))
    for swapped, expected in ((given[1::2], 0.5), (given[::2], 0.0)):  # torch's median is the lower one
        effects = batch_effects(certain, by_number, given[::2], {"audio": swapped}, tolerance=1e-5)
        assert effects.changes == {"audio": expected}


def test_a_recognizer_that_takes_one_utterance_at_a_time_is_given_one_at_a_time():
    given = numbered(4)
    model = Fixed((-1.0, -2.0), (-2.0, -1.0), (-1.0, -3.0), (-3.0, -1.0))
    swaps = {"audio": given[2:], "transcript": given[1:3]}
    effects = single_effects(model, by_number, given[:2], swaps, trained=True)
    assert model.sizes == [1, 1, 1]  # the first input decides
    assert effects.changes == {"audio": 1.0, "transcript": 1.0}
    assert (effects.parity.difference, effects.parity.epsilon) == (0.0, 2.0**-23)
    require_change(effects.changes["audio"], "audio", "generic", parity=effects.parity, trained=True)


def test_if_the_first_input_hardly_changes_the_median_over_all_decides():
    given = numbered(6)
    model = Fixed((-1.0, -2.0), (-1.0, -2.0), (-1.0, -2.0), (-1.00001, -2.0), (-1.0, -3.0), (-1.0, -4.0))
    effects = single_effects(model, by_number, given[:3], {"audio": given[3:]}, trained=True)
    assert model.sizes == [1] * 6
    assert effects.changes == {"audio": pytest.approx(1.0)}
    ignored = single_effects(model, by_number, given[:3], {"audio": given[:3]}, trained=True)
    with pytest.raises(ModelError, match="generic does not use the audio"):
        require_change(ignored.changes["audio"], "audio", "generic", parity=effects.parity, trained=True)


@pytest.mark.parametrize(("swapped", "sizes"), [("audio transcript", [8, 1, 8]), ("audio", [4, 1, 4]), ("", [4, 1])])
def test_batches_are_compared_in_at_most_three_passes(swapped, sizes):
    given, model = numbered(8), Fixed(*((-float(row), -1.0) for row in range(8)))
    batch_effects(model, by_number, given[:4], dict.fromkeys(swapped.split(), given[4:8]), tolerance=1e-5)
    assert model.sizes == sizes


@pytest.mark.parametrize("trained", [True, False])
def test_a_model_that_does_not_use_transcripts_is_refused(model, collators, inputs, trained):
    def same_transcript(batch):
        return collators[1]([replace(given, transcript="same") for given in batch])

    parity, changes = measured(model, same_transcript, inputs, "audio", "transcript")
    with pytest.raises(ModelError, match="qwen2_audio does not use the transcript: swapping it changes"):
        require_change(changes["transcript"], "transcript", "qwen2_audio", parity=parity, trained=trained)


def test_what_must_change_follows_the_dtype():
    half = Parity(0.02, 0.66, 2.0**-7)
    for change, parity, trained in ((1.1e-4, EXACT, True), (0.021, half, True), (1e-9, EXACT, False)):
        require_change(change, "audio", "m", parity=parity, trained=trained)
    for change, parity in ((0.9e-4, EXACT), (0.019, half), (0.007, replace(half, difference=0.0)), (np.nan, EXACT)):
        with pytest.raises(ModelError, match="m does not use the audio"):
            require_change(change, "audio", "m", parity=parity, trained=True)


def test_padding_that_affects_scores_is_refused(family, model, collators, inputs, monkeypatch):
    hidden_states = family.hidden_states

    def leaking(inputs, *others):
        width = inputs.input_ids.shape[1]  # of the longest in the batch
        return hidden_states(inputs, *others) * (1 + 1e-4 * width)

    require_parity(measured(model, collators[1], inputs, "audio", "transcript")[0], "qwen2_audio")
    monkeypatch.setattr(family, "hidden_states", leaking)
    parity, _ = measured(model, collators[1], inputs, "audio", "transcript")
    assert parity.bound < 1e-3
    with pytest.raises(
        ModelError, match=r"qwen2_audio: a batch changes scores by .* padding affects the scores; set per_device"
    ):
        require_parity(parity, "qwen2_audio")


def test_both_batches_have_the_same_shape(model, collators, inputs):
    shapes = []

    def recorded(batch):
        made = collators[1](batch)
        shapes.append({name: each.shape for name, each in made.items()})
        return made

    said_briefly = [replace(inputs[0], transcript="a far longer transcript"), *inputs[1:]]
    for given, rows in ((inputs, 8), (said_briefly, 9)):  # 9: the longest row has the transcript of another
        shapes.clear()
        measured(model, recorded, given, "audio", "transcript")
        first, _, second = shapes[-3:]
        assert first == second
        assert first["input_ids"][0] == rows


def test_a_leak_between_rows_is_refused(family, model, collators, inputs, monkeypatch):
    hidden_states = family.hidden_states

    def leaking(*inputs):
        hidden = hidden_states(*inputs)
        return hidden + 1e-2 * hidden.roll(1, dims=0)  # nothing for an input alone, nothing of padding

    monkeypatch.setattr(family, "hidden_states", leaking)
    with pytest.raises(ModelError, match="a batch changes scores by"):
        require_parity(measured(model, collators[1], inputs, "audio", "transcript")[0], "qwen2_audio")


def test_the_bound_of_parity_follows_dtype_and_size(model, collators, inputs):
    with evaluating(model, CPU):
        size = max(1.0, float(label_scores(model, collators[1], inputs).abs().max()))
    assert measured(model, collators[1], inputs)[0].bound == pytest.approx(1e-5 * size)
    model.family.model.to(torch.bfloat16)
    assert measured(model, collators[1], inputs)[0].bound == pytest.approx(0.655, abs=1e-3)
    with pytest.raises(ModelError, match="padding affects the scores"):
        require_parity(Parity(float("nan"), 1.0, 2.0**-23), "m")


def supervised(family, collator, example):
    answer = family.answer_ids(LABELS.forms_of(example.label)[0])
    require_supervised(collator([example]), answer, family.tokenizer.decode)


def test_supervised_tokens_are_the_answer_and_the_stop_token(family, collators, examples):
    for example in examples:
        supervised(family, collators[0], example)


def test_a_prompt_that_is_supervised_is_shown(family, collators, examples):
    def leaking(batch):
        made = collators[0](batch)
        every = torch.arange(made["input_ids"].shape[1] - 1)[None]
        return made | {"sources": every, "source_of": every[None], "targets": made["input_ids"][:, None, 1:].clone()}

    with pytest.raises(ModelError, match=r"the loss counts \[.*\] \(\d\d+ tokens\), expected the answer and the stop"):
        supervised(family, leaking, examples[0])


def test_an_answer_that_is_predicted_one_token_too_early_is_shown(family, collators, examples):
    def shifted(batch):
        made = collators[0](batch)
        return made | {"sources": made["sources"] - 1}

    with pytest.raises(ModelError, match="the tokens at the positions of the loss are"):
        supervised(family, shifted, examples[0])


def test_an_answer_without_its_stop_token_is_shown(family, collators, examples):
    def cut(batch):
        made = collators[0](batch)
        return {name: each[..., :-1] if name in ("targets", "source_of") else each for name, each in made.items()}

    with pytest.raises(ModelError, match="the loss counts"):
        supervised(family, cut, examples[0])


def test_token_rows_join_placeholders_and_mark_the_answer(family, collators, examples):
    batch = collators[0]([examples[0]])
    rows = list(token_rows(batch, family.audio_token_id))
    answer = family.answer_ids("full of joy")
    assert [token for token, counted, _ in rows if counted] == answer
    assert [audio for _, _, audio in rows if audio] == [family.audio_token_count(8000)]
    assert sum(max(audio, 1) for _, _, audio in rows) == batch["input_ids"].shape[1]


def test_modes_weights_and_random_states_are_restored(family, collators, inputs):
    adapted, _ = add_adapter(family, {"language_model": ["q_proj"]}, {"r": 2, "lora_alpha": 4, "lora_dropout": 0.5})
    model = LanguageRecognizer(family, SETUP, adapted)
    model.train()
    family.submodule("audio_tower").eval()  # mixed, as libraries leave it
    modes = [module.training for module in model.modules()]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    states = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())

    def fail():
        with evaluating(model, CPU):
            assert not any(module.training for module in model.modules())
            label_scores(model, collators[1], inputs)
            torch.rand(3)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None and not parameter.is_inference() for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("moves_back", [True, False])
def test_the_model_returns_to_its_device_for_an_engine_that_shards_it(moves_back):
    class Recorded(nn.Linear):
        devices = ()

        def to(self, device):
            self.devices += (device.type,)
            return self

    model = Recorded(2, 2)
    with evaluating(model, torch.device("meta"), moves_back=moves_back):
        assert model.devices == ("meta",)
    assert model.devices == ("meta", "cpu") if moves_back else ("meta",)


@pytest.fixture
def clap(tmp_path):
    torch.manual_seed(0)
    words = tuple(sentence for _, sentence in ENSEMBLE.descriptions(LABELS))
    Clap.build_tiny(tmp_path, TinyShape(words, 2, 32, 2, 320, 0.1))
    return Clap.load(tmp_path)


def test_the_use_of_audio_by_clap_is_checked(clap, monkeypatch):
    noises = [np.random.default_rng(number).normal(scale=0.1, size=20_000 * (number + 1)) for number in range(4)]
    slopes = [np.linspace(1, 0.01 * number, len(noise)) for number, noise in enumerate(noises)]
    inputs = [
        Input(f"u{number}", None, Waveform((noise * slope).astype(np.float32), 48_000), "s")
        for number, (noise, slope) in enumerate(zip(noises, slopes, strict=True))
    ]
    model = ClapRecognizer(clap, ClapSetup(ENSEMBLE, LABELS))
    collator = model.scoring_collators[0]
    parity, changes = measured(model, collator, inputs, "audio")
    require_parity(parity, "clap")
    require_change(changes["audio"], "audio", "clap", parity=parity, trained=True)
    assert model._cached_descriptions is None  # may depend on autocast, which is the trainer's
    embed = model._audio_embeddings
    monkeypatch.setattr(model, "_audio_embeddings", lambda given: torch.ones_like(embed(given)))
    with pytest.raises(ModelError, match="clap does not use the audio"):
        require_change(
            measured(model, collator, inputs, "audio")[1]["audio"], "audio", "clap", parity=parity, trained=True
        )
