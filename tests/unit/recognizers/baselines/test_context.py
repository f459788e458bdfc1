"""A transcript branch that also encodes the turns before an utterance."""

from __future__ import annotations

import pytest
import torch

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.names import TRANSCRIPT
from lalm_mer.core.schema import Input, Turn
from lalm_mer.models.encoders.settings import EmbeddingsSettings, TextEncoderSettings, TfidfSettings
from lalm_mer.recognizers.baselines.build import build_network
from lalm_mer.recognizers.baselines.network import BaselineNetwork
from lalm_mer.recognizers.baselines.settings import NetworkSettings, SequenceSettings, TranscriptBranchSettings

TURNS = (Turn("A", "it is fine"), Turn("B", "is it"))
FIRST, SECOND = Input("u1", "it is", None), Input("u2", "fine it is fine", None, context=TURNS)
TEXT = {
    "embeddings": TextEncoderSettings(kind="embeddings", embeddings=EmbeddingsSettings(size=8)),
    "tfidf": TextEncoderSettings(kind="tfidf", tfidf=TfidfSettings(longest_ngram=1)),
}


def network(kind, turns=2):
    torch.manual_seed(0)
    sequence = SequenceSettings(kind="none" if kind == "tfidf" else "conv1d", channels=8, layers=1)
    branch = TranscriptBranchSettings(encoder=TEXT[kind], context_turns=turns, sequence=sequence, normalisation="none")
    settings = NetworkSettings(modalities=TRANSCRIPT, transcript=branch)
    return build_network(settings, ("happy", "sad"), [FIRST, SECOND]).eval()


def scores(recognizer, inputs):
    with torch.no_grad():
        return recognizer(**recognizer.joint_collator(inputs))["log_probs"]


@pytest.mark.parametrize("kind", TEXT)
def test_turns_change_the_scores_of_their_utterance_alone_and_not_by_their_batch(kind):
    recognizer = network(kind)
    both = scores(recognizer, [FIRST, SECOND])
    alone = torch.cat([scores(recognizer, [FIRST]), scores(recognizer, [SECOND])])
    torch.testing.assert_close(both, alone)
    without = scores(recognizer, [FIRST, Input("u2", SECOND.transcript, None)])
    torch.testing.assert_close(without[0], both[0])
    assert not torch.allclose(without[1], both[1])


def test_a_branch_without_turns_does_not_read_them():
    torch.testing.assert_close(
        scores(network("tfidf", 0), [SECOND]), scores(network("tfidf", 0), [Input("u2", SECOND.transcript, None)])
    )


@pytest.mark.parametrize("kind", TEXT)
def test_it_is_saved_and_loaded(kind, tmp_path):
    recognizer = network(kind)
    recognizer.save_trained(tmp_path)
    loaded = BaselineNetwork.load_trained(tmp_path)
    torch.testing.assert_close(scores(loaded, [FIRST, SECOND]), scores(recognizer, [FIRST, SECOND]), rtol=0, atol=0)


def test_turns_of_other_speakers_are_not_normalised_by_the_speaker():
    with pytest.raises(ConfigError, match="'context_turns': 1, but they are of several speakers"):
        TranscriptBranchSettings(context_turns=1, normalisation="speaker")
