"""The synthetic circumplex corpus: design, ceilings, voices and reader."""

from lalm_mer.corpora.circumplex.bounds import Ceilings, ceilings
from lalm_mer.corpora.circumplex.design import RANGES, VARIANTS
from lalm_mer.corpora.circumplex.read import LOADER_VERSION, read

__all__ = ["LOADER_VERSION", "RANGES", "VARIANTS", "Ceilings", "ceilings", "read"]
