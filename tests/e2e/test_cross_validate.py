"""Folds x seeds x modalities by one command: each run is that of the recipe's own command, and none is made twice."""

import json
import random
import shutil
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from engines import assert_same_files
from small_runs import IN_FULL, small_baseline

from lalm_mer.core.config import load_config, read_yaml
from lalm_mer.launch.config.settings import ZeroShotSettings

RECIPE = "cross_validate"
PYTHON = [sys.executable]


@pytest.fixture(scope="module")
def config(workplace):
    """A YAML of two systems: a zero-shot model with two modalities, and a small baseline; two folds, two seeds."""
    zero_shot = read_yaml(workplace.config("zero_shot"))
    plain = {key: zero_shot[key] for key in ("data", "split", "model", "output")}
    (workplace.folder / "plain.yaml").write_text(yaml.safe_dump(plain), encoding="utf-8")
    (workplace.folder / "baseline.yaml").write_text(yaml.safe_dump(small_baseline(workplace)), encoding="utf-8")
    fused = {"fusion": {"members": ["a", "b"], "rule": "mean"}, "output": {"dir": "unused"}}
    (workplace.folder / "fused.yaml").write_text(yaml.safe_dump(fused), encoding="utf-8")
    content = {
        "systems": {
            "zero_shot": {
                "recipe": "zero_shot", "config": str(workplace.folder / "plain.yaml"),
                "modalities": ["audio", "audio+transcript"],
            },
            "small": {"recipe": "train_baseline", "config": str(workplace.folder / "baseline.yaml")},
            "fused": {
                "recipe": "late_fusion", "config": str(workplace.folder / "fused.yaml"),
                "members": ["zero_shot_audio", "small"],
            },
        },
        "folds": [1, 3],
        "seeds": [0, 1],
        "output": {"dir": str(workplace.folder / "unused")},
    }  # fmt: skip
    workplace.config(RECIPE).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


NAMES = [
    *(f"zero_shot_{modalities}/fold{fold}_seed0" for modalities in ("audio", "audio_transcript") for fold in (1, 3)),
    *(f"{system}/fold{fold}_seed{seed}" for system in ("small", "fused") for seed in (0, 1) for fold in (1, 3)),
]


@pytest.fixture(scope="module")
def finished(config, workplace, tmp_path_factory):
    """Output of a cross-validation whose runs were made by two workers in this process."""
    out = tmp_path_factory.mktemp("finished")
    for system in ("zero_shot", "small", "fused"):
        assert workplace.again(RECIPE, f"output.dir={out}", f"only=[{system}]", "--worker") == 0
    return out


def results(out):
    """The figures of the comparison, without what depends on time and place."""
    table = pd.read_csv(out / "comparison.csv").drop(columns=["seconds", "run"])
    return table, pd.read_csv(out / "comparison_values.csv")


def times_of_files(folder):
    """File -> time of its last change."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_finished_runs_are_compared_and_not_repeated(finished, workplace, capsys):
    changed = times_of_files(finished / "runs")
    assert workplace.again(RECIPE, f"output.dir={finished}") == 0
    printed = capsys.readouterr().out
    assert times_of_files(finished / "runs") == changed
    table, values = results(finished)
    assert list(table["modalities"]) == ["audio", "audio+transcript", "transcript", "audio+transcript"]
    assert list(table["folds"]) == [2, 2, 2, 2]
    assert list(table["seeds"]) == [1, 1, 2, 2]
    record = json.loads((finished / "runs/fused/fold3_seed1/run.json").read_text("utf-8"))
    assert [Path(folder).parts[-2:] for folder in record["config"]["fusion"]["members"]] == [
        ("zero_shot_audio", "fold3_seed0"), ("small", "fold3_seed1"),
    ]  # fmt: skip
    assert set(values["part"]) >= {"fold", "mean_over_folds", "mean_over_seeds", "sd_over_seeds"}
    assert "over folds" in printed
    assert (finished / "report.html").is_file()


def test_a_run_is_that_of_the_command_which_the_dry_run_prints(finished, workplace, capsys, tmp_path):
    assert workplace.again(RECIPE, f"output.dir={finished}", "--dry-run") == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed if ", finished" in line] == NAMES
    assert "12 runs, 0 to do: about 0 minutes in one process" in printed
    (command,) = [line.split() for line in printed if "recipes/zero_shot.py" in line and "modalities=audio " in line]
    assert command[:5] == ["$", "accelerate", "launch", "--quiet", "--config_file"]
    *overrides, last = command[command.index("--config") + 2 :]
    assert last.startswith("output.dir=")
    script = workplace.folder / "plain.yaml"
    assert workplace.script("recipes/zero_shot.py", "--config", str(script), *overrides, f"output.dir={tmp_path}") == 0
    assert_same_files(tmp_path, finished / "runs" / NAMES[0])


def test_what_is_not_finished_is_listed_with_its_cost(finished, workplace, capsys):
    more = [f"output.dir={finished}", "folds=[1,2,3]", "only=[small]"]
    assert workplace.again(RECIPE, *more, "--dry-run") == 0
    printed = capsys.readouterr().out
    (line,) = [line for line in printed.splitlines() if line.startswith("small/fold2_seed1")]
    assert line.split()[1:5] == ["21", "20", "20", "about"]
    assert "6 runs, 2 to do" in printed


def test_a_run_takes_the_scores_that_an_equal_run_has_of_the_same_utterances(finished, workplace, capsys, tmp_path):
    from zero_shot import zero_shot  # of the recipes

    known = [finished / "runs" / name for name in NAMES if name.startswith("zero_shot")]
    shared = ["prompt.modalities=audio", "split.fold=3", "model.tower_cache=never"]
    for seed, takes in ((1, True), (2, False)):  # the other has another setting that changes scores
        options = [*shared, f"seed={seed}", f"output.dir={tmp_path / str(seed)}"]
        options += [] if takes else ["prompt.label_score=mean"]
        zero_shot(load_config(ZeroShotSettings, workplace.folder / "plain.yaml", options), known=known)
        printed = capsys.readouterr().out
        assert ("20 of 20 test utterances are scored in " in printed) == takes
    found, expected = (
        pd.read_parquet(folder / "predictions.parquet").drop(columns="seed")
        for folder in (tmp_path / "1", finished / "runs/zero_shot_audio/fold3_seed0")
    )
    pd.testing.assert_frame_equal(found, expected)


def test_durations_are_predicted_before_the_first_run(config, workplace, capsys, tmp_path):
    options = ["only=[zero_shot,small]", f"output.dir={tmp_path}", "--dry-run"]
    assert workplace.again(RECIPE, "tflops=1e-6", *options) == 0
    printed = capsys.readouterr().out
    of_audio, of_both = (
        [float(line.split()[-1]) for line in printed.splitlines() if line.startswith(f"zero_shot_{row}/fold")]
        for row in ("audio", "audio_transcript")
    )
    assert 0 < of_audio[0] < of_both[0]
    assert "small/fold1_seed0" in printed
    assert "no prediction for small: operations are known for audio-language models alone" in printed


def test_training_in_full_is_predicted_to_take_longer_than_an_adapter(workplace, capsys, tmp_path):
    minutes = {}
    for kind, overrides in (("lora", []), ("full", IN_FULL)):
        own = [*overrides, "train.num_train_epochs=2", "adapter.towers=null"]
        system = {"recipe": "finetune", "config": str(workplace.config("finetune")), "overrides": own}
        content = {"systems": {kind: system}, "folds": [1], "seeds": [0], "output": {"dir": str(tmp_path / kind)}}
        planned = workplace.with_config(RECIPE, content, tmp_path)
        assert planned.again(RECIPE, "tflops=1e-6", "--dry-run") == 0
        (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"{kind}/fold1_seed0")]
        minutes[kind] = float(line.split()[-1])
    assert 0 < 1.3 * minutes["lora"] < minutes["full"]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["folds=[4]"], "key 'folds': 4; protocol synthetic_beeps_3fold of system zero_shot has [1, 2, 3]"),
        (["seeds=[1,1]"], "key 'seeds': [1, 1] has a value twice"),
        (["systems={small: {seeds: [0, 0]}}"], "key 'systems.small.seeds': [0, 0] has a value twice"),
        (["systems={small: {modalities: []}}"], "key 'systems.small.modalities': is empty; name at least one"),
        (["only=[large]"], "key 'only': 'large'; the systems are zero_shot, small, fused"),
        (
            ["systems={fused: {members: [small, large]}}"],
            "key 'systems.fused.members': 'large'; expected systems above",
        ),
        (["systems={small: {seeds: [0, 1]}, zero_shot: {recipe: late_fusion}}"], "key 'systems.zero_shot.members': []"),
        (
            [f"systems={{small_x: {{recipe: late_fusion, config: f}}, {'s' * 101}: {{recipe: zero_shot, config: y}}}}"],
            "is to name folders; use at most 100 letters",
        ),
        (["systems={small: {after: [fused]}}"], "key 'systems.small.after': 'fused'; expected a system above it"),
        (["systems={../x: {recipe: zero_shot, config: y}}"], "key 'systems': '../x' is to name folders"),
        (
            ["overrides=[split.fold=2]"],
            "system zero_shot: override 'split.fold=2': each run has its own split.fold, seed",
        ),
        (['overrides=["output={dir: x}"]'], "system zero_shot: override 'output={dir: x}': each run has its own"),
        (["overrides=[model.famly=clap]"], "system zero_shot: override 'model.famly=clap': unknown key"),
        (
            ["overrides=[prompt.file=prompts/audio.yaml]"],
            "key 'systems.zero_shot.modalities': audio, audio+transcript, but",
        ),
        (
            ["overrides=[engine.accelerate_config=accelerate_configs/fsdp2.yaml]"],
            "system zero_shot: key 'engine.accelerate_config': accelerate_configs/fsdp2.yaml has ",
        ),
    ],
)
def test_a_mistake_is_one_line_before_anything_runs(overrides, says, config, workplace, tmp_path, capsys):
    assert workplace.again(RECIPE, f"output.dir={tmp_path / 'out'}", *overrides) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert says in line
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_finished_run_of_other_settings_is_an_error(finished, workplace, capsys):
    changed = "systems={small: {overrides: [train.learning_rate=0.5]}}"
    assert workplace.again(RECIPE, f"output.dir={finished}", "only=[small]", changed) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: 0 of 4 runs are not finished; system small: key 'output.dir': ")
    assert "config.train.learning_rate = " in line
    assert line.endswith("small_0.log)")


@pytest.mark.slow
def test_a_system_that_fails_leaves_the_others_and_is_named(config, workplace, capsys, tmp_path):
    fails = "systems={zero_shot: {overrides: [prompt.shots=500]}}"
    assert workplace.again(RECIPE, f"output.dir={tmp_path}", "folds=[1]", "seeds=[0]", fails) == 1
    printed = capsys.readouterr()
    assert "small/fold1_seed0: UAR " in printed.out
    assert printed.err.splitlines()[-1].startswith(
        "error: 3 of 4 runs are not finished; system zero_shot: key 'prompt.shots': 500, but "
    )
    assert not (tmp_path / "logs/fused_0.log").exists()


@pytest.mark.slow
def test_two_systems_of_one_name_are_two_rows(finished, workplace, capsys, tmp_path):
    """As two ranks of a LoRA, of which the name in comparisons has none."""
    other = f"systems={{other: {{recipe: train_baseline, config: {workplace.folder / 'baseline.yaml'}}}}}"
    shutil.copytree(finished / "runs", tmp_path / "runs")
    shutil.copytree(finished / "runs/small", tmp_path / "runs/other")
    command = [f"output.dir={tmp_path}", other, "only=[small,other]"]
    assert workplace.again(RECIPE, *command) == 0
    assert list(results(tmp_path)[0]["recognizer"]) == [
        f"fusion (opensmile, scratch), {name}" for name in ("small", "other")
    ]


@pytest.mark.slow
def test_two_processes_and_kills_at_any_moment_change_no_figure(finished, workplace, tmp_path):
    assert workplace.again(RECIPE, f"output.dir={finished}") == 0
    expected = results(finished)
    moments = random.Random(0)
    two, killed = tmp_path / "two", tmp_path / "killed"
    workplace.launch(RECIPE, two, "processes=2", launcher=PYTHON)
    for _ in range(10):
        launched = workplace.start(RECIPE, f"output.dir={killed}", "processes=2", launcher=PYTHON)
        time.sleep(moments.uniform(2, 25))
        if launched.process.poll() is None:
            launched.kill()
    workplace.launch(RECIPE, killed, launcher=PYTHON)
    for out in (two, killed):
        for found, known in zip(results(out), expected, strict=True):
            pd.testing.assert_frame_equal(found, known)
        for name in NAMES:
            assert_same_files(out / "runs" / name, finished / "runs" / name)
