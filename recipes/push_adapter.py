"""Push the adapter or the baseline of a finished run to the Hugging Face Hub, with a model card.

Example:
  python recipes/push_adapter.py outputs/my_run --repo user/name --licence cc-by-nc-4.0 --private
  python recipes/push_adapter.py outputs/my_run --repo user/name --dry-run --out outputs/my_push

The token is read from HF_TOKEN, or from where `hf auth login` put it. Weights in safetensors, the settings of the
processor or the network, run.json, metrics.json and README.md are pushed, with an adapter also prompt.yaml and
labels.json, each written anew from an explicit list of public fields: no local path, utterance id or speaker, and never
a checkpoint, a prediction or a transcript. The vocabulary of a base model in a local folder is only pushed if
--base-model says what it is a copy of, or with --push-vocabulary; what a baseline has learnt from transcripts only with
--push-vocabulary. Check it first: --dry-run writes the folder and needs no network. Prompt and protocol are read from
the paths in run.json, so start it from the same folder as the run. Afterwards: lalm-mer predict --run user/name.
"""

from __future__ import annotations

import argparse
import sys

from lalm_mer.core.command import command_parser, path_argument, run_command
from lalm_mer.core.paths import as_recorded
from lalm_mer.launch.config.sections import FinetuneOutputSettings


def main(arguments: list[str]) -> int:
    """Run the command line; 0 if it was pushed (or written), 1 for an error that the user can correct."""
    parser = command_parser(__doc__)
    parser.add_argument(
        "run", metavar="RUN", type=path_argument, help="finished run of finetune.py or train_baseline.py"
    )
    parser.add_argument("--repo", required=True, metavar="USER/NAME", help="repository, created if it is missing")
    parser.add_argument("--private", action="store_true", help="make it private")
    parser.add_argument("--licence", metavar="ID", help="such as cc-by-nc-4.0 (default: not stated)")
    parser.add_argument(
        "--base-model", metavar="USER/NAME", help="id of the base model or pretrained encoder, if the run used a copy"
    )
    parser.add_argument(
        "--push-vocabulary",
        action="store_true",
        help="also if it was learnt from a corpus, so that its tokens are words of transcripts",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=FinetuneOutputSettings.push_timeout_s,
        metavar="S",
        help="longest wait for an answer (default: %(default)g s)",
    )
    parser.add_argument("--dry-run", action="store_true", help="write the folder to --out and push nothing")
    parser.add_argument("--out", type=path_argument, help="with --dry-run: a new or empty folder")
    options = parser.parse_args(arguments)
    if options.dry_run != (options.out is not None):
        parser.error("--dry-run and --out go together")
    if not options.timeout > 0:
        parser.error(f"--timeout {options.timeout:g}: expected more than 0 seconds")
    return run_command(push_adapter, options)


def push_adapter(options: argparse.Namespace) -> None:
    """Write the folder of an adapter or a baseline, and push it unless it is a dry run."""
    from lalm_mer.sharing.hub import push_run  # here, so that --help does not wait for torch
    from lalm_mer.sharing.hub_folder import assemble

    named = {
        "licence": options.licence, "base_model": options.base_model, "push_vocabulary": options.push_vocabulary
    }  # fmt: skip
    if options.dry_run:
        folder = assemble(options.run, options.out, repo_id=options.repo, **named)
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        print("\n".join(f"{path.stat().st_size:>12,}  {path.relative_to(folder)}" for path in files))
        print(f"written to {as_recorded(folder)}; nothing was pushed")
    else:
        named |= {"private": options.private, "timeout_s": options.timeout}
        print(f"pushed: {push_run(options.run, options.repo, **named)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
