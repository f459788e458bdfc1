"""The runs of layer probes: those of a cross-validation, for each layer of a pretrained encoder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from lalm_mer.core.config import override_key
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.names import AUDIO, AUDIO_TRANSCRIPT, TRANSCRIPT
from lalm_mer.core.paths import as_recorded
from lalm_mer.launch.config.cross_validation import CrossValidationSettings, SystemSettings
from lalm_mer.launch.config.linear import LinearSettings
from lalm_mer.launch.config.probe_layers import ProbeLayersSettings
from lalm_mer.launch.config.sections import FolderSettings
from lalm_mer.launch.cross_validation.plan import PlannedRun, plan_runs
from lalm_mer.models.encoders.hidden_layers import number_of_layers

__all__ = ["PlannedLayer", "plan_layers"]

_OF_A_RUN = tuple(f"linear.{modality}.layers" for modality in (AUDIO, TRANSCRIPT))


@dataclass(frozen=True)
class PlannedLayer:
    """The runs of one row on one layer.

    Args:
        row: name of the system, with its modality if it has several
        layer: number of the layer
        runs: one for each fold
    """

    row: str
    layer: int
    runs: tuple[PlannedRun, ...]


def plan_layers(settings: ProbeLayersSettings) -> list[PlannedLayer]:
    """All probes, row by row, from the lowest layer on; every config is checked.

    Raises:
        ConfigError: as ``plan_runs``, or if a system has no pretrained encoder, two modalities, or no such layer
        ModelError: if the config of an encoder cannot be read
    """
    given = (*settings.overrides, *(each for system in settings.chosen.values() for each in system.overrides))
    for override in given:
        key = override_key(override)
        if any(own == key or own.startswith(f"{key}.") for own in _OF_A_RUN):
            raise ConfigError(f"override {override!r}: each run has its own {' and '.join(_OF_A_RUN)}; give layers")
    found: list[PlannedLayer] = []
    for name, system in settings.chosen.items():
        of_each = [replace(system, modalities=[each]) for each in system.modalities or ()]
        for one in of_each or [system]:
            found += _rows(name, one, settings)
    return found


def _rows(name: str, system: SystemSettings, settings: ProbeLayersSettings) -> Iterator[PlannedLayer]:
    """The probes of one system with one modality, from the lowest layer on."""
    first = _runs(name, system, settings)[0].settings
    assert isinstance(first, LinearSettings)
    modality = first.linear.modalities
    if modality == AUDIO_TRANSCRIPT:
        raise ConfigError(
            f"system {name}: key 'linear.modalities': {modality}; a probe is of one encoder: choose {AUDIO} or "
            f"{TRANSCRIPT}"
        )
    encoder = first.linear.encoders[modality]
    if encoder.kind != "pretrained":
        raise ConfigError(
            f"system {name}: key 'linear.{modality}.kind': {encoder.kind}; expected pretrained, which has layers"
        )
    if not first.split.score_test:
        raise ConfigError(
            f"system {name}: key 'split.score_test': false; a probe is scored on test, too; set it to true"
        )
    total = number_of_layers(encoder.model, encoder.revision)
    layers = sorted(settings.layers) or [*range(total)]
    if layers[-1] >= total:
        raise ConfigError(
            f"key 'layers': {layers[-1]}, but {as_recorded(encoder.model)} of system {name} has layers 0 to {total - 1}"
        )
    for layer in layers:
        runs = _runs(name, system, settings, modality, layer)
        yield PlannedLayer(runs[0].row, layer, tuple(replace(run, row=f"{run.row}, layer {layer}") for run in runs))


def _runs(
    name: str, system: SystemSettings, settings: ProbeLayersSettings, modality: str = "", layer: int | None = None
) -> list[PlannedRun]:
    """The runs of one system on one layer, or as its YAML says."""
    folder = Path(settings.output.dir) / f"layer_{layer}"
    own = [] if layer is None else [f"linear.{modality}.layers=[{layer}]"]
    return plan_runs(
        CrossValidationSettings(
            output=FolderSettings(as_recorded(folder)),
            systems={name: system},
            folds=settings.folds,
            seeds=[settings.seed],
            overrides=[*settings.overrides, *own],
        )
    )
