"""Write docs/configuration.md from the declarations of the settings.

Example:
  python docs/write_configuration.py
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING
from pathlib import Path

from lalm_mer.core.settings import Setting, settings_of
from lalm_mer.corpora.settings import PrepareSettings
from lalm_mer.launch.config.alignment import AlignSettings
from lalm_mer.launch.config.benchmark import BenchmarkSettings
from lalm_mer.launch.config.cross_validation import CrossValidationSettings
from lalm_mer.launch.config.late_fusion import LateFusionSettings
from lalm_mer.launch.config.learning_curve import LearningCurveSettings
from lalm_mer.launch.config.linear import LinearSettings
from lalm_mer.launch.config.probe_layers import ProbeLayersSettings
from lalm_mer.launch.config.search import SearchSettings
from lalm_mer.launch.config.settings import (
    BaselineSettings,
    FinetuneSettings,
    TinySettings,
    TranscribeSettings,
    ZeroShotSettings,
)

PAGE = Path(__file__).with_name("configuration.md")
RECIPES = {
    "prepare_corpus.py": PrepareSettings,
    "zero_shot.py": ZeroShotSettings,
    "finetune.py": FinetuneSettings,
    "train_baseline.py": BaselineSettings,
    "align.py": AlignSettings,
    "transcribe.py": TranscribeSettings,
    "build_tiny_model.py": TinySettings,
    "cross_validate.py": CrossValidationSettings,
    "train_linear.py": LinearSettings,
    "late_fusion.py": LateFusionSettings,
    "search.py": SearchSettings,
    "learning_curve.py": LearningCurveSettings,
    "probe_layers.py": ProbeLayersSettings,
    "benchmark.py": BenchmarkSettings,
}
HEAD = """# Configuration

<!-- Written by docs/write_configuration.py. Change the declarations of the settings, not this page. -->

Every recipe takes `--config FILE.yaml` and overrides such as `train.learning_rate=2e-5`. A YAML file is one complete
run. An unknown key, a key that is given twice, a value of the wrong type and a value out of range are errors that name
file, key, value and what was expected; nothing is loaded before that. Values that are passed to transformers, peft or
accelerate have the same names there. `--help` of each recipe prints the keys of this page.

A key with ↻ may have another value when a run is [resumed](fine-tuning.md#resuming-a-run).
"""


def page() -> str:
    """Text of the page: each section with the recipes that have it, and a table of its keys."""
    recipes_of: dict[tuple[str, str], list[str]] = {}
    for recipe, schema in RECIPES.items():
        for section, table in _tables(schema):
            recipes_of.setdefault((section, table), []).append(f"`{recipe}`")
    parts = [HEAD]
    for (section, table), recipes in recipes_of.items():
        heading = f"`{section}`" if section else "Keys outside of sections"
        parts.append(f"## {heading} of {', '.join(recipes)}\n\n{table}")
    return "\n".join(parts)


def _tables(schema: type, section: str = "", *, may_change: bool = False) -> Iterator[tuple[str, str]]:
    """Name and table of a section, if it has keys, and of the sections in it."""
    declared = settings_of(schema)
    dot = f"{section}." if section else ""
    rows = [
        _row(name, setting, may_change=may_change or setting.may_change)
        for name, setting in declared.items()
        if setting.section is None
    ]
    if rows:
        about = [f"{(schema.__doc__ or '').partition(chr(10))[0]}", ""] if section else []
        head = ["| key | values | default | meaning |", "|---|---|---|---|"]
        yield section, "\n".join([*about, *head, *rows]) + "\n"
    for name, setting in declared.items():
        if setting.section is not None:
            yield from _tables(setting.section, f"{dot}{name}", may_change=may_change or setting.may_change)


def _row(key: str, setting: Setting, *, may_change: bool) -> str:
    default = setting.default_text if setting.default is MISSING else f"`{setting.default_text}`"
    cells = (f"`{key}`{' ↻' if may_change else ''}", setting.values, default, setting.help)
    return "| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
