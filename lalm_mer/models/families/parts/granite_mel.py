"""Granite Speech's feature extractor where torchaudio is not installed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import BatchFeature, GraniteSpeechFeatureExtractor, SequenceFeatureExtractor
from transformers.audio_utils import mel_filter_bank
from transformers.utils import is_torchaudio_available

__all__ = ["TorchMelExtractor", "extractor_class"]


class TorchMelExtractor(GraniteSpeechFeatureExtractor):  # type: ignore[misc]
    """What transformers' extractor computes, with torchaudio's mel spectrogram written in torch.

    The parent refuses to be made or called without torchaudio, so that its three methods which need it are written
    here again: power spectrogram, HTK mel bands, log10 within 8 of the clip's loudest, two frames stacked to one.
    The count of placeholders is the parent's own. Arguments are the parent's.
    """

    def __init__(
        self,
        sampling_rate: int = 16000,
        n_fft: int = 512,
        win_length: int = 400,
        hop_length: int = 160,
        n_mels: int = 80,
        projector_window_size: int = 15,
        projector_downsample_rate: int = 5,
        padding_value: float = 0.0,
        **kwargs: Any,  # noqa: ANN401 the parent's
    ) -> None:
        bands = kwargs.pop("feature_size", None) or n_mels
        # skips the parent's constructor, which requires torchaudio
        SequenceFeatureExtractor.__init__(self, bands, sampling_rate, padding_value, **kwargs)
        self.melspec_kwargs = {
            "sample_rate": sampling_rate,
            "n_fft": n_fft,
            "win_length": win_length,
            "hop_length": hop_length,
            "n_mels": n_mels,
        }
        self.mel_filters = mel_filter_bank(
            n_fft // 2 + 1, n_mels, 0.0, sampling_rate / 2, sampling_rate, norm=None, mel_scale="htk"
        )  # under a name that is not saved, as the parent's
        self.projector_window_size = projector_window_size
        self.projector_downsample_rate = projector_downsample_rate

    def __call__(self, audios: Tensor | Sequence[NDArray[np.float32]], device: str | None = "cpu") -> BatchFeature:
        """Features, counts of placeholders and their mask, as the parent's."""
        if not isinstance(audios, Tensor):
            lengths = [len(samples) for samples in audios]
            audios = torch.nn.utils.rnn.pad_sequence([torch.as_tensor(one) for one in audios], batch_first=True)
        else:
            lengths = [audios.shape[-1]] * len(audios)
        counts = self._get_num_audio_features(lengths)
        return BatchFeature(
            {
                "input_features": self._extract_mel_spectrograms(audios, device),
                "audio_embed_sizes": counts,
                "input_features_mask": torch.arange(max(counts))[None, :] < torch.tensor(counts)[:, None],
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """Under the parent's name, so that what is saved here opens anywhere."""
        content: dict[str, Any] = super().to_dict()
        return content | {"feature_extractor_type": GraniteSpeechFeatureExtractor.__name__}

    def _extract_mel_spectrograms(self, audio: Tensor, device: str | None = "cpu") -> Tensor:
        """(A, samples) -> (A, frames, 2 * mel bins)."""
        settings = self.melspec_kwargs
        audio = audio.float() if device is None else audio.float().to(device)
        spectrum = torch.stft(
            audio,
            settings["n_fft"],
            settings["hop_length"],
            settings["win_length"],
            window=torch.hann_window(settings["win_length"], device=audio.device),
            center=True,
            pad_mode="reflect",
            return_complex=True,
        )
        filters = torch.from_numpy(self.mel_filters).to(audio)
        mel = (spectrum.abs() ** 2).transpose(-1, -2) @ filters
        log_mel = mel.clamp(min=1e-10).log10()
        loudest = log_mel.amax(dim=(-2, -1), keepdim=True)
        log_mel = torch.maximum(log_mel, loudest - 8.0) / 4 + 1
        whole = log_mel.shape[1] // 2 * 2  # an odd last frame is dropped
        return log_mel[:, :whole].reshape(len(audio), -1, 2 * settings["n_mels"])


def extractor_class() -> type[Any]:
    """transformers' own extractor where torchaudio is installed, and the same without it elsewhere."""
    return GraniteSpeechFeatureExtractor if is_torchaudio_available() else TorchMelExtractor
