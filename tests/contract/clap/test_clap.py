"""What is CLAP's own: audio features, the model's own logits, fusion."""

import numpy as np
import pytest
import torch
from closeness import assert_close
from dual_inputs import KINDS, LABELS, RATE, noise, score, training_batch
from representatives import slow_except
from transformers import ClapModel, ClapProcessor

from lalm_mer.core.errors import ConfigError, ModelError
from lalm_mer.core.labels import LabelSet
from lalm_mer.models.clap import Clap
from lalm_mer.models.families.parts.tiny_shape import TinyShape
from lalm_mer.prompting.ensembles import Ensemble
from lalm_mer.recognizers.clap import ClapRecognizer, ClapSetup


@pytest.fixture(scope="module", params=slow_except(["unfused", "fused"], ["unfused"]))
def kind(request):
    return KINDS[request.param]


@pytest.mark.parametrize("seconds", [0.3, 1.0, 1.9999, 2.0])
def test_audio_within_the_window_equals_that_of_the_extractor(clap, seconds):
    waveform = noise(seconds)
    ours = clap.audio_inputs([waveform])
    theirs = clap.extractor([waveform.samples], sampling_rate=RATE, return_tensors="pt")
    torch.testing.assert_close(ours["input_features"], theirs["input_features"].float(), rtol=0, atol=0)
    assert ours["is_longer"].tolist() == [[False]]


@pytest.mark.parametrize("seconds", [2.001, 2.5, 2.04, 7.0])
def test_longer_audio_equals_that_of_the_extractor_when_it_draws_the_middle(clap, seconds, monkeypatch):
    waveform = noise(seconds)
    monkeypatch.setattr(np.random, "choice", lambda starts: starts[len(starts) // 2])
    monkeypatch.setattr(np.random, "randint", lambda low, high: (high - 1) // 2 if high > 1 else 0)
    ours = clap.audio_inputs([waveform])
    theirs = clap.extractor([waveform.samples], sampling_rate=RATE, return_tensors="pt")
    assert_close(ours["input_features"], theirs["input_features"].float())
    if clap.fuses and seconds > 2.01:  # alone in a batch, the extractor marks a shorter one as longer
        assert ours["is_longer"].tolist() == theirs["is_longer"].tolist() == [[True]]


def test_nothing_is_random(clap, inputs):
    waveforms = [given.waveform for given in inputs]
    np.random.seed(1)
    first = clap.audio_inputs(waveforms)
    np.random.seed(2)
    second = clap.audio_inputs(waveforms)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_one_description_a_label_gives_the_models_own_logits(clap, folder, examples, inputs):
    plain = LabelSet(LABELS.labels)
    ensemble = Ensemble("one", ("a voice, {{ label }}",), {}, "digest")
    recognizer = ClapRecognizer(clap, ClapSetup(ensemble, plain)).eval()
    batch = training_batch(recognizer, examples)
    words = ClapProcessor.from_pretrained(folder).tokenizer(
        [f"a voice, {label}" for label in plain.labels], padding=True, return_tensors="pt"
    )
    own = ClapModel.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = own(**words, input_features=batch["input_features"], is_longer=batch["is_longer"]).logits_per_audio
        output = recognizer(**batch)
    assert_close(output["log_probs"], logits.log_softmax(dim=1))
    torch.testing.assert_close(output["losses"], -output["log_probs"].gather(1, batch["truth"][:, None])[:, 0])
    assert output["items"].tolist() == [1] * len(inputs)
    assert torch.equal(score(recognizer, inputs), output["log_probs"])  # whether or not there is a truth


def test_a_feature_extractor_of_another_model_is_refused(clap):
    clap.extractor.truncation = "rand_trunc" if clap.fuses else "fusion"
    with pytest.raises(ModelError, match="enable_fusion"):
        Clap(clap.model, clap.processor)


def test_a_tiny_clap_is_marked_as_random_and_takes_ten_seconds_at_most(clap, tmp_path):
    assert clap.randomly_initialised
    with pytest.raises(ConfigError, match="10 s at most"):
        Clap.build_tiny(tmp_path, TinyShape(("a",), 11))


def test_the_contrastive_loss_by_hand(clap, examples):
    one_each = Ensemble("one", ("{{ label }} speech",), {}, "digest")
    plain = LabelSet(LABELS.labels)
    recognizer = ClapRecognizer(clap, ClapSetup(one_each, plain), objective="contrastive").train()
    clap.model.eval()  # no dropout
    rows = [examples[i] for i in (0, 1, 2)]  # three labels: the plain loss of CLAP
    batch = training_batch(recognizer, rows)
    words = clap.tokenizer([f"{label} speech" for label in plain.labels], padding=True, return_tensors="pt")
    own = {"input_features": batch["input_features"], "is_longer": batch["is_longer"]}
    with torch.no_grad():
        mean = recognizer(**batch)["losses"].mean()
        audio, text = (getattr(clap.model(**words, **own), f"logits_per_{side}") for side in ("audio", "text"))
    eye = torch.arange(3)
    expected = (torch.nn.functional.cross_entropy(audio, eye) + torch.nn.functional.cross_entropy(text, eye)) / 2
    assert_close(mean, expected)
    alike = [examples[i] for i in (0, 3, 6)]  # one label: no negatives
    losses = recognizer(**training_batch(recognizer, alike))["losses"]
    assert losses.mean() >= np.log(3) - 1e-4
