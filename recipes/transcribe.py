"""Transcripts by speech recognition: Whisper transcribes every utterance of a prepared corpus.

Example:
  python recipes/transcribe.py --config recipes/transcribe/whisper.yaml \\
      data.dir=outputs/data/ravdess output.file=outputs/transcripts/ravdess_whisper.parquet

The table has utterance_id, hypothesis (the output of the model), reference (the corpus's transcript, unless it is
itself recognised or simulated), word_error_rate and n_reference_words. Errors are counted after case folding and
removal of punctuation, except for apostrophes inside words. Rerun the same command to resume. Runs use the table with
data.transcript_source=asr data.transcripts=FILE.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lalm_mer.core.config import recorded
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.names import ASR, SIMULATED
from lalm_mer.core.paths import as_recorded
from lalm_mer.core.provenance import package_versions
from lalm_mer.core.settings import naming_keys
from lalm_mer.launch.arguments import run_recipe
from lalm_mer.launch.config.settings import TranscribeSettings

if TYPE_CHECKING:
    import pandas as pd

    from lalm_mer.corpora import PreparedCorpus


def transcribe(settings: TranscribeSettings) -> None:
    """Transcribe a corpus and compare with its own transcripts."""
    import torch  # here, so that --help and errors in the config do not wait for it

    from lalm_mer.core.locks import only_writer
    from lalm_mer.corpora import load
    from lalm_mer.examples.transcripts import make_rows, write_transcripts
    from lalm_mer.launch.run.trainers import seed_everything
    from lalm_mer.models.transcriber import Transcriber, transcribe_utterances

    out = Path(settings.output.file)
    if out.suffix != ".parquet":
        raise ConfigError(f"key 'output.file': {out}; expected a name that ends in .parquet")
    seed_everything(settings.seed)
    corpus = load(Path(settings.data.dir))
    model = settings.model
    with naming_keys("model"):
        device = "cuda" if torch.cuda.is_available() and not model.use_cpu else "cpu"
        transcriber = Transcriber.load(
            model.id, revision=model.revision, dtype=model.dtype, language=model.language, device=device
        )
    identity = {
        "format": 1,
        "model": recorded(model).id,
        "model_digest": transcriber.digest,
        "dtype": model.dtype,
        "language": model.language,
        "batch_size": model.batch_size,
        "device": transcriber.device,
        "seed": settings.seed,
        "corpus": corpus.name,
        "root_hash": corpus.summary["root_hash"],
    }
    with only_writer(out):
        if is_finished(out, identity):
            print(f"{as_recorded(out)} is finished; nothing to do")
            return
        journal = out.with_name(f".{out.name}.partial.jsonl")
        hypotheses = transcribe_utterances(
            transcriber, corpus.dataset, identity=identity, journal=journal, batch_size=model.batch_size
        )
        rows = make_rows(hypotheses, references(corpus))
        write_transcripts(out, rows, identity | {"revision": model.revision, "versions": package_versions()})
        journal.unlink()
    print_summary(rows, len(corpus.dataset) - len(rows), out)


def is_finished(out: Path, identity: dict[str, object]) -> bool:
    """Whether the same transcription has finished."""
    from lalm_mer.examples.transcripts import load_transcripts

    if not out.exists():
        return False
    found = load_transcripts(out).metadata
    for key, value in identity.items():
        if found.get(key) != value:
            raise ConfigError(
                f"key 'output.file': {out} has transcripts with {key} = {found.get(key)!r}, now it is {value!r}; "
                "choose another file, or remove that one"
            )
    return True


def references(corpus: PreparedCorpus) -> dict[str, str | None]:
    """Utterance id -> the corpus's transcript, unless it is itself recognised or simulated."""
    columns = ("utterance_id", "transcript", "transcript_source")
    rows = zip(*(corpus.dataset[column][:] for column in columns), strict=True)
    return {name: None if source in (ASR, SIMULATED) else transcript for name, transcript, source in rows}


def print_summary(rows: pd.DataFrame, n_without_audio: int, out: Path) -> None:
    """Print what should be checked before a run uses the transcripts."""
    from lalm_mer.examples.transcripts import pooled_word_error_rate

    known = rows[rows["reference"].notna()]
    rate = pooled_word_error_rate(list(known["reference"]), list(known["hypothesis"]))
    shown = "none" if rate is None else f"{100 * rate:.1f}%"
    print(f"transcribed         {len(rows)}")
    print(f"nothing recognised  {(rows['hypothesis'] == '').sum()}")
    print(f"without audio       {n_without_audio} (left out)")
    print(f"without reference   {len(rows) - len(known)}")
    print(f"word error rate     {shown} over {known['n_reference_words'].sum()} words (without case and punctuation)")
    print(f"written to          {as_recorded(out)}")


if __name__ == "__main__":
    run_recipe(__doc__, TranscribeSettings, transcribe)
