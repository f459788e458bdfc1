"""Compose a model: the encoder of a Whisper, and a language model or a text encoder, with new projections.

Examples:
  python recipes/compose_model.py --tower openai/whisper-tiny.en --language-model HuggingFaceTB/SmolLM2-135M-Instruct \
      --tower-layers 3 --out outputs/models/whisper_smollm2
  python recipes/compose_model.py --tower openai/whisper-tiny.en --text-encoder sentence-transformers/all-MiniLM-L6-v2 \
      --tower-layers 2 --out outputs/models/whisper_minilm

The folder has the weights (safetensors), the processor, and a card with both licences. With a language model it is an
audio-language model in the class of Qwen2-Audio, model.family=composed; with a text encoder a dual encoder like CLAP,
model.family=composed_clap. What is between or after the parts is random until it is trained.
"""

from __future__ import annotations

import argparse
import sys

from lalm_mer.core.command import command_parser, path_argument, run_command, source_argument
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.paths import as_recorded


def main(arguments: list[str]) -> int:
    """Run the command line; 0 if it was written, 1 for an error that the user can correct."""
    parser = command_parser(__doc__)
    revision, layers = "its branch, tag or commit on the Hub", "keep its first N layers (default: all)"
    parser.add_argument(
        "--tower", metavar="ID", type=source_argument, required=True, help="Hub id or folder of a Whisper"
    )
    second = parser.add_mutually_exclusive_group(required=True)
    second.add_argument(
        "--language-model",
        metavar="ID",
        type=source_argument,
        help="Hub id or folder of a decoder-only language model with a chat template",
    )
    second.add_argument(
        "--text-encoder",
        metavar="ID",
        type=source_argument,
        help="Hub id or folder of a BERT whose mean over the tokens is a sentence embedding, such as MiniLM",
    )
    for part in ("tower", "language", "text"):
        parser.add_argument(f"--{part}-revision", metavar="REV", help=revision)
        parser.add_argument(f"--{part}-layers", metavar="N", type=int, help=layers)
    parser.add_argument("--out", type=path_argument, required=True, help="a new or empty folder")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="of the weights (default: float32)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random weights of projections (default: 0)")
    return run_command(compose_model, parser.parse_args(arguments))


def compose_model(options: argparse.Namespace) -> None:
    """Compose, and print how to use the model."""
    from lalm_mer.models.compose import Part, compose, compose_clap  # here, so that --help does not wait for torch

    tower = Part(options.tower, options.tower_revision, options.tower_layers)
    if options.text_encoder is None:
        _refuse(options, "text", "text-encoder")
        second = Part(options.language_model, options.language_revision, options.language_layers)
        family, write = "composed", compose
    else:
        _refuse(options, "language", "language-model")
        second = Part(options.text_encoder, options.text_revision, options.text_layers)
        family, write = "composed_clap", compose_clap
    count = write(tower, second, options.out, dtype=options.dtype, seed=options.seed)
    folder = as_recorded(options.out)
    print(f"{count / 1e6:.1f} million parameters in {folder}, with random projections")
    print(f"use it with model.family={family} model.id={folder}")


def _refuse(options: argparse.Namespace, part: str, needed: str) -> None:
    """Refuse the options of a part that is not used."""
    for name in ("revision", "layers"):
        if (value := getattr(options, f"{part}_{name}")) is not None:
            raise ConfigError(f"argument '--{part}-{name}': {value}; only with --{needed}; leave it out")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
