"""Zero-shot prompting and fine-tuning from the command line to the report that compares them."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from closeness import assert_close
from representatives import slow_except
from safetensors.numpy import load_file

from lalm_mer.core.config import load_config
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.locks import only_writer
from lalm_mer.core.notes import NoteCode, sentence
from lalm_mer.core.run_record import read_record
from lalm_mer.corpora import load
from lalm_mer.evaluation.predictions import Predictions
from lalm_mer.examples.conditions import derangement
from lalm_mer.launch.build.baseline import open_baseline_run
from lalm_mer.launch.build.model_run import open_model_run
from lalm_mer.launch.config.settings import BaselineSettings, FinetuneSettings, ZeroShotSettings
from lalm_mer.models.families import family_class
from lalm_mer.protocols.folded_corpus import fold_corpus
from lalm_mer.protocols.protocol import load_protocol

REPO_ROOT = Path(__file__).resolve().parents[2]
RUN = {"run.json", "predictions.parquet", "metrics.json"}


def dev_ids(workplace) -> list[str]:
    """Ids of the dev utterances of fold 1 that the model can use."""
    settings = load_config(ZeroShotSettings, workplace.config("zero_shot"), ["output.dir=unused"])
    folds = fold_corpus(load(workplace.data), load_protocol(Path(settings.split.protocol))).folds
    return [name for name in folds.ids(settings.split.fold, "dev") if name != "s1_too_long"]


def contents(folder: Path) -> dict[str, tuple[str, int]]:
    """Every file with its hash and time of change."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) for path in files}


def test_a_zero_shot_run_folder_is_complete(prompted):
    assert {path.name for path in prompted.iterdir() if path.is_file()} == RUN
    run = read_record(prompted / "run.json")
    assert (run.method, run.modalities, run.corpus) == ("zero_shot", "audio+transcript", "synthetic_beeps")
    assert run.seconds > 0
    assert (run.parameters.trained, run.parameters.all > 1000) == (0, True)
    assert run.randomly_initialised
    assert set(run.hashes) == {"data", "folds", "prompt", "base_model"}
    table = pd.read_parquet(prompted / "predictions.parquet")
    scored = table[table["status"] == "scored"].filter(like="log_prob_")
    assert list(scored) == ["log_prob_angry", "log_prob_content", "log_prob_happy", "log_prob_sad"]
    assert np.exp(scored).sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-5)


def test_a_fine_tuned_run_folder_is_complete(uninterrupted, workplace):
    files = {path.name for path in uninterrupted.iterdir() if path.is_file()}
    assert files == RUN | {"history.jsonl", "dev_predictions.parquet"}
    on_dev = Predictions.read(uninterrupted / "dev_predictions.parquet")
    assert sorted(on_dev.frame["utterance_id"]) == dev_ids(workplace)
    adapter = load_file(uninterrupted / "adapter" / "adapter_model.safetensors")
    assert any("audio_tower" in name for name in adapter)
    assert all("lora_" in name for name in adapter)
    rows = [json.loads(line) for line in (uninterrupted / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["split"] == "train"] == list(range(1, 31))
    dev = [row for row in rows if row["split"] == "dev"]
    assert [row["step"] for row in dev] == [10, 20, 30]
    assert set(dev[0]) == {
        "step", "epoch", "split", "loss", "uar", "weighted_accuracy", "macro_f1", "weighted_f1"
    }  # fmt: skip
    assert dev[-1]["loss"] < dev[0]["loss"]
    run = read_record(uninterrupted / "run.json")
    assert run.parameters.trained == sum(tensor.size for tensor in adapter.values()) < run.parameters.all
    assert run.config["adapter"]["lora_dropout"] == 0.3
    assert run.config["train"]["warmup_steps"] == 0.05  # a default is written too


def test_an_adapter_has_the_targets_of_the_family_by_default(workplace, tmp_path, capsys):
    overrides = ["adapter.towers=null", "train.max_steps=1"]
    workplace.run("finetune", tmp_path, *overrides)
    targets = {tower: list(names) for tower, names in family_class("qwen2_audio").adapter_targets.items()}
    assert f"frozen; targets {', '.join(targets['language_model'])}\n" in capsys.readouterr().out
    assert json.loads((tmp_path / "run.json").read_text())["config"]["adapter"]["towers"] == targets
    adapter = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {name.partition(".lora_")[0].rpartition(".")[2] for name in adapter} == {
        name for names in targets.values() for name in names
    }
    assert workplace.again("finetune", f"output.dir={tmp_path}", *overrides) == 0  # also without towers


@pytest.mark.parametrize(
    ("overrides", "towers"),
    [(["prompt.file=prompts/transcript.yaml"], {"language_model"}), (["adapter.full=[projector]"], {"language_model"})],
)
def test_towers_that_cannot_be_adapted_are_no_default_targets(overrides, towers, workplace):
    config = load_config(FinetuneSettings, workplace.config("finetune"), ["adapter.towers=null", *overrides])
    assert set(open_model_run(config).settings.adapter.towers) == towers


@pytest.mark.parametrize("recipe", ["zero_shot", "finetune"])
def test_an_utterance_that_the_model_cannot_use_stays_in_the_denominator(recipe, request, workplace):
    folder = request.getfixturevalue({"zero_shot": "prompted", "finetune": "uninterrupted"}[recipe])
    assert "s1_too_long" in set(pd.read_parquet(workplace.data / "utterances")["utterance_id"])
    table = pd.read_parquet(folder / "predictions.parquet").set_index("utterance_id")
    assert len(table) == 21
    assert list(table.index[table["status"] == "unscored"]) == ["s1_too_long"]
    assert table.loc["s1_too_long"].filter(like="log_prob_").isna().all()
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["n"], metrics["n_scored"], metrics["n_unscored"]) == (21, 20, 1)
    right = (table["truth"] == table["prediction"]).sum()
    assert metrics["weighted_accuracy"]["value"] == pytest.approx(right / 21)
    notes = read_record(folder / "run.json").notes
    (unscored,) = [note for note in notes if note.code == NoteCode.UNSCORED]
    assert (unscored.split, unscored.n, unscored.ids) == ("test", 1, ("s1_too_long",))
    assert "s1_too_long: 40.00 s long" in sentence(unscored)
    assert "counted as errors" in sentence(unscored)


def test_a_zero_shot_run_scores_dev_on_request(prompted, workplace, tmp_path):
    workplace.run("zero_shot", tmp_path / "run", "scoring.dev=true")
    on_dev = Predictions.read(tmp_path / "run" / "dev_predictions.parquet")
    assert sorted(on_dev.frame["utterance_id"]) == dev_ids(workplace)
    for name in ("predictions.parquet", "metrics.json"):
        assert (tmp_path / "run" / name).read_bytes() == (prompted / name).read_bytes()


def test_generated_answers_do_not_score_dev(workplace, tmp_path, capsys):
    out = f"output.dir={tmp_path}"
    assert workplace.again("zero_shot", out, "scoring.dev=true", "answering.mode=generation") == 1
    assert capsys.readouterr().err.startswith("error: key 'scoring.dev': true, but generated answers")


def test_both_are_compared(prompted, uninterrupted, workplace, tmp_path):
    assert workplace.script("eval/compare.py", str(prompted), str(uninterrupted), "--out", str(tmp_path / "out")) == 0
    table = pd.read_csv(tmp_path / "out" / "comparison.csv").set_index("method")
    assert set(table.index) == {"zero_shot", "lora"}
    assert list(table["n"]) == [21, 21]
    assert list(table["n_unscored"]) == [1, 1]
    metrics = json.loads((uninterrupted / "metrics.json").read_text())
    assert table.loc["lora", "uar"] == pytest.approx(metrics["uar"]["value"], abs=1e-6)
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert "40.00 s long" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_swapped_audio_replaces_that_of_the_utterance(uninterrupted, workplace, tmp_path):
    swapped = tmp_path / "swapped"
    workplace.run("zero_shot", swapped, f"model.adapter={uninterrupted}", "scoring.condition=audio_swapped")
    run = read_record(swapped / "run.json")
    assert (run.condition, run.method) == ("audio_swapped", "lora")
    assert run.parameters == read_record(uninterrupted / "run.json").parameters  # of an adapter trained earlier
    assert run.notes[0].code == NoteCode.SWAPPED_AUDIO
    own, other = (pd.read_parquet(folder / "predictions.parquet") for folder in (uninterrupted, swapped))
    assert set(other["condition"]) == {"audio_swapped"}
    assert list(other["utterance_id"][other["status"] == "unscored"]) == ["s1_too_long"]
    own, other = (table[table["status"] == "scored"].reset_index(drop=True) for table in (own, other))
    spoken = pd.read_parquet(workplace.data / "utterances").set_index("utterance_id")["transcript"]
    alike = [(place, at) for place, at in enumerate(derangement(20, seed=0))
             if spoken[own["utterance_id"][place]] == spoken[own["utterance_id"][at]]]  # fmt: skip
    assert len(alike) >= 2  # with the same transcript, the scores are those of the utterance whose audio it is
    of_lenders = own.filter(like="log_prob_").to_numpy()[[at for _, at in alike]]
    scores = other.filter(like="log_prob_").to_numpy()[[place for place, _ in alike]]
    assert_close(scores, of_lenders, 1e-4)
    assert np.abs(own.filter(like="log_prob_") - other.filter(like="log_prob_")).to_numpy().max() > 1e-3
    compared = ["eval/compare.py", str(uninterrupted), str(swapped), "--out", str(tmp_path / "out")]
    assert workplace.script(*compared) == 0
    assert list(pd.read_csv(tmp_path / "out" / "comparison.csv")["condition"]) == ["none", "audio_swapped"]


@pytest.mark.parametrize("recipe", ["zero_shot", "finetune"])
def test_the_same_command_changes_nothing(recipe, request, workplace, capsys):
    folder = request.getfixturevalue({"zero_shot": "prompted", "finetune": "uninterrupted"}[recipe])
    before = contents(folder)
    assert workplace.again(recipe, f"output.dir={folder}") == 0
    assert f"{folder} is finished; nothing to do" in capsys.readouterr().out
    assert contents(folder) == before


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes(workplace, uninterrupted, prompted, tmp_path):
    workplace.run("finetune", tmp_path / "lora")
    workplace.run("zero_shot", tmp_path / "zero_shot")
    adapter = "adapter/adapter_model.safetensors"
    assert (tmp_path / "lora" / adapter).read_bytes() == (uninterrupted / adapter).read_bytes()
    assert (tmp_path / "lora" / "history.jsonl").read_bytes() == (uninterrupted / "history.jsonl").read_bytes()
    for name, folder in (("lora", uninterrupted), ("zero_shot", prompted)):
        again = pd.read_parquet(tmp_path / name / "predictions.parquet")
        pd.testing.assert_frame_equal(again, pd.read_parquet(folder / "predictions.parquet"), check_exact=True)


@pytest.mark.slow
def test_another_seed_differs(workplace, uninterrupted, tmp_path):
    workplace.run("finetune", tmp_path, "seed=1")
    adapter = "adapter/adapter_model.safetensors"
    assert (tmp_path / adapter).read_bytes() != (uninterrupted / adapter).read_bytes()
    first = [json.loads((folder / "history.jsonl").read_text().splitlines()[0]) for folder in (tmp_path, uninterrupted)]
    assert first[0]["loss"] != first[1]["loss"]  # other examples in the first batch


WAYS = {
    "shots": ["prompt.shots=3"],
    "orders": ["prompt.label_orders=4"],
    "templates": ["prompt.also=[prompts/brief_audio_transcript.yaml]"],
    "mean": ["prompt.label_score=mean"],
    "pmi": ["prompt.label_score=pmi"],
    "descriptors": ["prompt.file=prompts/described/audio_transcript.yaml"],
    "all at once": ["prompt.shots=2", "prompt.label_orders=2", "prompt.label_score=pmi"],
}


@pytest.mark.parametrize("way", slow_except(list(WAYS), ["templates", "all at once"]))
def test_other_ways_of_prompting_give_other_scores(way, prompted, workplace, tmp_path, capsys):
    out = tmp_path / "run"
    cache = f"prompt.cache_dir={workplace.folder / 'cache'}"
    assert workplace.again("zero_shot", f"output.dir={out}", cache, *WAYS[way]) == 0
    table, plain = (pd.read_parquet(folder / "predictions.parquet") for folder in (out, prompted))
    scores, before = (each[each["status"] == "scored"].filter(like="log_prob_") for each in (table, plain))
    assert len(scores) == len(before) == 20
    assert np.exp(scores).sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-5)
    assert (scores - before).abs().to_numpy().max() > 1e-4
    codes = {note.code for note in read_record(out / "run.json").notes}
    assert (NoteCode.ANSWERED_EXAMPLES in codes) == ("prompt.shots" in WAYS[way][0])
    if way not in ("orders", "templates", "all at once"):
        assert not (out / "prompts.csv").exists()
        return
    rows = pd.read_csv(out / "prompts.csv")
    assert len(rows) == len(rows.drop_duplicates(["prompt", "first_label"])) == (4 if way == "orders" else 2)
    low, high = 100 * rows["uar"].min(), 100 * rows["uar"].max()
    assert f"each of {len(rows)} prompts and label orders: {low:.1f} to {high:.1f}, mean" in capsys.readouterr().out
    if way != "all at once":  # the first is the plain run
        metrics = json.loads((prompted / "metrics.json").read_text())
        for name in ("uar", "weighted_accuracy", "macro_f1", "weighted_f1"):
            assert_close(rows.loc[0, name], metrics[name]["value"])


def test_one_order_of_one_template_is_the_plain_run(prompted, workplace, tmp_path):
    assert (
        workplace.again("zero_shot", f"output.dir={tmp_path / 'run'}", "prompt.label_orders=1", "prompt.also=[]") == 0
    )
    table, plain = (pd.read_parquet(folder / "predictions.parquet") for folder in (tmp_path / "run", prompted))
    pd.testing.assert_frame_equal(table, plain)


def test_a_corpus_of_test_utterances_alone_is_scored_zero_shot(workplace, tmp_path, capsys):
    protocol = yaml.safe_load((workplace.config("zero_shot").parent / "protocol.yaml").read_text())
    protocol |= {"name": "all", "folds": {"rule": "test"}}
    (tmp_path / "all.yaml").write_text(yaml.safe_dump(protocol))
    given = ["--config", str(workplace.config("zero_shot")), f"split.protocol={tmp_path / 'all.yaml'}"]
    assert workplace.script("recipes/zero_shot.py", *given, f"output.dir={tmp_path / 'run'}") == 0
    assert "test alone, without train and dev" in capsys.readouterr().out
    record = read_record(tmp_path / "run/run.json")
    table = pd.read_parquet(tmp_path / "run/predictions.parquet")
    n = json.loads((workplace.config("zero_shot").parent / "data/summary.json").read_text())["n_utterances"]
    assert (record.protocol, len(table)) == ("all", n - record.unmapped)
    assert (table["status"] == "scored").sum() > 30
    training = ["--config", str(workplace.config("finetune")), given[-1]]
    for recipe, arguments in (("finetune", training), ("zero_shot", [*given, "prompt.shots=1"])):
        assert workplace.script(f"recipes/{recipe}.py", *arguments, f"output.dir={tmp_path / 'refused'}") == 1
        error = capsys.readouterr().err
        assert "key 'split.protocol'" in error
        assert "has test alone" in error
        assert not (tmp_path / "refused").exists()


@pytest.mark.slow
def test_gradient_checkpointing_changes_no_result(workplace, tmp_path):
    for value in ("false", "true"):
        workplace.run("finetune", tmp_path / value, "train.max_steps=2", f"train.gradient_checkpointing={value}")
    adapters = [load_file(tmp_path / value / "adapter" / "adapter_model.safetensors") for value in ("false", "true")]
    for name, expected in adapters[0].items():
        assert_close(adapters[1][name], expected, 1e-4, name=name)
    record = read_record(tmp_path / "true" / "run.json")
    assert record.config["train"]["gradient_checkpointing"]


@pytest.mark.slow
def test_packing_changes_no_result(workplace, prompted, tmp_path):
    steps = ("train.max_steps=4", "train.gradient_accumulation_steps=2", "adapter.lora_dropout=0.0")
    steps = (
        *steps,
        "train.per_device_train_batch_size=6",
        "balance.class_weights=balanced",
        "train.learning_rate=1e-3",
    )
    runs = [tmp_path / value for value in ("false", "true")]
    for run in runs:
        workplace.run("finetune", run, *steps, f"train.packing={run.name}")
    losses = [
        [row["loss"] for row in map(json.loads, (run / "history.jsonl").read_text().splitlines())] for run in runs
    ]
    assert_close(losses[1], losses[0], 1e-5)
    adapters = [load_file(run / "adapter" / "adapter_model.safetensors") for run in runs]
    for name, expected in adapters[0].items():
        assert_close(adapters[1][name], expected, 1e-4, name=name)
    workplace.run("zero_shot", tmp_path / "scored", "scoring.packing=true")
    tables = [pd.read_parquet(run / "predictions.parquet") for run in (tmp_path / "scored", prompted)]
    assert_close(*tables, 1e-5)


def test_the_baseline_has_no_packing():
    settings = load_config(
        BaselineSettings, REPO_ROOT / "recipes" / "ravdess" / "baseline.yaml", ["train.packing=true"]
    )
    with pytest.raises(
        ConfigError, match=r"key 'train\.packing': true, but the baseline has no rows of tokens; set it"
    ):
        open_baseline_run(settings)


def test_generated_answers_have_no_packing(workplace, tmp_path, capsys):
    arguments = ("answering.mode=generation", "scoring.packing=true", f"output.dir={tmp_path / 'refused'}")
    assert workplace.script("recipes/zero_shot.py", "--config", str(workplace.config("zero_shot")), *arguments) == 1
    assert "key 'scoring.packing': true, but answers are generated in rows of their own" in capsys.readouterr().err


def test_the_baseline_has_no_gradient_checkpointing():
    override = ["train.gradient_checkpointing=true"]
    settings = load_config(BaselineSettings, REPO_ROOT / "recipes" / "ravdess" / "baseline.yaml", override)
    with pytest.raises(ConfigError, match=r"key 'train\.gradient_checkpointing': the baseline has none"):
        open_baseline_run(settings)


def test_a_run_ends_with_its_figures(workplace, tmp_path, capsys):
    workplace.run("finetune", tmp_path / "tuned", "train.max_steps=1")
    dev, test = capsys.readouterr().out.strip().splitlines()[-2:]
    rows = [json.loads(line) for line in (tmp_path / "tuned" / "history.jsonl").read_text().splitlines()]
    assert dev.startswith(f"dev UAR {100 * rows[-1]['uar']:.1f} (")
    assert dev.endswith("), n = 20")
    workplace.run("zero_shot", tmp_path / "prompted")
    for folder, line in (("tuned", test), ("prompted", capsys.readouterr().out.strip().splitlines()[-1])):
        uar = json.loads((tmp_path / folder / "metrics.json").read_text())["uar"]
        low, high = uar["low"], uar["high"]
        ends = uar["method"] if low is None else f"95% interval {100 * low:.1f} to {100 * high:.1f}"
        assert line == f"test UAR {100 * uar['value']:.1f} ({ends}), n = 21 (1 unscored)"


@pytest.mark.slow
def test_mixed_precision_is_chosen_and_recorded_by_the_run_alone(prompted, workplace, tmp_path, capsys):
    half = ["scoring.bf16=true", "scoring.use_cpu=true"]
    workplace.run("zero_shot", tmp_path / "half", *half)
    assert read_record(tmp_path / "half" / "run.json").config["scoring"]["bf16"]
    tables = [pd.read_parquet(run / "predictions.parquet") for run in (prompted, tmp_path / "half")]
    full, half_precision = (table.filter(like="log_prob") for table in tables)
    assert 1e-4 < (full - half_precision).abs().max().max() < 0.5
    assert workplace.again("zero_shot", f"output.dir={tmp_path / 'half'}", "scoring.use_cpu=true") == 1
    assert "has a run with config.scoring.bf16 = True, now it is False" in capsys.readouterr().err
    config = tmp_path / "bf16.yaml"
    config.write_text((REPO_ROOT / "accelerate_configs" / "cpu.yaml").read_text() + "mixed_precision: bf16\n")
    launcher = workplace.accelerate_launch(config)
    done = workplace.start("zero_shot", f"output.dir={tmp_path / 'launched'}", launcher=launcher).result()
    assert done.returncode == 1
    assert "launched with ACCELERATE_MIXED_PRECISION=bf16, but engine.accelerate_config=" in done.stderr
    assert not (tmp_path / "launched").exists()


@pytest.mark.parametrize("recipe", ["zero_shot", "finetune"])
def test_a_second_run_in_one_folder_is_refused(recipe, workplace, tmp_path, capsys):
    with only_writer(tmp_path / "run"):
        assert workplace.again(recipe, f"output.dir={tmp_path / 'run'}") == 1
    assert "run: another process is writing it; wait" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
