"""A baseline from elsewhere whose files are malformed or contradict each other is refused in one line."""

import json

import pytest
import torch
from fabricated import LABELS
from safetensors.torch import load_file, save_file
from shared_baseline import log_probs, rewrite, spoil_weights

from lalm_mer import open_recognizer
from lalm_mer.core.errors import LalmMerError, ModelError


def of_audio(**values):
    return lambda settings: settings["audio"]["encoder"].update(values)


MALFORMED = (
    (of_audio(kind="pretrained", model="/home/jane/model"), r"'settings\.audio\.encoder\.model': '/home/jane/model'"),
    (of_audio(kind="pretrained", model="../model"), "expected a Hub id user/name"),
    (of_audio(kind="pretrained", model="lalm_mer/sharing"), "which is no folder here"),
    (of_audio(revision="a b"), r"encoder\.revision': 'a b'; expected a branch"),
    (of_audio(kind="no such"), "not a saved baseline network"),
    (of_audio(bands=10**10), "expected 1 to 256"),
    (of_audio(evil=1), "unknown key 'settings.audio.encoder.evil'"),
    (lambda settings: settings["audio"].update(start_from="/home/jane/run"), r"audio\.start_from': '/home/jane/run'"),
    (lambda settings: settings["transcript"]["encoder"].update(file="/etc/passwd"), "file': '/etc/passwd'"),
    (lambda settings: settings["audio"].update(normalisation="speaker"), "normalises by speaker"),
    (lambda settings: settings["audio"]["sequence"].update(layers=10**9), "expected 1 to 64"),
    (lambda settings: settings["audio"]["sequence"].update(channels=4000), "does not fit network.json"),
    (lambda settings: settings["head"].update(hidden=60000), "does not fit network.json"),
    (lambda settings: settings["transcript"]["encoder"]["scratch"].update(max_tokens=10**12), "does not fit"),
)


@pytest.mark.parametrize(("spoil", "message"), MALFORMED)
def test_malformed_settings_of_a_download_are_one_line(shared, spoil, message):
    settings = json.loads((shared / "network.json").read_text())["settings"]
    spoil(settings)
    rewrite(shared / "network.json", settings=settings)
    with pytest.raises(LalmMerError, match=message) as caught:
        open_recognizer(shared)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [({"labels": [*LABELS[::-1]]}, "expected those of run.json, single"),
     ({"kind": "multi"}, "multi labels"),
     ({"kind": "scalar"}, "kind 'scalar' with 0 ranges; expected one of single, multi, scalar, and a range for each"),
     ({"ranges": [[0, 1]]}, "kind 'single' with 1 ranges")],
)  # fmt: skip
def test_a_download_that_contradicts_itself_is_one_line(shared, values, message):
    rewrite(shared / "network.json", **values)
    with pytest.raises(ModelError, match=message):
        open_recognizer(shared)


def test_an_encoder_of_other_settings_than_in_training_is_refused(shared):
    settings = json.loads((shared / "network.json").read_text())["settings"]
    settings["audio"]["encoder"]["trim_db"] = 1.0
    rewrite(shared / "network.json", settings=settings)
    with pytest.raises(ModelError, match=r"settings give the audio encoder .*1\.0.*, but it was trained with "):
        open_recognizer(shared)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_of_a_download_that_are_not_finite_are_refused(shared, value):
    spoil_weights(shared, value)
    with pytest.raises(ModelError, match=r"tensor head\.bias has values that are not finite"):
        open_recognizer(shared)


def test_weights_of_another_type_are_refused(shared):
    file = shared / "model.safetensors"
    save_file({name: value.to(torch.int32) for name, value in load_file(file).items()}, file)
    with pytest.raises(ModelError, match=r"is torch\.int32, expected torch\.float32"):
        open_recognizer(shared)


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b'{"model": 1}', b'{"model": {"vocab": ["a"]}}', b'{"model": {"vocab": {"a": "b"}}}',
     b'{"model": {"vocab": {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 9}}}',
     b'{"model": {"vocab": {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}}}'],
)  # fmt: skip
def test_a_malformed_tokenizer_of_a_download_is_one_line(shared, content):
    (shared / "tokenizer" / "tokenizer.json").write_bytes(content)
    with pytest.raises(ModelError) as caught:
        open_recognizer(shared)
    assert "\n" not in str(caught.value)


def test_nothing_but_the_vocabulary_is_read_of_a_tokenizer(shared, assembled):
    evil = {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}, "tokenizer_class": "Evil", "vocab_file": "/etc/passwd"}
    (shared / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(evil))
    assert torch.equal(log_probs(open_recognizer(shared)), log_probs(open_recognizer(assembled)))
