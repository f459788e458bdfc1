"""The demo with published weights: its commands by its arguments, its errors, and all of it with tiny random parts."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import demo_real
import pytest
from miniatures import voice
from shipped import SCHEMAS
from small_release import put
from tiny_language_model import build_tiny_language_model
from tiny_whisper import build_tiny_whisper

from lalm_mer.core.config import load_config
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.run_record import read_record

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A folder like a clone of the repository, for what the demo writes."""
    for name in ("accelerate_configs", "eval", "prompts", "recipes"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def ended(clone):
    """Runs the demo without a network; its process at its end."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    def run(*arguments):
        command = [sys.executable, "recipes/demo_real.py", *map(str, arguments)]
        environment = os.environ | {"PATH": path, "HF_HUB_OFFLINE": "1"}
        return subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, check=False)

    return run


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Tiny random models in folders of the published ones' names."""
    folder = tmp_path_factory.mktemp("weights")
    build_tiny_whisper(folder / "whisper-tiny.en", layers=4)
    build_tiny_language_model(folder / "smollm2-135m-instruct", layers=7)
    return folder


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """24 actors with a clip of each of the eight emotions."""
    folder = tmp_path_factory.mktemp("ravdess")
    for actor, emotion in itertools.product(range(1, 25), range(1, 9)):
        name = f"03-01-{emotion:02}-01-{1 + (actor + emotion) % 2:02}-01-{actor:02}.wav"
        put(folder / f"Actor_{actor:02}/{name}", voice(10 * actor + emotion))
    return folder


def settings(command):
    """The settings of a command."""
    at = command.index("--config")
    (recipe,) = [word for word in command if word.startswith("recipes/") and word.endswith(".py")]
    return load_config(SCHEMAS[recipe], ROOT / command[at + 1], command[at + 2 :])


@pytest.mark.parametrize("aligned", ["", "user/name"])
def test_all_runs_are_of_one_fold_and_of_the_aligned_model(aligned, monkeypatch):
    monkeypatch.chdir(ROOT)
    first, then = ({name: settings(run) for name, run in each.items()} for each in demo_real.runs("whisper", aligned))
    assert list(first) == ["linear_audio"] if aligned else ["alignment", "linear_audio"]
    assert {*first, *then} - {"alignment"} == set(demo_real.COMPARED)
    model = aligned or str(ROOT / "outputs/demo_real/alignment/model")
    for run in then.values():
        assert (run.model.family, run.model.id) == ("composed", model)
    for run in (first["linear_audio"], *then.values()):
        assert run.data.dir == str(ROOT / "outputs/demo_real/data")
        assert (Path(run.split.protocol).name, run.split.fold) == ("ravdess_6fold.yaml", 1)
    assert then["lora_audio"].adapter == then["lora_audio_transcript"].adapter
    assert then["lora_audio"].train == then["lora_audio_transcript"].train
    assert then["lora_audio"].prompt == then["zero_shot_audio"].prompt != then["lora_audio_transcript"].prompt
    if not aligned:
        (speech,) = first["alignment"].speech.values()
        assert (Path(speech.protocol).name, speech.fold) == ("ravdess_6fold.yaml", 1)
        assert first["alignment"].model.id == str(ROOT / "outputs/demo_real/model")
        assert first["alignment"].output.dir == str(ROOT / "outputs/demo_real/alignment")


def test_what_is_prepared_is_not_prepared_again(clone):
    prepare, compose = demo_real.preparation("root", "w", "l", "")
    assert demo_real.preparation("root", "w", "l", "user/name") == [prepare]
    for file in (demo_real.OUT / "data/summary.json", demo_real.OUT / "model/config.json"):
        file.parent.mkdir(parents=True)
        file.touch()
    assert demo_real.preparation("root", "w", "l", "") == []
    assert [compose[compose.index(name) + 1] for name in ("--tower", "--language-model")] == ["w", "l"]


def test_without_weights_they_come_from_the_hub_which_is_said(tmp_path):
    assert demo_real.parts("", "") == (demo_real.TOWER, demo_real.LANGUAGE_MODEL)
    needs_network = {("", ""), ("user/name", ""), ("user/name", "weights"), (str(tmp_path), "")}
    for aligned, weights in itertools.product(("", "user/name", str(tmp_path)), ("", "weights")):
        told = demo_real.story(aligned, weights)
        assert ("the network is needed" in told) == ((aligned, weights) in needs_network)
        assert ("aligned here" in told) == (not aligned)
        assert ("the demo aligns nothing" in told) == bool(aligned)


def test_an_aligned_model_needs_no_language_model(weights, tmp_path):
    (tmp_path / "whisper-tiny.en").symlink_to(weights / "whisper-tiny.en")
    assert demo_real.parts(str(tmp_path), "user/name")[0] == str(tmp_path / "whisper-tiny.en")
    with pytest.raises(ConfigError, match=r"smollm2-135m-instruct has no config\.json; expected a model"):
        demo_real.parts(str(tmp_path), "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "error: CORPUS_ROOT is missing; set it to the folder with Actor_01 ... Actor_24 (argument --root)"),
        (
            ["--root", "x", "--weights", "/no/such"],
            "error: WEIGHTS: /no/such/whisper-tiny.en has no config.json; expected a model in that folder; download it "
            "(hf download openai/whisper-tiny.en --local-dir /no/such/whisper-tiny.en), or leave WEIGHTS out to use "
            "openai/whisper-tiny.en of the Hub",
        ),
        (
            ["--root", "x", "--aligned", "/no/such"],
            "error: ALIGNED: /no/such has no config.json; expected a model in that folder; that of align.py is model/ "
            "in its output.dir",
        ),
    ],
)
def test_what_is_missing_is_said_in_one_line(arguments, says, ended, clone):
    done = ended(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"{says}\n")
    assert not (clone / "outputs").exists()


@pytest.mark.slow
def test_the_demo_ends_with_a_report_and_resumes(ended, clone, release, weights):
    done = ended("--root", release, "--weights", weights)
    assert done.returncode == 0, done.stderr
    printed, out = done.stdout, demo_real.OUT
    for sentence in ("then aligned here for some minutes", "The transcript alone is not run"):
        assert printed.count(sentence) == 2
    assert printed.splitlines()[-1].endswith(f"Report: {out / 'report.html'}")
    assert "UAR" in printed
    assert (clone / out / "report.html").is_file()
    runs = {name: read_record(clone / out / name / "run.json") for name in demo_real.COMPARED}
    assert {run.fold for run in runs.values()} == {1}
    assert [run.modalities for run in runs.values()] == ["audio", "audio", "audio", "audio+transcript"]
    assert [run.method for run in runs.values()] == ["linear", "zero_shot", "lora", "lora"]
    again = ended("--root", release, "--weights", weights)
    assert again.returncode == 0, again.stderr
    assert {name: read_record(clone / out / name / "run.json") for name in runs} == runs
    assert "compose_model.py" not in again.stdout


@pytest.mark.parametrize("variables", [[], ["WEIGHTS=my weights"], ["CORPUS=ravdess", "ALIGNED=user/name"]])
def test_make_starts_it_with_its_variables(variables):
    command = ["make", "--dry-run", "demo-real", "CORPUS_ROOT=a root", *variables]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    given = dict(variable.split("=") for variable in variables)
    expected = f'--corpus "ravdess" --root "a root" --weights "{given.get("WEIGHTS", "")}"'
    expected = f'recipes/demo_real.py {expected} --aligned "{given.get("ALIGNED", "")}"'
    assert expected in " ".join(done.stdout.replace("\\\n", " ").split())
