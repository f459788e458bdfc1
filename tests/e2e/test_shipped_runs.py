"""Every shipped YAML is run by its recipe, preflight included, on a miniature of its corpus and with a tiny model."""

import json
from pathlib import Path

import pandas as pd
import pytest
from shipped import CHANGED, COMPOSED, CORPORA, OF_TASKS, QUICK, ROOT, SERVED, load, of_recipe, quick_or_slow

from lalm_mer.core.run_record import read_record
from lalm_mer.corpora import load as load_corpus
from lalm_mer.launch.benchmark.arms import arm_settings
from lalm_mer.launch.benchmark.data import Place
from lalm_mer.prompting.prompts import load_prompt
from lalm_mer.protocols.folded_corpus import fold_corpus
from lalm_mer.protocols.protocol import load_protocol

RUN = {"run.json", "predictions.parquet", "metrics.json"}
ADAPTER = {
    "adapter_config.json", "adapter_model.safetensors", "labels.json", "metrics.json", "processor_config.json",
    "prompt.yaml", "README.md", "run.json", "tokenizer.json", "tokenizer_config.json",
}  # fmt: skip
TRAINED = {
    "finetune": ("adapter", ADAPTER),
    "train_baseline": ("model", {"network.json", "model.safetensors"}),
    "train_linear": ("model", {"linear.json", "model.safetensors"}),
}
"""Recipe -> folder of what it trained, and its files."""
OTHER_ENCODERS = {
    "recipes/ravdess/whisper_baseline.yaml": "fusion-log_mel-attentive-scratch",
    "recipes/ravdess/whisper_linear.yaml": "logistic-regression-log_mel-pooled-tfidf",
    "recipes/meld/minilm_baseline.yaml": "fusion-opensmile-scratch-attentive",
    "recipes/meld/minilm_finetuned.yaml": "fusion-opensmile-scratch-none",
}
"""File whose encoders are not those of its corpus' method -> name of its recognizer with the parts of tests."""
RECIPES = [
    pytest.param(recipe, file, marks=() if file in QUICK else pytest.mark.slow)
    for recipe in ("zero_shot", *TRAINED)
    for file in of_recipe(recipe)
]


def folder_name(file, corpus):
    """Value of the pattern of ``output.dir`` in a YAML of a corpus; None for a YAML without a pattern."""
    settings, stem = load(file), Path(file).stem
    task, _, method = stem.rpartition("_") if file in OF_TASKS else ("", "", stem)
    if file in COMPOSED:
        method, modalities = stem.removeprefix(f"{corpus}_"), load_prompt(ROOT / settings.prompt.file).modalities
        return f"outputs/runs/{corpus}/composed-tiny_composed_{method}_{modalities}_fold1_seed0"
    if Path(file).parent.name not in CORPORA:
        return settings.output.dir.replace("{fold}", "1").replace("{seed}", "0")
    task, method = (f"_{task}_{method}" if task else ""), {"finetuned": "baseline"}.get(method, method)
    if method == "baseline":
        recognizer, modalities = "fusion-opensmile-scratch", settings.baseline.modalities
    elif method == "linear":
        recognizer, modalities = "logistic-regression-egemaps-functionals-tfidf", settings.linear.modalities
    else:
        recognizer, modalities = "qwen2_audio-tiny_qwen2_audio", settings.prompt.modalities
    recognizer = OTHER_ENCODERS.get(file, recognizer)
    recognizer += "-nf4" if method == "qlora" else ""
    return f"outputs/runs/{corpus}/{recognizer}_{method.removeprefix('q')}_{modalities}{task}_fold1_seed0"


def too_long(file, folded):
    """Test utterances that are longer than the window of the tiny composed model, 2 s: synthetic sentences."""
    table = folded.corpus.columns(["utterance_id", "duration_s"])
    longer = set(table.loc[table["duration_s"] > 2, "utterance_id"]) if file in COMPOSED else set()
    return sorted(longer & set(folded.folds.ids(1, "test")))


@pytest.mark.parametrize("file", [file for file in of_recipe("prepare_corpus") if Path(file).stem != "readings"])
def test_a_corpus_is_prepared(file, miniature):
    summary = load_corpus(miniature(Path(file).stem)).summary
    assert summary["corpus"] == {"manifest": "mine"}.get(Path(file).stem, Path(file).stem)
    assert summary["n_utterances"] > 0
    assert summary["n_rejected"] == summary["n_without_audio"] == 0


def test_transcripts_of_a_corpus_are_read_aloud(workplace, tmp_path):
    file = "recipes/corpora/readings.yaml"
    options = [f"corpus.texts={workplace.data}", f"output.dir={tmp_path / 'data'}"]
    assert workplace.script("recipes/prepare_corpus.py", "--config", file, *options) == 0
    summary = load_corpus(tmp_path / "data").summary
    assert (summary["corpus"], summary["synthetic"]) == ("readings", True)
    assert summary["n_utterances"] > 0
    assert summary["n_found"] == summary["n_utterances"] + summary["n_rejected"]


@pytest.mark.parametrize("file", of_recipe("build_tiny_model"))
def test_a_tiny_model_is_built(file, demo_model):
    folder = demo_model(load(file).output.dir)
    assert (folder / "model.safetensors").is_file()
    assert json.loads((folder / "config.json").read_text("utf-8"))["model_type"] == load(file).family


@pytest.mark.parametrize(("recipe", "file"), RECIPES)
def test_a_run_is_finished_and_its_folder_has_the_right_name(recipe, file, run_shipped, tmp_path, capsys):
    folder = run_shipped(file)
    record = read_record(tmp_path / folder / "run.json")
    assert str(folder) == folder_name(file, record.corpus)
    assert {path.name for path in (tmp_path / folder).iterdir() if path.is_file()} >= RUN
    table = pd.read_parquet(tmp_path / folder / "predictions.parquet")
    data, protocol = (Path(record.config[section][key]) for section, key in (("data", "dir"), ("split", "protocol")))
    assert protocol.name == Path(load(file).split.protocol).name
    folded = fold_corpus(load_corpus(data), load_protocol(protocol))
    assert record.task_kind == folded.task.kind
    assert sorted(table["utterance_id"]) == folded.folds.ids(1, "test")
    assert sorted(table.loc[table["status"] != "scored", "utterance_id"]) == too_long(file, folded)
    assert json.loads((tmp_path / folder / "metrics.json").read_text("utf-8"))["n"] == len(table)
    assert record.seconds > 0
    assert (record.parameters is None, record.peak_memory is None) == (file == SERVED, file == SERVED)
    if file != SERVED:
        assert record.peak_memory.bytes > 2**20
        assert (record.parameters.trained > 0) == (recipe in TRAINED)
        assert record.parameters.trained <= record.parameters.all
    if recipe in TRAINED:
        name, expected = TRAINED[recipe]
        if recipe == "finetune" and record.task_kind != "single":
            expected = {"adapter_config.json", "adapter_model.safetensors"}  # it is not shared
        assert {path.name for path in (tmp_path / folder / name).iterdir()} >= expected
        assert (tmp_path / folder / "dev_predictions.parquet").is_file()
    if recipe in ("finetune", "train_baseline"):
        rows = [json.loads(line) for line in (tmp_path / folder / "history.jsonl").read_text("utf-8").splitlines()]
        assert [(row["split"], row["step"]) for row in rows if row["split"] == "dev"] == [("dev", 1)]
    printed = capsys.readouterr().out
    assert ("remote: to 127.0.0.1" in printed) == (file == SERVED)
    if recipe in ("finetune", "zero_shot") and file != SERVED:
        assert "preflight: batch parity" in printed
        assert ("preflight: uses the audio: swapping it" in printed) == ("audio" in record.modalities.split("+"))
        assert record.config["model"]["quantization"] == ("nf4" if Path(file).stem == "qlora" else None)


@pytest.mark.parametrize("file", quick_or_slow(of_recipe("benchmark")))
def test_a_benchmark_has_valid_variants_and_its_first_comparison_runs(file, run_script, tmp_path):
    settings = load(file)
    for comparison in settings.comparisons.values():
        for arm in comparison.arms.values():
            assert arm_settings(Place(settings), comparison, arm)
    first, out = next(iter(settings.comparisons)), tmp_path / "benchmark.json"
    options = [f"only=[{first}]", "dry_run=true", f"output.file={out}", f"output.work={tmp_path / 'work'}"]
    assert run_script("recipes/benchmark.py", "--config", file, *options) == 0
    (found,) = json.loads(out.read_text("utf-8"))["comparisons"].values()
    assert all("wall_s" in arm for arm in found["arms"].values())


@pytest.mark.parametrize("file", quick_or_slow(of_recipe("cross_validate")))
def test_a_cross_validation_has_all_folds_and_seeds(file, shipped_command, run_script, tmp_path, capsys):
    settings = load(file)
    first = next(iter(settings.systems.values())).config
    protocol = [override for override in settings.overrides if override.startswith("split.protocol=")]
    command = shipped_command(first, *protocol)
    options = [next(option for option in command if option.startswith(key)) for key in ("data.dir=", "split.protocol=")]
    options = [*(override for override in settings.overrides if override not in protocol), *options]
    options, folder = json.dumps(options), f"output.dir={tmp_path / 'out'}"
    assert run_script("recipes/cross_validate.py", "--config", file, f"overrides={options}", folder, "--dry-run") == 0
    folds = {"ravdess": 6, "meld": 1, "msp_podcast": 1}.get(Path(load(first).data.dir).name, 5)
    seeds = {
        name: 1 if system.recipe in ("zero_shot", "train_linear") else 3 for name, system in settings.systems.items()
    }
    rows = {name: len(system.modalities or [""]) for name, system in settings.systems.items()}
    count = folds * sum(rows[name] * seeds[name] for name in rows)
    assert f"{count} runs, {count} to do" in capsys.readouterr().out


@pytest.mark.parametrize("file", of_recipe("transcribe"))
def test_a_corpus_is_transcribed(file, run_script, tiny_whisper_folder, miniature, tmp_path):
    out = tmp_path / "table.parquet"
    options = [f"data.dir={miniature('ravdess')}", f"model.id={tiny_whisper_folder}", f"output.file={out}"]
    assert run_script("recipes/transcribe.py", "--config", file, *options, *CHANGED["recipes/transcribe.py"]) == 0
    assert len(pd.read_parquet(out)) == 24
