"""Sections of a recipe's YAML. Values that pass through to transformers, peft or accelerate keep their names there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lalm_mer.core.names import (
    ATTENTION,
    AUDIO_TRANSCRIPT,
    CONDITIONS,
    DTYPES,
    FEATURES,
    FROM_CORPUS,
    GENERATION,
    LABEL_SCORES,
    LIKELIHOOD,
    MODALITIES,
    QUANTIZATIONS,
    TRANSCRIPT_SOURCES,
    UNCHANGED,
)
from lalm_mer.core.settings import setting
from lalm_mer.examples.balancing import DIRECTIONS, SAMPLINGS
from lalm_mer.models.adapter_kinds import KINDS
from lalm_mer.models.families import model_names
from lalm_mer.recognizers.baselines.settings import BranchSettings, ScratchSettings

__all__ = [
    "AdapterSettings",
    "AnsweringSettings",
    "BalanceSettings",
    "DataSettings",
    "EngineSettings",
    "FinetuneOutputSettings",
    "FolderSettings",
    "FusionSettings",
    "ModelSettings",
    "OutputSettings",
    "PromptSettings",
    "ScoringSettings",
    "SplitSettings",
    "TrainSettings",
    "TranscribeDataSettings",
    "TranscriberSettings",
    "TranscriptFileSettings",
    "ZeroShotScoringSettings",
]


@dataclass(frozen=True)
class TranscribeDataSettings:
    """The corpus."""

    dir: str = setting(help="folder that prepare_corpus.py wrote")


@dataclass(frozen=True)
class DataSettings(TranscribeDataSettings):
    """The corpus, and which of its transcripts are used."""

    transcript_source: str = setting(
        FROM_CORPUS,
        choices=TRANSCRIPT_SOURCES,
        help="asr reads the file data.transcripts; simulated: sentences that name the label, for an upper bound, which "
        "compare.py takes with --allow-simulated alone",
    )
    transcripts: str | None = setting(None, help="of asr: a table that transcribe.py wrote, or a CSV")
    without_audio: str = setting(
        "refuse",
        choices=("refuse", "read"),
        help="an utterance without audio; read: judged by its transcript, its audio slot left out",
    )


@dataclass(frozen=True)
class SplitSettings:
    """Which utterances are in train, dev and test."""

    protocol: str = setting(help="a file of eval/protocols")
    fold: int = setting(1, at_least=1, help="fold of the protocol")


@dataclass(frozen=True)
class PromptSettings:
    """The prompt, and how its answers are scored."""

    file: str = setting(
        "",
        help="a file of prompts/, whose slots decide whether audio and transcript are used; the family's prompt for "
        "prompt.modalities if left out",
    )
    modalities: str = setting(
        AUDIO_TRANSCRIPT, choices=MODALITIES, may_change=True, help="of the prompt, where no file is named"
    )
    shots: int = setting(
        0, at_least=0, help="how many answered training examples, with their audio, precede the question"
    )
    context_turns: int = setting(
        0, at_least=0, help="how many turns of the dialogue before the utterance, for a prompt with that slot"
    )
    also: list[str] = setting([], help="zero_shot.py: further prompt files, averaged as probabilities")
    label_orders: int = setting(
        1, at_least=1, help="zero_shot.py: how many rotations of the label list, averaged as probabilities"
    )
    label_score: str = setting(
        "sum",
        choices=LABEL_SCORES,
        help="of the answer's token log-probabilities; pmi: their sum less that of a prompt without content",
    )
    cache_dir: str = setting(
        "outputs/cache", may_change=True, help="where measurements of voices are kept, for prompts with descriptors"
    )


@dataclass(frozen=True)
class ModelSettings:
    """The base model."""

    family: str = setting(choices=model_names, help="architecture")
    id: str = setting("", help="Hub id or local folder; the first published model of the family if left out")
    revision: str | None = setting(None, help="branch, tag or commit on the Hub")
    dtype: str = setting("bfloat16", choices=DTYPES, help="of the weights")
    attn_implementation: str = setting(
        "sdpa", choices=ATTENTION, help="those with a custom mask, which answers that share a prompt need"
    )
    quantization: str | None = setting(
        None, choices=QUANTIZATIONS, help="nf4: the language model, or CLAP's text tower, in 4 bits, as in QLoRA"
    )
    adapter: str | None = setting(None, help="zero_shot.py: an adapter's Hub id or folder, or a run folder")
    adapter_revision: str | None = setting(None, help="branch, tag or commit of the adapter on the Hub")


@dataclass(frozen=True)
class AdapterSettings:
    """What is trained. The keys r to use_dora are of kind lora; other kinds take theirs from options."""

    towers: dict[str, list[str]] | None = setting(
        None,
        help="audio_tower, projector, language_model -> last names of the linear layers to adapt, or [all-linear]; "
        "those that the family names if left out",
    )
    full: list[str] = setting([], help="towers trained in full besides them")
    kind: str = setting(
        "lora", choices=lambda: tuple(KINDS), help="method of peft; adalora needs a training loop of its own"
    )
    options: dict[str, Any] = setting({}, help="further values of peft's config for that kind, under peft's names")
    r: int = setting(16, at_least=1, help="rank")
    lora_alpha: int = setting(32, at_least=1, help="the update is scaled by lora_alpha / r")
    lora_dropout: float = setting(0.05, at_least=0, at_most=1, help="probability before the adapter")
    use_rslora: bool = setting(False, help="scale by lora_alpha / sqrt(r)")
    use_dora: bool = setting(False, help="DoRA: direction and magnitude apart")


@dataclass(frozen=True)
class ScoringSettings:
    """How test utterances are scored; names as in transformers.TrainingArguments."""

    per_device_eval_batch_size: int = setting(8, at_least=1, may_change=True, help="utterances at a time")
    dataloader_num_workers: int = setting(0, at_least=0, may_change=True, help="processes that read and decode audio")
    use_cpu: bool = setting(False, may_change=True, help="even where there is a GPU")


@dataclass(frozen=True)
class ZeroShotScoringSettings(ScoringSettings):
    """How test utterances are scored; names as in transformers.TrainingArguments."""

    condition: str = setting(
        UNCHANGED,
        choices=CONDITIONS,
        help="audio_swapped gives each test utterance the audio of another; UAR falls to chance where a recognizer "
        "uses audio alone, and to what transcripts tell where it uses them too",
    )


@dataclass(frozen=True)
class AnsweringSettings:
    """How an answer is found."""

    mode: str = setting(
        LIKELIHOOD,
        choices=(LIKELIHOOD, GENERATION),
        help="likelihood of every label, or greedy generation, parsed strictly",
    )
    max_new_tokens: int = setting(16, at_least=1, help="of generation: longest answer")
    synonyms: str | None = setting(
        "prompts/synonyms/english.yaml",
        help="of generation: a file of prompts/synonyms/; null: surface forms alone name a label",
    )


@dataclass(frozen=True)
class TrainSettings(ScoringSettings):
    """How a recognizer is trained, names as in transformers.TrainingArguments; dev chooses the checkpoint."""

    num_train_epochs: float = setting(3.0, above=0, help="passes over the training examples")
    max_steps: int = setting(-1, at_least=1, also_allowed=-1, help="optimiser steps; -1: as many as the epochs take")
    learning_rate: float = setting(1e-4, at_least=0, help="its peak")
    per_device_train_batch_size: int = setting(8, at_least=1, help="utterances at a time")
    gradient_accumulation_steps: int = setting(1, at_least=1, help="batches an optimiser step")
    lr_scheduler_type: str = setting("cosine", help="learning rate over the steps; see transformers.SchedulerType")
    warmup_steps: float = setting(0.05, at_least=0, help="number of steps, or below 1 their share")
    weight_decay: float = setting(0.0, at_least=0, help="of AdamW")
    max_grad_norm: float = setting(1.0, at_least=0, help="gradients are clipped to this norm")
    eval_strategy: str = setting(
        "epoch", choices=("epoch", "steps"), help="when dev is scored and a checkpoint saved, since dev chooses it"
    )
    eval_steps: int | None = setting(None, at_least=1, help="of steps: how many lie between")
    logging_steps: int = setting(10, at_least=1, help="how many lie between two rows of the training loss")
    save_total_limit: int = setting(2, help="checkpoints kept, the best among them")
    bf16: bool = setting(False, help="mixed precision")
    fp16: bool = setting(False, help="mixed precision")
    gradient_checkpointing: bool = setting(False, help="less memory for more computing")
    report_to: list[str] = setting(
        [], may_change=True, help="where else training is logged: tensorboard, trackio, wandb ...; nowhere if left out"
    )
    early_stopping_patience: int | None = setting(
        None, at_least=1, help="stop after so many evaluations without a better one"
    )


@dataclass(frozen=True)
class BalanceSettings:
    """Which training examples are used, and how much each counts; dev and test keep their own frequencies."""

    sampling: str = setting("none", choices=SAMPLINGS, help="what is made equally frequent")
    direction: str = setting("over", choices=DIRECTIONS, help="over repeats the few, under leaves out some of the many")
    by: str = setting("speaker", help="column that groups: speaker, gender, session ...")
    max_per_class: int | None = setting(None, at_least=1, help="examples of a class at most, drawn first")
    max_per_group: int | None = setting(None, at_least=1, help="examples of a group at most, drawn first")
    class_weights: str = setting(
        "none", choices=("none", "balanced"), help="of the loss; balanced: inverse frequency, after sampling"
    )


@dataclass(frozen=True)
class EngineSettings:
    """What the run is launched with; a difference from what is found is an error."""

    accelerate_config: str = setting(
        "accelerate_configs/cpu.yaml", help="the file given to accelerate launch --config_file"
    )
    num_processes: int | None = setting(
        None, at_least=1, help="where the command line gave another number than that file"
    )


@dataclass(frozen=True)
class FolderSettings:
    """Where a model is written."""

    dir: str = setting(help="a folder")


@dataclass(frozen=True)
class OutputSettings:
    """The run folder."""

    dir: str = setting(
        help="a new folder, or that of the same run, which is then resumed; {corpus}, {recognizer}, {method}, "
        "{modalities}, {fold} and {seed} in it are filled in"
    )


@dataclass(frozen=True)
class FinetuneOutputSettings(OutputSettings):
    """The run folder, and the Hub."""

    push_to: str | None = setting(None, help="user/name on the Hub, where the adapter of the finished run goes")
    push_private: bool = setting(False, help="whether that repository is private")
    push_timeout_s: float = setting(60.0, above=0, help="longest wait for an answer of the Hub, in seconds")


@dataclass(frozen=True)
class FusionSettings:
    """The fusion baseline."""

    modalities: str = setting(AUDIO_TRANSCRIPT, choices=MODALITIES, help="branches of the network")
    features: str = setting("opensmile", choices=FEATURES, help="acoustic features")
    trim_db: float | None = setting(
        35.0, above=0, help="silence at both ends, cut away, is this far below the loudest 25 ms; null keeps it"
    )
    bert: str = setting("google-bert/bert-base-uncased", help="Hub id or folder of a frozen BERT, or scratch")
    bert_revision: str | None = setting(None, help="branch, tag or commit on the Hub")
    audio_branch: BranchSettings = field(default_factory=BranchSettings)
    transcript_branch: BranchSettings = field(default_factory=BranchSettings)
    scratch: ScratchSettings = field(default_factory=ScratchSettings)
    hidden: int = setting(64, at_least=0, help="units of the dense layer; 0 for none")
    dropout: float = setting(0.3, at_least=0, below=1, help="probability after the dense layer")
    label_smoothing: float = setting(0.0, at_least=0, below=1, help="share of the target spread over all labels")
    cache_dir: str = setting("outputs/cache", may_change=True, help="where acoustic features are kept")
    processes: int = setting(2, at_least=1, may_change=True, help="how many compute them")


@dataclass(frozen=True)
class TranscriberSettings:
    """The model that recognises speech."""

    id: str = setting(help="Hub id or local folder of a Whisper model")
    revision: str | None = setting(None, help="branch, tag or commit on the Hub")
    dtype: str = setting("float32", choices=DTYPES, help="of the weights")
    language: str | None = setting(None, help="code or name; null detects it for each utterance")
    batch_size: int = setting(8, at_least=1, help="utterances at a time")
    use_cpu: bool = setting(False, help="even where there is a GPU")


@dataclass(frozen=True)
class TranscriptFileSettings:
    """The table of transcripts."""

    file: str = setting(help="a .parquet file")
