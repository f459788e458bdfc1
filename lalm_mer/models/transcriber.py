"""Speech recognition by Whisper (Radford et al. 2022) on transformers' own classes, for a corpus."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import ConfigError, ModelError, one_line
from lalm_mer.core.names import DTYPES
from lalm_mer.core.output import write_text, writing
from lalm_mer.core.progress import progress
from lalm_mer.corpora import waveform_of
from lalm_mer.models.devices import gpu_before_ampere
from lalm_mer.models.digest import base_digest, read_model_config
from lalm_mer.models.loading import from_pretrained, load_weights

__all__ = ["Transcriber", "transcribe_utterances"]


class Transcriber:
    """Greedy transcription by a Whisper model, without temperature fallback, so that results repeat.

    Args:
        model: WhisperForConditionalGeneration
        processor: WhisperProcessor
        name: name of the model in errors
        digest: hash of a local folder, or ``id@commit`` of the Hub
        language: code (``en``) or name (``english``); None to detect it for each utterance, and for an English-only
            model

    Raises:
        ConfigError: if the model does not support ``language``
        ModelError: if processor and model have different windows
    """

    def __init__(
        self,
        model: Any,  # noqa: ANN401 a transformers model
        processor: Any,  # noqa: ANN401
        *,
        name: str,
        digest: str,
        language: str | None = None,
    ) -> None:
        self._model = model.eval()
        self._processor = processor
        self.name = name
        self.digest = digest
        frames = 2 * int(model.config.max_source_positions)
        if int(processor.feature_extractor.nb_max_frames) != frames:
            raise ModelError(
                f"model {name!r}: its feature extractor makes {processor.feature_extractor.nb_max_frames} frames, but "
                f"its encoder takes {frames}; expected both from the same model"
            )
        self._options: dict[str, Any] = {"do_sample": False, "num_beams": 1}
        if getattr(model.generation_config, "is_multilingual", False):
            self._options["task"] = "transcribe"
        if language is not None:
            self._options["language"] = _language(model.generation_config, language, name)

    @classmethod
    def load(
        cls,
        model_id: str,
        *,
        revision: str | None = None,
        dtype: str = "float32",
        language: str | None = None,
        device: str = "cpu",
    ) -> Transcriber:
        """Load model and processor: weights in safetensors only, no code from the repository.

        Args:
            model_id: Hub id or local folder
            revision: branch, tag or commit on the Hub
            dtype: ``float32``, ``bfloat16`` or ``float16``
            language: see the class
            device: torch's name of the device

        Raises:
            ConfigError: if ``dtype`` or ``language`` is unknown, or the GPU only emulates the data type
            ModelError: naming the id, if it cannot be found or is no Whisper model
        """
        if dtype not in DTYPES:
            raise ConfigError(f"argument 'dtype': {dtype!r}; expected one of {', '.join(DTYPES)}")
        if dtype == "bfloat16" and (older := gpu_before_ampere(torch.device(device))) is not None:
            raise ConfigError(f"argument 'dtype': bfloat16, whose emulation on {older} is slow; expected float16")
        model_type = read_model_config(model_id, revision).get("model_type")
        if model_type != "whisper":
            raise ModelError(f"model {model_id!r} is a {model_type}; transcripts need a Whisper model")
        try:
            processor = from_pretrained(WhisperProcessor, model_id, revision)
            options = {"dtype": getattr(torch, dtype), "output_loading_info": True}
            model, found = load_weights(WhisperForConditionalGeneration, model_id, revision, **options)
        except ModelError:
            raise
        except (OSError, ValueError, RuntimeError) as error:
            raise ModelError(
                f"model {model_id!r} cannot be loaded as Whisper: {one_line(error)}; model.id is a Hub id or a local "
                "folder with safetensors weights"
            ) from error
        if found["missing_keys"]:  # transformers would only warn and initialise them at random
            raise ModelError(f"model {model_id!r}: no weights of {min(found['missing_keys'])}; is the model complete?")
        digest = base_digest(model_id, revision)
        return cls(model.to(device), processor, name=model_id, digest=digest, language=language)

    @property
    def device(self) -> str:
        """Its device: ``cpu`` or ``cuda``."""
        return str(self._model.device.type)

    @property
    def sampling_rate(self) -> int:
        """Rate of the audio it takes, in Hz."""
        return int(self._processor.feature_extractor.sampling_rate)

    @property
    def window_s(self) -> float:
        """Its window, in seconds; 30 in published models."""
        return float(self._processor.feature_extractor.n_samples / self.sampling_rate)

    def transcribe(self, waveforms: Sequence[Waveform]) -> list[str]:
        """Transcripts of the waveforms, without white space at their ends.

        Those no longer than the window form a batch; each longer one is transcribed separately with Whisper's long-form
        decoding, which continues at the last timestamp.

        Args:
            waveforms: B utterances at ``sampling_rate``

        Raises:
            AudioError: if a waveform is at another rate
            ModelError: if one is longer than the window and the model has no timestamps
        """
        for waveform in waveforms:
            waveform.require_rate(self.sampling_rate, "Whisper")
        short = [index for index, waveform in enumerate(waveforms) if waveform.duration_s <= self.window_s]
        written: dict[int, str] = {}
        if short:
            hypotheses = self._written([waveforms[index] for index in short], padding="max_length")
            written.update(zip(short, hypotheses, strict=True))
        for index in sorted(set(range(len(waveforms))) - set(short)):
            if getattr(self._model.generation_config, "no_timestamps_token_id", None) is None:
                raise ModelError(
                    f"model {self.name!r} has no timestamps, so it cannot transcribe {waveforms[index].duration_s:.1f} "
                    f"s of speech: its window is {self.window_s:g} s"
                )
            written[index] = self._written([waveforms[index]], padding="longest", return_timestamps=True)[0]
        return [written[index] for index in range(len(waveforms))]

    @torch.inference_mode()
    def _written(self, waveforms: Sequence[Waveform], *, padding: str, **options: bool) -> list[str]:
        features = self._processor.feature_extractor(
            [waveform.samples for waveform in waveforms],
            sampling_rate=self.sampling_rate,
            padding=padding,
            truncation=False,
            return_attention_mask=True,
            return_tensors="pt",
        )
        ids = self._model.generate(
            features["input_features"].to(self._model.device, self._model.dtype),
            attention_mask=features["attention_mask"].to(self._model.device),
            **self._options,
            **options,
        )
        return [hypothesis.strip() for hypothesis in self._processor.batch_decode(ids, skip_special_tokens=True)]


def _language(generation_config: Any, language: str, name: str) -> str:  # noqa: ANN401 transformers' own
    if not getattr(generation_config, "is_multilingual", False):
        raise ConfigError(f"argument 'language': {language!r}, but {name} has only one language; set it to null")
    code = TO_LANGUAGE_CODE.get(language.lower(), language.lower())
    known = {token.strip("<|>") for token in generation_config.lang_to_id}
    if code not in known:
        raise ConfigError(
            f"argument 'language': {language!r}, not supported by {name}; expected one of {sorted(known)}"
        )
    return str(code)


def transcribe_utterances(
    transcriber: Transcriber,
    utterances: datasets.Dataset,
    *,
    identity: Mapping[str, Any],
    journal: Path,
    batch_size: int,
) -> dict[str, str]:
    """Transcribe all utterances with audio, the longest first, so that batches have similar durations.

    ``journal`` gets one line per batch. After a kill, the same call resumes after the last complete line, with the
    batches of an uninterrupted run. Only a journal of the same ``identity`` is resumed.

    Args:
        transcriber: the model
        utterances: rows of a prepared corpus
        identity: plain data, all that the results depend on
        journal: file of finished batches, which is kept
        batch_size: utterances per batch

    Returns:
        utterance id -> transcript, in the order of ``utterances``

    Raises:
        ConfigError: if ``batch_size`` is below 1, or ``journal`` has another identity
        AudioError: naming an utterance whose audio is damaged
    """
    if batch_size < 1:
        raise ConfigError(f"argument 'batch_size': {batch_size}; expected 1 or more")
    columns = utterances.select_columns(["utterance_id", "audio", "audio_sha256"])
    names, durations = utterances["utterance_id"][:], utterances["duration_s"][:]
    with_audio = [row for row, duration_s in enumerate(durations) if duration_s is not None]
    done = _open_journal(journal, identity)
    order = sorted(with_audio, key=lambda row: (-durations[row], names[row]))
    left = [row for row in order if names[row] not in done]
    with (
        journal.open("a", encoding="utf-8") as file,
        progress(
            desc="transcribe", unit="utterances", total=len(with_audio), initial=len(with_audio) - len(left)
        ) as bar,
    ):
        for start in range(0, len(left), batch_size):
            rows = left[start : start + batch_size]
            hypotheses = transcriber.transcribe([waveform_of(columns[row], transcriber.sampling_rate) for row in rows])
            batch = {names[row]: hypothesis for row, hypothesis in zip(rows, hypotheses, strict=True)}
            with writing(journal):
                file.write(json.dumps(batch, ensure_ascii=False) + "\n")
                file.flush()
            done |= batch
            bar.update(len(rows))
    return {names[row]: done[names[row]] for row in with_audio}


def _open_journal(journal: Path, identity: Mapping[str, Any]) -> dict[str, str]:
    """Transcripts of an earlier process; an incomplete last line is dropped."""
    journal.parent.mkdir(parents=True, exist_ok=True)
    content = journal.read_bytes() if journal.is_file() else b""
    complete = content[: content.rfind(b"\n") + 1]
    try:
        lines = [json.loads(line) for line in complete.decode("utf-8").split("\n")[:-1]]
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{journal}: is damaged ({one_line(error)}); remove it to transcribe again") from error
    if not all(isinstance(line, dict) for line in lines):
        raise ConfigError(f"{journal}: is damaged (a line is not an object); remove it to transcribe again")
    if not lines:
        write_text(journal, json.dumps(dict(identity), ensure_ascii=False) + "\n")
        return {}
    for key in sorted(lines[0].keys() | identity.keys()):
        if lines[0].get(key) != identity.get(key):
            raise ConfigError(
                f"{journal}: was started by another transcription, with {key} = {lines[0].get(key)!r}, now it is "
                f"{identity.get(key)!r}; choose another output.file, or remove {journal.name}"
            )
    if len(complete) < len(content):
        write_text(journal, complete.decode("utf-8"))
    return {name: hypothesis for line in lines[1:] for name, hypothesis in line.items()}
