"""Linear models against scikit-learn's own, on synthetic tones and sentences."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import ConfigError, CorpusError, ModelError
from lalm_mer.core.schema import Example, Input
from lalm_mer.evaluation.metrics import METRICS
from lalm_mer.examples.dataset import InputDataset
from lalm_mer.models.encoders.kinds import open_audio_encoder
from lalm_mer.models.encoders.settings import AudioEncoderSettings, TextEncoderSettings
from lalm_mer.recognizers.linear.features import open_vectors
from lalm_mer.recognizers.linear.fitting import Split, fit_linear, refit
from lalm_mer.recognizers.linear.model import LinearRecognizer
from lalm_mer.recognizers.linear.settings import LinearModelSettings
from lalm_mer.recognizers.scoring import score_inputs

LABELS = ("sad", "happy", "angry")
WORDS = {"sad": "dreadful", "happy": "lovely", "angry": "awful"}
UAR = METRICS["uar"]
POOLED = AudioEncoderSettings(kind="log_mel", bands=8, pooled=True, trim_db=None)


def examples(count, seed, labels=LABELS):
    """Synthetic: pitch and the last word depend on the label, though not always."""
    generator = np.random.default_rng(seed)
    made = []
    for number in range(count):
        label = labels[number % len(labels)]
        shown = label if generator.random() < 0.8 else labels[generator.integers(len(labels))]
        time = np.arange(4000) / 16_000
        samples = 0.3 * np.sin(2 * np.pi * (200 + 100 * LABELS.index(shown)) * time)
        samples += 0.1 * generator.standard_normal(len(time))
        waveform = Waveform(samples.astype(np.float32), 16_000)
        given = Input(f"u{seed}_{number}", f"It was {WORDS[shown]}{'!' * (number % 2)}", waveform, f"s{number % 4}")
        made.append(Example(given, label))
    return made


TRAIN, DEV = examples(60, 1), examples(30, 2)


def settings_of(modalities="audio", **options):
    return LinearModelSettings(**{"modalities": modalities, "audio": POOLED, "c": [0.1]} | options)


def fitted(settings, train=TRAIN, dev=DEV, labels=LABELS, report=lambda c, value: None):
    """The vectors, the fit, and the splits."""
    splits = [InputDataset(train), InputDataset(dev)]
    audio = open_audio_encoder(settings.audio)
    vectors = open_vectors(settings, audio, splits[0], splits[1:])
    for inputs in splits:
        vectors.store(inputs)
    both = [
        Split(vectors.blocks(inputs), [each.label for each in made])
        for inputs, made in zip(splits, (train, dev), strict=True)
    ]
    return vectors, fit_linear(settings, *both, labels, UAR, report), both


def features(made):
    encoder = open_audio_encoder(POOLED)
    return np.stack([encoder.extract(each.input)[0] for each in made]).astype(np.float64)


def truth(made):
    return np.array([each.label for each in made])


def in_order(probabilities, model):
    return probabilities[:, [list(model.classes_).index(label) for label in LABELS]]


@pytest.mark.parametrize("weight", ["none", "balanced"])
def test_logistic_regression_of_audio_equals_scikit_learn_by_hand(weight, tmp_path):
    vectors, fit, _ = fitted(settings_of(class_weight=weight))
    by_hand = LogisticRegression(C=0.1, max_iter=10_000, class_weight={"none": None}.get(weight, weight))
    model = make_pipeline(StandardScaler(), by_hand).fit(features(TRAIN), truth(TRAIN))
    expected = in_order(model.predict_proba(features(DEV)), model)
    recognizer = LinearRecognizer(settings_of(), fit, vectors)
    found = np.exp(np.stack(list(score_inputs(recognizer, InputDataset(DEV), batch_size=7))))
    assert found == pytest.approx(expected, abs=1e-6)
    recognizer.save_trained(tmp_path / "model")
    again = LinearRecognizer.load_trained(tmp_path / "model")
    assert np.exp(np.stack(list(score_inputs(again, InputDataset(DEV))))) == pytest.approx(found, abs=1e-12)
    assert (again.modalities, again.sampling_rate, again.label_set.labels) == ("audio", 16_000, LABELS)


def test_logistic_regression_of_transcripts_equals_scikit_learn_by_hand(tmp_path):
    vectors, fit, (_, dev) = fitted(settings_of("transcript"))
    vectorizer = TfidfVectorizer(token_pattern=r"\w+|[^\w\s]", ngram_range=(1, 2))
    model = make_pipeline(vectorizer, LogisticRegression(C=0.1, max_iter=10_000))
    model.fit([each.input.transcript for each in TRAIN], truth(TRAIN))
    expected = in_order(model.predict_proba([each.input.transcript for each in DEV]), model)
    assert np.exp(fit.log_probs(dev.blocks)) == pytest.approx(expected, abs=1e-6)
    recognizer = LinearRecognizer(settings_of("transcript"), fit, vectors)
    recognizer.save_trained(tmp_path)
    again = LinearRecognizer.load_trained(tmp_path)
    assert np.exp(np.stack(list(score_inputs(again, InputDataset(DEV))))) == pytest.approx(expected, abs=1e-5)
    assert again.sampling_rate is None


def test_two_labels_and_a_label_without_training_utterances():
    two = LABELS[:2]
    train, dev = examples(40, 3, two), examples(20, 4, two)
    _, fit, (_, of_dev) = fitted(settings_of(), train, dev)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1)).fit(features(train), truth(train))
    expected = model.predict_proba(features(dev))[:, ::-1]  # scikit-learn sorts the labels
    assert np.exp(fit.log_probs(of_dev.blocks)) == pytest.approx(np.column_stack([expected, np.zeros(20)]), abs=1e-4)
    assert np.isfinite(fit.log_probs(of_dev.blocks)).all()
    with pytest.raises(CorpusError, match="train has one label alone, sad"):
        fitted(settings_of(), examples(10, 5, LABELS[:1]), dev)


def test_an_svm_predicts_as_scikit_learn_and_its_temperature_fits_dev():
    _, fit, (_, dev) = fitted(settings_of(classifier="svm"))
    model = make_pipeline(StandardScaler(), LinearSVC(C=0.1, max_iter=10_000, random_state=0))
    model.fit(features(TRAIN), truth(TRAIN))
    assert fit.logits(dev.blocks) == pytest.approx(in_order(model.decision_function(features(DEV)), model), abs=1e-6)
    assert fit.predict(dev.blocks) == model.predict(features(DEV)).tolist()

    def likelihood(factor):
        rows, true = np.arange(len(DEV)), [LABELS.index(each.label) for each in DEV]
        return replace(fit, factor=factor).log_probs(dev.blocks)[rows, true].mean()

    assert likelihood(fit.factor) > max(likelihood(fit.factor * 0.9), likelihood(fit.factor * 1.1))


def test_c_is_the_best_on_dev_and_a_refit_keeps_it():
    tried = {}
    settings = settings_of(c=[1e-6, 0.1, 10.0])
    _, fit, (train, dev) = fitted(settings, report=tried.__setitem__)
    assert list(tried) == settings.c
    assert fit.c == max(tried, key=tried.__getitem__)
    again = refit(settings, fit, train, dev)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=fit.c, max_iter=10_000))
    model.fit(features([*TRAIN, *DEV]), truth([*TRAIN, *DEV]))
    assert np.exp(again.log_probs(dev.blocks)) == pytest.approx(
        in_order(model.predict_proba(features(DEV)), model), abs=1e-6
    )


def test_both_modalities_have_the_same_mean_squared_norm():
    settings = settings_of("audio+transcript", c=[1.0])
    _, fit, (train, _) = fitted(settings)
    assert list(fit.scales) == ["audio", "transcript"]
    for modality, scale in fit.scales.items():
        scaled = scale.apply(train.blocks[modality])
        assert (scaled * scaled).sum() / len(TRAIN) == pytest.approx(1)


def test_normalisation_by_speaker_is_of_each_split_and_refuses_new_recordings(tmp_path):
    settings = settings_of(normalisation="speaker")
    vectors, fit, (_, dev) = fitted(settings)
    of_one = [number for number, each in enumerate(DEV) if each.input.speaker == "s1"]
    block = dev.blocks["audio"][of_one]
    assert block.mean(axis=0) == pytest.approx(np.zeros(block.shape[1]), abs=1e-4)
    assert block.std(axis=0) == pytest.approx(np.ones(block.shape[1]), abs=1e-3)
    recognizer = LinearRecognizer(settings, fit, vectors)
    recognizer.save_trained(tmp_path)
    with pytest.raises(CorpusError, match=r"utterance u1_0: .* a new recording has none"):
        list(score_inputs(LinearRecognizer.load_trained(tmp_path), [TRAIN[0].input]))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"c": []}, "'c': is empty"),
        ({"audio": AudioEncoderSettings()}, "'audio.pooled': false, but opensmile gives a vector for each frame"),
        ({"modalities": "transcript", "transcript": TextEncoderSettings(kind="scratch")}, "trained with a network"),
        ({"modalities": "transcript", "transcript": TextEncoderSettings()}, "a vector for each token"),
    ],
)
def test_settings_that_give_no_single_vector_are_refused(options, expected):
    with pytest.raises(ConfigError, match=expected):
        settings_of(**options)


def test_a_damaged_model_is_refused(tmp_path):
    vectors, fit, _ = fitted(settings_of())
    LinearRecognizer(settings_of(), fit, vectors).save_trained(tmp_path)
    content = json.loads((tmp_path / "linear.json").read_text())
    (tmp_path / "linear.json").write_text(json.dumps(content | {"labels": ["sad", "happy"]}))
    with pytest.raises(ModelError, match=r"model\.safetensors: does not fit linear\.json"):
        LinearRecognizer.load_trained(tmp_path)
    (tmp_path / "linear.json").write_text(json.dumps({key: content[key] for key in content if key != "factor"}))
    with pytest.raises(ModelError, match=r"not a saved linear model .*key 'factor' is missing"):
        LinearRecognizer.load_trained(tmp_path)
