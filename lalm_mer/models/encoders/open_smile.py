"""Features by openSMILE: the 36 frame features of Pepino et al."""

from __future__ import annotations

from functools import cached_property
from importlib import metadata, util
from typing import Any

import numpy as np
import numpy.typing as npt

from lalm_mer.core.errors import ModelError
from lalm_mer.core.extras import install_extra
from lalm_mer.examples.feature_store import Frames
from lalm_mer.models.encoders.audio import SAMPLING_RATE, TRIM_DB, AudioEncoder

__all__ = ["PepinoFrames"]

_STATIC = (
    *("F0final_sma", "jitterLocal_sma", "shimmerLocal_sma", "logHNR_sma", "audspec_lengthL1norm_sma"),
    *(f"mfcc_sma[{number}]" for number in range(1, 14)),
)
_DELTA = tuple(name.replace("_sma", "_sma_de") for name in _STATIC)


class PepinoFrames(AudioEncoder):
    """The 36 frame features of Pepino et al.: pitch, jitter, shimmer, logHNR, loudness, 13 MFCC, and their deltas.

    They are 18 low-level descriptors of ComParE 2016 and those of its delta level, whose last two frames are dropped.

    Raises:
        ModelError: if openSMILE is not installed

    References:
        Pepino et al., ICASSP 2020; Eyben et al., openSMILE, ACM Multimedia 2010.
    """

    size = 36
    window = 960  # 60 ms, for pitch

    def __init__(self, trim_db: float | None = TRIM_DB) -> None:
        super().__init__(trim_db)
        if util.find_spec("opensmile") is None:
            raise ModelError(
                f"acoustic features 'opensmile' need the opensmile package: {install_extra('acoustic')} (its "
                "licence is for research; 'log_mel' needs no further package)"
            )

    def __reduce__(self) -> tuple[type[PepinoFrames], tuple[float | None]]:
        return PepinoFrames, (self.trim_db,)  # a worker process opens its own openSMILE

    def settings(self) -> dict[str, Any]:
        """Name, version, trimming and columns."""
        version = metadata.version("opensmile")
        return {"name": "opensmile", "version": version, "trim_db": self.trim_db, "columns": [*_STATIC, *_DELTA]}

    @cached_property
    def _levels(self) -> tuple[Any, Any]:
        import opensmile  # an optional extra

        compare, level = opensmile.FeatureSet.ComParE_2016, opensmile.FeatureLevel
        static = opensmile.Smile(compare, level.LowLevelDescriptors)
        return static, opensmile.Smile(compare, level.LowLevelDescriptors_Deltas)

    def _compute(self, samples: npt.NDArray[np.float32]) -> Frames:
        static, delta = (level.process_signal(samples, SAMPLING_RATE) for level in self._levels)
        return np.hstack([static[list(_STATIC)].to_numpy(), delta[list(_DELTA)].to_numpy()[: len(static)]])
