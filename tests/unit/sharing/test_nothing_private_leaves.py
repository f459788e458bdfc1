"""A distinct secret in every field and every file of a run: none is in what is pushed."""

import json
import shutil
import struct
from contextlib import suppress
from dataclasses import replace
from itertools import count, cycle, islice

import pytest
from fabricated import LABELS
from planting import KINDS, MARK, Secrets, leaks, matches, plant, planted, sites
from shared_run import write_run

from lalm_mer.core import notes
from lalm_mer.core.errors import AdapterError, LalmMerError
from lalm_mer.core.notes import SENTENCES, Note, NoteCode, needed_facts
from lalm_mer.core.run_record import Balance, Counts, Parameters, PeakMemory, RunRecord, read_record
from lalm_mer.evaluation.predictions import Predictions
from lalm_mer.models.adapter_kinds import check_saved_config
from lalm_mer.models.tiny import build_tiny
from lalm_mer.sharing.adapter_context import context_of, require_fit
from lalm_mer.sharing.hub_folder import assemble
from lalm_mer.sharing.public_record import check_text, public_record

CHECKED = (
    "corpus", "protocol", "task", "labels*", "disjoint_in*", "shared_in*", "primary_metric", "git.commit", "started_at",
    "hashes.data", "hashes.folds", "hashes.prompt", "hashes.base_model",
    "balance.*.classes.*", "class_weights.*", "versions.python", "versions.torch",
    "notes.*.facts.corpus", "notes.*.facts.protocol", "notes.*.facts.trained", "notes.*.facts.used",
    "config.data.transcript_source", "config.data.without_audio", "config.prompt.label_score",
    "config.model.family", "config.model.dtype", "config.model.attn_implementation", "config.model.quantization",
    "config.adapter.kind", "config.adapter.towers*", "config.adapter.full*",
    "config.balance.sampling", "config.balance.direction", "config.balance.class_weights",
    "config.augment.noise.color", "config.train.lr_scheduler_type", "config.train.eval_strategy",
    "config.train.train_sampling_strategy", "config.train.tokens_per_batch", "config.train.optim",
    "config.balance.max_per_*", "config.train.eval_steps", "config.train.early_stopping_patience", "config.loss.kind",
)  # fmt: skip
"""Fields that are shared: the push is refused if they contain anything but a name, a choice, a hash or a number."""
BY_FILES = ("corpus", "task", "labels*", "primary_metric", "hashes.prompt", "protocol")
"""Those of them that are compared with predictions, prompt and protocol."""
NAMES = ("corpus", "protocol", "task", "notes.*.facts.corpus", "notes.*.facts.protocol", "config.adapter.*")
"""Those that are names, which are public: a secret with the form of a name cannot be told from one."""
CHECKED_ADAPTER = (
    "peft_type", "target_modules*", "exclude_modules", "modules_to_save*", "rank_pattern*", "alpha_pattern*",
    "layers_pattern", "layers_to_transform",
)  # fmt: skip
"""The same of adapter_config.json."""
IN_USE = ("config.prompt.file", "config.split.protocol", "config.model.id")
"""Paths of files that must exist; here in folders with secret names."""


def everything_filled(record):
    """The record with a note of every code, and with every optional part."""
    values = {"fold": 3, "expected": 3, "max_new_tokens": 3, "trained": "nf4", "used": "none"}
    found = [
        Note(
            code, "test", 2, ("u1", "u2"), ("why", "why"), {name: values.get(name, name) for name in needed_facts(code)}
        )
        for code in NoteCode
    ]
    counts = Counts(2, dict.fromkeys(LABELS, 1), {label: {"speaker": 1} for label in LABELS}, 0)
    weights = dict.fromkeys(LABELS, 0.5)
    used = {"parameters": Parameters(2, 3), "peak_memory": PeakMemory(4, "process")}
    return replace(record, notes=tuple(found), balance=Balance(counts, counts), class_weights=weights, **used)


@pytest.fixture(scope="module")
def full_of_secrets(tiny_folder, tmp_path_factory):
    """A finished run with secrets in every field, in every other file, and in the names of folders."""
    home, secrets = tmp_path_factory.mktemp(MARK), Secrets()
    shutil.copytree(tiny_folder("qwen2_audio"), home / f"{MARK}_model")
    folder = write_run(home / f"{MARK}_run", home / f"{MARK}_model")
    content, places = planted(
        everything_filled(read_record(folder / "run.json")).to_json(), (*CHECKED, *IN_USE),
        lambda content: RunRecord.from_json(content, "run.json"), secrets,
    )  # fmt: skip
    assert places > 80
    (folder / "run.json").write_text(json.dumps(content))
    plant_in_files(folder, secrets)
    plant_in_adapter(folder / "adapter", secrets)
    plant_in_model(home / f"{MARK}_model", secrets)
    return folder


def plant_in_files(folder, secrets):
    """Secrets in the files of a run besides run.json, and in its prompt and protocol."""
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    (folder / "history.jsonl").write_text("\n".join(json.dumps(row | {"note": secrets()}) for row in rows))
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics |= {secrets(): secrets(), "uar": metrics["uar"] | {"method": secrets(), secrets(): 1}}
    metrics["recalls"] |= {secrets(): 0.5}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    predictions = Predictions.read(folder / "predictions.parquet")
    columns = {
        "utterance_id": [f"{name} {secrets()}" for name in predictions.frame["utterance_id"]],
        "speaker": [f"{MARK} {name}" for name in predictions.frame["speaker"]],
        "answer": [None if status == "unscored" else secrets() for status in predictions.frame["status"]],
    }
    Predictions(predictions.frame.assign(**columns), predictions.labels).write(folder / "predictions.parquet")
    prompt = folder.parent / "my_prompt.yaml"
    text = f"# {secrets()}\n" + prompt.read_text().replace("\n", f"  # {secrets()}\n") + f"# {secrets()}\n"
    prompt.write_text(text.replace("user: ", f"user: &{MARK} "))
    protocol = folder.parent / "speaker_folds.yaml"
    protocol.write_text(f"# {secrets()}\n" + protocol.read_text().replace("source: tests", f"source: {MARK} et al."))
    state = folder / "checkpoints" / "checkpoint-1"
    (state / "trainer_state.json").write_text(json.dumps(secrets()))
    (state / "optimizer.pt").write_bytes(secrets().encode())
    (folder / "notes.txt").write_text(secrets())


def plant_in_adapter(folder, secrets):
    """Secrets in the config of the adapter, in the header of its weights, and in further files."""
    file = folder / "adapter_config.json"
    content, places = planted(
        json.loads(file.read_text()), CHECKED_ADAPTER, lambda config: check_saved_config(config, "a"), secrets
    )
    assert places > 3
    file.write_text(json.dumps(content))
    weights = folder / "adapter_model.safetensors"
    header, tensors = parts_of(weights.read_bytes())
    header[next(name for name in header if name != "__metadata__")]["origin"] = secrets()
    header["__metadata__"] = {"format": secrets()}
    encoded = json.dumps(header).encode()
    weights.write_bytes(struct.pack("<Q", len(encoded)) + encoded + tensors)
    (folder / "README.md").write_text(secrets())
    (folder / f"{MARK}.json").write_text(json.dumps(secrets()))


def parts_of(weights):
    """Header and tensors of safetensors."""
    (length,) = struct.unpack("<Q", weights[:8])
    return json.loads(weights[8 : 8 + length]), weights[8 + length :]


def plant_in_model(folder, secrets):
    """Secrets in the settings of the base model's processor, and in the comments of its chat template."""
    for name in ("tokenizer_config.json", "processor_config.json"):
        content = json.loads((folder / name).read_text())
        content |= {"name_or_path": secrets(), "origin": {"host": secrets(), secrets(): 1}}
        content["feature_extractor"] = content.get("feature_extractor", {}) | {"cache": secrets()}
        (folder / name).write_text(json.dumps(content))
    template = folder / "chat_template.jinja"
    comment = f"{{#- {secrets()} #}}"
    template.write_text(f"{comment}\n" + template.read_text().replace("%}\n", f"%}}{comment}\n", 1))
    (folder / "README.md").write_text(secrets())


@pytest.mark.parametrize("reworded", [False, True], ids=["as it is", "reworded"])
def test_no_secret_of_a_run_is_in_the_pushed_folder(full_of_secrets, tmp_path, monkeypatch, reworded):
    if reworded:
        words = {code: "\n".join(reversed(text.split(" "))) for code, text in SENTENCES.items()}
        monkeypatch.setattr(notes, "SENTENCES", words)
    out = assemble(full_of_secrets, tmp_path / "out", repo_id="jane/adapter", push_vocabulary=True)
    assert leaks(out) == {}


def test_the_secrets_are_in_the_run(full_of_secrets):
    written = (full_of_secrets / "run.json").read_text()
    assert written.count(MARK) > 100
    for note in read_record(full_of_secrets / "run.json").notes:
        assert any(MARK in name for name in note.ids)
        assert any(MARK in reason for reason in note.reasons)
    assert leaks(full_of_secrets.parent / f"{MARK}_model").keys() >= {"chat_template.jinja", "processor_config.json"}
    assert leaks(full_of_secrets / "adapter").keys() >= {"adapter_model.safetensors", "adapter_config.json"}


def shared_or_refused(content):
    """What is shared of a record; in place of it the error, if it is refused."""
    try:
        record = RunRecord.from_json(content, "run.json")
        public = public_record(record, record.model("run.json"), None, None)
        check_text(public)
        return json.dumps(public.to_json())
    except LalmMerError as error:
        return None if "\n" not in str(error) else str(error)


def test_a_shared_field_with_other_content_is_refused(finished):
    content = json.loads(json.dumps(everything_filled(read_record(finished / "run.json")).to_json()))
    assert shared_or_refused(content) is not None
    kinds, number, places = cycle(KINDS), count(), 0
    for path in [path for path in sites(content) if matches(path, CHECKED) and not matches(path, BY_FILES)]:
        for kind in islice(kinds, 3):
            secret = kind.format(f"{MARK}{next(number):03d}")
            if not matches(path, NAMES) or set("/\\:~") & set(secret):
                assert MARK not in (shared_or_refused(plant(content, path, secret)) or ""), (path, secret)
                places += 1
    assert places > 100


@pytest.mark.parametrize("path", [path.removesuffix("*") for path in BY_FILES])
def test_a_field_that_contradicts_the_files_is_refused(run, tmp_path, path):
    content = json.loads((run / "run.json").read_text())
    *sections, key = path.split(".")
    holder = content
    for section in sections:
        holder = holder[section]
    holder[key] = [MARK, "b"] if key == "labels" else MARK
    (run / "run.json").write_text(json.dumps(content))
    with pytest.raises(LalmMerError) as caught:
        assemble(run, tmp_path / "out", repo_id="jane/adapter", push_vocabulary=True)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "key", ["target_modules", "modules_to_save", "exclude_modules", "rank_pattern", "layers_pattern"]
)
def test_other_modules_of_an_adapter_are_not_pushed(run, tmp_path, key):
    file = run / "adapter" / "adapter_config.json"
    content = json.loads(file.read_text())
    content[key] = {MARK: 4} if key == "rank_pattern" else [*(content[key] or []), MARK]
    file.write_text(json.dumps(content))
    with suppress(LalmMerError):
        assert leaks(assemble(run, tmp_path / "out", repo_id="jane/adapter", push_vocabulary=True)) == {}


def test_a_prompt_with_a_path_as_name_is_not_pushed(run, finished, tmp_path):
    prompt = tmp_path / "prompt.yaml"
    prompt.write_text((finished.parent / "my_prompt.yaml").read_text().replace("name: mine", "name: clinics/jane"))
    content = json.loads((run / "run.json").read_text())
    content["config"]["prompt"]["file"] = str(prompt)
    (run / "run.json").write_text(json.dumps(content))
    with pytest.raises(AdapterError, match="the prompt is named 'clinics/jane'; rename it"):
        assemble(run, tmp_path / "out", repo_id="jane/adapter", push_vocabulary=True)


def test_a_vocabulary_from_transcripts_is_pushed_only_if_the_user_wants_it(tmp_path):
    build_tiny("qwen2_audio", tmp_path / "model", words=[f"{MARK} and {MARK} again"] * 9, window_s=2, hidden_size=32)
    run = write_run(tmp_path / "run", tmp_path / "model")
    for base in (None, "Qwen/Qwen2-Audio-7B-Instruct"):
        with pytest.raises(AdapterError, match=r"learnt from transcripts .*; set hub\.push_vocabulary=true") as caught:
            assemble(run, tmp_path / "out", repo_id="jane/adapter", base_model=base)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()
    out = assemble(run, tmp_path / "out", repo_id="jane/adapter", push_vocabulary=True)
    assert leaks(out).keys() == {"tokenizer.json"}


def test_the_vocabulary_of_a_local_folder_needs_its_origin(run, tmp_path, tiny_folder):
    model = tmp_path / "model"
    shutil.copytree(tiny_folder("qwen2_audio"), model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"randomly_initialised": False}))
    content = json.loads((run / "run.json").read_text())
    content["config"]["model"]["id"] = str(model)
    (run / "run.json").write_text(json.dumps(content))
    with pytest.raises(AdapterError, match="local folder; name the published model of which it is a copy"):
        assemble(run, tmp_path / "out", repo_id="jane/adapter")
    assemble(run, tmp_path / "copy", repo_id="jane/adapter", base_model="Qwen/Qwen2-Audio-7B-Instruct")
    assert (tmp_path / "copy" / "tokenizer.json").is_file()


def test_what_was_pushed_can_be_used(full_of_secrets, tmp_path):
    out = assemble(full_of_secrets, tmp_path / "out", repo_id="jane/adapter", push_vocabulary=True)
    there, here = (read_record(folder / "run.json") for folder in (out, full_of_secrets))
    now = context_of(here, "run.json")
    assert require_fit(out, now, here.base_model) == []
    for name in ("corpus", "protocol", "task", "labels", "fold", "seed", "git", "seconds"):
        assert getattr(there, name) == getattr(here, name)
    assert there.class_weights == dict.fromkeys(LABELS, 0.5)
    assert there.balance.after == Counts(2, dict.fromkeys(LABELS, 1))
    assert there.recognizer == "qwen2_audio (local model)"
    kept = {NoteCode.CONTAMINATION, NoteCode.MISSING_CLASSES, NoteCode.FEW_UTTERANCES}
    kept |= {
        NoteCode.SERVED_MODEL,
        NoteCode.FIRST_TOKEN,
        NoteCode.PARITY,
        NoteCode.SERVER_TOKENS,
        NoteCode.FOUND_BATCH_SIZE,
        NoteCode.SPEAKER_STATISTICS,
        NoteCode.FITTED_ON_DEV,
    }
    assert [note.code for note in there.notes] == [code for code in NoteCode if code not in kept]
    assert {(note.split, note.n, note.ids, note.reasons) for note in there.notes} == {("test", 2, (), ())}
