"""Compose an audio-language model: the encoder of a Whisper, a new projector, and a language model that takes chats.

Example:
  python recipes/compose_model.py --tower openai/whisper-tiny.en --language-model HuggingFaceTB/SmolLM2-135M-Instruct \
      --tower-layers 3 --out outputs/models/whisper_smollm2

The folder has the weights (safetensors) in the class of Qwen2-Audio, the processor, and a card with both licences;
recipes take it as model.family=composed model.id=DIR. The projector is random until it is trained.
"""

from __future__ import annotations

import argparse
import sys

from lalm_mer.core.command import command_parser, path_argument, run_command, source_argument
from lalm_mer.core.paths import as_recorded


def main(arguments: list[str]) -> int:
    """Run the command line; 0 if it was written, 1 for an error that the user can correct."""
    parser = command_parser(__doc__)
    parser.add_argument(
        "--tower", metavar="ID", type=source_argument, required=True, help="Hub id or folder of a Whisper"
    )
    parser.add_argument("--tower-revision", metavar="REV", help="its branch, tag or commit on the Hub")
    parser.add_argument("--tower-layers", metavar="N", type=int, help="keep its first N layers (default: all)")
    parser.add_argument(
        "--language-model",
        metavar="ID",
        type=source_argument,
        required=True,
        help="Hub id or folder of a decoder-only language model with a chat template",
    )
    parser.add_argument("--language-revision", metavar="REV", help="its branch, tag or commit on the Hub")
    parser.add_argument("--language-layers", metavar="N", type=int, help="keep its first N layers (default: all)")
    parser.add_argument("--out", type=path_argument, required=True, help="a new or empty folder")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="of the weights (default: float32)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the projector's random weights (default: 0)")
    return run_command(compose_model, parser.parse_args(arguments))


def compose_model(options: argparse.Namespace) -> None:
    """Compose, and print how to use the model."""
    from lalm_mer.models.compose import Part, compose  # here, so that --help does not wait for torch

    tower = Part(options.tower, options.tower_revision, options.tower_layers)
    language_model = Part(options.language_model, options.language_revision, options.language_layers)
    count = compose(tower, language_model, options.out, dtype=options.dtype, seed=options.seed)
    folder = as_recorded(options.out)
    print(f"{count / 1e6:.1f} million parameters in {folder}, with a random projector")
    print(f"use it with model.family=composed model.id={folder}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
