"""A fitted linear model as a recognizer; saved as safetensors and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lalm_mer.core.errors import LalmMerError, ModelError, PredictionError, one_line
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.names import AUDIO, modalities_of
from lalm_mer.core.output import atomic_path, write_json
from lalm_mer.core.schema import Input
from lalm_mer.core.strict_json import parse, read_object
from lalm_mer.evaluation.metrics import Floats
from lalm_mer.models.encoders.audio import AudioEncoder
from lalm_mer.models.encoders.kinds import FITTED, load_encoder
from lalm_mer.recognizers.base import Batch, Collator, TrainingCollator
from lalm_mer.recognizers.linear.features import Vectors
from lalm_mer.recognizers.linear.fitting import LinearFit, Scale
from lalm_mer.recognizers.linear.settings import LinearModelSettings

__all__ = ["LinearCollator", "LinearRecognizer", "saved_c"]

_CONFIG, _WEIGHTS = "linear.json", "model.safetensors"


@dataclass(frozen=True)
class _Saved:
    """Content of the file of settings."""

    labels: tuple[str, ...]
    settings: LinearModelSettings
    c: float
    factor: float
    encoders: Mapping[str, Mapping[str, Any]]


class LinearRecognizer(nn.Module):
    """A linear model of the vectors of frozen encoders, as scikit-learn fitted it, in float64.

    ``log_probs`` of a logistic regression are those of scikit-learn's ``predict_proba``; those of an SVM are the
    log_softmax of its decision values, multiplied by a factor that was fitted on dev.

    Args:
        settings: of the linear model
        fit: its numbers
        vectors: of the modalities of ``fit``
    """

    content_free = None

    def __init__(self, settings: LinearModelSettings, fit: LinearFit, vectors: Vectors) -> None:
        super().__init__()
        self.settings, self.vectors = settings, vectors
        self.label_set = LabelSet(fit.labels)
        self.modalities = modalities_of(audio=AUDIO in fit.scales, transcript=bool(set(fit.scales) - {AUDIO}))
        audio = vectors.encoders.get(AUDIO)
        self.sampling_rate = audio.sampling_rate if isinstance(audio, AudioEncoder) else None
        self.c, self.factor = fit.c, fit.factor
        self._used = tuple(fit.scales)
        self.coefficients = _fixed(fit.coefficients)
        self.intercepts = _fixed(fit.intercepts)
        self.means, self.factors = nn.ParameterDict(), nn.ParameterDict()
        for modality, scale in fit.scales.items():
            size = vectors.encoders[modality].size
            mean = np.zeros(size) if scale.mean is None else scale.mean
            self.means[modality] = _fixed(np.broadcast_to(mean, (size,)))
            self.factors[modality] = _fixed(np.broadcast_to(scale.factor, (size,)))

    @property
    def training_collator(self) -> TrainingCollator:
        """There is none.

        Raises:
            ModelError: always
        """
        raise ModelError("a linear model is fitted by scikit-learn, not in batches; use recipes/train_linear.py")

    @property
    def joint_collator(self) -> Collator:
        """Makes batches to score."""
        return LinearCollator(self.vectors)

    @property
    def scoring_collators(self) -> tuple[Collator, ...]:
        """The same, in a tuple."""
        return (self.joint_collator,)

    def refuses(self, duration_s: float) -> None:
        """None: it takes audio of any duration."""
        return

    def forward(self, **blocks: Tensor) -> dict[str, Tensor]:
        """``log_probs`` (B, K) of vectors (B, D) of each modality."""
        scaled = [(blocks[name] - self.means[name]) * self.factors[name] for name in self._used]
        logits = F.linear(torch.cat(scaled, dim=1), self.coefficients, self.intercepts)
        return {"log_probs": F.log_softmax(logits * self.factor, dim=1)}

    def save_trained(self, folder: Path) -> None:
        """Write weights, scales, settings and what the encoders were fitted to; of a frozen encoder name and hash."""
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder / _WEIGHTS) as partial:
            save_file({name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}, partial)
        encoders = {}
        for modality, encoder in self.vectors.encoders.items():
            encoder.save(folder / FITTED)
            encoders[modality] = encoder.settings()
        saved = _Saved(self.label_set.labels, self.settings, self.c, self.factor, encoders)
        write_json(folder / _CONFIG, asdict(saved))

    @classmethod
    def load_trained(cls, folder: Path) -> LinearRecognizer:
        """Read what ``save_trained`` wrote; warn of another version of an encoder.

        Raises:
            ModelError: if a file is missing or does not fit, or the weights of an encoder are not those of training
        """
        try:
            saved = _read(folder)
            weights = {name: value.numpy() for name, value in load_file(folder / _WEIGHTS).items()}
            used = saved.settings.encoders
            encoders = {
                modality: load_encoder(used[modality], folder, known) for modality, known in saved.encoders.items()
            }
            vectors = Vectors(encoders, by_speaker=saved.settings.normalisation == "speaker")
            model = cls(saved.settings, _fit(saved, weights), vectors)
        except PredictionError as error:
            raise ModelError(f"{folder}: not a saved linear model ({error})") from error
        except LalmMerError:
            raise
        except (OSError, TypeError, LookupError, RuntimeError, SafetensorError) as error:
            raise ModelError(f"{folder / _WEIGHTS}: does not fit {_CONFIG} ({one_line(error)})") from error
        return model.eval()


def saved_c(folder: Path) -> float:
    """The c of a saved linear model.

    Raises:
        PredictionError: if the folder has none
    """
    return _read(folder).c


def _read(folder: Path) -> _Saved:
    return parse(_Saved, read_object(folder / _CONFIG), str(folder / _CONFIG))


class LinearCollator:
    """Makes a batch of vectors for a ``LinearRecognizer``."""

    def __init__(self, vectors: Vectors) -> None:
        self._vectors = vectors

    def __call__(self, inputs: Sequence[Input]) -> Batch:
        """Vectors (B, D) of each modality, in float64."""
        names = self._vectors.encoders
        return {
            name: torch.from_numpy(np.stack([self._vectors.vector(name, given) for given in inputs])) for name in names
        }


def _fixed(values: Floats) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=torch.float64), requires_grad=False)


def _fit(saved: _Saved, weights: Mapping[str, Floats]) -> LinearFit:
    """The numbers of a saved model.

    Raises:
        LookupError: if one is missing
        RuntimeError: if their shapes do not fit each other
    """
    scales = {name: Scale(weights[f"means.{name}"], weights[f"factors.{name}"]) for name in saved.encoders}
    coefficients, intercepts = weights["coefficients"], weights["intercepts"]
    size = sum(len(scale.factor) for scale in scales.values())
    if coefficients.shape != (len(saved.labels), size) or intercepts.shape != (len(saved.labels),):
        raise RuntimeError(f"coefficients of shape {coefficients.shape}; expected {(len(saved.labels), size)}")
    return LinearFit(saved.labels, scales, coefficients, intercepts, saved.factor, saved.c)
