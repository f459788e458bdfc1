"""Sections of the recipes' YAML files. Values passed on to transformers, peft or accelerate keep their names there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lalm_mer.core import names
from lalm_mer.core.settings import setting
from lalm_mer.examples.balancing import DIRECTIONS, SAMPLINGS
from lalm_mer.models.adapter_kinds import KINDS
from lalm_mer.models.families import model_names
from lalm_mer.recognizers.baselines.settings import NetworkSettings

__all__ = [
    "LORA_KEYS", "AdapterSettings", "AnsweringSettings", "BalanceSettings", "BaselinePartsSettings", "DataSettings",
    "EngineSettings", "FeatureStoreSettings", "FinetuneOutputSettings", "FolderSettings", "HubSettings",
    "ModelSettings", "OutputSettings", "PromptSettings", "ScoringSettings", "SplitSettings", "TrainSettings",
    "TrainingSplitSettings", "TranscribeDataSettings", "TranscriberSettings", "TranscriptFileSettings",
    "ZeroShotScoringSettings",
]  # fmt: skip


LORA_KEYS = ("r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora")
"""Keys of section ``adapter`` that are for kind lora alone"""


@dataclass(frozen=True)
class TranscribeDataSettings:
    """The corpus."""

    dir: str = setting(path="folder", help="folder written by prepare_corpus.py")


@dataclass(frozen=True)
class DataSettings(TranscribeDataSettings):
    """The corpus and its transcripts."""

    transcript_source: str = setting(
        names.FROM_CORPUS,
        choices=names.TRANSCRIPT_SOURCES,
        help="asr reads the file data.transcripts; simulated makes sentences that name the label, as an upper bound "
        "that compare.py takes only with --allow-simulated",
    )
    transcripts: str | None = setting(None, path="file", help="with asr: a table of transcribe.py, or a CSV")
    without_audio: str = setting(
        "refuse",
        choices=("refuse", "read"),
        help="utterances without audio; read predicts them from their transcript, without the audio slot of the prompt",
    )


@dataclass(frozen=True)
class SplitSettings:
    """The utterances of train, dev and test."""

    protocol: str = setting(path="file", among="eval/protocols", help="a file of eval/protocols")
    fold: int = setting(1, at_least=1, help="fold of the protocol")


@dataclass(frozen=True)
class TrainingSplitSettings(SplitSettings):
    """The utterances of train, dev and test."""

    train_utterances: int | None = setting(
        None,
        at_least=1,
        help="train on this number of utterances, drawn by the seed with the shares of classes and speakers; a smaller "
        "number draws a part of a larger one's; null for all",
    )
    score_test: bool = setting(
        True, help="false: score dev alone, for a search or a learning curve; the test set is not opened"
    )


@dataclass(frozen=True)
class PromptSettings:
    """The prompt and the scores of its answers."""

    file: str = setting(
        "",
        path="file",
        among="prompts",
        help="a file of prompts/, whose slots determine whether audio and transcript are used; default: the family's "
        "prompt for prompt.modalities",
    )
    modalities: str = setting(
        names.AUDIO_TRANSCRIPT, choices=names.MODALITIES, may_change=True, help="of the prompt, if no file is given"
    )
    shots: int = setting(0, at_least=0, help="number of answered training examples, with audio, before the question")
    context_turns: int = setting(
        0, at_least=0, at_most=1000, help="number of preceding turns of the dialogue, for a prompt with that slot"
    )
    also: list[str] = setting(
        [], path="file", among="prompts", help="zero_shot.py: further prompt files, averaged as probabilities"
    )
    label_orders: int = setting(
        1, at_least=1, help="zero_shot.py: number of rotations of the label list, averaged as probabilities"
    )
    label_score: str = setting(
        "sum",
        choices=names.LABEL_SCORES,
        help="sum or mean of the answer's token log-probabilities; pmi: sum minus that of a prompt without content",
    )
    cache_dir: str = setting(
        "outputs/cache", path="new", may_change=True, help="cache of voice measures, for {{ descriptors }}"
    )


@dataclass(frozen=True)
class ModelSettings:
    """The base model."""

    family: str = setting(choices=model_names, help="architecture")
    id: str = setting(
        "",
        path="source",
        help="Hub id or local folder; default: the first published model of the family; for family remote its name on "
        "the server",
    )
    revision: str | None = setting(None, help="branch, tag or commit on the Hub")
    dtype: str = setting("bfloat16", choices=names.DTYPES, help="data type of the weights")
    attn_implementation: Any = setting(
        "sdpa",
        choices=names.ATTENTION,
        help="attention of all towers, or tower -> its own, and sdpa for others: {language_model: flex_attention}; "
        "answers that share a prompt are scored by sdpa instead of flash_attention_2",
    )
    torch_compile: bool = setting(False, help="compile the layers of the language model; costs minutes at the start")
    full_window: bool = setting(
        False,
        help="pad audio to the full window of the audio tower, as the model's own forward does: the same scores except "
        "for rounding, several times slower; only qwen2_audio, audioflamingo3 and musicflamingo",
    )
    tower_cache: str = setting(
        "auto",
        choices=names.TOWER_CACHE,
        may_change=True,
        help="store the output of the audio tower for each utterance, where the tower is not trained and the audio not "
        "augmented, for all epochs, folds, seeds and prompts; require: or else stop",
    )
    cache_dir: str = setting("outputs/cache", path="new", may_change=True, help="folder of stored tower outputs")
    cache_max_gib: float = setting(
        50.0,
        at_least=0,
        may_change=True,
        help="largest size of cache_dir, in GiB; what was not used for longest is removed from it",
    )
    quantization: str | None = setting(
        None,
        choices=names.QUANTIZATIONS,
        help="nf4: language model, or text tower of a dual encoder, in 4 bits, as in QLoRA",
    )
    adapter: str | None = setting(
        None,
        path="source",
        help="zero_shot.py: Hub id or folder of an adapter, or a run folder; for family remote its name on the server",
    )
    adapter_revision: str | None = setting(None, help="branch, tag or commit of the adapter on the Hub")
    url: str | None = setting(None, help="zero_shot.py: address of the server of family remote, up to /v1")


@dataclass(frozen=True)
class AdapterSettings:
    """What is trained. The keys r to use_dora are for kind lora; other kinds use options, and kind full neither."""

    towers: dict[str, list[str]] | None = setting(
        None,
        help="audio_tower, projector, language_model -> last names of the linear layers to adapt, or [all-linear]; "
        "default: those of the family",
    )
    full: list[str] = setting(
        [],
        help="towers that are trained in full: in addition to the adapter, or with kind full instead of one; its "
        "default is all towers that the prompt uses",
    )
    kind: str = setting(
        "lora",
        choices=lambda: (*KINDS, names.FULL),
        help="method of peft (adalora needs a training loop of its own), or full: no adapter, every weight of the "
        "towers of adapter.full is trained, in float32",
    )
    options: dict[str, Any] = setting({}, help="other values of peft's config of that kind, with peft's names")
    r: int = setting(16, at_least=1, help="rank")
    lora_alpha: int = setting(32, at_least=1, help="the update is scaled by lora_alpha / r")
    lora_dropout: float = setting(0.05, at_least=0, at_most=1, help="probability before the adapter")
    use_rslora: bool = setting(False, help="scale by lora_alpha / sqrt(r)")
    use_dora: bool = setting(False, help="DoRA: separate direction and magnitude")


def _tokens_per_batch(*, may_change: bool = False) -> Any:  # noqa: ANN401 a declaration
    return setting(
        None,
        at_least=1,
        may_change=may_change,
        replaces=("per_device_eval_batch_size", "per_device_train_batch_size"),
        help="about the largest number of tokens of a batch, prompts, answers and padding included, in place of a "
        "number of utterances; a longer utterance is a batch of its own",
    )


@dataclass(frozen=True)
class ScoringSettings:
    """Scoring of the test set; names as in transformers.TrainingArguments."""

    per_device_eval_batch_size: int = setting(8, at_least=1, may_change=True, help="utterances per batch")
    tokens_per_batch: int | None = _tokens_per_batch()
    packing: bool = setting(
        False,
        help="rows of several utterances, which attend to themselves alone, so that hardly anything is padded: the "
        "same losses and scores except for rounding",
    )
    dataloader_num_workers: int = setting(
        0, at_least=0, may_change=True, help="processes that decode audio and tokenise ahead"
    )
    use_cpu: bool = setting(False, may_change=True, help="even if there is a GPU")
    bf16: bool = setting(False, help="mixed precision; accelerate's config must not say another one")
    fp16: bool = setting(False, help="mixed precision, on a GPU only")


@dataclass(frozen=True)
class ZeroShotScoringSettings(ScoringSettings):
    """Scoring of the test set; names as in transformers.TrainingArguments."""

    tokens_per_batch: int | None = _tokens_per_batch(may_change=True)
    condition: str = setting(
        names.UNCHANGED,
        choices=names.CONDITIONS,
        help="audio_swapped gives each test utterance the audio of another; UAR falls to chance if the recognizer uses "
        "only audio, and to what transcripts allow if it uses both",
    )
    dev: bool = setting(
        False, help="score dev, too, into dev_predictions.parquet, by which late_fusion.py can weight the run"
    )


@dataclass(frozen=True)
class AnsweringSettings:
    """How labels are predicted."""

    mode: str = setting(
        names.LIKELIHOOD,
        choices=(names.LIKELIHOOD, names.GENERATION),
        help="likelihood of every label, or greedy generation and strict parsing",
    )
    max_new_tokens: int = setting(16, at_least=1, help="with generation: longest answer")
    synonyms: str | None = setting(
        "prompts/synonyms/english.yaml",
        path="new",
        help="with generation: a file of prompts/synonyms/; null: only surface forms name a label",
    )


@dataclass(frozen=True)
class TrainSettings(ScoringSettings):
    """Training; names as in transformers.TrainingArguments. Dev selects the checkpoint."""

    num_train_epochs: float = setting(3.0, above=0, help="passes over the training examples")
    max_steps: int = setting(-1, at_least=1, also_allowed=-1, help="optimiser steps; -1: given by the epochs")
    learning_rate: float = setting(1e-4, at_least=0, help="its maximum")
    per_device_train_batch_size: int = setting(8, at_least=1, help="utterances per batch")
    gradient_accumulation_steps: int = setting(1, at_least=1, help="batches per optimiser step")
    auto_find_batch_size: bool = setting(
        False,
        help="before training, try batches of the longest utterances, and use the largest divisor of "
        "per_device_train_batch_size that fits into memory, with as many utterances per optimiser step as before",
    )
    train_sampling_strategy: str = setting(
        "random",
        choices=("random", "group_by_length"),
        help="order of the training examples; group_by_length: shuffled, then sorted by length within windows of up to "
        "50 batches, so that less is padded",
    )
    lr_scheduler_type: str = setting("cosine", help="see transformers.SchedulerType")
    warmup_steps: float = setting(0.05, at_least=0, help="number of steps, or their share if below 1")
    optim: str = setting(
        names.OPTIMIZERS[0],
        choices=names.OPTIMIZERS,
        help="optimiser; those of bitsandbytes (extra quant) keep their state in 8 bits (adamw_bnb_8bit, "
        "paged_adamw_8bit), or move it to the memory of the CPU while the GPU's is full (paged)",
    )
    weight_decay: float = setting(0.0, at_least=0, help="of AdamW")
    max_grad_norm: float = setting(1.0, at_least=0, help="gradients are clipped to this norm")
    eval_strategy: str = setting(
        "epoch", choices=("epoch", "steps"), help="when dev is scored and a checkpoint is saved"
    )
    eval_steps: int | None = setting(None, at_least=1, help="with steps: steps between two evaluations")
    logging_steps: int = setting(10, at_least=1, help="steps between two rows of the training loss")
    save_total_limit: int = setting(2, help="number of checkpoints kept, including the best")
    gradient_checkpointing: bool = setting(False, help="less memory, more computation")
    report_to: list[str] = setting(
        [], may_change=True, help="loggers besides history.jsonl: tensorboard, trackio, wandb ..."
    )
    early_stopping_patience: int | None = setting(
        None, at_least=1, help="stop after this number of evaluations without an improvement"
    )


@dataclass(frozen=True)
class BalanceSettings:
    """Selection and weights of training examples; dev and test are not changed."""

    sampling: str = setting("none", choices=SAMPLINGS, help="what becomes equally frequent")
    direction: str = setting("over", choices=DIRECTIONS, help="over repeats rare examples, under drops frequent ones")
    by: str = setting("speaker", help="column of the groups: speaker, gender, session ...")
    max_per_class: int | None = setting(None, at_least=1, help="most examples of a class, drawn first")
    max_per_group: int | None = setting(None, at_least=1, help="most examples of a group, drawn first")
    class_weights: str = setting(
        "none", choices=("none", "balanced"), help="of the loss; balanced: inverse frequency, after sampling"
    )


@dataclass(frozen=True)
class EngineSettings:
    """The expected launcher; another engine is an error."""

    accelerate_config: str = setting(
        "accelerate_configs/cpu.yaml",
        path="file",
        among="accelerate_configs",
        help="the file of accelerate launch --config_file",
    )
    num_processes: int | None = setting(
        None, at_least=1, help="if the command line gives another number than that file"
    )


@dataclass(frozen=True)
class FolderSettings:
    """Where the results are written."""

    dir: str = setting(path="new", help="a folder")


@dataclass(frozen=True)
class OutputSettings:
    """The run folder."""

    dir: str = setting(
        path="new",
        help="a new folder, or that of the same run, to resume it; {corpus}, {recognizer}, {method}, {modalities}, "
        "{fold} and {seed} are replaced",
    )


@dataclass(frozen=True)
class FinetuneOutputSettings(OutputSettings):
    """The run folder and the Hub."""

    push_to: str | None = setting(None, help="user/name on the Hub, where the adapter of the finished run is pushed")
    push_private: bool = setting(False, help="make that repository private")
    push_timeout_s: float = setting(60.0, above=0, help="longest wait for an answer of the Hub, in seconds")


@dataclass(frozen=True)
class HubSettings:
    """What is pushed to output.push_to."""

    push_vocabulary: bool = setting(
        False,
        help="push the vocabulary of a base model in a local folder, too; if it was learnt from a corpus, its tokens "
        "are words of transcripts",
    )


@dataclass(frozen=True)
class FeatureStoreSettings:
    """The store of features."""

    cache_dir: str = setting("outputs/cache", path="new", may_change=True, help="folder of stored features")
    processes: int = setting(2, at_least=1, may_change=True, help="processes that compute features")


@dataclass(frozen=True)
class BaselinePartsSettings(FeatureStoreSettings, NetworkSettings):
    """The parts of the baseline."""


@dataclass(frozen=True)
class TranscriberSettings:
    """The model that recognises speech."""

    id: str = setting(path="source", help="Hub id or local folder of a Whisper model")
    revision: str | None = setting(None, help="branch, tag or commit on the Hub")
    dtype: str = setting("float32", choices=names.DTYPES, help="data type of the weights")
    language: str | None = setting(None, help="code or name; null detects it for each utterance")
    batch_size: int = setting(8, at_least=1, help="utterances per batch")
    use_cpu: bool = setting(False, help="even if there is a GPU")


@dataclass(frozen=True)
class TranscriptFileSettings:
    """The table of transcripts."""

    file: str = setting(path="new", help="a .parquet file")
