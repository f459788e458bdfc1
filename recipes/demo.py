"""The main job, end to end: prepare a corpus, then zero-shot, LoRA and baseline for each modality, then compare.

Every step is a command that you can run by hand; each is printed before it runs. Finished runs are not run again, so
the demo can be stopped and started at will; remove its folder to start afresh.

Example:
  make demo                                                  the synthetic circumplex corpus, made on the spot
  make demo CORPUS=ravdess CORPUS_ROOT=path/to/RAVDESS       real speech, published fold 1
"""

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path

MODALITIES = ("audio", "transcript", "audio_transcript")
LAUNCH = ["accelerate", "launch", "--quiet", "--config_file", "accelerate_configs/cpu.yaml"]
DEAF = ["adapter.towers.audio_tower=[]", "adapter.towers.projector=[]"]  # nothing there would learn from transcripts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", choices=("circumplex", "ravdess"), default="circumplex")
    parser.add_argument("--root", default="", help="folder of the release; the circumplex corpus needs none")
    arguments = parser.parse_args()
    if arguments.corpus == "ravdess" and not arguments.root:
        sys.exit("error: the ravdess demo needs CORPUS_ROOT, the folder that holds Actor_01 ... Actor_24")
    out = Path("outputs/demo" if arguments.corpus == "circumplex" else f"outputs/demo_{arguments.corpus}")
    started = time.monotonic()
    for command in commands(arguments.corpus, arguments.root, out):
        print(f"\n$ {shlex.join(command)}", flush=True)
        done = subprocess.run(command, check=False)
        if done.returncode:
            sys.exit(done.returncode)
    print(f"\nThe demo took {(time.monotonic() - started) / 60:.1f} minutes. Report: {out / 'report.html'}")


def commands(corpus: str, root: str, out: Path) -> list[list[str]]:
    """Every command of the demo, in order."""
    configs = f"recipes/demo/{corpus}"
    steps: list[list[str]] = []
    if not (out / "data/summary.json").is_file():
        options = [f"corpus.root={root}"] if root else []
        config = f"recipes/corpora/{corpus}.yaml"
        steps.append(["python", "recipes/prepare_corpus.py", "--config", config, *options, f"output.dir={out}/data"])
    if not (out / "tiny_qwen2_audio/config.json").is_file():
        steps.append(["python", "recipes/build_tiny_model.py", "--config", f"{configs}_tiny_model.yaml"])
    runs = []
    for modality in MODALITIES:
        prompt = f"prompt.file=prompts/brief_{modality}.yaml"
        chosen = {
            "zero_shot": [prompt],
            "lora": [prompt, *(DEAF if modality == "transcript" else [])],
            "baseline": [f"baseline.modalities={modality.replace('_', '+')}"],
        }
        for method, options in chosen.items():
            script = {"zero_shot": "zero_shot", "lora": "finetune", "baseline": "train_baseline"}[method]
            runs.append(f"{out}/{method}_{modality}")
            command = [f"recipes/{script}.py", "--config", f"{configs}_{method}.yaml", *options]
            steps.append([*LAUNCH, *command, f"output.dir={runs[-1]}"])
    return [*steps, ["python", "eval/compare.py", *runs, "--out", str(out)]]


if __name__ == "__main__":
    main()
