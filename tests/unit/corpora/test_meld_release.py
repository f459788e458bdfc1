"""The label tables that MELD publishes: counts, known defects and the official split."""

from pathlib import Path

import pytest
from small_release import prepare

from lalm_mer.corpora import load, meld
from lalm_mer.protocols.folded_corpus import fold_corpus
from lalm_mer.protocols.protocol import load_protocol
from lalm_mer.protocols.splits import SPLITS

pytestmark = pytest.mark.slow
PROTOCOLS = Path(__file__).resolve().parents[3] / "eval" / "protocols"


@pytest.fixture(scope="module")
def prepared(shared_data_folder, tmp_path_factory):
    root = shared_data_folder / "meld"
    if not root.is_dir():
        pytest.skip(f"no MELD in {shared_data_folder}")
    folder = tmp_path_factory.mktemp("meld") / "out"
    _, _, rejected = prepare(meld, root, folder, keep_missing_audio=True)
    assert rejected == []
    return load(folder)


def test_the_released_tables(prepared):
    assert prepared.summary["n_utterances"] == prepared.summary["n_without_audio"] == 13708
    columns = prepared.dataset.select_columns(["split", "label", "sentiment", "speaker", "start_s"]).to_pandas()
    assert columns["split"].value_counts().to_dict() == {"train": 9989, "test": 2610, "dev": 1109}
    names = ("neutral", "joy", "surprise", "anger", "sadness", "disgust", "fear")
    expected = {
        "train": (4710, 1743, 1205, 1109, 683, 271, 268),
        "dev": (470, 163, 150, 153, 111, 22, 40),
        "test": (1256, 402, 281, 345, 208, 68, 50),
    }
    for split, counts in expected.items():
        rows = columns[columns["split"] == split]
        assert rows["label"].value_counts().to_dict() == dict(zip(names, counts, strict=True))
    assert columns[columns["split"] == "test"]["sentiment"].value_counts().to_dict() == {0: 1256, -1: 833, 1: 521}
    assert columns.groupby("split")["speaker"].nunique().to_dict() == {"train": 260, "dev": 47, "test": 100}
    assert columns["start_s"].notna().all()
    assert prepared.summary["tasks"]["meld_7"]["unmapped"] == 0
    assert prepared.summary["tasks"]["meld_sentiment_3"]["unmapped"] == 0


def test_known_defects_are_rows_of_the_release_and_name_the_impossible_labels(prepared):
    columns = prepared.dataset.select_columns(["utterance_id", "start_s", "end_s"]).to_pandas()
    length_s = (columns["end_s"] - columns["start_s"]).set_axis(columns["utterance_id"])
    assert set(meld.KNOWN_DEFECTS) <= set(length_s.index)
    impossible = set(length_s.index[(length_s < 0.05) | (length_s > 30)])
    assert impossible <= set(meld.KNOWN_DEFECTS)
    assert {"test_dia155_utt3", "test_dia38_utt4", "test_dia220_utt0"} <= impossible
    assert "304.9 s" in meld.KNOWN_DEFECTS["test_dia38_utt4"]
    assert length_s["test_dia38_utt4"] == pytest.approx(304.94)


@pytest.mark.parametrize(("name", "labels"), [("meld_official", 7), ("meld_sentiment_official", 3)])
def test_the_protocol_holds_on_the_released_tables(prepared, name, labels):
    protocol = load_protocol(PROTOCOLS / f"{name}.yaml")
    folded = fold_corpus(prepared, protocol)
    assert [len(folded.folds.ids(1, split)) for split in SPLITS] == [9989, 1109, 2610]
    assert len(folded.label_set) == labels
    assert folded.unmapped == 0
    assert folded.folds.departures() == []
    assert protocol.primary_metric == "weighted_f1"
    assert folded.folds.shared["session"] > 100
    assert {"speaker", "session", "transcript"} == set(folded.folds.shared)
    assert any("speaker-dependent" in line for line in folded.folds.describe())
