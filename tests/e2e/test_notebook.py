"""The notebook: stored without outputs, run with a tiny model, and right for every device and corpus."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import torch
from a_gpu import a_gpu
from shipped import ROOT, SCHEMAS

from lalm_mer.core.config import load_config
from lalm_mer.launch.run.engine import expected_engine

NOTEBOOK = ROOT / "docs/notebooks/quickstart.ipynb"
CELLS = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
CODE = {cell["id"]: "".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"}
TRAINED = ("zero-shot", "lora", "baseline")


def test_no_output_is_stored():
    for cell in CELLS:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None), cell["id"]


def test_a_sentence_says_what_each_cell_does():
    kinds = [cell["cell_type"] for cell in CELLS]
    assert kinds == ["markdown"] + ["markdown", "code"] * len(CODE)
    for cell in CELLS[1::2]:
        assert len(re.findall(r"[.!?](?:\s|$)", "".join(cell["source"]))) == 1, cell["id"]


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """What the cells before the comparison would run, with some parameters: words after ``python``."""

    def collect(**parameters):
        for name in ("data", "tiny", "release"):
            (tmp_path / name).mkdir(exist_ok=True)
        found, names = [], {"run": lambda *words: found.append(list(words))}
        exec(CODE["parameters"], names)
        assert set(parameters) <= set(names)
        names |= {"OUT": str(tmp_path), **parameters}
        for cell in ("settings", "corpus", *TRAINED):
            exec(CODE[cell], names)
        return found

    monkeypatch.chdir(ROOT)
    return collect


def loaded(command):
    """Settings of a command."""
    script, flag, file, *overrides = command
    assert flag == "--config"
    return load_config(SCHEMAS[script], Path(file), overrides)


DEVICES = {"cpu": None, "t4": ("Tesla T4", (7, 5)), "l4": ("NVIDIA L4", (8, 9))}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("corpus", ["circumplex", "ravdess"])
@pytest.mark.parametrize("model", ["tiny", "Qwen/Qwen2-Audio-7B-Instruct"])
def test_every_command_fits_the_device(commands, model, corpus, device, tmp_path, monkeypatch):
    found = DEVICES[device]
    if found is not None:
        a_gpu(monkeypatch, *found)
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    accelerator = torch.device("cpu" if found is None else "cuda")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: accelerator)
    given = commands(MODEL=model, CORPUS=corpus, CORPUS_ROOT=str(tmp_path / "release") if corpus == "ravdess" else "")
    made = {Path(command[0]).stem: loaded(command) for command in given}
    tiny = {"build_tiny_model"} if model == "tiny" else set()
    assert set(made) == {"prepare_corpus", "zero_shot", "finetune", "train_baseline"} | tiny
    runs = [made[name] for name in ("zero_shot", "finetune", "train_baseline")]
    assert len({(run.split.protocol, run.data.dir) for run in runs}) == 1
    assert corpus in runs[0].split.protocol
    if model != "tiny" and found is None:
        return  # a published model needs a GPU, as the recipe says
    zero_shot, finetune, baseline = runs
    assert zero_shot.model == finetune.model
    precisions = [
        expected_engine(zero_shot.engine, zero_shot.scoring, zero_shot.model.dtype).mixed_precision,
        expected_engine(finetune.engine, finetune.train, finetune.model.dtype).mixed_precision,
        expected_engine(baseline.engine, baseline.train).mixed_precision,
    ]
    half = {"t4": ["fp16", "fp16", "no"], "l4": ["no", "bf16", "no"]}
    assert precisions == (["no"] * 3 if model == "tiny" else half[device])


@pytest.mark.parametrize("recipe", ["zero_shot", "finetune"])
def test_a_t4_gets_the_settings_of_the_documentation(commands, recipe, monkeypatch):
    a_gpu(monkeypatch)
    (words,) = (command for command in commands(MODEL="a/model") if command[0] == f"recipes/{recipe}.py")
    own = ("data.dir", "split.protocol", "output.dir", "model.id", "model.family", "prompt.modalities")
    page = (ROOT / "docs/free-gpus.md").read_text("utf-8")
    (line,) = re.findall(
        rf"^lalm-mer launch \S+ accelerate_configs/t4.yaml recipes/{recipe}.py (.*)$", page, re.MULTILINE
    )
    documented = loaded([words[0], *line.split(), *(word for word in words if word.partition("=")[0] in own)])
    assert documented == loaded(words)


@pytest.fixture
def clone(tmp_path):
    """A folder like a clone of the repository, for what the notebook writes."""
    for name in ("recipes", "prompts", "eval", "accelerate_configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    folder = tmp_path / "docs/notebooks"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(clone, workplace, tmp_path):
    nbformat = pytest.importorskip("nbformat", reason="nbclient is not installed; it is in the extra `dev`")
    client = pytest.importorskip("nbclient", reason="nbclient is not installed; it is in the extra `dev`")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed; it is in the extra `dev`")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (parameters,) = (cell for cell in notebook.cells if cell.id == "parameters")
    parameters.source += '\nTRAIN = ["train.max_steps=2", "split.train_utterances=32"]'
    runner = client.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(clone)}}
    )
    runner.execute(env=workplace.environment() | {"PYTHONPATH": str(ROOT)})
    out = tmp_path / "outputs/quickstart"
    assert set(pd.read_csv(out / "report/comparison.csv")["method"]) == {"zero_shot", "lora", "baseline"}
    outputs = {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    shown = [output.data["text/html"] for output in outputs["comparison"] if "data" in output]
    assert "zero_shot" in shown[0]
    assert shown[1].startswith("<img")
    printed = "".join(output.text for output in outputs["prediction"] if output.output_type == "stream")
    assert "true label:" in printed
    assert "1 of 1 predicted" in printed


def test_a_command_that_fails_stops_it(monkeypatch, capsys):
    names = {}
    monkeypatch.chdir(NOTEBOOK.parent)
    exec(CODE["parameters"], names)
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/lalm-mer")
    exec(CODE["install"], names)
    assert Path.cwd() == ROOT
    with pytest.raises(RuntimeError, match=r"exit status 3 of python -c "):
        names["run"]("-c", "print('what went wrong'); raise SystemExit(3)")
    assert capsys.readouterr().out == "what went wrong\n"
