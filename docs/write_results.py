"""Write docs/results.md and its forest plots from eval/results/*.json; docs/results.md.jinja has the text around them.

Example:
  python docs/write_results.py
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import jinja2

from lalm_mer.core.names import ADAPTERS, ZERO_SHOT, input_text
from lalm_mer.core.notes import NoteCode
from lalm_mer.core.provenance import hash_json
from lalm_mer.evaluation.metrics import UAR
from lalm_mer.evaluation.report.figures import ForestPoint, forest, svg
from lalm_mer.evaluation.report.text import METHOD_NAMES, p_text, percent, value_text, with_interval
from lalm_mer.evaluation.results import Difference, ResultRow, Results, read_results
from lalm_mer.evaluation.target_metrics import metric_called

DOCS = Path(__file__).parent
PAGE = DOCS / "results.md"
IMAGES = DOCS / "images"
RESULTS = DOCS.parent / "eval/results"
REMARKS: Mapping[str, str] = {
    NoteCode.RANDOMLY_INITIALISED: "random weights, so the figure says nothing about a published model",
    NoteCode.SPEAKER_STATISTICS: "features are normalised by speaker, which uses the recordings of the test speakers",
    NoteCode.FITTED_ON_DEV: "the rule of the fusion was fitted on dev",
    NoteCode.CONTAMINATION: "test utterances may have been in the training data of the base model",
    NoteCode.UNKNOWN_TRAINING_DATA: "it is not known what the adapter was trained on",
    NoteCode.SWAPPED_AUDIO: "each test utterance has the audio of another one",
    NoteCode.GENERATED_ANSWERS: "answers were generated and parsed",
    NoteCode.SERVED_MODEL: "the model ran on a server",
    NoteCode.FIRST_TOKEN: "labels were scored by the first token of their answers alone",
}
"""Code of a note that a reader of the table has to know -> a remark"""
NOT_KNOWN = "not recorded"
OF_NOTE = ("python", "torch", "transformers", "peft", "scikit-learn", "opensmile")
"""Packages whose versions are shown; the files have all"""


@dataclass(frozen=True)
class Section:
    """The results of one file.

    Args:
        name: of the file, without its ending
        results: its content
    """

    name: str
    results: Results

    @property
    def lines(self) -> list[str]:
        """The table."""
        return list(_table(self.results))

    @property
    def image(self) -> str:
        """File name of the forest plot."""
        return f"results_{self.name}.svg"

    @property
    def points(self) -> list[ForestPoint]:
        """Figures of the forest plot; none for a single system, and for other tasks than of one label an utterance."""
        rows = self.results.rows if self.results.task_kind == "single" and len(self.results.rows) > 1 else ()
        return [ForestPoint(_name(row), row.modalities, *_uar(row)) for row in rows]

    @property
    def chance(self) -> float:
        """UAR of always predicting one class."""
        return 1 / (self.results.n_classes or 1)

    @property
    def image_key(self) -> str:
        """Hash of what the forest plot shows, in its metadata."""
        return hash_json([[asdict(point) for point in self.points], self.chance])

    @property
    def alt(self) -> str:
        """The forest plot in words."""
        stated = "; ".join(f"{_name(row)}: {with_interval(asdict(row.metrics[UAR]))}" for row in self.results.rows)
        return f"Forest plot of UAR in percent with 95% intervals. {stated}."

    @property
    def facts(self) -> str:
        """What was tested, in a sentence."""
        found, first = self.results, self.results.rows[0]
        speakers = first.metrics[found.primary_metric].n_speakers
        who = "" if speakers is None else f" of {_count(speakers, 'speaker')}"
        kind = "synthetic utterances" if found.synthetic else "utterances"
        classes = f", {found.n_classes} classes, chance UAR {percent(self.chance)}" if found.n_classes else ""
        numbers = f"{_listed('fold', found.folds)}, {_listed('seed', found.seeds)}"
        return f"{first.n:,} {kind}{who}{classes}; protocol `{found.protocol}`, {numbers}."

    @property
    def gains(self) -> list[str]:
        """The paired tests that are not in the table, each in a sentence."""
        shown = {(test.a, test.b) for test in self.results.differences}
        label = {row.system: row.label for row in self.results.rows}
        return [
            f"{label[test.a]} minus {label[test.b]}: {_difference(test, self.results)}, {p_text(test.p_value)}, "
            f"by Holm's rule {p_text(test.p_holm)}"
            for test in self.results.gains
            if (test.a, test.b) not in shown
        ]

    @property
    def remarks(self) -> list[str]:
        """What a reader of the table has to know, with the rows that it is about."""
        remarks: dict[str, list[str]] = {}
        for row in self.results.rows:
            for code in row.notes:
                if (words := REMARKS.get(code)) is not None:
                    remarks.setdefault(words, []).append(row.label)
            for number, words in ((row.n_unscored, "unscored"), (row.n_unparsed, "with an answer that names no label")):
                if number:
                    remarks.setdefault(f"{number} utterances {words}, counted as errors", []).append(row.label)
            if row.condition == "none" and len(row.seeds) not in (1, len(self.results.seeds)):
                seeds = f"{_listed('seed', row.seeds)} only"
                remarks.setdefault(seeds, []).append(row.label)
        return [f"{'; '.join(labels)}: {words}" for words, labels in remarks.items()]

    @property
    def origin(self) -> str:
        """Code, days and versions."""
        found = self.results
        commits = ", ".join(
            f"`{(each.commit or 'unknown')[:7]}`{' with files changed since' if each.modified else ''}"
            for each in found.commits
        )
        days = " to ".join(dict.fromkeys(_day(each) for each in (found.first_day, found.last_day)))
        versions = ", ".join(
            f"{name} {' and '.join(found.versions[name])}" for name in OF_NOTE if name in found.versions
        )
        return f"Runs of {days}, code {commits}; {versions}."


def page(files: Sequence[Path]) -> str:
    """Text of the page.

    Args:
        files: of results
    """
    sections = sections_of(files)
    corpora: dict[str, list[Section]] = {}
    for section in sections:
        corpora.setdefault(section.results.corpus, []).append(section)
    undefined = jinja2.StrictUndefined
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(DOCS), undefined=undefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    published = any(_is_published(row) for section in sections for row in section.results.rows)
    return environment.get_template("results.md.jinja").render(
        corpora=dict(sorted(corpora.items())), published=published
    )


def images(files: Sequence[Path]) -> Iterator[tuple[str, bytes]]:
    """File name and content of each forest plot."""
    for section in sections_of(files):
        if section.points:
            yield section.image, svg(forest(section.points, section.chance), section.image_key)


def sections_of(files: Iterable[Path]) -> list[Section]:
    """The results of files, by their names."""
    return [Section(file.stem, read_results(file)) for file in sorted(files)]


def _is_published(row: ResultRow) -> bool:
    """Whether it is a published audio-language model, as it is or with an adapter."""
    return row.method in (ZERO_SHOT, *ADAPTERS) and row.base_model is not None and not row.random_weights


def _table(results: Results) -> Iterator[str]:
    """The lines of the table; columns that say nothing about these results are left out."""
    several_seeds, several_folds = (len(numbers) > 1 for numbers in (results.seeds, results.folds))
    primary, tested = (metric_called(name) for name in (results.primary_metric, results.tested_metric))
    columns = [
        ("system", True),
        ("method", True),
        ("input", True),
        ("seeds", several_seeds),
        (primary.short_title, True),
        ("sd over seeds", several_seeds),
        ("mean ± sd over folds", several_folds),
        (f"{tested.short_title} ", tested.name != primary.name),
        (f"{tested.short_title} minus *{results.row(results.reference).label}*", len(results.rows) > 1),
        ("p (Holm)", len(results.rows) > 1),
        ("minutes", True),
        ("parameters trained", True),
        ("peak memory", True),
    ]
    kept = [place for place, (_, used) in enumerate(columns) if used]
    yield _line([columns[place][0].strip() for place in kept])
    yield _line(["---"] * len(kept), "|")
    tests = {test.a: test for test in results.differences}
    for row in results.rows:
        cells = _cells(row, results, tests)
        yield _line([cells[place] for place in kept])


def _cells(row: ResultRow, results: Results, tests: Mapping[str, Difference]) -> list[str]:
    figure, metric = row.metrics[results.primary_metric], metric_called(results.primary_metric)
    test = tests.get(row.system)
    of_folds = value_text(metric, figure.mean_over_folds)
    if figure.sd_over_folds is not None:
        of_folds += f" ± {value_text(metric, figure.sd_over_folds)}"
    return [
        _name(row),
        METHOD_NAMES[row.method],
        input_text(row.modalities, row.transcript_source, row.condition),
        str(len(row.seeds)),
        _value(row, results.primary_metric),
        "" if figure.sd_over_seeds is None else value_text(metric, figure.sd_over_seeds),
        of_folds,
        _value(row, results.tested_metric),
        "" if test is None else _difference(test, results),
        "" if test is None else p_text(test.p_holm).removeprefix("p ").removeprefix("= "),
        f"{row.minutes_per_seed:.1f}" if row.minutes_per_seed < 10 else f"{row.minutes_per_seed:.0f}",
        NOT_KNOWN if row.parameters is None else _amount(row.parameters.trained),
        _memory(row),
    ]


def _name(row: ResultRow) -> str:
    return f"{row.label} (random weights)" if row.random_weights else row.label


def _uar(row: ResultRow) -> tuple[float, float | None, float | None]:
    figure = row.metrics[UAR]
    return figure.value, figure.low, figure.high


def _value(row: ResultRow, name: str) -> str:
    """A metric with its interval, if it has one."""
    figure, metric = row.metrics[name], metric_called(name)
    return with_interval(asdict(figure)) if figure.low is not None else value_text(metric, figure.value)


def _difference(test: Difference, results: Results) -> str:
    """A difference with its interval, in points, or in units of the metric for tasks on numbers."""
    if results.task_kind == "scalar":
        return f"{test.value:+.3f}"
    value = f"{100 * test.value:+.1f}"
    return (
        value if test.low is None or test.high is None else f"{value} [{100 * test.low:+.1f}, {100 * test.high:+.1f}]"
    )


def _amount(number: int) -> str:
    """A number of parameters.

    Example:
        >>> [_amount(number) for number in (0, 50992, 8_419_328, 7_000_000_000)]
        ['0', '50,992', '8.4 million', '7.0 billion']
    """
    if number < 100_000:
        return f"{number:,}"
    return f"{number / 1e6:.1f} million" if number < 1e9 else f"{number / 1e9:.1f} billion"


def _memory(row: ResultRow) -> str:
    """Peak memory: that of the GPU says so."""
    parts = [
        f"{number / 2**30:.1f} GiB{where}"
        for number, where in ((row.peak_gpu_bytes, " (GPU)"), (row.peak_process_bytes, ""))
        if number is not None
    ]
    return " and ".join(parts) or NOT_KNOWN


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _listed(noun: str, numbers: Sequence[int]) -> str:
    """Numbers in words.

    Example:
        >>> _listed("fold", [1, 2, 3, 5]), _listed("seed", [0]), _listed("fold", [1, 2, 3])
        ('folds 1, 2, 3, 5', 'seed 0', 'folds 1 to 3')
    """
    if len(numbers) == 1:
        return f"{noun} {numbers[0]}"
    if len(numbers) > 2 and list(numbers) == list(range(numbers[0], numbers[-1] + 1)):
        return f"{noun}s {numbers[0]} to {numbers[-1]}"
    return f"{noun}s {', '.join(map(str, numbers))}"


def _day(text: str) -> str:
    day = date.fromisoformat(text)
    return f"{day.day} {day:%B %Y}"


def _line(cells: Sequence[str], space: str = " ") -> str:
    if space == "|":
        return f"|{'|'.join(cells)}|"
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Write the page and its images; images of results that are gone are removed."""
    files = sorted(RESULTS.glob("*.json"))
    made = dict(images(files))
    for file in IMAGES.glob("results_*.svg"):
        if file.name not in made:
            file.unlink()
    for name, content in made.items():
        (IMAGES / name).write_bytes(content)
    PAGE.write_text(page(files), encoding="utf-8")


if __name__ == "__main__":
    main()
