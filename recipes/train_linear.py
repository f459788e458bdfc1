"""Linear models: logistic regression or linear SVM of openSMILE functionals, pooled vectors and TF-IDF.

They are a reference for every comparison: scikit-learn fits them in seconds, and the strength of the regularisation is
chosen on dev. Features are computed once for all folds.

Example:
  python recipes/train_linear.py --config recipes/ravdess/linear.yaml linear.audio.feature_set=egemaps split.fold=3

The run folder receives run.json, model/ (safetensors and JSON), predictions.parquet, dev_predictions.parquet and
metrics.json. lalm-mer predict and late_fusion.py take it.
"""

from lalm_mer.core.imports import quick_imports
from lalm_mer.core.names import LINEAR
from lalm_mer.core.paths import as_recorded
from lalm_mer.launch.arguments import run_recipe
from lalm_mer.launch.config.linear import LinearSettings


def train_linear(settings: LinearSettings) -> None:
    """Fit the model and score the test set."""
    with quick_imports():  # imported here, so that --help and errors in the config do not wait for torch
        from lalm_mer.launch.build.linear import open_linear_run
        from lalm_mer.launch.run.identity import feature_identity
        from lalm_mer.launch.run.linear import fit_and_score
        from lalm_mer.launch.run.run_folder import is_finished, open_run, run_lock

    opened = open_linear_run(settings)
    settings = opened.settings
    with run_lock(opened.folder, writes=True):
        if is_finished(opened.folder, settings, opened.hashes):
            print(f"{as_recorded(opened.folder)} is finished; nothing to do")
            return
        vectors, data = opened.load()
        identity = feature_identity(settings, data, opened.hashes, LINEAR)
        run = open_run(opened.folder, identity, LinearSettings, writes=True)
        fit_and_score(vectors, settings, run, data)


if __name__ == "__main__":
    run_recipe(__doc__, LinearSettings, train_linear)
