"""Late fusion: combine finished runs of any recognizers from their files of predictions.

The members, such as a fine-tuned audio-language model and a baseline, must have the same corpus, protocol, fold, labels
and utterances. The result is a run like any other: compare.py takes it, and lalm-mer predict opens its members.

Example:
  python recipes/late_fusion.py --config recipes/ravdess/late_fusion.yaml \\
      fusion.members=[outputs/runs/a,outputs/runs/b] fusion.rule=stacking output.dir=outputs/runs/fused

The run folder receives run.json with the members, model/late_fusion.json, predictions.parquet, metrics.json, and
dev_predictions.parquet if all members have one. The rules weighted and stacking need it: trained runs write it, and
zero-shot runs with scoring.dev=true.
"""

from lalm_mer.core.imports import quick_imports
from lalm_mer.core.paths import as_recorded
from lalm_mer.core.run_record import MODEL_FOLDER
from lalm_mer.launch.arguments import run_recipe
from lalm_mer.launch.config.late_fusion import LateFusionSettings


def late_fusion(settings: LateFusionSettings) -> None:
    """Combine the members and score the test set."""
    with quick_imports():  # imported here, so that --help and errors in the config do not wait
        from lalm_mer.launch.build.late_fusion import open_late_fusion
        from lalm_mer.launch.run.run_folder import is_finished, open_run, run_lock

    opened = open_late_fusion(settings)
    with run_lock(opened.folder, writes=True):
        if is_finished(opened.folder, opened.settings, opened.hashes):
            print(f"{as_recorded(opened.folder)} is finished; nothing to do")
            return
        run = open_run(opened.folder, opened.record, LateFusionSettings, writes=True)
        fused = opened.fuse()
        run.add_notes(*opened.notes(fused))
        run.count(opened.parameters(fused))
        fused.rule.save(run.path / MODEL_FOLDER)
        run.finish_tables(fused.test, fused.dev)


if __name__ == "__main__":
    run_recipe(__doc__, LateFusionSettings, late_fusion)
