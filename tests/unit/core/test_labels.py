import pytest

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import UNPARSED, UNSCORED, Interval, LabelSet, Task, plurality, vote_distribution


def test_a_label_without_forms_is_its_own_form():
    label_set = LabelSet(("hap", "sad"), {"hap": ("happy", "excited")})
    assert label_set.forms_of("hap") == ("happy", "excited")
    assert label_set.forms_of("sad") == ("sad",)
    assert [label_set.index(label) for label in ("hap", "sad")] == [0, 1]
    assert len(label_set) == 2


@pytest.mark.parametrize(
    ("labels", "forms", "fragment"),
    [
        (("happy",), {}, "two or more distinct labels"),
        (("happy", "happy"), {}, "two or more distinct labels"),
        (("happy", UNPARSED), {}, "reserved"),
        (("happy", UNSCORED), {}, "reserved"),
        (("happy", "sad"), {"angry": ("angry",)}, "angry"),
        (("happy", "sad"), {"happy": ()}, "empty surface form"),
        (("happy", "sad"), {"happy": ("happy", " ")}, "empty surface form"),
        (("happy", "sad"), {"happy": ("glad",), "sad": ("glad",)}, "'glad' belongs to both 'happy' and 'sad'"),
        (("happy", "sad"), {"happy": ("sad",)}, "belongs to both"),
    ],
)
def test_a_label_set_that_is_ambiguous_is_refused(labels, forms, fragment):
    with pytest.raises(ConfigError, match=fragment):
        LabelSet(labels, forms)


def test_a_task_maps_labels_and_omits_others():
    task = Task("iemocap_2", LabelSet(("hap", "sad")), {"hap": "hap", "exc": "hap", "sad": "sad"})
    assert [task.label_of(label) for label in ("exc", "hap", "fru", None)] == ["hap", "hap", None, None]


def test_a_task_cannot_map_outside_its_labels():
    with pytest.raises(ConfigError, match="task t: label 'exc' maps to 'joy'"):
        Task("t", LabelSet(("hap", "sad")), {"exc": "joy"})


@pytest.mark.parametrize(
    ("written", "inside", "outside"),
    [("[-3, 0)", (-3, -0.1), (0, -3.1)), ("(0, 3]", (0.1, 3), (0, 3.1)), ("[1,1]", (1,), (0.99, 1.01))],
)
def test_an_interval_contains_its_closed_ends(written, inside, outside):
    interval = Interval.parse(written)
    assert all(value in interval for value in inside)
    assert not any(value in interval for value in outside)


@pytest.mark.parametrize("written", ["0 to 3", "[3, 0]", "[0; 3]", "", "[a, b]", "[1.2.3, 4]"])
def test_a_malformed_interval_is_refused(written):
    with pytest.raises(ConfigError, match="expected two numbers in order"):
        Interval.parse(written)


VOTES = [
    {"label": "face:H", "votes": 9},
    {"label": "voice:A", "votes": 3},
    {"label": "voice:S", "votes": 1},
]


def test_votes_of_a_channel_are_a_distribution():
    assert vote_distribution(VOTES, "voice") == {"A": 0.75, "S": 0.25}
    assert sum(vote_distribution(VOTES).values()) == 1
    assert vote_distribution(VOTES, "both") == {}
    assert plurality({"A": 0.75, "S": 0.25}) == "A"
    assert plurality({"A": 0.5, "S": 0.5}) is None  # a tie decides nothing
    assert plurality({}) is None


def test_a_task_on_the_votes_of_a_channel():
    task = Task("voice", LabelSet(("angry", "sad")), {"A": "angry", "S": "sad"}, columns=("ratings",), channel="voice")
    assert task.label_of(VOTES) == "angry"
    assert task.label_of(VOTES[:1]) is None
    assert task.label_of([{"label": "voice:A", "votes": 1}, {"label": "voice:S", "votes": 1}]) is None


def test_a_task_on_a_number():
    intervals = {"negative": Interval.parse("[-3, 0)"), "positive": Interval.parse("(0, 3]")}
    task = Task("two", LabelSet(("negative", "positive")), columns=("sentiment",), intervals=intervals)
    assert [task.label_of(value) for value in (-3, -0.3, 0, 2.0, None, 9)] == [
        "negative", "negative", None, "positive", None, None
    ]  # fmt: skip


def test_a_task_of_several_labels_and_one_of_a_number():
    multi = Task(
        "six", LabelSet(("happy", "sad")), {"happy": "happy", "sad": "sad"}, kind="multi", columns=("intensities",)
    )
    cell = [
        {"label": "sad", "intensity": 0.3},
        {"label": "happy", "intensity": 0.0},
        {"label": "fear", "intensity": 2.0},
    ]
    assert multi.targets_of(cell) == ("sad",)
    assert (multi.targets_of([]), multi.targets_of(None)) == ((), None)
    scalar = Task("number", None, kind="scalar", columns=("sentiment",))
    assert (scalar.targets_of(-1.5), scalar.targets_of(None)) == ((), None)
    for task in (multi, scalar):
        with pytest.raises(ConfigError, match=f"task {task.name} is {task.kind}: an utterance has no single label"):
            task.label_of(cell)
    with pytest.raises(ConfigError, match="predicts numbers and has no labels"):
        _ = scalar.labels


@pytest.mark.parametrize(
    "parts",
    [
        {"kind": "single", "columns": ("transcript",)},
        {"kind": "multi", "columns": ("label",)},
        {"kind": "scalar", "columns": ("sentiment",)},  # with a label set
        {"kind": "several"},
        {"columns": ("label", "ratings")},  # of one label
        {"columns": ()},
        {"columns": ("sentiment",)},  # without intervals
        {"intervals": {"a": Interval(0, 1, True, True)}},  # of a label
    ],
)
def test_parts_of_a_task_that_do_not_fit_are_refused(parts):
    with pytest.raises(ConfigError, match="task t"):
        Task("t", LabelSet(("a", "b")), **parts)
