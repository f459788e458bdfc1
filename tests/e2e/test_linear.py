"""The linear model of real recordings equals one by hand: openSMILE, soundfile and scikit-learn alone."""

import re
import shutil

import numpy as np
import pytest
import soundfile
import yaml
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lalm_mer.evaluation.predictions import Predictions
from lalm_mer.launch.build.open_recognizer import open_recognizer
from lalm_mer.serving.predict import predict

SPEAKERS = ("03", "04", "05", "06")  # test and dev of fold 1 are the first two
PATTERN = re.compile(r"03-01-0(?P<emotion>[1-8])-01-01-0[12]-(?P<actor>0[3-6])")


@pytest.fixture
def release(shared_data, tmp_path):
    """Normal intensity and one sentence of four actors."""
    pytest.importorskip("opensmile", reason="the extra `acoustic` is not installed")
    for file in sorted((shared_data / "ravdess").rglob("*.flac")):
        if PATTERN.fullmatch(file.stem):
            (tmp_path / "release" / file.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, tmp_path / "release" / file.parent.name)
    return tmp_path / "release"


def functionals(files):
    import opensmile

    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)
    return np.stack([smile.process_signal(*soundfile.read(file, dtype="float32")).to_numpy()[0] for file in files])


@pytest.mark.slow
def test_egemaps_functionals_and_logistic_regression_equal_those_by_hand(release, run_script, tmp_path, capsys):
    corpus = [f"corpus.root={release}", f"output.dir={tmp_path / 'data'}"]
    assert run_script("recipes/prepare_corpus.py", "--config", "recipes/corpora/ravdess.yaml", *corpus) == 0
    folds = {"rule": "listed", "column": "speaker", "test": {fold: [each] for fold, each in enumerate(SPEAKERS, 1)}}
    protocol = {"name": "four", "version": 1, "source": "tests", "task": "ravdess_8", "disjoint_in": ["speaker"],
                "shared_in": ["script", "transcript"], "folds": folds}  # fmt: skip
    (tmp_path / "protocol.yaml").write_text(yaml.safe_dump(protocol))
    options = [f"data.dir={tmp_path / 'data'}", f"split.protocol={tmp_path / 'protocol.yaml'}"]
    options += [f"output.dir={tmp_path / 'run'}", f"linear.cache_dir={tmp_path / 'cache'}", "linear.processes=1"]
    options += ["linear.audio.feature_set=egemaps", "linear.c=[0.1]"]
    assert run_script("recipes/train_linear.py", "--config", "recipes/ravdess/linear.yaml", *options) == 0

    files = sorted(release.rglob("*.flac"))
    found = [PATTERN.fullmatch(file.stem) for file in files]
    actors, emotions = (np.array([each[name] for each in found]) for name in ("actor", "emotion"))
    features, test = functionals(files).astype(np.float64), actors == SPEAKERS[0]
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", max_iter=10_000))
    model.fit(features[~test], emotions[~test])
    table = Predictions.read(tmp_path / "run" / "predictions.parquet")
    rows = table.frame.set_index("utterance_id").loc[[file.stem for file in files if test[files.index(file)]]]
    by_hand = model.predict_proba(features[test])  # emotions 1 to 8 are the labels of the task in their order
    assert np.exp(rows.filter(like="log_prob_").to_numpy()) == pytest.approx(by_hand, abs=1e-5)

    first = next(file for file in files if test[files.index(file)])
    (row,) = predict(open_recognizer(tmp_path / "run"), [first])
    assert list(row.probabilities.values()) == pytest.approx(by_hand[0], abs=1e-5)
