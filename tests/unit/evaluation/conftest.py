"""Fixtures that write fabricated run folders."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from fabricated import fabricate_run

from lalm_mer.core.notes import Note, NoteCode

FabricateRun = Callable[..., Path]
NOTES = (
    Note(NoteCode.RANDOMLY_INITIALISED),
    Note(NoteCode.CONTAMINATION, facts={"model": "fabricated", "known": '<b>bold & "quoted"</b>'}),
)


@pytest.fixture
def fabricate(tmp_path: Path) -> FabricateRun:
    """Write a fabricated run folder under a name; keywords of ``fabricate_run``."""
    return partial(fabricate_run, tmp_path)


@pytest.fixture(scope="session")
def fabricated_comparison(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two folds and two seeds of a LoRA recognizer in three modalities, its zero-shot self, and a baseline."""
    fabricate = partial(fabricate_run, tmp_path_factory.mktemp("runs"))
    folders = []
    rows = [
        ("fabricated_lalm", "audio", "zero_shot", 0.35, 1),
        ("fabricated_lalm", "audio", "lora", 0.5, 2),
        ("fabricated_lalm", "transcript", "lora", 0.4, 3),
        ("fabricated_lalm", "audio+transcript", "lora", 0.8, 4),
        ("fabricated_functionals", "audio", "baseline", 0.45, 5),
    ]
    for recognizer, modalities, method, skill, stream in rows:
        for fold in (1, 2):
            for seed in (0, 1) if method == "lora" else (0,):
                folders.append(
                    fabricate(
                        f"{recognizer}_{method}_{modalities}/fold{fold}_seed{seed}",
                        skill=skill,
                        stream=stream,
                        recognizer=recognizer,
                        modalities=modalities,
                        method=method,
                        fold=fold,
                        seed=seed,
                        base_model=None if method == "baseline" else "fabricated/base-7B",
                        unscored=3 if method == "zero_shot" else 0,
                        notes=NOTES[:1] if fold == 1 else NOTES,
                    )
                )
    return folders
