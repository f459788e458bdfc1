"""Errors that a user can correct are one line that names their cause, with exit status 1."""

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file, save_file
from small_runs import small_baseline

from lalm_mer.cli import main
from lalm_mer.core.errors import ConfigError, LalmMerError


def only_line(captured: str) -> str:
    """The error on stderr, which must be the only one."""
    assert "Traceback" not in captured
    (line,) = [line for line in captured.splitlines() if line.startswith("error: ")]
    return line


def changed(workplace, folder: Path, recipe: str, edit) -> Path:
    """A copy of a recipe's YAML with its text edited."""
    file = folder / f"{recipe}.yaml"
    file.write_text(edit(workplace.config(recipe).read_text()))
    return file


@pytest.fixture
def refused(workplace, capsys, tmp_path):
    """Run a recipe that must refuse its command line; return its error."""

    def run(recipe: str, *overrides: str, config: Path | None = None, out: Path = tmp_path / "run") -> str:
        arguments = ["--config", str(config or workplace.config(recipe)), f"output.dir={out}", *overrides]
        capsys.readouterr()
        assert workplace.script(f"recipes/{recipe}.py", *arguments) == 1
        return only_line(capsys.readouterr().err)

    return run


@pytest.mark.slow
def test_the_launcher_passes_line_and_status_on(workplace, tmp_path):
    done = workplace.start("finetune", f"output.dir={tmp_path / 'run'}", "adapter.rank=16").result()
    assert done.returncode == 1
    line = only_line(done.stderr)
    assert "unknown key 'adapter.rank'" in line
    assert "lora_alpha" in line  # one of the expected keys
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("adapter.rank=16", ["unknown key 'adapter.rank'"]),
        ("adapter.r=abc", ["'adapter.r'", "expected int", "'abc'"]),
        ("train.condition=audio_swapped", ["unknown key 'train.condition'"]),
        ("train.max_steps=1.5", ["'train.max_steps'", "expected int", "1.5"]),
        ("train.bf16=yes", ["'train.bf16'", "expected bool", "'yes'"]),
        ("adapter.r", ["'adapter.r'", "section.key=value"]),
        ("data.dir=no/such/folder", ["no/such/folder"]),
        ("data.dir=recipes", ["recipes", "prepare_corpus.py"]),
        ("split.protocol=no/such.yaml", ["no/such.yaml"]),
        ("split.protocol=eval/protocols/ravdess_6fold.yaml", ["'split.protocol'", "ravdess", "synthetic_beeps"]),
        ("split.fold=4", ["'split.fold'", "4", "[1, 2, 3]"]),
        ("prompt.file=no/such.yaml", ["no/such.yaml"]),
        ("model.family=qwen9", ["'model.family'", "qwen9", "qwen2_audio"]),
        ("model.id=no/such/model", ["no/such/model"]),
        ("model.dtype=int4", ["override 'model.dtype=int4'", "'model.dtype'", "'int4'; expected one of float32"]),
        (
            "model.attn_implementation=flash_attention_2",
            ["'model.attn_implementation'", "needs the package flash-attn"],
        ),
        (
            "model.attn_implementation=flex_attention",
            ["'model.attn_implementation'", "the audio_tower of qwen2_audio supports eager, sdpa, flash_attention_2;"],
        ),
        ("model.attn_implementation={language_model: flex_attention}", ["'model.attn_implementation'", "needs a GPU"]),
        (
            "model.attn_implementation={vision_tower: sdpa}",
            ["'model.attn_implementation'", "vision_tower", "projector"],
        ),
        (
            "model.attn_implementation=[sdpa]",
            ["'model.attn_implementation'", "expected a name, or a mapping of towers"],
        ),
        ("adapter.towers={language_model: [no_proj]}", ["no_proj", "q_proj"]),
        ("adapter.towers={vision_tower: [q_proj]}", ["vision_tower", "audio_tower"]),
        ("adapter.kind=adalora", ["'adapter.kind'", "'adalora'", "lora, loha"]),
        ("adapter.kind=ia3", ["'adapter.r'", "adapter.options"]),
        ("adapter.options={r: 8}", ["'adapter.options.r'", "adapter.r"]),
        ("adapter.options={modules_to_save: [lm_head]}", ["'adapter.options.modules_to_save'", "init_lora_weights"]),
        ("adapter.full=[projector]", ["'adapter.full'", "towers.projector=[]"]),
        ("prompt.file=prompts/transcript.yaml", ["'adapter.towers.audio_tower'", "no audio slot"]),
        ("engine.accelerate_config=no/such.yaml", ["no/such.yaml"]),
        ("engine.num_processes=2", ["started as 1", "2", "engine.num_processes"]),
        ("train.eval_strategy=never", ["'train.eval_strategy'", "'never'; expected epoch or steps"]),
        ("train.lr_scheduler_type=bent", ["'train'", "bent"]),
        ("train.per_device_train_batch_size=0", ["'train.per_device_train_batch_size'", "0", "1 or more"]),
        ("prompt.shots=36", ["'prompt.shots'", "36"]),
        ("prompt.file=prompts/audio.yaml/x", ["prompts/audio.yaml/x"]),
        ("model.family=gemma3n", ["gemma3n", "model.id"]),
        ("model.family=qwen9", ["clap"]),
    ],
)
def test_an_invalid_override(override, says, refused):
    line = refused("finetune", override)
    for words in says:
        assert words in line


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["scoring.condition=reversed"], "'reversed'; expected none or audio_swapped"),
        (["scoring.condition=audio_swapped", "prompt.file=prompts/transcript.yaml"], "no audio to swap"),
    ],
)
def test_an_invalid_condition(overrides, says, refused):
    line = refused("zero_shot", *overrides)
    assert "'scoring.condition'" in line
    assert says in line


def test_synonyms_that_clash_name_their_file(refused, tmp_path):
    (tmp_path / "clash.yaml").write_text("synonyms: {angry: [same], content: [same]}\n")
    line = refused("zero_shot", "answering.mode=generation", f"answering.synonyms={tmp_path / 'clash.yaml'}")
    assert "'answering.synonyms'" in line
    assert str(tmp_path / "clash.yaml") in line
    assert "'same' names both" in line


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("data.dir={folder}/dta", "key 'data.dir': {folder}/dta: no such folder; did you mean data?"),
        ("model.id={folder}/modl", "key 'model.id': {folder}/modl: no such folder; did you mean model?"),
        ("model.id=eval/protocls", "key 'model.id': eval/protocls: no such folder; did you mean protocols?"),
        (
            "model.adapter=./eval/protocls",
            "key 'model.adapter': eval/protocls: no such folder; did you mean protocols?",
        ),
        (
            "split.protocol=ravdes_6fold",
            "key 'split.protocol': ravdes_6fold: no such file; did you mean eval/protocols/ravdess_6fold.yaml? "
            "eval/protocols has circumplex, circumplex_arousal, ",
        ),
        (
            "prompt.file=prompts/audoi.yaml",
            "key 'prompt.file': prompts/audoi.yaml: no such file; did you mean prompts/audio.yaml? prompts has align",
        ),
        ("prompt.also=[prompts/audoi.yaml]", "key 'prompt.also': prompts/audoi.yaml: no such file; did you mean "),
        ("model.family=qwen2_audoi", "generic, clap, composed_clap, remote; did you mean qwen2_audio?"),
        (
            "engine.accelerate_config=cpu",
            "no such file; did you mean accelerate_configs/cpu.yaml? accelerate_configs has ",
        ),
        ("scoring.use_cpus=true", "; did you mean use_cpu?"),
    ],
)
def test_a_wrong_name_lists_what_exists_and_the_nearest(override, says, workplace, refused):
    assert says.format(folder=workplace.folder) in refused("zero_shot", override.format(folder=workplace.folder))


@pytest.mark.parametrize("written", ["~/run", "./{below}/run"])
def test_paths_are_expanded_once_and_recorded_relative_to_the_working_directory(
    written, workplace, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    (tmp_path / "home").mkdir()
    (tmp_path / "home/model").symlink_to(workplace.folder / "model")
    below = Path(os.path.relpath(tmp_path, Path.cwd()))
    out = (tmp_path / "home/run") if "~" in written else tmp_path / "run"
    options = [f"output.dir={written.format(below=below)}", "model.id=~/model", "train.max_steps=1"]
    assert workplace.script("recipes/finetune.py", "--config", str(workplace.config("finetune")), *options) == 0
    assert {path.name for path in out.iterdir()} >= {"run.json", "adapter", "history.jsonl", "predictions.parquet"}
    config = json.loads((out / "run.json").read_text("utf-8"))["config"]
    assert config["prompt"]["file"] == "prompts/audio_transcript.yaml"
    assert config["engine"]["accelerate_config"] == "accelerate_configs/cpu.yaml"
    assert config["model"]["id"] == str(tmp_path / "home/model")
    assert not Path("~").exists()
    capsys.readouterr()
    again = [f"output.dir={out}", f"model.id={tmp_path}/home/model", "train.max_steps=1"]
    again.append(f"prompt.file={Path.cwd()}/prompts/audio_transcript.yaml")
    assert workplace.script("recipes/finetune.py", "--config", str(workplace.config("finetune")), *again) == 0
    assert f"{out} is finished; nothing to do" in capsys.readouterr().out


def test_a_duplicate_key(workplace, refused, tmp_path):
    config = changed(workplace, tmp_path, "finetune", lambda text: text + "seed: 1\nseed: 2\n")
    line = refused("finetune", config=config)
    assert "duplicate key 'seed'" in line
    assert str(config) in line


def test_a_missing_section(workplace, refused, tmp_path):
    config = changed(workplace, tmp_path, "zero_shot", lambda text: text.replace("model:", "models:"))
    assert "unknown key 'models'" in refused("zero_shot", config=config)
    without = {name: value for name, value in yaml.safe_load(config.read_text()).items() if name != "models"}
    config.write_text(yaml.safe_dump(without))
    assert "'model" in refused("zero_shot", config=config)


def test_a_missing_config_file(refused, tmp_path):
    assert str(tmp_path / "none.yaml") in refused("zero_shot", config=tmp_path / "none.yaml")


def test_missing_transcripts_with_a_prompt_that_uses_them(workplace, refused, tmp_path):
    data = workplace.corpus_without_transcripts(tmp_path)
    line = refused("zero_shot", f"data.dir={data}", out=tmp_path / "run")
    assert str(data) in line
    assert "61 of 61 utterances have no transcript" in line
    assert "s1_0" in line
    line = refused("finetune", f"data.dir={data}", "balance.max_per_class=3", out=tmp_path / "balanced")
    assert "61 of 61 utterances have no transcript" in line


def test_a_folder_with_another_run(refused, prompted, tmp_path):
    shutil.copytree(prompted, tmp_path / "run")
    line = refused("zero_shot", "seed=1")
    assert str(tmp_path / "run") in line
    assert "config.seed = 0, now it is 1" in line


def test_a_corrected_run_may_use_the_same_folder(refused, tmp_path):
    assert "bent" in refused("finetune", "train.lr_scheduler_type=bent")
    assert (tmp_path / "run" / "run.json").is_file()
    assert "crooked" in refused("finetune", "train.lr_scheduler_type=crooked")


def test_a_folder_with_other_files(refused, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.docx").touch()
    assert f"{tmp_path / 'run'} has other files" in refused("zero_shot")
    assert (tmp_path / "run" / "thesis.docx").exists()


def test_a_file_where_the_run_folder_should_be(refused, tmp_path):
    (tmp_path / "run").touch()
    assert f"{tmp_path / 'run'} is a file" in refused("zero_shot")


def test_debug_shows_the_traceback(workplace, tmp_path):
    arguments = ["--config", str(workplace.config("zero_shot")), f"output.dir={tmp_path}", "--debug", "seed=first"]
    with pytest.raises(ConfigError, match="'seed'"):
        workplace.script("recipes/zero_shot.py", *arguments)
    assert issubclass(ConfigError, LalmMerError)


def test_errors_of_preparation_and_tiny_models_are_one_line(workplace, capsys, tmp_path):
    config = ["--config", "recipes/corpora/manifest.yaml", f"output.dir={tmp_path / 'data'}"]
    assert workplace.script("recipes/prepare_corpus.py", *config, f"corpus.root={tmp_path / 'none'}") == 1
    assert str(tmp_path / "none") in only_line(capsys.readouterr().err)
    config = ["--config", str(workplace.folder / "tiny.yaml"), f"output.dir={tmp_path / 'model'}"]
    assert workplace.script("recipes/build_tiny_model.py", *config, "family=qwen9") == 1
    assert "qwen9" in only_line(capsys.readouterr().err)


UNTIL_STEP_8 = (
    "train.logging_steps=1", "train.eval_strategy=steps", "train.eval_steps=8", "train.num_train_epochs=4",
)  # fmt: skip
"""No dev metrics before the loss is logged."""


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["train.learning_rate=1e30"], "dev: the model gives NaN in place of a score for 20 of 20 utterances"),
        (["train.learning_rate=1e30", *UNTIL_STEP_8], "training: the loss is nan at step 3; expected a finite number"),
        (
            ["loss={kind: focal, focal_gamma: 1e300}"],
            "training: the loss is nan at step 2; expected a finite number",
        ),
        (["train.learning_rate=1e400"], "'train.learning_rate': inf"),
    ],
)
def test_a_training_that_diverges_has_no_figures(overrides, says, workplace, refused, tmp_path):
    file = tmp_path / "baseline.yaml"
    file.write_text(yaml.safe_dump(small_baseline(workplace)))
    assert says in refused("train_baseline", *overrides, config=file)
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_weights_that_are_not_finite_predict_nothing(workplace, tmp_path, capsys):
    file, run = tmp_path / "baseline.yaml", tmp_path / "run"
    file.write_text(yaml.safe_dump(small_baseline(workplace)))
    assert workplace.script("recipes/train_baseline.py", "--config", str(file), f"output.dir={run}") == 0
    weights = load_file(run / "model/model.safetensors")
    weights["head.bias"][0] = float("nan")
    save_file(weights, run / "model/model.safetensors")
    capsys.readouterr()
    clip = min((workplace.folder / "clips").rglob("*.wav"))
    assert main(["predict", str(clip), "--transcript", "fine", "--run", str(run)]) == 1
    assert "tensor head.bias has values that are not finite" in only_line(capsys.readouterr().err)
