"""The runs of layer probes: those of a cross-validation, for each layer of a pretrained encoder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.names import AUDIO, AUDIO_TRANSCRIPT, TRANSCRIPT
from lalm_mer.core.paths import as_recorded
from lalm_mer.launch.config.cross_validation import SystemSettings
from lalm_mer.launch.config.linear import LinearSettings
from lalm_mer.launch.config.probe_layers import ProbeLayersSettings
from lalm_mer.launch.cross_validation.plan import PlannedRun
from lalm_mer.launch.cross_validation.series import PlannedPoint, points_of_runs, require_free_overrides, system_runs
from lalm_mer.models.encoders.hidden_layers import number_of_layers

__all__ = ["plan_layers"]

_OF_A_RUN = tuple(f"linear.{modality}.layers" for modality in (AUDIO, TRANSCRIPT))


def plan_layers(settings: ProbeLayersSettings) -> list[PlannedPoint]:
    """All probes, row by row, from the lowest layer on; every config is checked.

    Raises:
        ConfigError: as ``plan_runs``, or if a system has no pretrained encoder, two modalities, or no such layer
        ModelError: if the config of an encoder cannot be read
    """
    require_free_overrides(settings, _OF_A_RUN, "layers")
    found: list[PlannedPoint] = []
    for name, system in settings.chosen.items():
        of_each = [replace(system, modalities=[each]) for each in system.modalities or ()]
        for one in of_each or [system]:
            found += _rows(name, one, settings)
    return found


def _rows(name: str, system: SystemSettings, settings: ProbeLayersSettings) -> Iterator[PlannedPoint]:
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
        yield from points_of_runs(_runs(name, system, settings, modality, layer), layer, f"layer {layer}")


def _runs(
    name: str, system: SystemSettings, settings: ProbeLayersSettings, modality: str = "", layer: int | None = None
) -> list[PlannedRun]:
    """The runs of one system on one layer, or as its YAML says."""
    own = [] if layer is None else [f"linear.{modality}.layers=[{layer}]"]
    return system_runs(
        settings, name, system, folder=f"layer_{layer}", folds=settings.folds, seeds=[settings.seed], own=own
    )
