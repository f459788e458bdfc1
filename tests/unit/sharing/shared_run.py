"""A finished run to share: a real adapter and fabricated predictions."""

import json

import pytest
import yaml
from fabricated import LABELS, fabricated_predictions, fabricated_record, write_history

from lalm_mer.core.config import to_dict
from lalm_mer.core.errors import LalmMerError
from lalm_mer.core.notes import Note, NoteCode
from lalm_mer.evaluation.scores import score
from lalm_mer.launch.config.sections import (
    AdapterSettings,
    DataSettings,
    FinetuneOutputSettings,
    ModelSettings,
    PromptSettings,
    SplitSettings,
)
from lalm_mer.launch.config.settings import FinetuneSettings
from lalm_mer.models.adapters import add_adapter
from lalm_mer.models.families import family_class
from lalm_mer.prompting.prompts import load_prompt
from lalm_mer.sharing.hub_folder import assemble

FORMS = {label: [label, f"very {label}"] for label in LABELS}


def write_run(folder, base):
    """Write a finished LoRA run, its prompt and protocol in the folder above; everything has an absolute path."""
    family = family_class("qwen2_audio").load(base, revision=None, dtype="float32", attn_implementation="sdpa")
    model, _ = add_adapter(family, {"language_model": ["q_proj"]}, {"r": 2, "lora_alpha": 4, "lora_dropout": 0.0})
    model.save_pretrained(folder / "adapter")
    prompt = folder.parent / "my_prompt.yaml"
    prompt.write_text('name: mine\nuser: "{{ audio }}{{ transcript }}Emotion?"\n')
    protocol = write_protocol(folder.parent, FORMS)
    predictions = fabricated_predictions(unscored=1)
    settings = FinetuneSettings(
        data=DataSettings(str(folder.parent / "data"), transcripts="~/asr.parquet"),
        split=SplitSettings(str(protocol)),
        prompt=PromptSettings(str(prompt)),
        model=ModelSettings("qwen2_audio", str(base)),
        adapter=AdapterSettings({"language_model": ["q_proj"]}, r=2),
        output=FinetuneOutputSettings("C:\\Users\\jane\\runs"),
    )
    hashes = {"data": "d" * 64, "folds": "f" * 64, "prompt": load_prompt(prompt).digest, "base_model": "b" * 64}
    record = fabricated_record(
        hashes=hashes, config=to_dict(settings), modalities="audio+transcript", base_model=str(base),
        recognizer=f"qwen2_audio ({base.name})",
        notes=(Note(NoteCode.UNSCORED, "test", 1, ("jane_doe_01",), ("40.00 s long",)),),
    )  # fmt: skip
    write_results(folder, record, predictions)
    return folder


def write_protocol(folder, forms):
    """Write a protocol with folds by speaker, of a task with these forms of its labels; its file."""
    protocol = folder / "speaker_folds.yaml"
    rule = {"rule": "listed", "column": "speaker", "test": {fold: [f"s{fold}"] for fold in (1, 2, 3)}}
    task = {"name": "fabricated_4", "labels": forms}
    content = {"name": "speaker_folds", "version": 1, "source": "tests", "disjoint_in": ["speaker"]}
    protocol.write_text(yaml.safe_dump(content | {"inline_task": task, "folds": rule}))
    return protocol


def write_results(folder, record, predictions):
    """Write the record, the results and a checkpoint of a run."""
    predictions.write(folder / "predictions.parquet")
    (folder / "run.json").write_text(json.dumps(record.to_json()))
    (folder / "metrics.json").write_text(json.dumps(score(predictions)))
    write_history(folder, 0, 0.6)
    (folder / "checkpoints" / "checkpoint-1").mkdir(parents=True)
    (folder / "checkpoints" / "checkpoint-1" / "optimizer.pt").write_bytes(b"pickle")


def assert_refused(run, out, message, repo_id="jane/adapter"):
    """``assemble`` of a run ends with one line and writes nothing."""
    with pytest.raises(LalmMerError, match=message) as caught:
        assemble(run, out, repo_id=repo_id, push_vocabulary=True)
    assert "\n" not in str(caught.value)
    assert not out.exists()
