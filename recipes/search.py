"""Hyper-parameter search on dev by Optuna: train with the values of each trial, and keep those with the highest figure.

No trial opens the test set. Finished trials are not repeated: rerun the same command to resume, with a larger number of
trials to continue.

Example:
  python recipes/search.py --config recipes/ravdess/search.yaml trials=40

OUTPUT receives trials.csv, best.yaml (the best values), report.html, the storage of Optuna (study.db), and a run folder
for each trial, without its weights. The command that scores the test set with the best values is printed.
"""

import shlex
import sys

from lalm_mer.launch.arguments import run_recipe
from lalm_mer.launch.config.search import SearchSettings


def search(settings: SearchSettings) -> None:
    """Run the trials that are left, and report all."""
    # imported here, so that --help and errors in the config do not wait
    from cross_validate import recipes  # the recipe in this folder

    from lalm_mer.launch.search.report import report_search
    from lalm_mer.launch.search.study import open_search, run_trials

    opened = open_search(settings)
    trials = run_trials(opened, recipes()[settings.recipe])
    print(report_search(opened, trials, shlex.join(["python", *sys.argv])))


if __name__ == "__main__":
    run_recipe(__doc__, SearchSettings, search)
