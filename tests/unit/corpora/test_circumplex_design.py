import itertools
from collections import Counter, defaultdict

import pytest

from lalm_mer.core.errors import CorpusError
from lalm_mer.corpora import load_tasks
from lalm_mer.corpora.circumplex import Ceilings, ceilings, design
from lalm_mer.corpora.circumplex.bounds import best_additive_uar, best_uar


def test_the_splits_share_all_words_but_no_speaker_carrier_voice_hum_or_sentence():
    splits = {split: design.cells(split) for split in design.SPLITS}
    for first, second in itertools.combinations(design.SPLITS, 2):
        for trait in (
            lambda cell: cell.speaker.name,
            lambda cell: cell.speaker.voice,
            lambda cell: cell.carrier.name,
            lambda cell: cell.carrier.hum,
            lambda cell: (cell.carrier.before, cell.carrier.after),
            lambda cell: design.transcript("masked", cell),
        ):
            assert not {trait(cell) for cell in splits[first]} & {trait(cell) for cell in splits[second]}
        assert {cell.word for cell in splits[first]} == {cell.word for cell in splits[second]} == set(design.WORDS)


@pytest.mark.parametrize("split", ["dev", "test"])
def test_dev_and_test_are_fully_crossed(split):
    cells = design.cells(split)
    crossed = itertools.product(
        [carrier for carrier in design.CARRIERS if carrier.split == split],
        design.WORDS,
        [speaker for speaker in design.SPEAKERS if speaker.split == split],
        design.AROUSALS,
    )
    assert Counter((c.carrier, c.word, c.speaker, c.arousal) for c in cells) == Counter(crossed)


@pytest.mark.parametrize("variant", design.VARIANTS)
@pytest.mark.parametrize("split", design.SPLITS)
def test_labels_are_balanced_in_every_split(variant, split):
    counts = Counter(design.label(variant, cell) for cell in design.cells(split, seed=3))
    assert set(counts) == set(design.labels(variant))
    assert len(set(counts.values())) == 1


@pytest.mark.parametrize("seed", [0, 1])
def test_in_train_no_word_speaker_or_carrier_reveals_arousal(seed):
    cells = design.cells("train", seed)
    for trait in ("word", "speaker", "carrier"):
        counts = defaultdict(Counter)
        for cell in cells:
            counts[getattr(cell, trait)][cell.arousal] += 1
        assert all(count["calm"] == count["aroused"] for count in counts.values())


def test_the_seed_draws_only_the_words_of_train():
    assert design.cells("train", 0) == design.cells("train", 0)
    assert design.cells("train", 0) != design.cells("train", 1)
    assert design.cells("test", 0) == design.cells("test", 1)


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("masked", Ceilings(transcript=0.5, audio=0.5, both=1.0, additive=1.0)),
        ("spoken", Ceilings(transcript=0.5, audio=1.0, both=1.0, additive=1.0)),
        ("sarcastic", Ceilings(transcript=0.5, audio=0.5, both=1.0, additive=0.75)),
        ("neutral", Ceilings(transcript=0.25, audio=0.5, both=0.5, additive=0.5)),
        ("wordless", Ceilings(transcript=0.25, audio=0.5, both=0.5, additive=0.5)),
        ("mismatched", Ceilings(transcript=0.5, audio=1.0, both=1.0, additive=1.0)),
    ],
)
def test_ceilings_without_noise(variant, expected):
    assert ceilings(variant) == expected


@pytest.mark.parametrize("noise", [0.125, 0.25, 0.5])
def test_noise_lowers_exactly_the_ceilings_that_depend_on_the_voice(noise):
    test = design.cells("test", noise=noise)
    assert sum(cell.voice_arousal != cell.arousal for cell in test) == noise * len(test)
    found = ceilings("masked", noise)
    assert found.transcript == 0.5
    assert found.audio == pytest.approx((1 - noise) / 2)
    assert found.both == pytest.approx(1 - noise)


def test_noise_changes_equally_many_calm_and_aroused_voices_by_complete_cells():
    cells = design.cells("train", noise=0.2)
    turned = {(c.carrier, c.speaker, c.arousal): c.voice_arousal != c.arousal for c in cells}
    assert all(turned[c.carrier, c.speaker, c.arousal] == (c.voice_arousal != c.arousal) for c in cells)
    a_fifth_of_the_pairs = len(turned) / 2 / 5
    counts = Counter(arousal for (_, _, arousal), is_turned in turned.items() if is_turned)
    assert counts == {"calm": a_fifth_of_the_pairs, "aroused": a_fifth_of_the_pairs}


def test_quadrants_with_inverted_valence_would_still_be_solved_by_a_sum():
    """The reason for two labels in the sarcastic variant: with quadrants each pair of cues has its own label."""
    cells = design.cells("test")
    flipped = {"happy": "angry", "angry": "happy", "content": "content", "sad": "sad"}
    quadrants = [flipped[design.label("masked", cell)] for cell in cells]
    words, voices = [cell.word.valence for cell in cells], [cell.arousal for cell in cells]
    assert best_additive_uar(words, voices, quadrants) == 1.0
    valences = [design.label("sarcastic", cell) for cell in cells]
    assert best_uar(list(zip(words, voices, strict=True)), valences) == 1.0
    assert best_additive_uar(words, voices, valences) == 0.75


def test_best_uar_is_the_maximum_over_all_tables_of_decisions():
    evidence, truth = list("aabbbcc"), list("xyyzzxz")
    tables = (dict(zip("abc", table, strict=True)) for table in itertools.product("xyz", repeat=3))

    def uar(table):
        recalls = [
            sum(table[e] == t == label for e, t in zip(evidence, truth, strict=True)) / truth.count(label)
            for label in "xyz"
        ]
        return sum(recalls) / 3

    assert best_uar(evidence, truth) == pytest.approx(max(map(uar, tables)))


def test_mismatched_shows_a_word_of_the_opposite_valence():
    valence = {word.form: word.valence for word in design.WORDS}
    for cell in design.cells("test"):
        assert valence[design.shown_word("mismatched", cell)] != cell.word.valence
        assert design.spoken_word("mismatched", cell) == cell.word.form


def test_labels_are_those_of_the_package_tasks():
    tasks = load_tasks("circumplex")
    assert tasks["circumplex"].label_set.labels == design.labels("masked")
    assert tasks["circumplex_sarcastic"].label_set.labels == design.labels("sarcastic")


@pytest.mark.parametrize(("variant", "noise", "message"), [("ironic", 0.0, "'ironic'"), ("masked", 0.6, "0.6")])
def test_settings_outside_the_design_are_named(variant, noise, message):
    with pytest.raises(CorpusError, match=message):
        ceilings(variant, noise)
