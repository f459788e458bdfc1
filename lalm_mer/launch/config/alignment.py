"""Schema of align.py: prepared corpora whose utterances a composed model answers questions about."""

from __future__ import annotations

from dataclasses import dataclass, field

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.settings import setting
from lalm_mer.launch.config import sections
from lalm_mer.launch.config.declarations import preflight_setting, seed_setting

__all__ = ["AlignSettings", "SpeechSettings"]

_PROMPTS = ["transcribe", "sentence", "gender", "pitch", "energy", "rate"]


@dataclass(frozen=True)
class SpeechSettings:
    """A prepared corpus, of which train and dev of a fold are used."""

    dir: str = setting(path="folder", help="folder written by prepare_corpus.py")
    protocol: str = setting(path="file", among="eval/protocols", help="a file of eval/protocols with train and dev")
    fold: int = setting(1, at_least=1, help="fold of the protocol")


@dataclass(frozen=True)
class AlignSettings:
    """YAML of align.py."""

    model: sections.ModelSettings
    output: sections.FolderSettings
    speech: dict[str, SpeechSettings] = setting(help="name -> corpus")
    prompts: list[str] = setting(
        [f"prompts/alignment/{name}.yaml" for name in _PROMPTS],
        path="file",
        among="prompts",
        help="prompts of the questions, named as in prompts/alignment",
    )
    dev_questions: int = setting(600, at_least=2, help="questions of dev, drawn from all; its accuracy selects")
    cache_dir: str = setting("outputs/cache", path="new", may_change=True, help="cache of voice measures")
    adapter: sections.AdapterSettings = field(default_factory=sections.AdapterSettings)
    train: sections.TrainSettings = field(default_factory=sections.TrainSettings)
    engine: sections.EngineSettings = setting(sections.EngineSettings(), may_change=True)
    preflight: bool = preflight_setting()
    seed: int = seed_setting()

    def __post_init__(self) -> None:
        if not self.speech:
            raise ConfigError("key 'speech': is empty; name at least one corpus")
