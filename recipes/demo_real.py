"""The demo with published weights on real speech: RAVDESS, published fold 1.

A model is composed of Whisper tiny and SmolLM2-135M-Instruct and aligned on train of the fold, unless an aligned one is
given. It is compared zero-shot, after LoRA with audio, and after LoRA with audio and transcript, with a linear model of
a layer of Whisper. As in demo.py, every command is printed and can be run by hand, two runs at a time print to logs/,
and finished runs are not repeated; remove the folder to start again.

Example:
  make demo-real CORPUS_ROOT=path/to/RAVDESS                   weights of the Hugging Face Hub
  make demo-real CORPUS_ROOT=path/to/RAVDESS WEIGHTS=DIR       those of DIR: whisper-tiny.en and smollm2-135m-instruct
  make demo-real CORPUS_ROOT=path/to/RAVDESS ALIGNED=user/name or a folder: the demo aligns nothing
"""

import argparse
import sys
import time
from pathlib import Path

from demo import LAUNCH, run, run_together

from lalm_mer.core.command import command_parser, run_command, source_argument
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.paths import absolute

OUT = Path("outputs/demo_real")
TOWER, LANGUAGE_MODEL = "openai/whisper-tiny.en", "HuggingFaceTB/SmolLM2-135M-Instruct"
LAYERS = {"tower": 3, "language": 6}  # of the composed model: the first ones, for two CPU cores
COMPARED = ("linear_audio", "zero_shot_audio", "lora_audio", "lora_audio_transcript")


def main() -> int:
    """Run the command line."""
    parser = command_parser(__doc__)
    parser.add_argument("--corpus", choices=("ravdess",), default="ravdess", help="real speech only")
    parser.add_argument("--root", default="", help="folder with Actor_01 ... Actor_24")
    parser.add_argument("--weights", default="", help="folder of models; default: the Hugging Face Hub")
    parser.add_argument("--aligned", type=source_argument, default="", help="Hub id or folder of an aligned model")
    return run_command(demo_real, parser.parse_args(), resumes=True)


def demo_real(arguments: argparse.Namespace) -> None:
    """Run all commands of the demo that have not finished."""
    if not arguments.root:
        raise ConfigError("CORPUS_ROOT is missing; set it to the folder with Actor_01 ... Actor_24 (argument --root)")
    tower, language_model = parts(arguments.weights, arguments.aligned)
    facts = story(arguments.aligned, arguments.weights)
    print(facts, flush=True)
    started = time.monotonic()
    for command in preparation(arguments.root, tower, language_model, arguments.aligned):
        run(command, None)
    for together in runs(tower, arguments.aligned):
        run_together(together, OUT / "logs")
    run(["python", "eval/compare.py", *(str(OUT / name) for name in COMPARED), "--out", str(OUT)], None)
    took = f"The demo took {(time.monotonic() - started) / 60:.1f} minutes. Report: {OUT / 'report.html'}"
    print(f"\n{facts}\n{took}")


def parts(weights: str, aligned: str) -> tuple[str, str]:
    """Hub ids of Whisper and of the language model, or their folders; a folder without the model is an error."""
    if Path(aligned).is_absolute():
        require_model("ALIGNED", Path(aligned), "that of align.py is model/ in its output.dir")
    if not weights:
        return TOWER, LANGUAGE_MODEL
    folders = {name: Path(absolute(weights)) / name.partition("/")[2].lower() for name in (TOWER, LANGUAGE_MODEL)}
    for name in (TOWER,) if aligned else (TOWER, LANGUAGE_MODEL):
        download = f"download it (hf download {name} --local-dir {folders[name]})"
        require_model("WEIGHTS", folders[name], f"{download}, or leave WEIGHTS out to use {name} of the Hub")
    return str(folders[TOWER]), str(folders[LANGUAGE_MODEL])


def require_model(variable: str, folder: Path, mend: str) -> None:
    """Refuse a folder without a model."""
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{variable}: {folder} has no config.json; expected a model in that folder; {mend}")


def story(aligned: str, weights: str) -> str:
    """What the demo does, in sentences, by its arguments."""
    hub = "from the Hugging Face Hub, so the network is needed unless its cache has them"
    layers = f"the first {LAYERS['tower']} layers of {TOWER} and the first {LAYERS['language']} of {LANGUAGE_MODEL}"
    model = f"composed of {layers}, then aligned here for some minutes on train of fold 1 of RAVDESS"
    if aligned:
        model = f"{aligned}{'' if Path(aligned).is_absolute() else f' {hub}'}, aligned before; the demo aligns nothing"
    return f"""Model: {model}.
Weights of {"Whisper" if aligned else "its parts"}: {weights or hub}.
The transcript alone is not run: all actors speak the same two sentences, which do not tell the emotion."""


def preparation(root: str, tower: str, language_model: str, aligned: str) -> list[list[str]]:
    """Commands that prepare the corpus and compose the model, if they are missing."""
    steps = []
    if not (OUT / "data/summary.json").is_file():
        config = ["--config", "recipes/corpora/ravdess.yaml", f"corpus.root={root}", f"output.dir={OUT}/data"]
        steps.append(["python", "recipes/prepare_corpus.py", *config])
    if not aligned and not (OUT / "model/config.json").is_file():
        source = ["--tower", tower, "--tower-layers", str(LAYERS["tower"]), "--language-model", language_model]
        source += ["--language-layers", str(LAYERS["language"]), "--out", f"{OUT}/model"]
        steps.append(["python", "recipes/compose_model.py", *source])
    return steps


def runs(tower: str, aligned: str) -> list[dict[str, list[str]]]:
    """Name and command of every run: first those that need no aligned model, then the others, the longest first."""
    data, model = f"data.dir={OUT}/data", f"model.id={aligned or OUT / 'alignment/model'}"
    align = [*LAUNCH, "recipes/align.py", "--config", "recipes/alignment/ravdess.yaml", f"model.id={OUT}/model"]
    first = {} if aligned else {"alignment": [*align, f"speech.ravdess.dir={OUT}/data"]}
    linear = ["python", "recipes/train_linear.py", "--config", "recipes/ravdess/whisper_linear.yaml", data]
    first["linear_audio"] = [*linear, f"linear.audio.model={tower}", "linear.processes=1"]
    lora = [*LAUNCH, "recipes/finetune.py", "--config", "recipes/whisper_smollm2/ravdess_lora.yaml", data, model]
    zero_shot = [*LAUNCH, "recipes/zero_shot.py", "--config", "recipes/whisper_smollm2/ravdess_zero_shot.yaml"]
    then = {
        "lora_audio_transcript": [*lora, "prompt.file=prompts/brief_audio_transcript.yaml"],
        "lora_audio": lora,
        "zero_shot_audio": [*zero_shot, data, model],
    }
    return [{name: [*command, f"output.dir={OUT}/{name}"] for name, command in each.items()} for each in (first, then)]


if __name__ == "__main__":
    sys.exit(main())
