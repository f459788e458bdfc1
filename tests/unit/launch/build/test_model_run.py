from types import SimpleNamespace

import pytest

from lalm_mer.core.notes import Note, NoteCode
from lalm_mer.corpora.settings import READERS
from lalm_mer.launch.build.model_run import LoadedRun
from lalm_mer.models.clap import Clap
from lalm_mer.models.families import DUAL_ENCODERS, FAMILIES, is_supported
from lalm_mer.models.registry import model_class

MODELS = {name: model_class(name) for name in (*FAMILIES, *DUAL_ENCODERS) if is_supported(name)}


def model(name, *, random=False):
    return SimpleNamespace(name=name, contamination=MODELS[name].contamination, randomly_initialised=random)


def data(corpus, **refused):
    return SimpleNamespace(folded=SimpleNamespace(corpus=SimpleNamespace(name=corpus)), refused=refused)


def notes(model, data, shots=()):
    return LoadedRun(None, model, SimpleNamespace(shots=shots), data, {}).notes()


@pytest.mark.parametrize("name", sorted(MODELS))
def test_contamination_is_noted_only_for_published_weights(name):
    for corpus, known in MODELS[name].contamination.items():
        assert corpus in READERS
        contamination = Note(NoteCode.CONTAMINATION, facts={"model": name, "known": known})
        assert notes(model(name), data(corpus)) == [contamination]
        assert notes(model(name, random=True), data(corpus)) == [Note(NoteCode.RANDOMLY_INITIALISED)]
    assert notes(model(name), data("elsewhere")) == []


def test_clap_states_the_contamination_of_every_real_corpus():
    real = set(READERS) - {"manifest", "circumplex", "readings"}
    assert set(Clap.contamination) == real
    collected = {corpus for corpus, known in Clap.contamination.items() if "but in the project's list" in known}
    assert collected == {"ravdess", "crema_d", "iemocap"}
    assert all("arXiv:2211.06687" in known and known.endswith(".") for known in Clap.contamination.values())


def test_refused_utterances_are_noted_by_split_with_examples():
    reasons = {f"u{number}": f"{number} s long" for number in range(7)}
    refused = data("elsewhere", train=reasons, test={"u0": "too long"})
    ids = ("u0", "u1", "u2", "u3", "u4")
    assert notes(model("clap"), refused) == [
        Note(NoteCode.LEFT_OUT, "train", 7, ids, tuple(reasons[name] for name in ids)),
        Note(NoteCode.UNSCORED, "test", 1, ("u0",), ("too long",)),
    ]


def test_answered_examples_are_noted():
    answered = notes(model("qwen2_audio"), data("elsewhere"), shots=range(4))
    assert answered == [Note(NoteCode.ANSWERED_EXAMPLES, "train", 4)]
