"""The declarations of the recipes' keys, and their readers."""

from dataclasses import dataclass

import pytest
from fabricated import fabricated_record

from lalm_mer.core.config import load_config, to_dict
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.settings import changeable_keys, describe_settings, require_declared, setting, settings_of
from lalm_mer.corpora.settings import CorpusSettings, PrepareSettings
from lalm_mer.corpora.settings import OutputSettings as PreparedSettings
from lalm_mer.launch.config.sections import (
    AdapterSettings,
    DataSettings,
    FinetuneOutputSettings,
    ModelSettings,
    OutputSettings,
    PromptSettings,
    SplitSettings,
    TrainSettings,
    TranscribeDataSettings,
    TranscriberSettings,
    TranscriptFileSettings,
)
from lalm_mer.launch.config.settings import (
    BaselineSettings,
    FinetuneSettings,
    TinySettings,
    TranscribeSettings,
    ZeroShotSettings,
)
from lalm_mer.launch.run.run_folder import is_finished, open_run
from lalm_mer.models.adapter_kinds import KINDS

PLACE = (DataSettings(""), SplitSettings(""))
MODEL = ModelSettings("qwen2_audio", "")
RUNS = [
    ZeroShotSettings(*PLACE, MODEL, OutputSettings(""), PromptSettings("")),
    FinetuneSettings(*PLACE, MODEL, FinetuneOutputSettings(""), PromptSettings(""), AdapterSettings({})),
    BaselineSettings(*PLACE, OutputSettings("")),
    TinySettings(*PLACE, OutputSettings("")),
    TranscribeSettings(TranscribeDataSettings(""), TranscriberSettings(""), TranscriptFileSettings("")),
    PrepareSettings(CorpusSettings("ravdess"), PreparedSettings("")),
]
YAML = """
data: {dir: d}
split: {protocol: p}
prompt: {file: f}
model: {family: clap, id: i}
adapter: {towers: {}}
output: {dir: o}
"""


def keys(schema, section=""):
    """Every key of a schema, as section.key, with its declaration."""
    for name, declared in settings_of(schema).items():
        if declared.section is None:
            yield f"{section}{name}", declared
        else:
            yield from keys(declared.section, f"{section}{name}.")


@pytest.mark.parametrize("settings", RUNS, ids=lambda settings: type(settings).__name__)
def test_every_default_is_in_range_and_every_key_has_help_and_a_line(settings):
    require_declared(settings)
    declared = dict(keys(type(settings)))
    assert [key for key, each in declared.items() if not each.help.strip()] == []
    lines = [line.split()[0] for line in describe_settings(type(settings)).splitlines() if line.startswith("  ")]
    assert sorted(lines) == sorted(declared)


def test_only_settings_without_effect_on_results_may_change():
    scoring = {"use_cpu", "dataloader_num_workers", "per_device_eval_batch_size"}
    everywhere = {"engine", "output"}
    trains = everywhere | {"train.report_to"} | {f"train.{key}" for key in scoring}
    stored = {"model.tower_cache", "model.cache_dir", "model.cache_max_gib"}
    prompted = stored | {"prompt.cache_dir", "prompt.modalities", "preflight"}
    served = ("api_key_env", "concurrency", "timeout_s", "max_retries", "currency")
    remote = {f"remote.{key}" for key in (*served, "prompt_token_price", "completion_token_price")}
    scored = {f"scoring.{key}" for key in (*scoring, "tokens_per_batch")}
    assert changeable_keys(ZeroShotSettings) == everywhere | prompted | remote | scored
    assert changeable_keys(FinetuneSettings) == trains | prompted | {"hub"}
    assert changeable_keys(BaselineSettings) == trains | {"baseline.cache_dir", "baseline.processes"}


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("seed=-1", "key 'seed': -1; expected 0 to 4294967295"),
        ("seed=4294967296", "key 'seed': 4294967296; expected 0 to 4294967295"),
        ("split.fold=0", "key 'split.fold': 0; expected 1 or more"),
        ("prompt.shots=-1", "key 'prompt.shots': -1; expected 0 or more"),
        ("prompt.context_turns=-2", "key 'prompt.context_turns': -2; expected 0 to 1000"),
        ("prompt.label_orders=0", "key 'prompt.label_orders': 0; expected 1 or more"),
        ("prompt.label_score=median", "key 'prompt.label_score': 'median'; expected one of sum, mean, pmi"),
        ("engine.num_processes=0", "key 'engine.num_processes': 0; expected 1 or more, or null"),
        ("train.dataloader_num_workers=-1", "key 'train.dataloader_num_workers': -1; expected 0 or more"),
        ("train.gradient_accumulation_steps=0", "key 'train.gradient_accumulation_steps': 0; expected 1 or more"),
        ("train.learning_rate=-1.0", "key 'train.learning_rate': -1.0; expected 0 or more"),
        ("train.num_train_epochs=0.0", "key 'train.num_train_epochs': 0.0; expected more than 0"),
        ("train.max_steps=0", "key 'train.max_steps': 0; expected 1 or more, or -1"),
        ("train.eval_strategy=never", "key 'train.eval_strategy': 'never'; expected epoch or steps"),
        ("output.push_timeout_s=-1.0", "key 'output.push_timeout_s': -1.0; expected more than 0"),
        ("data.transcript_source=whisper", "'whisper'; expected one of corpus, asr, simulated"),
        ("data.without_audio=skip", "key 'data.without_audio': 'skip'; expected refuse or read"),
        ("balance.sampling=speaker", "'speaker'; expected one of none, class, group, class_and_group"),
        ("balance.direction=up", "key 'balance.direction': 'up'; expected over or under"),
        ("balance.max_per_class=0", "key 'balance.max_per_class': 0; expected 1 or more, or null"),
        ("balance.class_weights=some", "key 'balance.class_weights': 'some'; expected none or balanced"),
        ("model.dtype=int4", "key 'model.dtype': 'int4'; expected one of float32, bfloat16, float16"),
        ("model.quantization=int3", "key 'model.quantization': 'int3'; expected nf4 or null"),
        ("model.attn_implementation=flash", "key 'model.attn_implementation': 'flash'; expected one of sdpa, eager, "),
        (
            "model.attn_implementation={audio_tower: flash}",
            "key 'model.attn_implementation': 'flash'; expected one of ",
        ),
        ("model.family=qwen9", "key 'model.family': 'qwen9'; expected one of qwen2_audio, "),
        ("adapter.kind=prefix", f"key 'adapter.kind': 'prefix'; expected one of {', '.join(KINDS)}, full"),
        ("adapter.r=0", "key 'adapter.r': 0; expected 1 or more"),
        ("loss.kind=triplet", "key 'loss.kind': 'triplet'; expected "),
        ("augment.noise.p=2.0", "key 'augment.noise.p': 2.0; expected 0 to 1"),
        ("augment.mp3.min_bitrate_kbps=17", "key 'augment.mp3.min_bitrate_kbps': 17; expected one of 8, 16, "),
    ],
)
def test_a_value_out_of_range_is_refused_before_anything_is_loaded(tmp_path, override, says):
    (tmp_path / "run.yaml").write_text(YAML)
    assert load_config(FinetuneSettings, tmp_path / "run.yaml").train.max_steps == -1
    with pytest.raises(ConfigError) as refused:
        load_config(FinetuneSettings, tmp_path / "run.yaml", [override])
    assert str(refused.value).startswith(f"override {override!r}: ")
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("answering.mode=chat", "key 'answering.mode': 'chat'; expected likelihood or generation"),
        ("answering.max_new_tokens=0", "key 'answering.max_new_tokens': 0; expected 1 or more"),
        ("scoring.condition=reversed", "key 'scoring.condition': 'reversed'; expected none or audio_swapped"),
    ],
)
def test_a_value_of_zero_shot_out_of_range_is_refused(tmp_path, override, says):
    (tmp_path / "run.yaml").write_text(YAML.replace("adapter: {towers: {}}\n", ""))
    with pytest.raises(ConfigError) as refused:
        load_config(ZeroShotSettings, tmp_path / "run.yaml", [override])
    assert str(refused.value) == f"override {override!r}: {says}"


@dataclass(frozen=True)
class ExtendedTraining(TrainSettings):
    """A new setting needs only this declaration."""

    momentum: float = setting(0.9, at_least=0, below=1, help="of plain gradient descent")
    prefetch: int = setting(2, at_least=1, may_change=True, help="batches that a worker loads in advance")


@dataclass(frozen=True)
class Extended(FinetuneSettings):
    """A YAML with it."""

    train: ExtendedTraining = setting(ExtendedTraining())


def test_a_new_setting_is_found_in_help_in_the_range_check_and_in_the_resume_rule(tmp_path):
    described = describe_settings(Extended)
    assert "  train.momentum  float, 0 or more and less than 1, default 0.9: of plain gradient descent\n" in described
    assert "  train.prefetch  int, 1 or more, default 2: batches that a worker loads in advance\n" in described
    file = tmp_path / "run.yaml"
    file.write_text(f"{YAML}train: {{momentum: 1.0}}\n")
    with pytest.raises(ConfigError) as refused:
        load_config(Extended, file)
    assert str(refused.value) == f"{file}: key 'train.momentum': 1.0; expected 0 or more and less than 1"

    file.write_text(YAML)
    folder = tmp_path / "run"
    identity = fabricated_record(config=to_dict(load_config(Extended, file)), seconds=None)
    (open_run(folder, identity, Extended, writes=True).path / "metrics.json").touch()
    assert is_finished(folder, load_config(Extended, file, ["train.prefetch=8"]), {})
    with pytest.raises(ConfigError, match=r"config\.train\.momentum = 0\.9, now it is 0\.5"):
        is_finished(folder, load_config(Extended, file, ["train.momentum=0.5"]), {})
