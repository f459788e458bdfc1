"""What a recipe's YAML may say. Values that pass through to transformers, peft or accelerate keep their names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lalm_mer.core.names import AUDIO_TRANSCRIPT, FROM_CORPUS, UNCHANGED
from lalm_mer.examples.augmentation import AugmentSettings
from lalm_mer.recognizers.baselines.branches import BranchSettings
from lalm_mer.recognizers.baselines.word_embeddings import ScratchSettings

__all__ = [
    "AdapterSettings",
    "AnsweringSettings",
    "AugmentSettings",
    "BalanceSettings",
    "BaselineSettings",
    "DataSettings",
    "EngineSettings",
    "FinetuneOutputSettings",
    "FinetuneSettings",
    "FusionSettings",
    "ModelSettings",
    "OutputSettings",
    "PromptSettings",
    "ScoringSettings",
    "SplitSettings",
    "TinySettings",
    "TrainSettings",
    "TranscribeDataSettings",
    "TranscribeSettings",
    "TranscriberSettings",
    "TranscriptFileSettings",
    "ZeroShotScoringSettings",
    "ZeroShotSettings",
]


@dataclass(frozen=True)
class DataSettings:
    """``dir``: a folder that prepare_corpus.py wrote.

    ``transcript_source``: corpus; asr, which reads the file ``transcripts`` that transcribe.py wrote (or a CSV); or
    simulated, whose sentences name the label: the comparison refuses such a run unless asked.

    ``without_audio``: refuse, or read: an utterance that has no audio is then judged by its transcript, its audio slot
    left out.
    """

    dir: str
    transcript_source: str = FROM_CORPUS
    transcripts: str | None = None
    without_audio: str = "refuse"


@dataclass(frozen=True)
class SplitSettings:
    """``protocol``: a file of eval/protocols; ``fold``: from 1."""

    protocol: str
    fold: int = 1


@dataclass(frozen=True)
class PromptSettings:
    """``file``: a file of prompts/; its slots decide what the model hears and reads.

    ``shots``: how many training examples stand answered before the question, with their audio; ``context_turns``: how
    many turns of the dialogue before the utterance, for a prompt with that slot. For zero_shot.py alone: ``also``,
    further prompt files, and ``label_orders``, how many rotations of the label list, all averaged as probabilities.
    ``label_score``: sum of the answer's token log-probabilities, their mean, or pmi (the sum less that of a prompt
    without content). ``cache_dir``: where what is measured of voices is kept, for prompts with descriptors.
    """

    file: str
    shots: int = 0
    context_turns: int = 0
    also: list[str] = field(default_factory=list)
    label_orders: int = 1
    label_score: str = "sum"
    cache_dir: str = "outputs/cache"


@dataclass(frozen=True)
class ModelSettings:
    """``id``: a Hub id or a local folder; ``dtype``: float32, bfloat16 or float16; ``quantization``: nf4 (the language
    model in 4 bits: QLoRA) or null; ``adapter``, for zero_shot.py: an adapter's Hub id or folder, or a run folder;
    ``adapter_revision``: on the Hub.
    """

    family: str
    id: str
    revision: str | None = None
    dtype: str = "bfloat16"
    attn_implementation: str = "sdpa"
    quantization: str | None = None
    adapter: str | None = None
    adapter_revision: str | None = None


@dataclass(frozen=True)
class AdapterSettings:
    """``towers``: tower -> last names of the linear layers to adapt, or [all-linear]; ``full``: towers trained in full
    beside them; ``kind``: lora, loha, lokr, vera, ia3 or oft; ``options``: of peft's config for that kind, under peft's
    names. The others are of kind lora.
    """

    towers: dict[str, list[str]]
    full: list[str] = field(default_factory=list)
    kind: str = "lora"
    options: dict[str, Any] = field(default_factory=dict)
    r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.05
    use_rslora: bool = False
    use_dora: bool = False


@dataclass(frozen=True)
class ScoringSettings:
    """How test utterances are scored; names as in transformers.TrainingArguments."""

    per_device_eval_batch_size: int = 8
    dataloader_num_workers: int = 0
    use_cpu: bool = False


@dataclass(frozen=True)
class AnsweringSettings:
    """``mode``: likelihood of every label, or generation: greedy, ``max_new_tokens`` at most, and parsed strictly.

    ``synonyms``: of generation, a file of prompts/synonyms/, or null: surface forms alone name a label.
    """

    mode: str = "likelihood"
    max_new_tokens: int = 16
    synonyms: str | None = "prompts/synonyms/english.yaml"


@dataclass(frozen=True)
class ZeroShotScoringSettings(ScoringSettings):
    """``condition``: none, or audio_swapped, which gives each test utterance the audio of another: UAR falls to chance
    where a recognizer hears alone, and to what transcripts tell where it reads them too.
    """

    condition: str = UNCHANGED


@dataclass(frozen=True)
class TrainSettings(ScoringSettings):
    """How a recognizer learns; names as in transformers.TrainingArguments. Dev chooses the checkpoint."""

    num_train_epochs: float = 3.0
    max_steps: int = -1
    learning_rate: float = 1e-4
    per_device_train_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    lr_scheduler_type: str = "cosine"
    warmup_steps: float = 0.05
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    eval_strategy: str = "epoch"
    eval_steps: int | None = None
    logging_steps: int = 10
    save_total_limit: int = 2
    bf16: bool = False
    fp16: bool = False
    gradient_checkpointing: bool = False
    early_stopping_patience: int | None = None


@dataclass(frozen=True)
class BalanceSettings:
    """Which training examples are learnt from and how much each counts; dev and test keep their own frequencies.

    ``sampling``: none, class, group or class_and_group; ``direction``: over repeats the few, under leaves out of the
    many; ``by``: the column that groups (speaker, gender, session ...); ``max_per_class``, ``max_per_group``: caps,
    drawn first; ``class_weights``: none, or balanced (inverse frequency, after sampling).
    """

    sampling: str = "none"
    direction: str = "over"
    by: str = "speaker"
    max_per_class: int | None = None
    max_per_group: int | None = None
    class_weights: str = "none"


@dataclass(frozen=True)
class EngineSettings:
    """What the run expects to be launched with; compared with what is found, and a difference is an error.

    ``accelerate_config``: the file given to ``accelerate launch --config_file``; ``num_processes``: where the command
    line gave another number than that file.
    """

    accelerate_config: str = "accelerate_configs/cpu.yaml"
    num_processes: int | None = None


@dataclass(frozen=True)
class OutputSettings:
    """``dir``: the run folder."""

    dir: str


@dataclass(frozen=True)
class FinetuneOutputSettings(OutputSettings):
    """``push_to``: user/name on the Hub, where the adapter of the finished run goes; ``push_private``: hidden there;
    ``push_timeout_s``: longest wait for an answer of the Hub, in seconds."""

    push_to: str | None = None
    push_private: bool = False
    push_timeout_s: float = 60.0


@dataclass(frozen=True)
class ZeroShotSettings:
    """A YAML for zero_shot.py; ``preflight``: a few seconds of checks before the run."""

    data: DataSettings
    split: SplitSettings
    prompt: PromptSettings
    model: ModelSettings
    output: OutputSettings
    answering: AnsweringSettings = field(default_factory=AnsweringSettings)
    scoring: ZeroShotScoringSettings = field(default_factory=ZeroShotScoringSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    preflight: bool = True
    seed: int = 0


@dataclass(frozen=True)
class FinetuneSettings:
    """A YAML for finetune.py; ``objective``: cross_entropy or, for family clap, contrastive; ``preflight``: a few
    seconds of checks before the run.
    """

    data: DataSettings
    split: SplitSettings
    prompt: PromptSettings
    model: ModelSettings
    adapter: AdapterSettings
    output: FinetuneOutputSettings
    balance: BalanceSettings = field(default_factory=BalanceSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    objective: str = "cross_entropy"
    preflight: bool = True
    seed: int = 0


@dataclass(frozen=True)
class TinySettings:
    """A YAML for build_tiny_model.py: a randomly initialised model of a real architecture, made on the spot."""

    data: DataSettings
    split: SplitSettings
    output: OutputSettings
    family: str = "qwen2_audio"
    window_s: int = 30
    hidden_size: int = 128
    layers: int = 2
    vocabulary: int = 600
    initializer_range: float = 0.02
    seed: int = 0


@dataclass(frozen=True)
class FusionSettings:
    """The fusion baseline.

    ``features``: opensmile or log_mel; ``bert``: Hub id or folder of a frozen BERT, or scratch; ``trim_db``: silence at
    both ends lies this far below the loudest 25 ms, null keeps it.
    """

    modalities: str = AUDIO_TRANSCRIPT
    features: str = "opensmile"
    trim_db: float | None = 35.0
    bert: str = "google-bert/bert-base-uncased"
    bert_revision: str | None = None
    audio_branch: BranchSettings = field(default_factory=BranchSettings)
    transcript_branch: BranchSettings = field(default_factory=BranchSettings)
    scratch: ScratchSettings = field(default_factory=ScratchSettings)
    hidden: int = 64
    dropout: float = 0.3
    label_smoothing: float = 0.0
    cache_dir: str = "outputs/cache"
    processes: int = 2


@dataclass(frozen=True)
class BaselineSettings:
    """A YAML for train_baseline.py."""

    data: DataSettings
    split: SplitSettings
    output: OutputSettings
    baseline: FusionSettings = field(default_factory=FusionSettings)
    balance: BalanceSettings = field(default_factory=BalanceSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    seed: int = 0


@dataclass(frozen=True)
class TranscribeDataSettings:
    """``dir``: a folder that prepare_corpus.py wrote."""

    dir: str


@dataclass(frozen=True)
class TranscriberSettings:
    """``id``: a Hub id or a local folder of a Whisper model; ``language``: code or name, null detects it."""

    id: str
    revision: str | None = None
    dtype: str = "float32"
    language: str | None = None
    batch_size: int = 8
    use_cpu: bool = False


@dataclass(frozen=True)
class TranscriptFileSettings:
    """``file``: the table of transcripts, a ``.parquet`` file."""

    file: str


@dataclass(frozen=True)
class TranscribeSettings:
    """A YAML for transcribe.py."""

    data: TranscribeDataSettings
    model: TranscriberSettings
    output: TranscriptFileSettings
    seed: int = 0
