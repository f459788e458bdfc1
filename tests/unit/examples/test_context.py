import pytest

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.schema import Turn, Utterance
from lalm_mer.corpora import load, write_corpus
from lalm_mer.examples.context import dialogue_context

TURNS = (  # utterance, dialogue, turn, start, speaker, transcript: in no order
    ("b1", "b", 1, 0.0, "Ann", "Hi."),
    ("a3", "a", 3, 9.0, "Bob", "Fine."),
    ("a1", "a", 1, 1.0, "Ann", "How are you?"),
    ("a2", "a", 2, 5.0, None, "Me?"),
    ("a10", "a", 10, 20.0, "Ann", "Good."),
    ("b2", "b", 2, 3.0, "Bob", None),
    ("b3", "b", 3, 4.0, "Ann", "Hello?"),
)


@pytest.fixture
def corpus(tmp_path, tone):
    def make(**without):
        rows = [
            Utterance(
                utterance_id=name, corpus="toy", audio_path=f"{name}.wav", audio_bytes=tone(hertz=100 + 7 * number),
                transcript=words, label="sad",
                **{"dialogue": dialogue, "turn": turn, "start_s": start, "speaker": speaker} | without,
            )
            for number, (name, dialogue, turn, start, speaker, words) in enumerate(TURNS)
        ]  # fmt: skip
        write_corpus(rows, corpus="toy", out_dir=tmp_path / "toy", loader_version="1", synthetic=True)
        return load(tmp_path / "toy")

    return make


ALL = {
    "a1": (), "a2": (Turn("Ann", "How are you?"),), "a3": (Turn("Ann", "How are you?"), Turn(None, "Me?")),
    "a10": (Turn(None, "Me?"), Turn("Bob", "Fine.")),
    "b1": (), "b2": (Turn("Ann", "Hi."),), "b3": (Turn("Ann", "Hi."),),
}  # fmt: skip


@pytest.mark.parametrize("without", [{}, {"turn": None}])
def test_the_latest_earlier_turns_are_ordered_by_turn_or_start(corpus, without):
    assert dialogue_context(corpus(**without), 2) == ALL


def test_other_transcripts_replace_those_of_the_corpus(corpus):
    recognised = {"a1": "who are you", "a2": None}
    context = dialogue_context(corpus(), 5, lambda name, own: recognised.get(name, own))
    assert context["a3"] == (Turn("Ann", "who are you"),)


@pytest.mark.parametrize(
    ("without", "message"),
    [
        ({"dialogue": None}, r"no dialogue for 7 utterances, for example a1"),
        ({"turn": None, "start_s": None}, "neither"),
    ],
)
def test_a_corpus_without_dialogues_or_order_is_refused(corpus, without, message):
    with pytest.raises(ConfigError, match=rf"argument 'turns': 2.*{message}"):
        dialogue_context(corpus(**without), 2)
