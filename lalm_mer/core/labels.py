"""Label sets, their surface forms, and tasks that map a corpus's labels onto them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lalm_mer.core.errors import ConfigError

__all__ = ["UNPARSED", "UNSCORED", "LabelSet", "Task"]

UNPARSED = "<unparsed>"
UNSCORED = "<unscored>"


@dataclass(frozen=True)
class LabelSet:
    """The K labels of a task, in the order of every score column.

    Args:
        labels: K distinct labels, in order
        forms: label -> the words a model may answer with; a label without an entry is its own only form.
            The first form is the one that training writes.

    Raises:
        ConfigError: if there are fewer than two labels, a duplicate, a form shared by two labels, or forms of an
            unknown label

    Example:
        >>> LabelSet(("hap", "sad"), {"hap": ("happy", "excited")}).forms_of("hap")
        ('happy', 'excited')
    """

    labels: tuple[str, ...]
    forms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
            raise ConfigError(f"a label set needs two or more distinct labels, found {list(self.labels)}")
        reserved = {UNPARSED, UNSCORED} & set(self.labels)
        if reserved:
            raise ConfigError(f"label {sorted(reserved)[0]!r} is reserved for rows without a prediction; rename it")
        unknown = sorted(set(self.forms) - set(self.labels))
        if unknown:
            raise ConfigError(f"surface forms for {unknown}, which are not among the labels {list(self.labels)}")
        owner: dict[str, str] = {}
        for label in self.labels:
            if not self.forms_of(label) or not all(form.strip() for form in self.forms_of(label)):
                raise ConfigError(f"label {label!r} has an empty surface form; every form needs a visible character")
            for form in self.forms_of(label):
                if owner.setdefault(form, label) != label:
                    raise ConfigError(f"surface form {form!r} belongs to both {owner[form]!r} and {label!r}")

    def forms_of(self, label: str) -> tuple[str, ...]:
        """The surface forms of ``label``; the label itself where none are given."""
        return self.forms.get(label, (label,))

    def index(self, label: str) -> int:
        """Position of ``label`` among the K labels."""
        return self.labels.index(label)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Task:
    """What is asked of a corpus: a label set, and how the corpus's labels map onto it.

    Args:
        name: name of the task, for example ``ravdess_8``
        label_set: the K labels predicted
        label_map: corpus label -> task label; a corpus label without an entry is unmapped

    Raises:
        ConfigError: if the map leads outside the label set
    """

    name: str
    label_set: LabelSet
    label_map: Mapping[str, str]

    def __post_init__(self) -> None:
        for source, label in self.label_map.items():
            if label not in self.label_set.labels:
                raise ConfigError(
                    f"task {self.name}: label {source!r} maps to {label!r}, which is not one of "
                    f"{list(self.label_set.labels)}"
                )

    def label_of(self, corpus_label: str | None) -> str | None:
        """The task's label for a corpus label; None where it is unmapped."""
        return None if corpus_label is None else self.label_map.get(corpus_label)
