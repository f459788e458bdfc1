"""Layer probes: how well do the layers of a frozen encoder predict the labels? A linear model of each, in every fold.

A system is a YAML of train_linear.py with a pretrained encoder of audio or transcripts. Each utterance is encoded once,
for all layers and folds. Dev chooses c of each fit, and the layer of each fold. Finished runs are not repeated: rerun
the same command to resume, also with more layers or folds.

Example:
  python recipes/probe_layers.py --config recipes/ravdess/probe_layers.yaml processes=2

It ends with a table by layer and the figure on test of the layers that dev chooses, and layer_probes.csv and
report.html (with the plot) in OUTPUT. Logs of the workers are in OUTPUT/logs.
"""

import shlex
import sys
from pathlib import Path

from lalm_mer.launch.arguments import run_recipe
from lalm_mer.launch.config.probe_layers import ProbeLayersSettings


def probe_layers(settings: ProbeLayersSettings) -> None:
    """Run what is not finished, and report all runs."""
    # imported here, so that --help and errors in the config do not wait
    from lalm_mer.launch.cross_validation.series import runs_of_points
    from lalm_mer.launch.cross_validation.workers import run_all
    from lalm_mer.launch.probe_layers.plan import plan_layers
    from lalm_mer.launch.probe_layers.report import probes_of, report_probes

    out, planned = Path(settings.output.dir), plan_layers(settings)
    run_all(runs_of_points(planned), settings.processes, out / "logs")
    print(report_probes(probes_of(planned), out, shlex.join(["python", *sys.argv])))


def work_on(settings: ProbeLayersSettings) -> None:
    """Run, in this process, what no other worker works on."""
    from cross_validate import recipes  # the recipe in this folder

    from lalm_mer.launch.cross_validation.series import runs_of_points
    from lalm_mer.launch.cross_validation.workers import work
    from lalm_mer.launch.probe_layers.plan import plan_layers

    work(runs_of_points(plan_layers(settings)), recipes())


if __name__ == "__main__":
    run_recipe(__doc__, ProbeLayersSettings, probe_layers, worker=work_on)
