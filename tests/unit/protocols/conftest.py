"""Real and synthetic utterances as protocols see them."""

import pandas as pd
import pytest

from lalm_mer.core.provenance import hash_bytes
from lalm_mer.corpora.circumplex import design


@pytest.fixture(scope="session")
def circumplex_table():
    """The synthetic corpus's rows without a sound: what its audio depends on stands in for it."""

    def make(variant: str) -> pd.DataFrame:
        rows = [
            {
                "utterance_id": cell.utterance_id,
                "speaker": cell.speaker.name,
                "session": None,
                "split": cell.split,
                "script": cell.carrier.name,
                "transcript": design.transcript(variant, cell),
                "audio": hash_bytes(
                    repr((cell.carrier, cell.speaker, cell.arousal, design.spoken_word(variant, cell))).encode()
                ),
                "label": design.label(variant, cell),
            }
            for split in design.SPLITS
            for cell in design.cells(split, 0, 0.0)
        ]
        return pd.DataFrame(rows)

    return make
