"""A finished baseline run to share: a real network with random weights, and fabricated predictions."""

import json
from dataclasses import replace

import torch
from fabricated import LABELS, fabricated_predictions, fabricated_record
from safetensors.torch import load_file, save_file
from shared_run import write_protocol, write_results
from tones import tone_examples

from lalm_mer.core.config import to_dict
from lalm_mer.core.notes import Note, NoteCode
from lalm_mer.launch.config.sections import (
    BaselinePartsSettings,
    DataSettings,
    OutputSettings,
    TrainingSplitSettings,
)
from lalm_mer.launch.config.settings import BaselineSettings
from lalm_mer.models.encoders.settings import AudioEncoderSettings, ScratchSettings, TextEncoderSettings
from lalm_mer.recognizers.baselines.build import build_network
from lalm_mer.recognizers.baselines.settings import (
    AudioBranchSettings,
    HeadSettings,
    SequenceSettings,
    TranscriptBranchSettings,
)

SECRETS = ("home_of_jane", "jane_doe", "dreadful", "lovely", "Users", "s_of_jane")
"""Texts of the run that are private: folders, utterance, words of transcripts, speaker."""
SCRATCH = TextEncoderSettings(kind="scratch", scratch=ScratchSettings(size=8, layers=1))
LOG_MEL = AudioEncoderSettings(kind="log_mel", bands=8)
SMALL = SequenceSettings(channels=8, layers=1)


def baseline_inputs():
    """A few synthetic utterances; their transcripts have words to be found."""
    return [replace(example.input, speaker="s_of_jane") for example in tone_examples()[:6]]


def write_baseline_run(folder, text=SCRATCH, audio=LOG_MEL, *, modalities="audio+transcript", **audio_branch):
    """Write a finished run of a baseline, and its protocol in the folder above; everything has an absolute path."""
    parts = BaselinePartsSettings(
        modalities=modalities,
        audio=AudioBranchSettings(sequence=SMALL, encoder=audio, **audio_branch),
        transcript=TranscriptBranchSettings(sequence=SMALL, encoder=text),
        head=HeadSettings(hidden=0),
        cache_dir=str(folder.parent / "features"),
    )
    torch.manual_seed(0)
    network = build_network(parts, LABELS, baseline_inputs(), cache_dir=folder.parent / "features")
    network.save_trained(folder / "model")
    protocol = write_protocol(folder.parent, {label: [label] for label in LABELS})
    predictions = fabricated_predictions(unscored=1, speakers=4, per_speaker=4)
    settings = BaselineSettings(
        data=DataSettings(str(folder.parent / "data"), transcripts="~/asr.parquet"),
        split=TrainingSplitSettings(str(protocol)),
        output=OutputSettings("C:\\Users\\jane\\runs"),
        baseline=parts,
    )
    record = fabricated_record(
        hashes={"data": "d" * 64, "folds": "f" * 64, "prompt": None, "base_model": None, "start_audio": "c" * 64},
        config=to_dict(settings), modalities=modalities, base_model=None, method="baseline", recognizer=parts.name,
        notes=(Note(NoteCode.UNSCORED, "test", 1, ("jane_doe_01",), ("40.00 s long",)), Note(NoteCode.SCRATCH_BERT)),
    )  # fmt: skip
    write_results(folder, record, predictions)
    return folder


def log_probs(recognizer):
    """Label log-probabilities of the utterances that a recognizer gives, (N, K)."""
    with torch.no_grad():
        return recognizer.eval()(**recognizer.joint_collator(baseline_inputs()))["log_probs"]


def rewrite(file, **values):
    """Change values of a file of JSON."""
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def spoil_weights(folder, value):
    """Set a number of the weights."""
    weights = load_file(folder / "model.safetensors")
    weights["head.bias"][0] = value
    save_file(weights, folder / "model.safetensors")
