"""Features by openSMILE: the 36 frame features of Pepino et al., eGeMAPS and ComParE."""

from __future__ import annotations

from functools import cache
from importlib import metadata, util
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lalm_mer.core.errors import ModelError
from lalm_mer.core.extras import install_extra
from lalm_mer.examples.feature_store import Frames
from lalm_mer.models.encoders.audio import SAMPLING_RATE, TRIM_DB, AudioEncoder

__all__ = ["OpenSmileSet", "PepinoFrames"]

_STATIC = (
    *("F0final_sma", "jitterLocal_sma", "shimmerLocal_sma", "logHNR_sma", "audspec_lengthL1norm_sma"),
    *(f"mfcc_sma[{number}]" for number in range(1, 14)),
)
_DELTA = tuple(name.replace("_sma", "_sma_de") for name in _STATIC)
_SETS = {"egemaps": "eGeMAPSv02", "compare": "ComParE_2016"}
_FRAMES = Path(__file__).with_name("compare_frames.conf")
_LEVELS = {"frames": "LowLevelDescriptors", "functionals": "Functionals"}


def _require_installed() -> None:
    if util.find_spec("opensmile") is None:
        raise ModelError(
            f"audio encoder 'opensmile' needs the opensmile package: {install_extra('acoustic')} (its licence is for "
            "research; 'log_mel' needs no further package)"
        )


@cache  # in each process, since an encoder is pickled with every utterance
def _pepino() -> tuple[Any, list[int]]:
    """The extractor of ``compare_frames.conf``, and the columns of the 36 features in its frames."""
    import opensmile  # an optional extra

    compare = Path(opensmile.Smile(opensmile.FeatureSet.ComParE_2016).config_path)
    shared = compare.parents[1] / "shared"
    options = {
        "descriptors": str(compare.with_name("ComParE_2016_core.lld.conf.inc")),
        "bufferModeConf": str(shared / "BufferMode.conf.inc"),
        "bufferModeRbLagConf": str(shared / "BufferModeRbLag.conf.inc"),
    }
    smile = opensmile.Smile(str(_FRAMES), "frames", options=options)
    names = list(smile.feature_names)
    return smile, [names.index(name) for name in (*_STATIC, *_DELTA)]


@cache  # likewise
def _extractor(feature_set: str, level: str) -> Any:  # noqa: ANN401 of an optional extra
    import opensmile

    of_set = getattr(opensmile.FeatureSet, _SETS[feature_set])
    return opensmile.Smile(of_set, getattr(opensmile.FeatureLevel, _LEVELS[level]))


@cache  # reading it takes milliseconds, and an encoder's settings are read for each utterance
def _version() -> str:
    return metadata.version("opensmile")


class PepinoFrames(AudioEncoder):
    """The 36 frame features of Pepino et al.: pitch, jitter, shimmer, logHNR, loudness, 13 MFCC, and their deltas.

    They are 18 low-level descriptors of ComParE 2016 and their deltas, without the last two frames of the deltas.

    Raises:
        ModelError: if openSMILE is not installed

    References:
        Pepino et al., ICASSP 2020; Eyben et al., openSMILE, ACM Multimedia 2010.
    """

    frame_size = 36
    window = 960  # 60 ms, for pitch

    def __init__(self, trim_db: float | None = TRIM_DB, *, pooled: bool = False) -> None:
        super().__init__(trim_db, pooled=pooled)
        _require_installed()

    def _settings(self) -> dict[str, Any]:
        return {"name": "opensmile", "version": _version(), "columns": [*_STATIC, *_DELTA]}

    def _compute(self, samples: npt.NDArray[np.float32]) -> Frames:
        smile, columns = _pepino()
        frames: Frames = smile(samples, SAMPLING_RATE)[0][columns].T
        return frames


class OpenSmileSet(AudioEncoder):
    """Low-level descriptors or functionals of eGeMAPSv02 (25 or 88) or ComParE 2016 (65 or 6373).

    Args:
        feature_set: ``egemaps`` or ``compare``
        level: ``frames``, or ``functionals`` for one vector per utterance

    Raises:
        ModelError: if openSMILE is not installed

    References:
        Eyben et al., "The Geneva minimalistic acoustic parameter set (GeMAPS)", IEEE Transactions on Affective
        Computing 2016; Schuller et al., "The INTERSPEECH 2016 computational paralinguistics challenge".
    """

    window = 960

    def __init__(self, feature_set: str, level: str, trim_db: float | None = TRIM_DB, *, pooled: bool = False) -> None:
        super().__init__(trim_db, pooled=pooled)
        _require_installed()
        self.feature_set, self.level = feature_set, level
        self.frame_size = int(_extractor(feature_set, level).num_features)

    def _settings(self) -> dict[str, Any]:
        return {"name": "opensmile", "version": _version(), "set": _SETS[self.feature_set], "level": self.level}

    def _compute(self, samples: npt.NDArray[np.float32]) -> Frames:
        smile = _extractor(self.feature_set, self.level)
        frames: Frames = smile.process_signal(samples, SAMPLING_RATE).to_numpy()
        return frames
