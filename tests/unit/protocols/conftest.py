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
                "split": cell.side,
                "script": cell.carrier.name,
                "transcript": design.transcript(variant, cell),
                "audio": hash_bytes(
                    repr((cell.carrier, cell.speaker, cell.arousal, design.spoken_word(variant, cell))).encode()
                ),
                "label": design.label(variant, cell),
            }
            for side in design.SIDES
            for cell in design.cells(side, 0, 0.0)
        ]
        return pd.DataFrame(rows)

    return make
