"""Schema of late_fusion.py."""

from __future__ import annotations

from dataclasses import dataclass

from lalm_mer.core import names
from lalm_mer.core.errors import ConfigError
from lalm_mer.core.settings import setting
from lalm_mer.launch.config.sections import OutputSettings

__all__ = ["LateFusionSettings", "MembersSettings"]


@dataclass(frozen=True)
class MembersSettings:
    """The members and the rule that combines them."""

    members: list[str] = setting(
        path="folder", help="folders of finished runs of any recipe, on the same utterances; the first decides ties"
    )
    rule: str = setting(
        "mean",
        choices=names.FUSION_RULES,
        help="mean of probabilities, logits: mean of log-probabilities, weighted: mean of probabilities with weights "
        "chosen on dev, vote, stacking: logistic regression on the dev log-probabilities",
    )
    c: float = setting(1.0, above=0, help="with stacking: inverse strength of the regularisation")
    name: str | None = setting(None, help="name in comparisons; null for the rule and the members' names")

    def __post_init__(self) -> None:
        if len(self.members) < 2 or len(set(self.members)) != len(self.members):
            raise ConfigError(f"key 'fusion.members': {len(set(self.members))} different folders; name two or more")


@dataclass(frozen=True)
class LateFusionSettings:
    """YAML of late_fusion.py."""

    fusion: MembersSettings
    output: OutputSettings = setting(may_change=True)
    seed: int = setting(0, at_least=0, at_most=2**32 - 1, help="of the run; nothing is drawn at random")
