"""Estimates against numbers computed by hand and against a real tiny model."""

import argparse
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.output import write_json
from lalm_mer.core.schema import Example, Input
from lalm_mer.launch.config.sections import AdapterSettings
from lalm_mer.launch.estimate import Method, empty_family, estimate, nf4_bytes
from lalm_mer.launch.estimate_command import add_estimate, estimate_lines, speed_of
from lalm_mer.models.adapters import add_adapter
from lalm_mer.models.families import family_class
from lalm_mer.models.full_training import train_in_full
from lalm_mer.prompting.prompts import Prompt
from lalm_mer.recognizers.cost import Work, model_flops, tower_costs
from lalm_mer.recognizers.language.prompt_setup import PromptSetup
from lalm_mer.recognizers.language.recognizer import LanguageRecognizer
from lalm_mer.recognizers.memory import estimate_memory, stored_bytes
from lalm_mer.recognizers.scoring import run_batch

QWEN = family_class("qwen2_audio")
LABELS = LabelSet(("happy", "sad"))
PROMPT = Prompt("p", None, (("audio", ""), ("words", "Which of happy, sad?")), {}, "")
SETUP = PromptSetup((PROMPT,), LABELS, (LABELS.labels,))
TOWERS = {"language_model": ("q_proj", "down_proj"), "projector": ("linear",)}
LONGEST_S, MEAN_S = 2.0, 1.0  # the window of the tiny model


@pytest.fixture
def folder(tiny_folder):
    return str(tiny_folder("qwen2_audio"))


def estimated(folder, method):
    return estimate(
        empty_family("qwen2_audio", folder, None, "float32"), SETUP, method, mean_s=MEAN_S, longest_s=LONGEST_S
    )


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("towers", "full"),
    [
        (None, ()), (TOWERS, ()), ({"audio_tower": ("fc1",)}, ()), (None, ("language_model",)),
        (None, tuple(QWEN.towers)),
    ],
    ids=["scoring", "lora", "tower", "language model in full", "in full"],
)  # fmt: skip
def test_memory_is_what_the_preflight_computes_from_the_real_model(folder, towers, full, checkpointing):
    method = Method(towers, r=4, batch_size=3, checkpointing=checkpointing, full=full)
    found = estimated(folder, method).memory
    family = QWEN.load(folder)
    adapted = None if towers is None else add_adapter(family, towers, {"r": 4})[0]
    if full:
        train_in_full(family, full)
    recognizer = LanguageRecognizer(family, SETUP, adapted).eval()
    given = Input("longest", None, Waveform(np.zeros(round(LONGEST_S * 16_000), dtype=np.float32), 16_000))
    longer = max(LABELS.labels, key=lambda label: len(family.answer_ids(label)))
    if not method.trains:
        batch = recognizer.scoring_collators[0]([given])
    else:
        batch = recognizer.training_collator([Example(given, longer)])
        batch.pop("labels")
    expected = estimate_memory(
        recognizer,
        partial(run_batch, recognizer, batch),
        batch_size=3,
        learns=method.trains,
        checkpointing=checkpointing,
    )
    assert found == expected


def test_four_bit_weights_are_those_of_the_real_model(folder):
    pytest.importorskip("bitsandbytes", reason="the extra `quant` is not installed")
    found = estimated(folder, Method(TOWERS, r=4, quantization="nf4")).memory.weights
    family = QWEN.load(folder, quantization="nf4")
    add_adapter(family, TOWERS, {"r": 4})
    assert found == stored_bytes(family.model)
    assert nf4_bytes(256 * 256) == 256 * 256 // 2 + 1024 + 4 * 4


def test_operations_and_disk_by_hand(folder):
    found = estimated(folder, Method(TOWERS, r=4))
    family = QWEN.load(folder)
    answers = max(len(family.answer_ids(label)) for label in LABELS.labels)
    assert family.audio_token_count(round(MEAN_S * 16_000)) == 25
    adapter = 4 * ((32 + 32) * 2 + (128 + 32) * 2 + (32 + 32)) * 4  # r, in and out of each layer, float32
    assert (found.saved_bytes, found.checkpoint_bytes) == (adapter, 3 * adapter)
    assert found.tower_bytes == 25 * 32 * 4
    work = Work(50, 25, found.tokens, answers)  # 100 frames in 1 s, halved by the tower, then pooled in pairs
    trained = {"audio_tower": False, "projector": True, "language_model": True}
    assert found.flops == model_flops(tower_costs(family), work, trained)
    assert found.tower_flops == tower_costs(family)["audio_tower"].flops(50)
    assert estimated(folder, Method({"audio_tower": ["q_proj"]}, r=4)).tower_flops == 0
    padded = empty_family("qwen2_audio", folder, None, "float32")
    padded.full_window = True
    found = estimate(padded, SETUP, Method(TOWERS, r=4), mean_s=MEAN_S, longest_s=LONGEST_S)
    assert found.flops == model_flops(tower_costs(family), replace(work, audio_positions=100), trained)


def test_operations_and_disk_of_training_in_full_by_hand(folder):
    found = estimated(folder, Method(full=tuple(QWEN.towers)))
    family = QWEN.load(folder)
    costs = tower_costs(family)
    answers = max(len(family.answer_ids(label)) for label in LABELS.labels)
    work = Work(50, 25, found.tokens, answers)
    assert found.flops == pytest.approx(3 * model_flops(costs, work))  # forward, of inputs, of weights
    assert found.tower_flops == 0
    weights = sum(each.numel() for each in family.model.parameters()) * 4
    positions = family.model.model.audio_tower.embed_positions.weight.numel() * 4  # sinusoids, which stay as they are
    assert found.saved_bytes == stored_bytes(family.model)
    assert found.checkpoint_bytes == 3 * (weights - positions)
    alone = estimated(folder, Method(full=("language_model",)))
    of_tower = costs["audio_tower"].flops(50)
    assert alone.tower_flops == of_tower
    scored = estimated(folder, Method(full=("projector",))).flops
    assert scored - of_tower - 3 * costs["projector"].flops(25) == pytest.approx(
        2 * (costs["language_model"].flops(found.tokens) + costs["output"].flops(answers))
    )


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_method_is_that_of_the_section(folder, kind):
    family = empty_family("qwen2_audio", folder, None, "float32")
    found = Method.of(AdapterSettings(kind=kind, r=4), family, quantization=None, batch_size=3)
    lora, full = Method(QWEN.adapter_targets, 4, None, 3), Method(batch_size=3, full=tuple(QWEN.towers))
    assert found == {"lora": lora, "full": full}[kind]
    named = Method.of(AdapterSettings(kind=kind, full=["projector"]), family, quantization=None, batch_size=3)
    assert named.full == (("projector",) if kind == "full" else ())


# The command


def options(*words):
    parser = argparse.ArgumentParser()
    add_estimate(parser.add_subparsers())
    return parser.parse_args(["estimate", "--family", "qwen2_audio", *map(str, words)])


COUNTED = ("--utterances", 3600, "--mean-s", 1, "--longest-s", 2)


def lines(folder, *words):
    found = list(estimate_lines(options("--model", folder, *words)))
    return {line.partition(" ")[0]: line.partition(" ")[2].strip() for line in found}


def test_hours_are_operations_over_speed(folder):
    flops = estimated(folder, Method(QWEN.adapter_targets, r=16)).flops  # other prompt
    found = lines(folder, "--method", "lora", *COUNTED, "--tflops", 1e-6, "--epochs", 2, "--dtype", "float32")
    hours, operations = float(found["time"].split()[0]), float(found["time"].split()[2])
    assert operations > 3600 * 2 * flops * 0.9
    assert hours == pytest.approx(operations / 1e6 / 3600, rel=1e-2)
    assert found["corpus"].startswith("3600 utterances of 1.00 s (longest 2.00 s), ")
    assert found["memory"].split(":")[1].split()[0] == "weights"
    assert "adapter" in found["disk"]
    zero_shot = lines(folder, "--method", "zero_shot", *COUNTED)
    assert "adapter" not in zero_shot["disk"]
    assert "AdamW" not in zero_shot["memory"]
    assert zero_shot["time"].endswith("give --benchmark or --tflops for hours")


def test_training_in_full_is_estimated_in_float32(folder):
    found = lines(folder, "--method", "full", *COUNTED)
    assert found["model"].endswith(", float32")
    assert "model " in found["disk"]
    assert "checkpoints " in found["disk"]
    assert "AdamW" in found["memory"]
    alone = lines(folder, "--method", "full", *COUNTED, "--modalities", "transcript")  # the language model alone
    assert float(alone["time"].split()[0]) < float(found["time"].split()[0])
    with pytest.raises(ConfigError, match="--dtype bfloat16: weights that are trained in full are in float32"):
        lines(folder, "--method", "full", *COUNTED, "--dtype", "bfloat16")


def test_a_prepared_corpus_gives_number_and_durations(folder, toy_corpus, tmp_path):
    toy_corpus(rate=8000)
    found = lines(folder, "--method", "zero_shot", "--data", tmp_path / "toy_8000")
    assert found["corpus"].startswith("20 utterances of 0.40 s (longest 0.40 s), ")


def report(**changes):
    arm = {"path": "ours", "flops_per_s": 5e9, "quantization": None}
    machine = {"processor": "a CPU", "threads": 1}
    result = {"kind": "train", "dry_run": False, "machine": machine}
    slower, plain = arm | {"flops_per_s": 1e9}, arm | {"path": "trainer", "flops_per_s": 9e9}
    arms = {"slower": slower, "faster": arm, "plain": plain, "failed": {"path": "ours", "failed": "no"}}
    return {"version": 1, "comparisons": {"lora": result | {"arms": arms} | changes, "tests": {"ended": "done"}}}


def test_the_speed_of_a_benchmark_is_that_of_its_fastest_variant_of_ours(folder, tmp_path):
    assert speed_of(report(), "train", None) == (5e9, "lora, faster, a CPU, 1 thread(s)")
    write_json(tmp_path / "b.json", report())
    found = lines(folder, "--method", "lora", *COUNTED, "--benchmark", tmp_path / "b.json")
    assert "at 0.005 TFLOP/s (lora, faster, a CPU, 1 thread(s))" in found["time"]


@pytest.mark.parametrize(
    ("content", "kind", "quantization", "message"),
    [
        (report(), "score", None, "no measurement of kind score with quantization none; run"),
        (report(), "train", "nf4", "no measurement of kind train with quantization nf4; run"),
        (report(dry_run=True), "train", None, r"none \(dry runs measure nothing\); run"),
    ],
)
def test_a_benchmark_without_such_a_measurement_is_refused(content, kind, quantization, message):
    with pytest.raises(ConfigError, match=message):
        speed_of(content, kind, quantization)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "expected either --data, or --utterances and --mean-s"),
        (("--utterances", 5), "expected either --data"),
        (("--utterances", 0, "--mean-s", 1), "--utterances: 0; expected more than 0"),
        (("--utterances", 5, "--mean-s", 1, "--batch-size", 0), "--batch-size: 0; expected more than 0"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(words, message, folder):
    with pytest.raises(ConfigError, match=message):
        lines(folder, "--method", "lora", *words)


def test_the_meta_model_has_no_values(folder):
    family = empty_family("qwen2_audio", folder, None, "bfloat16")
    assert {each.device.type for each in family.model.parameters()} == {"meta"}
