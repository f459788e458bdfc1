"""The benchmark, as a dry run: its comparisons, its file, its steps."""

import json
import platform
import sys
import time
from pathlib import Path

import psutil
import pytest
import shipped
import torch

from lalm_mer.core.config import load_config
from lalm_mer.launch.benchmark import steps
from lalm_mer.launch.benchmark.compare import difference
from lalm_mer.launch.benchmark.steps import Step, run_step, steps_of
from lalm_mer.launch.config.benchmark import BenchmarkSettings
from lalm_mer.recognizers.language import collator

ROOT = Path(__file__).resolve().parents[2]
CPU, GPU, SCALING = (f"recipes/benchmarks/{name}.yaml" for name in ("cpu", "gpu_7b", "scaling"))
EXACT = 1e-6


@pytest.fixture
def run(run_script, tmp_path):
    """A runner of the recipe; its exit status."""

    def start(*overrides, config=CPU, dry=True):
        places = [f"output.file={tmp_path / 'b.json'}", f"output.work={tmp_path / 'work'}"]
        options = [*places, *(["dry_run=true"] if dry else []), *overrides]
        return run_script("recipes/benchmark.py", "--config", str(config), *options)

    return start


@pytest.fixture
def results(tmp_path):
    """A reader of the comparisons in the file."""
    return lambda: json.loads((tmp_path / "b.json").read_text("utf-8"))["comparisons"]


def test_the_same_work_over_more_utterances(run, results):
    assert run("only=[scoring_4x, epoch_4x]", config=SCALING) == 0
    assert set(results()) == {"scoring_4x", "epoch_4x"}


@pytest.mark.slow
def test_both_paths_compute_the_same_and_all_is_reported(run, results, tmp_path, capsys):
    assert run("only=[scoring, lora]") == 0
    found = results()
    assert list(found) == ["scoring", "lora"]
    scores = {row["arm"]: row for row in found["scoring"]["differences"]}
    assert set(scores) == {"cold", "cached", "padded"}, "generation gives no scores"
    for row in scores.values():
        assert row["reference"] == "full_sequence"
        assert row["log_probs"] < EXACT
    for row in found["lora"]["differences"]:
        assert row["reference"] == "trainer"
        assert row["first_loss"] < EXACT
        assert row["gradients"] < EXACT
    ratios = {(row["arm"], row["reference"]) for row in found["scoring"]["ratios"]}
    assert {("cold", "generate"), ("cold", "full_sequence")} <= ratios
    for result in found.values():
        assert result["dry_run"] is True
        assert result["data"]["synthetic_noise"] is True
        assert result["machine"]["versions"]["torch"] == torch.__version__
        assert result["matmul_flops_per_s"] > 0
        for arm in result["arms"].values():
            assert arm["utterances"] == 4
            assert arm["wall_s"]["median"] >= arm["waited_s"]["median"] > 0
            assert arm["mfu"] == pytest.approx(arm["limit_s"] / arm["wall_s"]["median"])
            assert arm["peak_bytes"] > 0
        flops = {name: arm["flops"] for name, arm in result["arms"].items()}
        assert flops.pop("cached") < flops["padded"], "a stored output needs no audio tower"
        assert len(set(flops.values())) == 1, "the needed operations do not depend on the variant"
    text = (tmp_path / "b.json").read_text("utf-8")
    for private in (str(tmp_path), str(Path.home()), str(ROOT), platform.node()):
        assert private not in text
    printed = capsys.readouterr().out
    assert "| scoring (dry run: no measurement) | cold |" in printed
    assert "| lora | first_epoch | trainer | first_loss " in printed


@pytest.mark.slow
def test_a_variant_with_packing_has_its_own_rows(run, results, monkeypatch):
    packed = []
    monkeypatch.setattr(collator, "rows_of", lambda lengths, _: packed.append(lengths) or [list(range(len(lengths)))])
    assert run("only=[lora]", "comparisons.lora.arms.packed={settings: {train: {packing: true}}}") == 0
    (row,) = [row for row in results()["lora"]["differences"] if row["arm"] == "packed"]
    assert row["first_loss"] < EXACT
    assert packed


@pytest.mark.slow
def test_comparisons_that_are_not_run_again_and_variants_that_can_run_are_kept(run, results, tmp_path):
    earlier = {"version": 1, "comparisons": {"earlier": {"ended": "done"}}}
    (tmp_path / "b.json").write_text(json.dumps(earlier), encoding="utf-8")
    absent = {"model": {"attn_implementation": {"language_model": "flash_attention_2"}}}
    variants = {"frozen": {}, "missing": {"settings": absent, "optional": True}}
    assert run("only=[lora]", f"comparisons.lora.arms={json.dumps(variants)}") == 0
    found = results()
    assert found["earlier"] == {"ended": "done"}
    assert "wall_s" in found["lora"]["arms"]["frozen"]
    assert found["lora"]["arms"]["missing"]["failed"].startswith("ConfigError: ")


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["only=[scorin]"], "error: key 'only': 'scorin'; the comparisons are scoring, lora, lora_with_tower"),
        (["comparisons.scoring.arms.cold.path=trainer"], "variant cold has path trainer; a comparison of kind score"),
        (
            ["only=[scoring]", "comparisons.scoring.arms={cold: {settings: {scoring: {batch: 3}}}}"],
            "error: variant: unknown key 'scoring.batch'",
        ),
        (
            [
                "only=[lora]",
                "comparisons.lora.arms={other: {settings: {model: {attn_implementation: flash_attention_2}}}}",
            ],
            "error: key 'model.attn_implementation': flash_attention_2; ",
        ),
        (["data.dir=recipes"], "dir and protocol belong together"),
    ],
)
def test_a_mistake_gives_one_line(run, capsys, overrides, line):
    assert run(*overrides) == 1
    (error,) = [each for each in capsys.readouterr().err.splitlines() if each.startswith("error: ")]
    assert line in error


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_benchmark_for_a_gpu_is_not_run_elsewhere_unless_as_a_dry_run(run, capsys):
    assert run(config=GPU, dry=False) == 1
    assert "error: key 'device': cuda, but torch finds no GPU; set dry_run=true" in capsys.readouterr().err


def test_a_package_that_is_required_and_missing_leaves_the_comparison_out(run, results, capsys):
    assert run("only=[lora]", "comparisons.lora.requires=no_such_package") == 0
    assert results()["lora"]["left_out"] == "no_such_package is not installed"
    assert "no_such_package is not installed" in capsys.readouterr().out


# Steps


def test_the_steps_of_the_gpu_end_within_nine_minutes():
    settings = shipped.load(GPU)
    found = steps_of(settings, Path("steps.yaml"))
    assert [step.name for step in found] == [*settings.comparisons, "tests"]
    assert sum(step.limit_s for step in found) < 9 * 60
    assert found[-1].command[-1] == "tests/e2e/test_gpu.py"
    assert (ROOT / found[-1].command[-1]).is_file()


def test_a_step_is_stopped_at_its_limit_with_its_children(tmp_path):
    child = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    assert run_step(Step("slow", (sys.executable, "-c", program), 1)) == "stopped after 1 s"
    pid, end = int((tmp_path / "pid").read_text()), time.monotonic() + 5
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert run_step(Step("failing", (sys.executable, "-c", "raise SystemExit(3)"), 20)) == "exit status 3"
    assert run_step(Step("fine", (sys.executable, "-c", ""), 20)) == "done"


def test_a_failed_step_leaves_the_others_and_is_named(run_script, tmp_path, capsys, monkeypatch):
    ends = Step("broken", (sys.executable, "-c", "raise SystemExit(3)"), 20)
    monkeypatch.setattr(steps, "steps_of", lambda *_: [ends, Step("tests", (sys.executable, "-c", ""), 20)])
    options = [f"output.file={tmp_path / 'b.json'}", f"output.work={tmp_path / 'work'}"]
    assert run_script("recipes/benchmark.py", "--steps", "--config", GPU, *options) == 1
    printed = capsys.readouterr()
    assert "error: 1 step failed: broken (exit status 3)" in printed.err
    dry = not torch.cuda.is_available()
    assert ("dry run: torch finds no GPU" in printed.out) == dry
    found = json.loads((tmp_path / "b.json").read_text("utf-8"))["comparisons"]
    assert found == {"broken": {"dry_run": dry, "ended": "exit status 3"}, "tests": {"dry_run": dry, "ended": "done"}}


@pytest.mark.slow
def test_a_step_is_a_comparison_in_a_process_of_its_own(run_script, tmp_path):
    options = ["only=[zero_shot]", "tests=[]", f"output.file={tmp_path / 'b.json'}", f"output.work={tmp_path / 'work'}"]
    assert run_script("recipes/benchmark.py", "--steps", "--config", GPU, "dry_run=true", *options) == 0
    (found,) = json.loads((tmp_path / "b.json").read_text("utf-8"))["comparisons"].values()
    assert found["dry_run"] is True
    assert set(found["arms"]) == {"generate", "full_sequence", "cold", "cached"}


@pytest.mark.slow
def test_each_variant_has_a_process_of_its_own_on_the_cpu(run, results):
    small = {"audio_config": {"d_model": 64, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 64}}
    options = ["only=[lora]", "repeats=2", f"model.sizes={json.dumps(small)}", "model.window_s=4", "data.utterances=4"]
    assert run(*options, "data.mean_s=1", "data.shortest_s=0.5", dry=False) == 0
    found = results()["lora"]
    assert found["dry_run"] is False
    assert found["repeats"] == 2
    assert found["differences"][0]["gradients"] < EXACT
    assert len({arm["peak_bytes"] for arm in found["arms"].values()}) == len(found["arms"]) == 4
    assert found["arms"]["trainer"]["loaded_bytes"] < found["arms"]["trainer"]["peak_bytes"]


def test_a_difference_of_other_shapes_is_none():
    assert difference([1.0], [1.0, 2.0]) is None
    assert difference([], []) is None


def test_every_variant_of_a_comparison_is_one_entry():
    settings = load_config(BenchmarkSettings, ROOT / CPU, ["comparisons.lora.arms.other={settings: {seed: 1}}"])
    assert list(settings.comparisons["lora"].arms) == ["trainer", "first_epoch", "cached", "padded", "other"]
