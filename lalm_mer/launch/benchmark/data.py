"""Model and utterances of a benchmark, in its work folder: a config without weights, and noise without a corpus."""

from __future__ import annotations

import io
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml
from scipy.stats import norm

from lalm_mer.core.output import write_text
from lalm_mer.core.provenance import hash_json
from lalm_mer.core.schema import Utterance
from lalm_mer.core.settings import naming_keys
from lalm_mer.corpora import write_corpus
from lalm_mer.launch.build.data import RunData
from lalm_mer.launch.config.benchmark import BenchmarkModelSettings, BenchmarkSettings, ClipsSettings
from lalm_mer.models.families import family_class
from lalm_mer.models.from_config import write_config
from lalm_mer.prompting.prompts import load_prompt
from lalm_mer.protocols.splits import SPLITS

__all__ = ["Place", "durations", "evenly", "prepare"]

NOISE = "noise"
"""Name of the corpus of noise"""
_RATE = 16_000
_SPEAKERS = {"1": "test", "2": "dev", "3": "train"}
_VERSION = "1"


class Place:
    """Folders of a benchmark.

    Args:
        settings: its YAML
    """

    def __init__(self, settings: BenchmarkSettings) -> None:
        self.settings = settings
        work, clips, model = Path(settings.output.work), settings.data, settings.model
        self.model = work / f"model_{_digest(model, settings.prompt, clips.labels)}"
        self._noise = work / f"noise_{_digest(clips, settings.seed)}"
        self.data = Path(clips.dir) if clips.dir else self._noise / "data"
        self.protocol = Path(clips.protocol) if clips.dir else self._noise / "protocol.yaml"
        self.runs = work / "runs"
        self.cache = work / "cache"

    @property
    def run(self) -> dict[str, Any]:
        """The settings of a run that all variants share."""
        model = self.settings.model
        return {
            "data": {"dir": str(self.data)},
            "split": {"protocol": str(self.protocol), "fold": 1},
            "model": {
                "family": model.family,
                "id": str(self.model),
                "dtype": model.dtype,
                "tower_cache": "never",
                "cache_dir": str(self.cache),
            },
            "prompt": {"file": self.settings.prompt},
            "preflight": False,
            "seed": self.settings.seed,
        }


def _digest(*values: object) -> str:
    return hash_json([repr(each) for each in values])[:12]


def prepare(place: Place) -> None:
    """Write the config of the model and, without a corpus, the noise, if they are missing; remove an earlier cache.

    Stored tower outputs are known by the files of the model, which do not say its random weights.

    Raises:
        ConfigError: if the sizes do not fit the model
    """
    settings = place.settings
    shutil.rmtree(place.cache, ignore_errors=True)
    if not (place.model / "config.json").is_file():
        _write_model(settings.model, settings, place.model)
    if not settings.data.dir and not (place.data / "summary.json").is_file():
        write_corpus(
            _noise(settings.data, settings.seed),
            corpus=NOISE,
            out_dir=place.data,
            loader_version=_VERSION,
            synthetic=True,
            processes=1,
        )
        write_text(place.protocol, yaml.safe_dump(_protocol(settings.data), sort_keys=False))


def _write_model(model: BenchmarkModelSettings, settings: BenchmarkSettings, folder: Path) -> None:
    prompt = load_prompt(Path(settings.prompt))
    words = [
        *settings.data.labels,
        *(words for kind, words in prompt.parts if kind == "words"),
        *(prompt.system or "",),
    ]
    with naming_keys("model"):
        write_config(
            family_class(model.family),
            folder,
            sizes=model.sizes,
            words=words,
            window_s=model.window_s,
            vocabulary=model.vocabulary,
            initializer_range=model.initializer_range,
        )


def durations(clips: ClipsSettings, count: int, seed: int) -> list[float]:
    """Durations in seconds: evenly spaced quantiles of a log-normal distribution, within its bounds, in random order.

    Example:
        >>> found = durations(ClipsSettings(mean_s=4.5, sd_s=3.1), 1000, 0)
        >>> round(sum(found) / 1000, 1), round(min(found), 1)
        (4.5, 0.6)
    """
    variance = math.log1p((clips.sd_s / clips.mean_s) ** 2)
    quantiles = norm.ppf((np.arange(count) + 0.5) / count)
    values = np.exp(math.log(clips.mean_s) - variance / 2 + math.sqrt(variance) * quantiles)
    values = np.random.default_rng(seed).permutation(values.clip(clips.shortest_s, clips.longest_s))
    return [float(value) for value in values]


def _noise(clips: ClipsSettings, seed: int) -> Iterator[Utterance]:
    """The utterances: of each speaker the same durations, and all labels in turn."""
    random = np.random.default_rng(seed)
    for speaker, split in _SPEAKERS.items():
        count = 1 if split == "dev" else clips.utterances
        for number, seconds in enumerate(durations(clips, count, seed)):
            name = f"{NOISE}_{speaker}_{number:05d}"
            samples = random.normal(scale=0.1, size=max(1, round(seconds * _RATE))).clip(-1, 1)
            file = io.BytesIO()
            soundfile.write(file, samples, _RATE, format="WAV", subtype="PCM_16")
            yield Utterance(
                utterance_id=name,
                corpus=NOISE,
                audio_path=f"{name}.wav",
                audio_bytes=file.getvalue(),
                transcript=f"Sentence {number}.",
                speaker=speaker,
                label=clips.labels[number % len(clips.labels)],
            )


def _protocol(clips: ClipsSettings) -> dict[str, Any]:
    return {
        "name": NOISE,
        "version": 1,
        "source": "benchmark",
        "inline_task": {"name": NOISE, "labels": {label: [label] for label in clips.labels}},
        "disjoint_in": ["speaker"],
        "shared_in": ["transcript"],
        "may_lack": {split: list(clips.labels) for split in SPLITS},
        "folds": {"rule": "listed", "column": "speaker", "test": {int(number): [number] for number in _SPEAKERS}},
    }


def evenly(data: RunData, count: int) -> RunData:
    """The data with ``count`` utterances of each split, evenly spaced."""
    scored, train = data.scored_test, data.train.select(_spaced(len(data.train), count))  # type: ignore[union-attr]
    test = scored.select(_spaced(len(scored), count))
    dev = data.dev.select(_spaced(len(data.dev), count))
    return replace(data, train=train, dev=dev, test=test, scored=list(range(len(test))))


def _spaced(total: int, count: int) -> list[int]:
    return [number * total // min(count, total) for number in range(min(count, total))]
