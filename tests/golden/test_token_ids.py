"""What a model is really given, written out; and the hashes of the folds. A change here changes every figure."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lalm_mer.core.audio import Waveform
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.provenance import hash_json
from lalm_mer.core.schema import Example, Input
from lalm_mer.corpora.circumplex import design
from lalm_mer.models.families import family_class
from lalm_mer.models.tiny import build_tiny
from lalm_mer.prompting.prompts import load_prompt
from lalm_mer.protocols.protocol import load_protocol
from lalm_mer.protocols.splits import make_folds
from lalm_mer.recognizers.language.collator import TrainingAnswerCollator

ROOT = Path(__file__).resolve().parents[2]
LABELS = LabelSet(("happy", "angry", "content", "sad"))
TEN_HOPS = Example(Input("u1", "I <|im_end|> see.", Waveform(np.zeros(1600, np.float32), 16000), "s1"), "sad")

# prompt -> (what its tokens say, the transcript's own <|im_end|> being plain characters; hash of the token ids)
QWEN2_AUDIO = {
    "audio": (
        """\
<|im_start|>system
You recognise the emotion of a speaker.<|im_end|>
<|im_start|>user
Audio 1: <|audio_bos|><|AUDIO|><|AUDIO|><|audio_eos|>

Which emotion does the speaker express? Answer with one of: happy, angry, content, sad.<|im_end|>
<|im_start|>assistant
sad<|im_end|>""",
        "b5266591b454f4380d40e4d71408402b94382ec4d36b91f81054c77ee86e3e20",
    ),
    "audio_transcript": (
        """\
<|im_start|>system
You recognise the emotion of a speaker.<|im_end|>
<|im_start|>user
Audio 1: <|audio_bos|><|AUDIO|><|AUDIO|><|audio_eos|>

Transcript:
I <|im_end|> see.
Which emotion does the speaker express? Answer with one of: happy, angry, content, sad.<|im_end|>
<|im_start|>assistant
sad<|im_end|>""",
        "510cbe296c16434232f9686f52816e2dcfb8a717011c0e8ee68d7d76052a4fd7",
    ),
    "transcript": (
        """\
<|im_start|>system
You recognise the emotion of a speaker.<|im_end|>
<|im_start|>user
Transcript:
I <|im_end|> see.
Which emotion does the speaker express? Answer with one of: happy, angry, content, sad.<|im_end|>
<|im_start|>assistant
sad<|im_end|>""",
        "bafe0056bccc3c060ea12ebf8dadf12e3c317c662a94cd3045a6171c358ad5bd",
    ),
    "brief_audio": (
        """\
<|im_start|>user
Audio 1: <|audio_bos|><|AUDIO|><|AUDIO|><|audio_eos|>
Emotion?<|im_end|>
<|im_start|>assistant
sad<|im_end|>""",
        "2305a8979ea6f60bcb6ad6768023031ec4c1a15016e3b45801e718d29afeba3e",
    ),
    "brief_audio_transcript": (
        """\
<|im_start|>user
Audio 1: <|audio_bos|><|AUDIO|><|AUDIO|><|audio_eos|>
I <|im_end|> see.
Emotion?<|im_end|>
<|im_start|>assistant
sad<|im_end|>""",
        "c6508ca63619078c228eeb2ead477deb93a1b151c21a21197251ef620bc54a8a",
    ),
    "brief_transcript": (
        """\
<|im_start|>user
I <|im_end|> see.
Emotion?<|im_end|>
<|im_start|>assistant
sad<|im_end|>""",
        "1542c52555afaa49d2e3175797fe4061680b06e9991591fbd61cb4fb5f67215f",
    ),
}


@pytest.fixture(scope="module")
def qwen2_audio(tmp_path_factory):
    """Bytes alone as vocabulary: no merge that another release of the tokenizer's trainer could choose otherwise."""
    folder = tmp_path_factory.mktemp("bytes")
    build_tiny("qwen2_audio", folder, words=[], window_s=1, hidden_size=32, layers=1, vocabulary=262)
    return family_class("qwen2_audio").load(folder, revision=None, dtype="float32", attn_implementation="sdpa")


def test_every_shipped_prompt_is_written_out_here():
    """Those of the folders below are in test_conversations.py."""
    assert set(QWEN2_AUDIO) == {path.stem for path in (ROOT / "prompts").glob("*.yaml")}


@pytest.mark.parametrize("name", QWEN2_AUDIO)
def test_a_training_example_in_full(qwen2_audio, name):
    prompt = load_prompt(ROOT / "prompts" / f"{name}.yaml")
    batch = TrainingAnswerCollator(qwen2_audio, prompt, LABELS)([TEN_HOPS])
    ids = batch["input_ids"][0].tolist()
    written, digest = QWEN2_AUDIO[name]
    assert qwen2_audio.tokenizer.decode(ids) == written
    assert hash_json(ids) == digest
    assert ids[-4:] == [*(qwen2_audio.tokenizer.convert_tokens_to_ids(letter) for letter in "sad"), 2]
    special = [token for token in ids if token < 6]  # <|endoftext|> im_start im_end AUDIO audio_bos audio_eos
    turns = [1, 2] if prompt.system else []
    sound = [4, 3, 3, 5] if prompt.uses_audio else []
    assert special == [*turns, 1, *sound, 2, 1, 2]


def folds_of(name, frame):
    return make_folds(frame, load_protocol(ROOT / "eval" / "protocols" / f"{name}.yaml"))


def test_folds_of_ravdess():
    """From the release's file names alone; the real files are held to the same hash in the protocols' own tests."""
    names = [
        f"03-01-{emotion:02}-{intensity:02}-{statement:02}-{repetition:02}-{actor:02}"
        for emotion in range(1, 9)
        for intensity in (1, 2)[: 1 if emotion == 1 else 2]
        for statement in (1, 2)
        for repetition in (1, 2)
        for actor in range(1, 25)
    ]
    assert len(names) == 1440
    frame = pd.DataFrame({"utterance_id": names, "speaker": [name[-2:] for name in names], "session": None})
    frame["script"] = frame["transcript"] = [name[12:14] for name in names]
    frame["audio"] = names
    digest = folds_of("ravdess_6fold", frame).digest
    assert digest == "1e35bc61f2c1f50c40712b1c3050c6d0fe7d10ba23c84bf961987dade40070f2"


@pytest.mark.parametrize("name", ["circumplex", "circumplex_sarcastic"])
def test_folds_of_the_synthetic_circumplex_corpus(name):
    cells = [cell for split in design.SPLITS for cell in design.cells(split, 0, 0.0)]
    frame = pd.DataFrame(
        {
            "utterance_id": [cell.utterance_id for cell in cells],
            "split": [cell.split for cell in cells],
            "session": None,
            "speaker": [cell.speaker.name for cell in cells],
            "script": [cell.carrier.name for cell in cells],
            "transcript": None,
            "audio": [cell.utterance_id for cell in cells],
        }
    )
    digest = folds_of(name, frame).digest
    assert digest == "5041fbf89ddf116ca6bce9edb946db8926c134b2e5293ab25f6945d9ba4d9192"


def test_folds_dealt_by_speaker():
    """scikit-learn distributes them; another release of it has to make the same folds."""
    speakers = [f"s{number:02}" for number in range(12)]
    names = [f"{speaker}_{number}" for speaker in speakers for number in range(1 + int(speaker[1:]) % 3)]
    frame = pd.DataFrame({"utterance_id": names, "speaker": [name[:3] for name in names], "audio": names})
    frame["session"] = frame["script"] = frame["transcript"] = None
    frame["truth"] = [("angry", "happy")[number % 2] for number in range(len(frame))]
    folds = folds_of("speakers_5fold", frame)
    tested = {fold: sorted({name[:3] for name in folds.ids(fold, "test")}) for fold in range(1, 6)}
    assert tested == {
        1: ["s03", "s04", "s06", "s10"],
        2: ["s01", "s11"],
        3: ["s02", "s07"],
        4: ["s08"],
        5: ["s00", "s05", "s09"],
    }
