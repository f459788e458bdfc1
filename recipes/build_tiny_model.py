"""Build a tiny, randomly initialised model of a real architecture, for demos and tests without a download.

Its tokenizer is trained on the prompts, the labels and the transcripts of the train split.

Example:
  python recipes/build_tiny_model.py --config recipes/demo/circumplex_tiny_model.yaml output.dir=outputs/tiny
"""

from pathlib import Path

from lalm_mer.core.imports import quick_imports
from lalm_mer.core.paths import as_recorded
from lalm_mer.launch.arguments import run_recipe
from lalm_mer.launch.config.settings import TinySettings


def build(settings: TinySettings) -> None:
    """Build the model and save it."""
    with quick_imports():  # imported here, so that --help and errors in the config do not wait for torch
        from lalm_mer.launch.build.data import open_corpus
        from lalm_mer.models.tiny import build_tiny

    source = open_corpus(settings.data, settings.split)
    folded = source.folded
    train = source.examples(settings.split.fold, "train", sampling_rate=None).utterances()
    words = {line for path in sorted(Path("prompts").glob("*.yaml")) for line in path.read_text("utf-8").splitlines()}
    if folded.task.kind != "scalar":
        words |= {form for label in folded.task.labels.labels for form in folded.task.labels.forms_of(label)}
    words |= set(train["transcript"].dropna())
    build_tiny(
        settings.family,
        Path(settings.output.dir),
        words=words,
        window_s=settings.window_s,
        hidden_size=settings.hidden_size,
        layers=settings.layers,
        vocabulary=settings.vocabulary,
        initializer_range=settings.initializer_range,
        seed=settings.seed,
    )
    print(f"tiny, randomly initialised {settings.family} in {as_recorded(settings.output.dir)}")


if __name__ == "__main__":
    run_recipe(__doc__, TinySettings, build)
