"""Every encoder of audio and of transcripts, the pretrained ones with tiny models of the real architectures."""

from __future__ import annotations

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from closeness import assert_close
from transformers import AutoModel

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import AudioError, ConfigError, CorpusError, ModelError
from lalm_mer.core.names import TRANSCRIPT
from lalm_mer.core.schema import Input, Turn
from lalm_mer.models.encoders.finetuned_text import FinetunedText, FinetunedTokenizer, open_finetuned
from lalm_mer.models.encoders.hidden_layers import number_of_layers
from lalm_mer.models.encoders.kinds import (
    FITTED,
    load_encoder,
    open_audio_encoder,
    open_feature_store,
    open_text_encoder,
)
from lalm_mer.models.encoders.open_smile import util
from lalm_mer.models.encoders.settings import AudioEncoderSettings, TextEncoderSettings
from lalm_mer.recognizers.baselines.build import build_network
from lalm_mer.recognizers.baselines.settings import NetworkSettings, TranscriptBranchSettings

needs_opensmile = pytest.mark.skipif(util.find_spec("opensmile") is None, reason="the acoustic extra is not installed")
PRETRAINED = ("wav2vec2", "hubert", "wavlm", "whisper", "ast", "clap")
AUDIO = [
    *(pytest.param({"kind": "pretrained", "model": name}, id=name) for name in PRETRAINED),
    *(pytest.param({"kind": kind}, id=kind) for kind in ("log_mel", "mfcc", "waveform")),
    pytest.param({"kind": "log_mel", "pooled": True}, id="pooled log_mel"),
    *(
        pytest.param(
            {"kind": "opensmile", "feature_set": name, "level": level}, id=f"{name} {level}", marks=needs_opensmile
        )
        for name in ("egemaps", "compare")
        for level in ("frames", "functionals")
    ),
]
WIDTHS = {
    "log_mel": 40, "mfcc": 39, "waveform": 160, "pooled log_mel": 80, "egemaps frames": 25, "egemaps functionals": 88,
    "compare frames": 65, "compare functionals": 6373,
}  # fmt: skip
TRANSCRIPTS = ["it was lovely", "it was dreadful", "very very"]


def tone(seconds, rate=16_000, hertz=200):
    time = np.arange(round(rate * seconds)) / rate
    return Waveform((0.3 * np.sin(2 * np.pi * hertz * time)).astype(np.float32), rate)


@pytest.fixture
def audio_encoder(audio_model):
    def make(values, **more):
        folder = {"model": audio_model(values["model"])} if "model" in values else {}
        return open_audio_encoder(AudioEncoderSettings(**{**values, **folder, **more}))

    return make


@pytest.mark.parametrize("values", AUDIO)
def test_an_encoder_of_audio(values, audio_encoder, request):
    encoder = audio_encoder(values)
    waveform = tone(0.8, encoder.sampling_rate)
    frames = encoder.frames(waveform)
    assert frames.dtype == np.float32
    assert frames.shape[1] == encoder.size == WIDTHS.get(request.node.callspec.id, encoder.size)
    assert len(encoder.frames(tone(0.001, encoder.sampling_rate))) >= 1
    copy = pickle.loads(pickle.dumps(encoder))  # noqa: S301 our own
    assert copy.settings() == encoder.settings()
    np.testing.assert_array_equal(copy.frames(waveform), frames)
    assert encoder.source_hash(Input("u", None, waveform)) is None
    assert encoder.source_hash(Input("u", None, None, audio_sha256="a")) == "a"
    with pytest.raises(AudioError, match=r"utterance u: .* takes audio at"):
        encoder.extract(Input("u", None, tone(0.1, encoder.sampling_rate // 2)))
    other = encoder.frames(tone(0.8, encoder.sampling_rate, hertz=2000))
    assert np.abs(other[: len(frames)] - frames[: len(other)]).max() > 1e-3  # it uses the audio


@pytest.mark.parametrize("name", [name for name in PRETRAINED if name != "clap"])
def test_layers_of_audio_side_by_side(name, audio_encoder):
    values = {"kind": "pretrained", "model": name}
    last, every, chosen = (audio_encoder(values, layers=layers) for layers in ("last", "all", [0, 2]))
    assert (last.layers, every.layers, chosen.layers) == (1, 3, 2)
    frames = {encoder: encoder.frames(tone(0.8)).reshape(-1, encoder.layers, 16) for encoder in (last, every, chosen)}
    assert frames[every].dtype == np.float16
    assert_close(frames[every][:, 2].astype(np.float32), frames[last][:, 0], 5e-3)
    assert_close(frames[chosen].astype(np.float32), frames[every][:, [0, 2]].astype(np.float32), 1e-6)
    assert len({str(encoder.settings()) for encoder in frames}) == 3
    with pytest.raises(ConfigError, match=r"argument 'layers': 3; model .* has layers 0 to 2"):
        audio_encoder(values, layers=[3])


@pytest.mark.parametrize("name", PRETRAINED)
def test_pooled_audio_is_mean_and_standard_deviation(name, audio_encoder):
    values = {"kind": "pretrained", "model": name}
    plain, pooled = audio_encoder(values), audio_encoder(values, pooled=True)
    waveform = tone(0.8, plain.sampling_rate)
    frames = plain.frames(waveform)
    assert pooled.size == 2 * plain.size
    assert_close(pooled.frames(waveform), np.concatenate([frames.mean(0), frames.std(0)])[None], 1e-4)


def require_one_store_of_all_layers(open_encoder, given, cache_dir, monkeypatch):
    """Each layer read from the store has the values that the encoder of this layer alone computes, to the bit."""
    last = open_encoder("last")
    count = last.with_all_layers().layers
    assert open_feature_store(cache_dir, open_encoder([0])).add([given]) == 1
    alone = [open_encoder([number]).extract(given) for number in range(count)]
    assert {each.dtype for each in alone} == {np.dtype(np.float32)}
    monkeypatch.setattr(type(last), "extract", lambda *_: pytest.fail("encoded again"))
    for number, frames in enumerate(alone):
        store = open_feature_store(cache_dir, open_encoder([number]))
        assert store.add([given]) == 0
        np.testing.assert_array_equal(store.frames(given), frames)
        assert store.frames(given).dtype == np.float32
    for layers, expected in (("last", alone[-1:]), ("all", alone), ([count - 1, 0], [alone[-1], alone[0]])):
        found = open_feature_store(cache_dir, open_encoder(layers)).frames(given)
        np.testing.assert_array_equal(found, np.concatenate(expected, axis=1))


@pytest.mark.parametrize("name", PRETRAINED)
def test_pooled_layers_of_audio_are_stored_together(name, audio_encoder, tmp_path, monkeypatch):
    values = {"kind": "pretrained", "model": name, "pooled": True}
    rate = audio_encoder(values).sampling_rate
    given = Input("u", None, tone(0.8, rate), audio_sha256="a")
    changed = Input("u", None, tone(0.8, rate, hertz=2000))  # without a hash, so that nothing is stored
    store = open_feature_store(tmp_path, audio_encoder(values))
    np.testing.assert_array_equal(store.frames(changed), audio_encoder(values).extract(changed))
    require_one_store_of_all_layers(lambda layers: audio_encoder(values, layers=layers), given, tmp_path, monkeypatch)


def test_pooled_layers_of_transcripts_are_stored_together(text_model, tmp_path, monkeypatch):
    folder, given = text_model("bert"), Input("u", TRANSCRIPTS[0], None)

    def opened(layers):
        return open_text_encoder(TextEncoderSettings(model=folder, layers=layers, pooled=True))

    require_one_store_of_all_layers(opened, given, tmp_path, monkeypatch)


def test_the_number_of_layers_follows_from_the_config(audio_encoder, audio_model, text_model, tmp_path):
    for name in PRETRAINED:
        every = audio_encoder({"kind": "pretrained", "model": name}, layers="all")
        assert number_of_layers(audio_model(name)) == every.layers, name
    for name in ("bert", "roberta", "distilbert"):
        assert number_of_layers(text_model(name)) == 3, name
    (tmp_path / "config.json").write_text('{"model_type": "dac"}')
    with pytest.raises(ModelError, match="its config has no number of layers"):
        number_of_layers(str(tmp_path))


@pytest.mark.parametrize("name", ["wav2vec2", "hubert", "wavlm"])
def test_speech_models_have_their_own_last_hidden_states(name, audio_encoder, audio_model):
    encoder = audio_encoder({"kind": "pretrained", "model": name}, trim_db=None)
    samples = tone(0.8).samples
    values = torch.tensor((samples - samples.mean()) / np.sqrt(samples.var() + 1e-7))[None]
    with torch.no_grad():
        expected = AutoModel.from_pretrained(audio_model(name)).eval()(values).last_hidden_state[0]
    assert_close(encoder.frames(tone(0.8)), expected, 1e-4)


def test_whisper_over_a_full_window_is_its_own_encoder_and_longer_audio_has_windows(audio_encoder, audio_model):
    encoder = audio_encoder({"kind": "pretrained", "model": "whisper"}, trim_db=None)
    window = tone(2.0)
    features = encoder._extractor(window.samples, sampling_rate=16_000, return_tensors="pt").input_features
    with torch.no_grad():
        expected = AutoModel.from_pretrained(audio_model("whisper")).eval().encoder(features).last_hidden_state[0]
    found = encoder.frames(window)
    assert found.shape == expected.shape == (100, 16)
    assert_close(found[:-1], expected[:-1], 0.05)  # the silence after the clip affects the last frame
    assert len(encoder.frames(tone(0.5))) == 25
    assert len(encoder.frames(tone(4.5))) == 225


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert"])
def test_a_pretrained_encoder_of_transcripts(name, text_model):
    folder = text_model(name)
    given = Input("u", TRANSCRIPTS[0], None)
    last, every, pooled = (
        open_text_encoder(TextEncoderSettings(model=folder, **more))
        for more in ({}, {"layers": "all"}, {"pooled": True})
    )
    frames = last.extract(given)
    assert frames.shape == (5, 16)
    assert every.layers == 3
    assert_close(every.extract(given).reshape(5, 3, 16)[:, 2].astype(np.float32), frames, 5e-3)
    assert_close(pooled.extract(given), np.concatenate([frames.mean(0), frames.std(0)])[None], 1e-5)
    copy = pickle.loads(pickle.dumps(every))  # noqa: S301 our own
    np.testing.assert_array_equal(copy.extract(given), every.extract(given))
    assert last.source_hash(given) != last.source_hash(Input("u", TRANSCRIPTS[1], None))


def embedded(tokenizer, encoder, given):
    """Outputs of a padded batch of inputs in evaluation mode, each at its own length, (T, L * D)."""
    ids = [torch.tensor(tokenizer.ids(each)) for each in given]
    batch = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    lengths = torch.tensor(list(map(len, ids)))
    with torch.no_grad():
        found = encoder.eval()(batch, torch.arange(batch.shape[1])[None] < lengths[:, None])
    return [frames[:length] for frames, length in zip(found, lengths, strict=True)]


@pytest.mark.parametrize("layers", ["last", "all", [2, 0]], ids=str)
@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert"])
def test_an_encoder_that_is_trained_begins_as_the_frozen_one_and_is_saved(name, layers, text_model, tmp_path):
    folder = shutil.copytree(text_model(name), tmp_path / "pretrained")
    settings = TextEncoderSettings(kind="finetuned", model=str(folder), layers=layers)
    frozen = open_text_encoder(TextEncoderSettings(model=str(folder), layers=layers))
    tokenizer, encoder = open_finetuned(settings)
    assert (encoder.training, tokenizer.layers, tokenizer.size) == (True, frozen.layers, frozen.size)
    assert tokenizer.settings()["weights"] == frozen.settings()["weights"]
    given = [Input("u", text, None) for text in (*TRANSCRIPTS, "unknown [SEP] words", "")]
    before = embedded(tokenizer, encoder, given)
    for each, frames in zip(given, before, strict=True):
        assert_close(frames, frozen.extract(each).astype(np.float32), 1e-5 if layers == "last" else 5e-3)
    with torch.no_grad():
        next(encoder.parameters()).mul_(2)  # trained
    expected = embedded(tokenizer, encoder, given)
    tokenizer.save(tmp_path / "saved")
    shutil.rmtree(folder)
    again = FinetunedTokenizer.load(tmp_path / "saved", settings, tokenizer.settings())
    other = FinetunedText.untrained(again)
    other.load_state_dict(encoder.state_dict())
    for own, now, then in zip(embedded(again, other, given), expected, before, strict=True):
        assert_close(own, now, 1e-6)
        assert not torch.equal(now, then)
    assert again.settings() == tokenizer.settings()
    assert pickle.loads(pickle.dumps(again)).ids(given[0]) == tokenizer.ids(given[0])  # noqa: S301 our own
    with pytest.raises(CorpusError, match="utterance u: its transcript has 52 tokens, the model takes 40"):
        again.ids(Input("u", "very " * 50, None))


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [("config.json", {"model_type": "no such"}, "no config of a text encoder"),
     ("config.json", {"num_hidden_layers": 10**9}, "has 1000000000 layers; expected at most 1000"),
     ("config.json", {"num_hidden_layers": 0}, "key 'num_hidden_layers' is 0; expected 1 or more"),
     ("config.json", {"hidden_size": "wide"}, "no config of a text encoder"),
     ("config.json", None, "no config of a text encoder"),
     ("tokenizer.json", {"model": {"type": "WordLevel", "vocab": [1]}}, "is no tokenizer"),
     ("tokenizer.json", {"model": None}, "is no tokenizer"),
     ("tokenizer.json", None, "cannot read a tokenizer")],
)  # fmt: skip
def test_malformed_files_of_an_encoder_that_was_trained_are_one_line(name, change, says, text_model, tmp_path):
    settings = TextEncoderSettings(kind="finetuned", model=text_model("bert"))
    tokenizer, _ = open_finetuned(settings)
    tokenizer.save(tmp_path)
    file = tmp_path / name
    file.write_text("{" if change is None else json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ModelError, match=says) as caught:
        FinetunedTokenizer.load(tmp_path, settings, tokenizer.settings())
    assert "\n" not in str(caught.value)


def test_nothing_but_the_architecture_is_read_of_the_config_of_an_encoder(text_model, tmp_path):
    settings = TextEncoderSettings(kind="finetuned", model=text_model("bert"))
    tokenizer, encoder = open_finetuned(settings)
    tokenizer.save(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    evil = {"auto_map": {"AutoModel": "evil.Evil"}, "attn_implementation": "evil/kernel", "return_dict": False}
    (tmp_path / "config.json").write_text(json.dumps(content | evil))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Evil", "auto_map": {"x": "y"}}))
    again = FinetunedTokenizer.load(tmp_path, settings, tokenizer.settings())
    other = FinetunedText.untrained(again)
    other.load_state_dict(encoder.state_dict())
    given = [Input("u", TRANSCRIPTS[0], None)]
    assert_close(embedded(again, other, given)[0], embedded(tokenizer, encoder, given)[0], 1e-6)
    for known in ({}, {"max_tokens": 0}, {"max_tokens": "9"}):
        with pytest.raises(ModelError, match=r"max_tokens of the transcript encoder is .*; expected 1 or more"):
            FinetunedTokenizer.load(tmp_path, settings, known)


def test_an_encoder_that_is_trained_has_only_layers_of_its_model(text_model):
    with pytest.raises(ConfigError, match=r"argument 'layers': 3; model .* has layers 0 to 2"):
        open_finetuned(TextEncoderSettings(kind="finetuned", model=text_model("bert"), layers=[3]))
    with pytest.raises(ConfigError, match="'pooled': true; finetuned"):
        TextEncoderSettings(kind="finetuned", pooled=True)


@pytest.mark.parametrize("name", ["static", "tfidf"])
def test_a_fitted_encoder_of_transcripts_is_saved(name, tmp_path):
    file = tmp_path / "vectors.txt"
    file.write_text("5 3\nit 1 0 0\nlovely 0 1 0\nDreadful 0 0 1\nzebra 9 9 9\nvery 0 1 1\n")
    settings = TextEncoderSettings(kind=name, file=str(file))
    encoder = open_text_encoder(settings, TRANSCRIPTS[:2], TRANSCRIPTS[2:])
    encoder.save(tmp_path / "saved" / FITTED)
    file.unlink()
    again = load_encoder(settings, tmp_path / "saved", encoder.settings())
    assert again.settings() == encoder.settings()
    for text in (*TRANSCRIPTS, "It!", "unknown"):
        frames = encoder.extract(Input("u", text, None))
        assert frames.shape[1] == encoder.size
        np.testing.assert_array_equal(again.extract(Input("u", text, None)), frames)
    assert not encoder.extract(Input("u", "zebra", None)).any()  # no word of the corpus
    with pytest.raises(CorpusError, match="utterance u: no transcript"):
        encoder.extract(Input("u", None, None))
    with pytest.raises(ModelError, match="absent"):
        load_encoder(settings, tmp_path / "absent", encoder.settings())


def test_word_vectors_that_cannot_be_read(tmp_path):
    settings = TextEncoderSettings(kind="static", file=str(tmp_path / "vectors.txt"))
    with pytest.raises(ConfigError, match=r"vectors\.txt cannot be read"):
        open_text_encoder(settings, TRANSCRIPTS)
    (tmp_path / "vectors.txt").write_text("it 1 0\nlovely 1 x\n")
    with pytest.raises(ConfigError, match="line 2: expected 2 numbers"):
        open_text_encoder(settings, TRANSCRIPTS)
    for content, says in (
        ("it 1 0\nlovely 1\n", "line 2: expected a word and 2 numbers"),
        ("it 1 0\nlovely 1 2 3\n", "line 2: expected a word and 2 numbers"),
        ("9 2\nit 1 0\n", "1 vectors, but line 1 has 9; is it complete"),
        ("nine 2\nit 1 0\n", "line 1: expected a word and its vector, or two numbers"),
        ("it 1 1e300\n", "not finite in float32"),
    ):
        (tmp_path / "vectors.txt").write_text(content)
        with pytest.raises(ConfigError, match=says):
            open_text_encoder(settings, TRANSCRIPTS)
    (tmp_path / "vectors.txt").write_text("it 1 0\n. . . 3 4\n", encoding="utf-8-sig")  # a word may have spaces
    assert open_text_encoder(settings, TRANSCRIPTS).extract(Input("u", "it", None)).tolist() == [[1.0, 0.0]]
    with pytest.raises(ConfigError, match="needs a file of word vectors"):
        open_text_encoder(TextEncoderSettings(kind="static"), TRANSCRIPTS)


@pytest.mark.parametrize(
    ("values", "message"),
    [({"layers": "first"}, "'layers': 'first'; expected last, all, or a list"),
     ({"layers": [-1]}, "'layers': .-1.; expected"),
     ({"kind": "opensmile", "level": "functionals"}, "'level': functionals; feature set pepino"),
     ({"kind": "mfcc", "coefficients": 41}, "'coefficients': 41; expected at most bands, 40")],
)  # fmt: skip
def test_settings_out_of_range(values, message):
    with pytest.raises(ConfigError, match=message):
        AudioEncoderSettings(**values)


def test_the_turns_before_an_utterance_are_stored(text_model, tmp_path):
    settings = NetworkSettings(
        modalities=TRANSCRIPT,
        transcript=TranscriptBranchSettings(encoder=TextEncoderSettings(model=text_model("bert")), context_turns=1),
    )
    first, second = Input("u1", TRANSCRIPTS[0], None), Input("u2", TRANSCRIPTS[1], None, context=(Turn("A", "it"),))
    network = build_network(settings, ("happy", "sad"), [first, second], cache_dir=tmp_path).eval()
    store = network.stores[TRANSCRIPT]
    assert len(store) == 3
    stored = network(**network.joint_collator([first, second]))["log_probs"]
    network.stores = {}
    assert_close(network(**network.joint_collator([first, second]))["log_probs"], stored, 1e-5)
