"""`lalm-mer predict` and `open_recognizer`: recordings get the same probabilities as in the test set of the run."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import yaml
from small_runs import run_in_full  # noqa: F401 a fixture

from lalm_mer import open_recognizer
from lalm_mer.cli import main
from lalm_mer.core.errors import AdapterError, ConfigError
from lalm_mer.models import devices
from lalm_mer.models.tiny import build_tiny
from lalm_mer.serving.predict import predict

SAME = 1e-6


@pytest.fixture(scope="module")
def runs(workplace, uninterrupted, prompted, in_full):
    """A run folder of each kind, all trained on the clips of the workplace."""
    folder = workplace.folder / "of_each_kind"
    shared = yaml.safe_load(workplace.config("finetune").read_text())
    build_tiny("clap", folder / "clap_model", words=["happy sad"], window_s=2, hidden_size=32, layers=1, vocabulary=400)
    clap = {
        **shared,
        "prompt": {"file": "prompts/ensembles/emotion.yaml"},
        "model": {"family": "clap", "id": str(folder / "clap_model"), "dtype": "float32"},
        "adapter": {"r": 2},
        "train": {"max_steps": 2},
        "output": {"dir": str(folder / "clap")},
    }
    baseline = {
        **{key: shared[key] for key in ("data", "split")},
        "baseline": {
            "modalities": "audio",
            "audio": {"encoder": {"kind": "log_mel"}},
            "cache_dir": str(folder / "cache"),
            "processes": 1,
        },
        "train": {"max_steps": 2},
        "output": {"dir": str(folder / "baseline")},
    }
    for name, recipe, config in (("clap", "finetune", clap), ("baseline", "train_baseline", baseline)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
        assert workplace.script(f"recipes/{recipe}.py", "--config", str(folder / f"{name}.yaml")) == 0
    own = {name: folder / name for name in ("clap", "baseline")}
    return {"lora": uninterrupted, "zero_shot": prompted, "full": in_full, **own}


def clips(workplace):
    """Path and transcript of every clip, from the manifest of the corpus."""
    with (workplace.folder / "clips" / "manifest.csv").open() as file:
        return {Path(row["path"]).stem: row["transcript"] for row in csv.DictReader(file)}


def of_the_run(folder):
    """Utterance id -> label -> probability in the test set; None if it was not scored."""
    table = pd.read_parquet(folder / "predictions.parquet")
    columns = {column.removeprefix("log_prob_"): column for column in table if column.startswith("log_prob_")}
    return {
        row["utterance_id"]: {label: np.exp(row[column]) for label, column in columns.items()}
        if row["status"] == "scored"
        else None
        for row in table.to_dict("records")
    }


def listed(folder, workplace, names):
    """A list of some clips with their transcripts."""
    with (folder / "list.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "transcript"])
        for name in names:
            shutil.copy(workplace.folder / "clips" / f"{name}.wav", folder / f"{name}.wav")
            table.writerow([f"{name}.wav", clips(workplace)[name]])
    return folder / "list.csv"


@pytest.mark.parametrize("kind", ["lora", "zero_shot", "full", "clap", "baseline"])
def test_probabilities_are_those_of_the_test_set(kind, runs, workplace, tmp_path):
    expected = of_the_run(runs[kind])
    names = sorted(expected)
    out = tmp_path / "out.parquet"
    command = ["predict", str(listed(tmp_path, workplace, names)), "--run", str(runs[kind]), "--out", str(out)]
    assert main([*command, "--batch-size", "3", "--device", "cpu"]) == 0
    rows = {Path(row["path"]).stem: row for row in pd.read_parquet(out).to_dict("records")}
    assert sorted(rows) == names
    assert any(expected.values())
    for name, probabilities in expected.items():
        assert rows[name]["status"] == ("unscored" if probabilities is None else "scored")
        for label, probability in (probabilities or {}).items():
            assert rows[name][f"prob_{label}"] == pytest.approx(probability, abs=SAME)


@pytest.mark.parametrize(("dtype", "is_slow"), [("bfloat16", True), ("float32", False)])
def test_a_gpu_that_emulates_the_data_type_is_named(dtype, is_slow, runs, workplace, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(devices, "gpu_before_ampere", lambda device: "Tesla T4 (7.5)")
    command = ["predict", str(listed(tmp_path, workplace, ["s1_0"])), "--run", str(runs["lora"]), "--dtype", dtype]
    assert main([*command, "--device", "cpu"]) == 0
    advice = "slow: Tesla T4 (7.5) has no bfloat16 and emulates it; --dtype float16 is faster"
    assert (advice in capsys.readouterr().err.splitlines()) == is_slow


def test_the_adapter_alone_gives_the_same(runs, workplace, tmp_path):
    shutil.copytree(runs["lora"] / "adapter", tmp_path / "elsewhere")
    names = [name for name, scored in of_the_run(runs["lora"]).items() if scored][:2]
    source = listed(tmp_path, workplace, names)
    of_run, of_adapter = (
        list(predict(open_recognizer(folder, device="cpu"), [source]))
        for folder in (runs["lora"], tmp_path / "elsewhere")
    )
    assert of_run == of_adapter


def test_the_adapter_of_a_run_is_complete_and_its_card_says_how_to_use_it(runs):
    folder = runs["lora"] / "adapter"
    present = {path.name for path in folder.iterdir()}
    assert present >= {"adapter_model.safetensors", "adapter_config.json", "prompt.yaml", "labels.json", "run.json"}
    assert present >= {"tokenizer.json", "tokenizer_config.json", "README.md", "metrics.json"}
    use = (folder / "README.md").read_text().partition("## Use")[2]
    assert 'lalm-mer predict recording.wav --run FOLDER --transcript "its words"' in use


@pytest.fixture
def bad_and_good(workplace, tmp_path):
    """Recordings of many formats, some of which cannot be predicted."""
    rate, samples = 48_000, np.random.default_rng(0).normal(scale=0.1, size=48_000).astype(np.float32)
    soundfile.write(tmp_path / "a_stereo.wav", np.stack([samples, -0.5 * samples], axis=1), rate)
    soundfile.write(tmp_path / "b.mp3", samples, rate, format="MP3")
    soundfile.write(tmp_path / "c_long.wav", np.tile(samples, 90), rate)
    (tmp_path / "d_empty.wav").write_bytes(b"")
    (tmp_path / "e_text.wav").write_text("this is no audio")
    return tmp_path


def test_a_recording_that_cannot_be_predicted_is_a_row_with_its_reason(bad_and_good, runs, tmp_path, capsys):
    command = ["predict", str(bad_and_good), "--run", str(runs["clap"]), "--device", "cpu"]
    out = tmp_path / "out" / "rows.json"
    assert main([*command, "--out", str(out)]) == 0
    rows = {Path(row["path"]).name: row for row in json.loads(out.read_text())}
    assert [row["status"] for row in rows.values()] == ["scored", "scored", "scored", "unscored", "unscored"]
    assert rows["d_empty.wav"]["reason"] == "the file has no bytes"
    assert rows["e_text.wav"]["reason"].startswith("not audio that libsndfile reads")
    assert f"3 of 5 predicted, written to {out}" in capsys.readouterr().out
    assert main([*command, "--strict"]) == 1
    assert "e_text.wav: not predicted: not audio" in capsys.readouterr().out


def test_too_long_a_recording_is_cut_into_windows(bad_and_good, workplace, tmp_path):
    model = ["--run", str(workplace.folder / "model"), "--prompt", "prompts/audio.yaml", "--labels", "happy,sad,angry"]
    command = ["predict", str(bad_and_good / "c_long.wav"), *model, "--dtype", "float32", "--device", "cpu"]
    out = tmp_path / "rows.csv"
    assert main([*command, "--out", str(out)]) == 0
    (row,) = pd.read_csv(out).to_dict("records")
    assert row["reason"] == "90.00 s long; qwen2_audio takes 2 s at most"
    assert main([*command, "--window", "2", "--hop", "1", "--out", str(out), "--batch-size", "8"]) == 0
    table = pd.read_csv(out)
    assert list(table["start_s"]) == [float(start) for start in range(89)]
    assert list(table["end_s"]) == [float(start + 2) for start in range(89)]
    np.testing.assert_allclose(table[["prob_happy", "prob_sad", "prob_angry"]].sum(axis=1), 1, rtol=1e-6)


def test_channels_are_predicted_separately(bad_and_good, runs, tmp_path):
    out = tmp_path / "rows.parquet"
    command = ["predict", str(bad_and_good / "a_stereo.wav"), "--run", str(runs["baseline"]), "--out", str(out)]
    assert main([*command, "--channel", "each"]) == 0
    table = pd.read_parquet(out)
    assert list(table["channel"]) == [1, 2]
    assert main([*command, "--channel", "2"]) == 0
    again = pd.read_parquet(out)
    assert again.to_dict("records") == table[table["channel"] == 2].to_dict("records")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", "prompts/audio.yaml"], "prompts/audio.yaml: has no answers, so labels are needed"),
        (["--labels", "happy,sad"], "labels: only with a prompt, for a base model"),
        (["--hop", "3"], "--hop: only with --window"),
        (["--window", "3", "--hop", "0"], "expected 0 < hop <= window"),
        (["--out", "rows.txt"], "rows.txt: expected a name that ends in .csv, .json, .parquet"),
        (["--batch-size", "0"], "--batch-size 0: expected 1 or more"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_line(arguments, message, runs, workplace, bad_and_good, capsys):
    run = workplace.folder / "model" if "--prompt" in arguments else runs["zero_shot"]
    command = ["predict", str(bad_and_good / "a_stereo.wav"), "--run", str(run), *arguments]
    assert main(command) == 1
    assert message in capsys.readouterr().err


def test_a_run_that_cannot_be_opened_says_why(runs, tmp_path):
    shutil.copytree(runs["lora"], tmp_path / "unfinished")
    (tmp_path / "unfinished" / "metrics.json").unlink()
    with pytest.raises(ConfigError, match="the run is not finished; rerun its command to resume it"):
        open_recognizer(tmp_path / "unfinished")
    shutil.copytree(runs["lora"] / "adapter", tmp_path / "bare")
    (tmp_path / "bare" / "labels.json").unlink()
    with pytest.raises(AdapterError, match=r"no run\.json, prompt\.yaml and labels\.json with the adapter"):
        open_recognizer(tmp_path / "bare")
    shutil.copytree(runs["lora"] / "adapter", tmp_path / "changed")
    (tmp_path / "changed" / "prompt.yaml").write_text('name: other\nuser: "{{ audio }} {{ transcript }}"\n')
    with pytest.raises(ConfigError, match="its prompt has changed since the run"):
        open_recognizer(tmp_path / "changed")


def test_another_base_model_is_refused(runs, workplace, tmp_path):
    build_tiny(
        "qwen2_audio", tmp_path / "other", words=["happy sad"], window_s=2, hidden_size=32, layers=1, vocabulary=400
    )
    with pytest.raises(AdapterError, match="was run on another base model"):
        open_recognizer(runs["lora"], base_model=str(tmp_path / "other"))


def test_real_speech_of_any_rate_and_channel_count(workplace, shared_data, tmp_path):
    files = [
        *sorted((shared_data / "ravdess" / "Actor_01").glob("*.flac"))[:3],
        *sorted(shared_data.glob("ravdess_original/*/*.wav"))[:3],
    ]
    recognizer = open_recognizer(
        workplace.folder / "model", prompt="prompts/audio.yaml", labels=["happy", "sad"], dtype="float32", device="cpu"
    )
    rows = list(predict(recognizer, files))
    assert [row.path for row in rows] == [str(file) for file in files]
    assert all(row.reason is None or "s at most" in row.reason for row in rows)
