"""Features of a pretrained model of speech or audio: wav2vec2, HuBERT, WavLM, Whisper, AST, CLAP and similar ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import AutoFeatureExtractor, AutoModel

from lalm_mer.core.errors import AudioError, ModelError, one_line
from lalm_mer.examples.feature_store import Frames
from lalm_mer.models.digest import read_model_config
from lalm_mer.models.encoders.audio import TRIM_DB, AudioEncoder
from lalm_mer.models.encoders.hidden_layers import ChosenLayers, side_by_side, weights_hash
from lalm_mer.models.loading import from_pretrained, load_weights

__all__ = ["PretrainedAudio"]


class PretrainedAudio(ChosenLayers, AudioEncoder):
    """Hidden states of a frozen model, encoded one utterance at a time.

    Models of waveforms, such as wav2vec2, HuBERT and WavLM, and Whisper's encoder take the clip at its true length;
    Whisper's takes longer clips in windows. AST and CLAP have an input of fixed length: shorter clips are padded as in
    training, and longer ones are encoded in windows, whose frames follow each other. The frames of CLAP are means over
    frequency. Frames of several layers are float16, unless they are pooled.

    Args:
        model: Hub id or local folder, with safetensors weights and a feature extractor
        revision: branch, tag or commit on the Hub
        layers: ``last``, ``all``, or numbers, 0 for the input of the first layer; CLAP has ``last`` alone
        trim_db: as of ``AudioEncoder``
        pooled: as of ``AudioEncoder``

    Raises:
        ModelError: if it cannot be loaded or is of another kind
        ConfigError: if it has no layer of a number
    """

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        layers: str | Sequence[int] = "last",
        trim_db: float | None = TRIM_DB,
        *,
        pooled: bool = False,
    ) -> None:
        super().__init__(trim_db, pooled=pooled)
        self._source = (model, revision)
        self.model_type = str(read_model_config(model, revision).get("model_type"))
        try:
            extractor = from_pretrained(AutoFeatureExtractor, model, revision)
            loaded, report = load_weights(AutoModel, model, revision, output_loading_info=True)
        except ModelError:
            raise
        except (OSError, ValueError) as error:
            raise ModelError(
                f"audio encoder {model!r} cannot be loaded ({one_line(error)}); give a Hub id or a folder with "
                "safetensors weights and a feature extractor"
            ) from error
        self._extractor = extractor
        self.sampling_rate = int(extractor.sampling_rate)
        self.window = self.sampling_rate // 40
        self._encode, prefix, self._longest = self._of_type()
        loaded.eval().requires_grad_(False)
        self._encoder: nn.Module = loaded.get_submodule(prefix.rstrip(".")) if prefix else loaded
        self._weights = weights_hash(self._encoder, report["missing_keys"], model, prefix)
        with torch.no_grad():
            tone = np.sin(np.arange(self.sampling_rate // 2) / 8).astype(np.float32)
            states = self._encode(tone)
        width = int(states[-1].shape[-1]) * (2 if pooled else 1)
        self._open_layers(layers, model, total=len(states), width=width)

    def __reduce__(self) -> tuple[Callable[..., PretrainedAudio], tuple[Any, ...]]:
        return _open, ((*self._source, self.chosen.wanted, self.trim_db), self.pooled)

    def _settings(self) -> dict[str, Any]:
        return {
            "name": "pretrained_audio",
            "model_type": self.model_type,
            "weights": self._weights,
            "layers": self.chosen.wanted,
            **({"dtype": "float32"} if self.pooled and self.layers > 1 else {}),
            "extractor": self._extractor.to_json_string(),
            "transformers": metadata.version("transformers"),
        }

    def _of_type(self) -> tuple[Callable[[npt.NDArray[np.float32]], list[Tensor]], str, int | None]:
        """How samples become hidden states (F, D) of each layer; the part that does; the longest input, in samples."""
        if self.model_type == "whisper":
            return self._whisper, "encoder.", int(self._extractor.n_samples)
        if self.model_type == "clap":
            return self._clap, "audio_model.", int(self._extractor.nb_max_samples)
        if self.model_type == "audio-spectrogram-transformer":
            return self._generic, "", (int(self._extractor.max_length) - 1) * self.sampling_rate // 100
        return self._generic, "", None

    @torch.no_grad()
    def _compute(self, samples: npt.NDArray[np.float32]) -> Frames:
        longest = self._longest or len(samples)
        starts = range(0, len(samples), longest)
        windows = [samples[start : start + longest] for start in starts]
        if len(windows) > 1 and len(windows[-1]) < self.window:
            windows[-1] = samples[-self.window :]
        frames = [side_by_side(self._encode(window), self.chosen, pooled=self.pooled) for window in windows]
        joined: Frames = np.concatenate(frames)
        if not np.isfinite(joined).all():
            raise AudioError("its hidden states are not all finite, or too large for float16", "non_finite")
        return joined

    def _generic(self, samples: npt.NDArray[np.float32]) -> list[Tensor]:
        """The model's own forward, without padding beyond what its feature extractor requires."""
        inputs = self._extractor(samples, sampling_rate=self.sampling_rate, return_tensors="pt")
        output = self._encoder(**inputs, output_hidden_states=True)
        last = getattr(output, "last_hidden_state", None)
        if last is None or last.ndim != 3:
            raise ModelError(f"audio encoder of type {self.model_type!r} has no sequence of hidden states; use another")
        return [*(states[0] for states in (output.hidden_states or [last])[:-1]), last[0]]

    def _whisper(self, samples: npt.NDArray[np.float32]) -> list[Tensor]:
        """The steps of Whisper's encoder over the frames of the clip, and two of silence for the convolutions."""
        encoder: Any = self._encoder
        hop = int(self._extractor.hop_length)
        frames = -(-len(samples) // hop)
        filled = np.pad(samples, (0, (frames + 2) * hop - len(samples)))
        features = self._extractor(
            filled, sampling_rate=self.sampling_rate, padding="do_not_pad", truncation=False, return_tensors="pt"
        ).input_features
        states = nn.functional.gelu(encoder.conv1(features))
        states = nn.functional.gelu(encoder.conv2(states)).transpose(1, 2)[:, : max(1, (frames + 1) // 2)]
        states = states[:, : encoder.embed_positions.weight.shape[0]]
        states = states + encoder.embed_positions.weight[: states.shape[1]]
        layers = [states[0]]
        for layer in encoder.layers:
            output = layer(states, None)
            states = output[0] if isinstance(output, tuple) else output
            layers.append(states[0])
        layers[-1] = encoder.layer_norm(layers[-1])
        return layers

    def _clap(self, samples: npt.NDArray[np.float32]) -> list[Tensor]:
        """The output of HTS-AT, (channels, frequency, time), as the mean over frequency."""
        inputs = self._extractor(
            samples, sampling_rate=self.sampling_rate, truncation="rand_trunc", return_tensors="pt"
        )  # no longer than the window, so that nothing is cut at random
        longer = torch.zeros(1, 1, dtype=torch.bool)
        features = inputs["input_features"]
        encoder: Any = self._encoder
        if encoder.config.enable_fusion:
            features = features.expand(-1, 4, -1, -1)
        output = encoder(input_features=features, is_longer=longer)
        return [output.last_hidden_state[0].mean(dim=1).transpose(0, 1)]


def _open(given: Sequence[Any], pooled: bool) -> PretrainedAudio:
    return PretrainedAudio(*given, pooled=pooled)
