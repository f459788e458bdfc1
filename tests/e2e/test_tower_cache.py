"""The cache of tower outputs through the recipes."""

import pandas as pd
import pytest
from closeness import assert_close
from representatives import slow_except

from lalm_mer.core.errors import AudioError
from lalm_mer.examples import dataset
from lalm_mer.examples.feature_caches import stored_features

FROZEN = "adapter.towers.audio_tower=[]"


@pytest.fixture
def run(workplace, tmp_path, capsys):
    """A runner of a recipe in a folder, with a cache of its own; what it printed of the cache, and its predictions."""

    def run_recipe(recipe, name, *overrides):
        workplace.run(recipe, tmp_path / name, f"model.cache_dir={tmp_path / 'cache'}", *overrides)
        said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("tower cache: ")]
        return said, pd.read_parquet(tmp_path / name / "predictions.parquet")

    return run_recipe


def scores(table):
    return table.filter(like="log_prob_")


def test_training_scoring_and_other_prompts_share_it(run, tmp_path):
    said, trained = run("finetune", "trained", FROZEN, "train.num_train_epochs=2")
    assert said[0].startswith("tower cache: about 0.")
    assert said[1].startswith("tower cache: 60 utterances encoded by this process, 60 stored in ")
    (found,) = stored_features(tmp_path / "cache")
    assert found.key["family"] == "qwen2_audio"

    said, without = run("finetune", "without", FROZEN, "train.num_train_epochs=2", "model.tower_cache=never")
    assert said == []
    assert_close(scores(trained), scores(without), 1e-4)
    with_cache, without_cache = (
        pd.read_json(tmp_path / name / "history.jsonl", lines=True)["loss"] for name in ("trained", "without")
    )
    assert len(with_cache) > 10
    assert_close(with_cache, without_cache, 1e-4)

    for prompt in ("audio", "audio_transcript"):
        said, _ = run("zero_shot", prompt, f"prompt.file=prompts/{prompt}.yaml", "split.fold=2")
        assert len(said) == 1
        assert said[0].startswith("tower cache: 0 utterances encoded by this process, 60 stored in ")


def test_a_hit_decodes_no_audio_and_gives_the_same_scores(run, monkeypatch):
    _, without = run("zero_shot", "without", "model.tower_cache=never")
    run("zero_shot", "first")

    def refuse(row, _):
        raise AudioError(f"utterance {row['utterance_id']} was decoded", "unreadable")

    monkeypatch.setattr(dataset, "waveform_of", refuse)
    said, again = run("zero_shot", "again", "preflight=false")
    assert said[0].startswith("tower cache: 0 utterances encoded")
    assert_close(scores(again), scores(without), 1e-5)


@pytest.mark.slow
def test_swapped_audio_is_that_of_the_other_utterance(run):
    swapped = "scoring.condition=audio_swapped"
    _, without = run("zero_shot", "without", swapped, "model.tower_cache=never")
    _, stored = run("zero_shot", "stored", swapped)
    _, plain = run("zero_shot", "plain")
    assert_close(scores(stored), scores(without), 1e-5)
    assert (scores(stored) - scores(plain)).abs().max().max() > 1e-3


def test_answered_examples_are_encoded_beside_it(run):
    shots = ("prompt.shots=2", "prompt.file=prompts/audio.yaml")
    _, without = run("zero_shot", "without", *shots, "model.tower_cache=never")
    said, stored = run("zero_shot", "stored", *shots)
    assert said
    assert_close(scores(stored), scores(without), 1e-5)


@pytest.mark.slow
def test_generated_answers_are_the_same(run):
    generated = ("answering.mode=generation", "answering.max_new_tokens=4")
    _, without = run("zero_shot", "without", *generated, "model.tower_cache=never")
    _, stored = run("zero_shot", "stored", *generated)
    assert stored["answer"].tolist() == without["answer"].tolist()


@pytest.mark.parametrize(
    ("recipe", "overrides", "reason"),
    [
        ("finetune", ["train.max_steps=1"], "the audio tower is trained"),
        pytest.param(
            "finetune",
            [FROZEN, "train.max_steps=1", "augment.gain.p=1.0"],
            "the audio is augmented",
            marks=pytest.mark.slow,
        ),
        ("zero_shot", ["model.cache_max_gib=0"], "the cache needs 0.0 MiB and may have 0.0 MiB"),
    ],
)
def test_it_says_why_it_is_not_used_and_an_error_if_it_is_required(
    run, workplace, capsys, tmp_path, recipe, overrides, reason
):
    said, _ = run(recipe, "auto", *overrides)
    assert said[-1] == f"tower cache: not used, because {reason}"
    out = f"output.dir={tmp_path / 'required'}"
    assert (
        workplace.again(recipe, out, f"model.cache_dir={tmp_path / 'cache'}", *overrides, "model.tower_cache=require")
        == 1
    )
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last == f"error: key 'model.tower_cache': require, but {reason}; set it to auto"


@pytest.mark.slow
def test_an_older_cache_makes_room_for_a_new_one(run, tmp_path):
    run("zero_shot", "first", "model.full_window=true")
    (old,) = stored_features(tmp_path / "cache")
    said, _ = run("zero_shot", "second", f"model.cache_max_gib={1.5 * old.bytes / 2**30}")
    assert any(line.startswith(f"tower cache: removed {old.folder.name}: ") for line in said)
    (new,) = stored_features(tmp_path / "cache")
    assert new.folder != old.folder


@pytest.mark.parametrize("workers", slow_except([0, 1], [0]))
def test_a_damaged_value_is_one_line_and_a_damaged_shard_is_computed_again(run, workplace, capsys, tmp_path, workers):
    _, expected = run("zero_shot", "first", "preflight=false")
    (folder,) = (each.folder for each in stored_features(tmp_path / "cache"))
    (shard,) = folder.glob("*.arrow")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 0x55
    shard.write_bytes(content)
    options = ["preflight=false", f"scoring.dataloader_num_workers={workers}", f"model.cache_dir={tmp_path / 'cache'}"]
    assert workplace.again("zero_shot", f"output.dir={tmp_path / 'second'}", *options) == 1
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    assert errors.strip().splitlines()[-1].startswith(f"error: {folder}: the values of ")
    assert errors.endswith(f"remove the folder by `lalm-mer cache --clear {folder.name}`, and rerun the same command\n")
    shard.unlink()  # a worker may still map the file, and would be killed if it became shorter
    shard.write_bytes(content[: len(content) // 2])
    said, again = run("zero_shot", "second", *options[:-1])
    assert said[-1].startswith("tower cache: 20 utterances encoded by this process, 20 stored in ")
    pd.testing.assert_frame_equal(again, expected, check_exact=True)
