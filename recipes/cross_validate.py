"""Cross-validation: several systems over folds, seeds and modalities by one command, then their comparison.

A system is a YAML of a recipe that trains or scores, or of late_fusion.py, with overrides. Each run is one that the
recipe's own command would make, in OUTPUT/runs; runs share stored tower outputs and features. Finished runs
are not repeated: rerun the same command to resume. Logs of the workers are in OUTPUT/logs.

Example:
  python recipes/cross_validate.py --config recipes/ravdess/cross_validate.yaml --dry-run
  python recipes/cross_validate.py --config recipes/ravdess/cross_validate.yaml processes=2 seeds=[0,1,2]

It ends with a table (folds pooled, mean and standard deviation over seeds and over folds), the paired tests, and
comparison.csv, comparison_values.csv, comparison.json and report.html in OUTPUT.
"""

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lalm_mer.launch.arguments import run_recipe
from lalm_mer.launch.config.cross_validation import CrossValidationSettings


def cross_validate(settings: CrossValidationSettings) -> None:
    """Run what is not finished, and compare all runs."""
    # imported here, so that --help and errors in the config do not wait
    from lalm_mer.launch.cross_validation.plan import plan_runs
    from lalm_mer.launch.cross_validation.summary import summarize
    from lalm_mer.launch.cross_validation.workers import run_all

    out, runs = Path(settings.output.dir), plan_runs(settings)
    run_all(runs, settings.processes, out / "logs")
    print(summarize(runs, out, shlex.join(["python", *sys.argv])))


def dry_run(settings: CrossValidationSettings) -> None:
    """Print the runs and what each costs."""
    from lalm_mer.launch.cross_validation.plan import plan_runs
    from lalm_mer.launch.cross_validation.summary import plan_text

    print(plan_text(plan_runs(settings), settings.tflops))


def work_on(settings: CrossValidationSettings) -> None:
    """Run, in this process, what no other worker works on."""
    from lalm_mer.launch.cross_validation.plan import plan_runs
    from lalm_mer.launch.cross_validation.workers import work

    runs = plan_runs(settings)
    work(runs, recipes([run.folder for run in runs if run.recipe == "zero_shot"]))


def recipes(zero_shot_runs: Sequence[Path] = ()) -> dict[str, Callable[[Any], None]]:
    """Name -> function of each recipe that makes runs; they keep a base model for the next run.

    Args:
        zero_shot_runs: folders of runs whose scores a zero-shot run can take
    """
    from functools import partial

    from finetune import finetune  # the recipes in this folder
    from late_fusion import late_fusion
    from train_baseline import train_baseline
    from train_linear import train_linear
    from zero_shot import zero_shot

    from lalm_mer.launch.build.kept_model import KeptModel

    kept = KeptModel()
    return {
        "zero_shot": partial(zero_shot, kept=kept, known=zero_shot_runs),
        "finetune": partial(finetune, kept=kept),
        "train_baseline": train_baseline,
        "train_linear": train_linear,
        "late_fusion": late_fusion,
    }


if __name__ == "__main__":
    instead = {
        "--dry-run": (dry_run, "print the runs, their numbers of utterances, durations and commands; nothing is run")
    }
    run_recipe(__doc__, CrossValidationSettings, cross_validate, instead, worker=work_on)
