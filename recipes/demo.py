"""The demo, end to end: prepare a corpus, then zero-shot, LoRA and baseline for each modality, then compare.

Every step is a command that you can run by hand; each is printed before it runs. Two runs at a time, with one thread
each, print to logs/. Finished runs are not repeated, so the demo can be stopped and resumed; remove its folder to start
again.

Example:
  make demo                                                  the synthetic circumplex corpus
  make demo CORPUS=ravdess CORPUS_ROOT=path/to/RAVDESS       real speech, published fold 1
"""

import argparse
import os
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from lalm_mer.core.command import command_parser, run_command
from lalm_mer.core.progress import progress

MODALITIES = ("audio_transcript", "audio", "transcript")  # the longest first
LAUNCH = ["accelerate", "launch", "--quiet", "--config_file", "accelerate_configs/cpu.yaml"]
SCRIPTS = {"lora": "finetune", "baseline": "train_baseline", "zero_shot": "zero_shot"}
WITHOUT_AUDIO = ["adapter.towers.audio_tower=[]", "adapter.towers.projector=[]"]
AT_A_TIME = 2
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def main() -> int:
    """Run the command line."""
    parser = command_parser(__doc__)
    parser.add_argument("--corpus", choices=("circumplex", "ravdess"), default="circumplex")
    parser.add_argument("--root", default="", help="folder of the release; not for the circumplex corpus")
    return run_command(demo, parser.parse_args(), resumes=True)


def demo(arguments: argparse.Namespace) -> None:
    """Run all commands of the demo that have not finished."""
    if arguments.corpus == "ravdess" and not arguments.root:
        sys.exit("error: the ravdess demo needs CORPUS_ROOT, the folder with Actor_01 ... Actor_24")
    out = Path("outputs/demo" if arguments.corpus == "circumplex" else f"outputs/demo_{arguments.corpus}")
    started = time.monotonic()
    for command in preparation(arguments.corpus, arguments.root, out):
        run(command, None)
    run_together(runs(arguments.corpus, out), out / "logs")
    folders = [str(out / f"{method}_{modality}") for method in SCRIPTS for modality in MODALITIES]
    run(["python", "eval/compare.py", *folders, "--out", str(out)], None)
    print(f"\nThe demo took {(time.monotonic() - started) / 60:.1f} minutes. Report: {out / 'report.html'}")


def preparation(corpus: str, root: str, out: Path) -> list[list[str]]:
    """Commands that prepare the corpus and the tiny model, if they are missing."""
    steps = []
    if not (out / "data/summary.json").is_file():
        options = [f"corpus.root={root}"] if root else []
        config = f"recipes/corpora/{corpus}.yaml"
        steps.append(["python", "recipes/prepare_corpus.py", "--config", config, *options, f"output.dir={out}/data"])
    if not (out / "tiny_qwen2_audio/config.json").is_file():
        steps.append(["python", "recipes/build_tiny_model.py", "--config", f"recipes/demo/{corpus}_tiny_model.yaml"])
    return steps


def runs(corpus: str, out: Path) -> dict[str, list[str]]:
    """Name and command of every run: three methods, each with audio, transcript and both."""
    commands = {}
    for method, script in SCRIPTS.items():
        for modality in MODALITIES:
            options = [f"prompt.file=prompts/brief_{modality}.yaml"]
            if method == "baseline":
                options = [f"baseline.modalities={modality.replace('_', '+')}"]
            elif method == "lora" and modality == "transcript":
                options += WITHOUT_AUDIO
            name = f"{method}_{modality}"
            config = ["--config", f"recipes/demo/{corpus}_{method}.yaml"]
            commands[name] = [*LAUNCH, f"recipes/{script}.py", *config, *options, f"output.dir={out}/{name}"]
    return commands


def run_together(commands: dict[str, list[str]], logs: Path) -> None:
    """Run commands a few at a time, each with its own log, with one progress bar."""
    logs.mkdir(parents=True, exist_ok=True)
    for command in commands.values():
        print(f"$ {shlex.join(command)}", flush=True)
    with (
        ThreadPoolExecutor(AT_A_TIME) as pool,
        progress(desc="runs", unit="runs", total=len(commands), in_logs=False) as bar,
    ):
        waiting = {pool.submit(run, command, logs / f"{name}.log"): name for name, command in commands.items()}
        try:
            for done in as_completed(waiting):
                done.result()
                bar.update()
                bar.write(f"finished: {waiting[done]}", file=sys.stderr)
        except (SystemExit, KeyboardInterrupt):
            pool.shutdown(cancel_futures=True)
            raise


def run(command: list[str], log: Path | None) -> None:
    """Run one command, with its output on the screen or in a log; the demo ends if it fails."""
    if log is None:
        print(f"\n$ {shlex.join(command)}", flush=True)
        done = subprocess.run(command, check=False)
    else:
        with log.open("w", encoding="utf-8") as file:
            done = subprocess.run(command, check=False, stdout=file, stderr=file, env=ENVIRONMENT)
    if done.returncode:
        last = (
            "".join(f"\n  {line}" for line in log.read_text("utf-8", errors="replace").splitlines()[-5:]) if log else ""
        )
        sys.exit(f"error: exit status {done.returncode} of {shlex.join(command)}{last}")


if __name__ == "__main__":
    sys.exit(main())
