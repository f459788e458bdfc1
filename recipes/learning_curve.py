"""Learning curve: how many labelled utterances of your own do you need? Train on 25, 50, 100 ... of them, score dev.

A system is a YAML of a recipe that trains, with overrides, as in cross_validate.py. Utterances are drawn
with the shares of classes and speakers; those of a smaller number are a part of those of a larger one. No run opens
the test set. Finished runs are not repeated: rerun the same command to resume, also with more sizes or seeds.

Example:
  python recipes/learning_curve.py --config recipes/manifest/learning_curve.yaml sizes=[25,50,100] processes=2

It ends with a table, and learning_curve.csv and report.html (with the plot) in OUTPUT. Logs of the workers are in
OUTPUT/logs.
"""

import shlex
import sys
from pathlib import Path

from lalm_mer.launch.arguments import run_recipe
from lalm_mer.launch.config.learning_curve import LearningCurveSettings


def learning_curve(settings: LearningCurveSettings) -> None:
    """Run what is not finished, and report all runs."""
    # imported here, so that --help and errors in the config do not wait
    from lalm_mer.launch.cross_validation.series import runs_of_points
    from lalm_mer.launch.cross_validation.workers import run_all
    from lalm_mer.launch.learning_curve.plan import plan_sizes
    from lalm_mer.launch.learning_curve.report import points_of, report_curve

    out, planned = Path(settings.output.dir), plan_sizes(settings)
    run_all(runs_of_points(planned), settings.processes, out / "logs")
    print(report_curve(points_of(planned), out, shlex.join(["python", *sys.argv])))


def work_on(settings: LearningCurveSettings) -> None:
    """Run, in this process, what no other worker works on."""
    from cross_validate import recipes  # the recipe in this folder

    from lalm_mer.launch.cross_validation.series import runs_of_points
    from lalm_mer.launch.cross_validation.workers import work
    from lalm_mer.launch.learning_curve.plan import plan_sizes

    work(runs_of_points(plan_sizes(settings)), recipes())


if __name__ == "__main__":
    run_recipe(__doc__, LearningCurveSettings, learning_curve, worker=work_on)
