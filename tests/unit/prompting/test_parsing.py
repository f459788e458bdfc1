"""Generated answers: labels that must be found, and answers that must not be parsed."""

import time
from itertools import permutations
from pathlib import Path

import pytest
import yaml

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import UNPARSED, LabelSet
from lalm_mer.corpora.base import load_tasks
from lalm_mer.prompting.parsing import AnswerParser, load_synonyms

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = yaml.safe_load((ROOT / "tests" / "golden" / "answers.yaml").read_text("utf-8"))
ENGLISH = load_synonyms(ROOT / "prompts" / "synonyms" / "english.yaml")
TASKS = {
    name: task.label_set
    for path in sorted((ROOT / "lalm_mer" / "corpora" / "tasks").glob("*.yaml"))
    for name, task in load_tasks(path.stem).items()
    if task.kind == "single"
}
CARRIERS = [
    "{}", " {} ", "{}.", "{}!", "**{}**", "“{}”", "'{}'", "Emotion: {}", "emotion={};", "The speaker sounds {}.",
    "I think it's {}", '{{"emotion": "{}"}}', "1) {}", "The answer is:\n\n{}\n", "`{}`", "😀 {}", "({})",
    "She is, I'd say, {}",
]  # fmt: skip
PAIRS = [
    "{} or {}",
    "{}/{}",
    "{}, {}",
    "{} and {}",
    "{}\n{}",
    "{}. Then again {}.",
    '{{"{}": 0.9, "{}": 0.1}}',
    "{} ({})",
]
NEGATIONS = ["not {}", "The speaker isn't {}", "no {} at all", "neither {}", "anything but {}", "{} is unlikely"]


def test_there_are_enough_answers():
    rows = [row for rows in GOLDEN.values() for row in rows]
    assert len(rows) > 100
    assert len({answer for answer, _ in rows}) > 100


@pytest.mark.parametrize(
    ("task", "answer", "label"), [(task, *row) for task, rows in GOLDEN.items() for row in rows]
)  # fmt: skip
def test_answers_are_parsed_as_annotated(task, answer, label):
    assert AnswerParser(TASKS[task], ENGLISH)(answer) == (label or UNPARSED)


def names(label_set):
    """All forms and synonyms of each label."""
    return {
        label: [word for form in label_set.forms_of(label) for word in (form, *ENGLISH.get(form, ()))]
        for label in label_set.labels
    }


@pytest.mark.parametrize("task", sorted(TASKS))
def test_every_form_in_every_carrier_is_its_label(task):
    parse = AnswerParser(TASKS[task], ENGLISH)
    for label, words in names(TASKS[task]).items():
        for word in words:
            for carrier in CARRIERS:
                for written in (word, word.upper()):
                    assert parse(carrier.format(written)) == label, (carrier, written)


@pytest.mark.parametrize("task", sorted(TASKS))
def test_two_labels_are_never_parsed(task):
    parse = AnswerParser(TASKS[task], ENGLISH)
    found = names(TASKS[task])
    for one, other in permutations(found, 2):
        for first, second in ((found[one][0], found[other][-1]), (found[one][-1], found[other][0])):
            if second.split()[0] in ("no", "not"):  # no emotion: a word for neutral that takes the other's negation
                continue
            for pair in PAIRS:
                assert parse(pair.format(first, second)) == UNPARSED, (pair, first, second)


@pytest.mark.parametrize("task", sorted(TASKS))
def test_a_negated_label_is_not_named(task):
    parse = AnswerParser(TASKS[task], ENGLISH)
    for label, words in names(TASKS[task]).items():
        for word in words:
            for negation in NEGATIONS:
                assert parse(negation.format(word)) != label, (negation, word)


@pytest.mark.parametrize("piece", ["happy, ", 'says "', "'a ", '"a" ', "options: happy ", "can't ", "\u201c"])
def test_a_very_long_answer_is_parsed_at_once(piece):
    started = time.perf_counter()
    AnswerParser(TASKS["ravdess_8"], ENGLISH)(piece * 20_000)
    assert time.perf_counter() - started < 5


def test_without_synonyms_only_forms_count():
    assert AnswerParser(TASKS["ravdess_8"])("joy") == UNPARSED
    assert AnswerParser(TASKS["ravdess_8"])("afraid") == "fearful"


def test_the_longest_form_wins():
    labels = LabelSet(("a", "b"), {"a": ("happy",), "b": ("very happy",)})
    assert [AnswerParser(labels)(answer) for answer in ("happy", "Very happy!", "unhappy")] == ["a", "b", UNPARSED]


def test_forms_of_another_language_are_found():
    labels = LabelSet(("ang", "hap"), {"ang": ("wütend", "生气", "غاضب"), "hap": ("fröhlich", "高兴", "سعيد")})
    parse = AnswerParser(labels)
    assert parse("Sie klingt WÜTEND.") == "ang"
    assert parse("Sie klingt WU\u0308TEND.") == "ang"
    assert parse("她听起来很高兴。") == "hap"
    assert parse("她不高兴。") == UNPARSED
    assert parse("她不高兴,是生气。") == "ang"
    assert parse("المتحدث غاضب") == "ang"


def test_words_for_two_labels_are_refused():
    labels = LabelSet(("happy", "excited"))
    with pytest.raises(ConfigError, match="'excited' names both 'happy' and 'excited'"):
        AnswerParser(labels, {"happy": ["joy", "Excited"]})


@pytest.mark.parametrize("entry", ["happy: []", 'happy: ["!"]', "happy: joy", "happy: [joy]\n  happy: [fun]"])
def test_a_file_of_synonyms_is_read_strictly(tmp_path, entry):
    path = tmp_path / "words.yaml"
    path.write_text(f"synonyms:\n  {entry}\n", "utf-8")
    with pytest.raises(ConfigError, match=r"words\.yaml"):
        load_synonyms(path)
