"""One family on real speech, end to end: a tiny model of it on RAVDESS, published fold 1, audio only.

Zero-shot, LoRA, the same adapter with swapped audio (each test utterance with the audio of another), then the
comparison. After LoRA, the interval is above chance; with swapped audio it includes chance. Every step is a command
that you can run by hand; finished runs are not repeated.

Example:
  make demo CORPUS=ravdess CORPUS_ROOT=path/to/RAVDESS FAMILY=glmasr        or audioflamingo3, clap ...
"""

import argparse
import sys
import time
from pathlib import Path

from demo import LAUNCH, run, run_together

from lalm_mer.core.command import command_parser, run_command
from lalm_mer.models.families import DUAL_ENCODERS

DATA = Path("outputs/demo_ravdess/data")  # shared with the other demos
METHODS = ("zero_shot", "lora", "lora_audio_swapped")


def main() -> int:
    """Run the command line."""
    parser = command_parser(__doc__)
    parser.add_argument("--family", required=True, help="a family of lalm_mer/models/families, clap or composed_clap")
    parser.add_argument("--corpus", choices=("ravdess",), default="ravdess", help="real speech only")
    parser.add_argument("--root", default="", help="folder with Actor_01 ... Actor_24")
    return run_command(demo_family, parser.parse_args(), resumes=True)


def demo_family(arguments: argparse.Namespace) -> None:
    """Run all commands of one family that have not finished."""
    if not arguments.root:
        sys.exit("error: the ravdess demo needs CORPUS_ROOT, the folder with Actor_01 ... Actor_24")
    out = Path(f"outputs/demo_ravdess_{arguments.family}")
    started = time.monotonic()
    for command in preparation(arguments.family, arguments.root, out):
        run(command, None)
    *first, (last, of_adapter) = runs(arguments.family, out).items()
    run_together(dict(first), out / "logs")
    run_together({last: of_adapter}, out / "logs")  # scores the adapter that the others trained
    run(["python", "eval/compare.py", *(str(out / method) for method in METHODS), "--out", str(out)], None)
    print(f"\nThe demo took {(time.monotonic() - started) / 60:.1f} minutes. Report: {out / 'report.html'}")


def preparation(family: str, root: str, out: Path, data: Path = DATA) -> list[list[str]]:
    """Commands that prepare the corpus and the tiny model, if they are missing."""
    steps = []
    if not (data / "summary.json").is_file():
        config = ["--config", "recipes/corpora/ravdess.yaml", f"corpus.root={root}", f"output.dir={data}"]
        steps.append(["python", "recipes/prepare_corpus.py", *config])
    model = out / f"tiny_{family}"
    if not (model / "config.json").is_file():
        config = ["--config", f"recipes/demo/ravdess_{shape(family)}_tiny_model.yaml"]
        options = [f"family={family}", f"output.dir={model}"]
        steps.append(["python", "recipes/build_tiny_model.py", *config, *options])
    return steps


def shape(family: str) -> str:
    """Part of the name of a family's YAML files in recipes/demo/: dual encoders have other towers and settings."""
    return "clap" if family in DUAL_ENCODERS else "family"


def runs(family: str, out: Path) -> dict[str, list[str]]:
    """Name and command of every run; the last one needs the adapter of the previous one."""
    model = [f"model.family={family}", f"model.id={out}/tiny_{family}"]
    scoring = ["--config", "recipes/demo/ravdess_family_zero_shot.yaml", *model]
    if family in DUAL_ENCODERS:
        scoring.append("prompt.file=prompts/ensembles/emotion.yaml")
    swapped = [f"model.adapter={out}/lora", "scoring.condition=audio_swapped"]
    commands = {
        "zero_shot": ["recipes/zero_shot.py", *scoring],
        "lora": ["recipes/finetune.py", "--config", f"recipes/demo/ravdess_{shape(family)}_lora.yaml", *model],
        "lora_audio_swapped": ["recipes/zero_shot.py", *scoring, *swapped],
    }
    return {method: [*LAUNCH, *commands[method], f"output.dir={out}/{method}"] for method in METHODS}


if __name__ == "__main__":
    sys.exit(main())
