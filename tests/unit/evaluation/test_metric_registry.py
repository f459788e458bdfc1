"""All metrics of the registry, and one added by a test, wherever metrics are computed or shown."""

import csv
import json

import numpy as np
import pytest
import torch
from fabricated import LABELS, fabricated_predictions, fabricated_record, with_unparsed
from sklearn.metrics import cohen_kappa_score
from torch import nn

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.schema import Example, Input
from lalm_mer.evaluation.comparison import compare, write_comparison
from lalm_mer.evaluation.metrics import METRICS, UAR, Metric
from lalm_mer.evaluation.report.html import render_report
from lalm_mer.evaluation.report.text import comparison_text, metrics_text
from lalm_mer.evaluation.runs import read_run
from lalm_mer.evaluation.scores import score
from lalm_mer.launch.config.sections import TrainSettings
from lalm_mer.launch.run.engine import Engine
from lalm_mer.launch.run.trainers import make_trainer
from lalm_mer.protocols.protocol import load_protocol
from lalm_mer.sharing.model_card import CardFacts, card_metadata, render_model_card
from lalm_mer.sharing.public_record import PublicRecord

PROTOCOL = """
name: p
version: 1
source: a test
folds: {{rule: grouped, column: speaker}}
disjoint_in: [speaker]
primary_metric: {metric}
"""


def kappa_of_counts(counts):
    """Cohen's kappa; unparsed and unscored rows agree with no class."""
    classes, n = counts.shape[-2], counts.sum(axis=(-2, -1))
    agreement = np.trace(counts, axis1=-2, axis2=-1) / n
    chance = (counts.sum(axis=-1) * counts[..., :classes].sum(axis=-2)).sum(axis=-1) / n**2
    return (agreement - chance) / (1 - chance)


KAPPA = Metric(
    name="cohen_kappa",
    title="Cohen's kappa",
    short_title="kappa",
    column="kappa",
    from_labels=lambda truth, prediction, labels: float(cohen_kappa_score(truth, prediction)),
    from_counts=kappa_of_counts,
    definition="agreement beyond chance",
    bounds=(-1.0, 1.0),
    hub_type="cohen_kappa",
)


@pytest.fixture(params=[*METRICS.values(), KAPPA], ids=lambda metric: metric.name)
def metric(request, monkeypatch):
    """A metric of the registry; the last one is added only here."""
    monkeypatch.setitem(METRICS, request.param.name, request.param)
    return request.param


def percent(value):
    return f"{100 * value:.1f}"


def test_it_is_in_metrics_json_with_its_interval(metric):
    predictions = with_unparsed(fabricated_predictions(skill=0.4, unscored=0), 3)
    truth, prediction = (predictions.frame[name].tolist() for name in ("truth", "prediction"))
    entry = score(predictions)[metric.name]
    assert entry["value"] == metric.from_labels(truth, prediction, predictions.labels)
    assert metric.bounds[0] <= entry["low"] < entry["value"] < entry["high"] <= metric.bounds[1]
    assert entry["n_clusters"] == 4


def test_an_interval_is_clipped_to_the_bounds_of_its_metric(monkeypatch):
    monkeypatch.setitem(METRICS, KAPPA.name, KAPPA)
    scores = score(fabricated_predictions(skill=0.0, per_speaker=6))
    assert 0 <= scores[UAR]["low"] < scores[UAR]["value"]
    assert -1 <= scores[KAPPA.name]["low"] < 0


def test_it_is_in_comparison_report_and_terminal(metric, fabricate, tmp_path):
    folders = [fabricate("audio"), fabricate("both", modalities="audio+transcript", skill=0.8)]
    comparison = compare([read_run(folder) for folder in folders])
    values = [row.scores[metric.name]["value"] for row in comparison.rows]
    write_comparison(comparison, tmp_path / "out")
    with (tmp_path / "out" / "comparison.csv").open() as file:
        assert [float(row[metric.column]) for row in csv.DictReader(file)] == pytest.approx(values)
    rows = json.loads((tmp_path / "out" / "comparison.json").read_text())["rows"]
    assert [row[metric.column] for row in rows] == values
    header, *lines = comparison_text(comparison).splitlines()[1:4]
    end = header.index(metric.short_title) + len(metric.short_title)
    assert [line[:end].split()[-1] for line in lines] == [percent(value) for value in values]
    line = next(line for line in metrics_text(comparison.rows[0].scores).splitlines() if metric.long_title in line)
    assert line.split(metric.long_title)[1].split()[0] == percent(values[0])


def test_it_is_a_column_of_the_report(metric, fabricate):
    comparison = compare([read_run(fabricate("one"))])
    report = render_report(comparison)
    table = report.split("<table")[1].split("</table>")[0]
    headings = table.split("<thead>")[1].split("</thead>")[0].split("</th>")
    numbers = [place for place, heading in enumerate(headings) if 'class="number"' in heading]
    place = next(place for place in numbers if metric.short_title in headings[place])
    cells = table.split("<tbody>")[1].split('<span class="value">')[1:]
    assert cells[place - numbers[0]].split("</span>")[0] == percent(comparison.rows[0].scores[metric.name]["value"])
    assert len(cells) == len(METRICS)
    legend = f"{metric.short_title}, {metric.title}: {metric.definition}."
    assert (legend.replace("'", "&#39;") in report) == (metric.definition is not None)


def facts(metrics, **changed):
    model = {"family": "qwen2_audio", "id": "Qwen/Qwen2-Audio-7B-Instruct"}
    config = {"model": model, "adapter": {"r": 16}, "train": {"learning_rate": 2e-5}}
    return CardFacts(
        repo_id="jane/adapter",
        record=PublicRecord(fabricated_record(config=config, unmapped=0, **changed)),
        metrics=metrics,
        forms={label: (label,) for label in LABELS},
        dev_rule="of each fold, what the next fold tests",
        base_licence="Apache-2.0",
        base_model="Qwen/Qwen2-Audio-7B-Instruct",
    )


def test_it_is_in_the_model_card_and_its_metadata(metric):
    metrics = score(fabricated_predictions())
    described = facts(metrics, primary_metric=metric.name)
    card = render_model_card(described)
    assert f"| {metric.long_title} | {percent(metrics[metric.name]['value'])}% |" in card
    assert f"selected by {metric.long_title} on dev" in card
    results = card_metadata(described)["model-index"][0]["results"][0]["metrics"]
    stated = {row["name"]: (row["type"], row["value"]) for row in results}
    expected = None if metric.hub_type is None else (metric.hub_type, metrics[metric.name]["value"])
    assert stated.get(metric.long_title) == expected


def test_a_run_older_than_a_metric_stays_readable(monkeypatch, fabricate):
    metrics, folder = score(fabricated_predictions()), fabricate("old")
    monkeypatch.setitem(METRICS, KAPPA.name, KAPPA)
    assert KAPPA.title not in render_model_card(facts(metrics))
    assert read_run(folder).history[KAPPA.name].isna().all()


def test_a_protocol_may_select_by_it(metric, tmp_path):
    (tmp_path / "p.yaml").write_text(PROTOCOL.format(metric=metric.name))
    assert load_protocol(tmp_path / "p.yaml").primary_metric == metric.name


def test_a_protocol_cannot_select_by_an_unknown_metric(tmp_path):
    (tmp_path / "p.yaml").write_text(PROTOCOL.format(metric=KAPPA.name))
    with pytest.raises(ConfigError, match=rf"'primary_metric': 'cohen_kappa'; expected one of {', '.join(METRICS)}"):
        load_protocol(tmp_path / "p.yaml")


class Bias(nn.Module):
    """A recognizer that uses only the number in the id of an utterance."""

    label_set = LabelSet(LABELS)

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(24, len(LABELS))

    @property
    def scoring_collators(self):
        return [lambda inputs: {"number": torch.tensor([int(given.utterance_id) for given in inputs])}]

    def training_collator(self, examples):
        truth = torch.tensor([LABELS.index(example.label) for example in examples])
        return self.scoring_collators[0]([example.input for example in examples]) | {"truth": truth, "labels": truth}

    def forward(self, number, truth, labels=None):
        log_probs = self.table(number).log_softmax(dim=1)
        losses = -log_probs.gather(1, truth[:, None])[:, 0]
        return {"losses": losses, "items": torch.ones_like(losses), "log_probs": log_probs}


def test_it_is_computed_on_dev_and_selects_the_checkpoint(metric, fabricate, tmp_path, capsys):
    generator = np.random.default_rng(0)
    examples = [Example(Input(str(n), None, None), str(generator.choice(LABELS))) for n in range(24)]
    torch.manual_seed(0)
    folder = fabricate("trained")
    trainer = make_trainer(
        Bias(), TrainSettings(num_train_epochs=4, learning_rate=0.3, use_cpu=True), Engine("cpu.yaml", "NO", 1, None),
        folder=tmp_path / "checkpoints", history=folder / "history.jsonl", seed=0, train=examples, dev=examples,
        best_by=metric.name,
    )  # fmt: skip
    trainer.train()
    history = read_run(folder).history
    dev = history[history["split"] == "dev"]
    assert len(dev) == 4
    assert trainer.state.best_metric == dev[metric.name].max()
    assert f"dev {metric.short_title} {dev[metric.name].iloc[-1]:.3f}" in capsys.readouterr().out
