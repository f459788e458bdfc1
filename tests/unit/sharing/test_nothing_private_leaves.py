"""Secrets planted in every field of a run: none is in the pushed folder, with any sentences of notes."""

import json
import shutil
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import cycle

import pytest
from fabricated import LABELS
from shared_run import write_run

from lalm_mer.core import notes
from lalm_mer.core.errors import LalmMerError
from lalm_mer.core.notes import SENTENCES, Note, NoteCode, needed_facts
from lalm_mer.core.run_record import Balance, Counts, RunRecord, read_record
from lalm_mer.evaluation.predictions import Predictions
from lalm_mer.models.adapter_kinds import check_saved_config
from lalm_mer.sharing.adapter_context import context_of, require_fit
from lalm_mer.sharing.hub_folder import assemble

MARK = "zqxsecret"
SECRETS = {
    "utterance id": f"{MARK}_Ses01F_007",
    "speaker": f"{MARK}-speaker",
    "transcript": f"I told my {MARK} doctor",
    "absolute path": f"/home/{MARK}/{MARK}_corpus/{MARK}.wav",
    "relative path": f"../{MARK}/{MARK}.parquet",
    "file address": f"file:///srv/{MARK}/{MARK}.flac",
    "home of a user": f"~{MARK}/{MARK}",
    "Windows path": rf"C:\Users\{MARK}\{MARK}",
    "host name": f"{MARK}.clinic.example",
    "user name": MARK,
    "path in words": f"Features are kept in /scratch/{MARK}/{MARK} of {MARK}@{MARK}-17.",
}
PUBLIC = (
    "corpus", "protocol", "task", "labels*", "disjoint_in*", "shared_in*", "primary_metric", "git.commit", "started_at",
    "hashes.data", "hashes.folds", "hashes.prompt", "hashes.base_model",
    "balance.*.classes.*", "class_weights.*", "versions.python", "versions.torch",
    "notes.*.facts.corpus", "notes.*.facts.protocol", "notes.*.facts.trained", "notes.*.facts.used",
    "config.data.transcript_source", "config.data.without_audio", "config.prompt.label_score",
    "config.model.family", "config.model.dtype", "config.model.attn_implementation", "config.model.quantization",
    "config.adapter.kind", "config.adapter.towers*", "config.adapter.full*",
    "config.balance.sampling", "config.balance.direction", "config.balance.class_weights",
    "config.augment.noise.color", "config.train.lr_scheduler_type", "config.train.eval_strategy",
    "config.balance.max_per_*", "config.train.eval_steps", "config.train.early_stopping_patience", "config.objective",
)  # fmt: skip
"""Names of corpora, labels, columns, packages and choices, which may be shared and contain no secrets here."""
PUBLIC_ADAPTER = (
    "peft_type", "task_type", "peft_version", "auto_mapping.base_model_class", "auto_mapping.parent_library",
    "target_modules*", "exclude_modules", "modules_to_save*", "layers_pattern", "layers_to_transform", "rank_pattern*",
    "alpha_pattern*",
)  # fmt: skip
"""The same of adapter_config.json: names of classes and modules."""
IN_USE = ("config.prompt.file", "config.split.protocol", "config.model.id")
"""Paths of files that must exist; here in folders with secret names."""


def sites(value, path=()):
    """Path of every text, null, list and mapping in plain data."""
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from sites(item, (*path, key))
    if value is None or isinstance(value, str | dict | list):
        yield path


def plant(content, path, secret):
    """Plain data with a secret at a path: in place of a text, as one more item of a list, or as a key of a mapping."""
    content = holder = deepcopy(content)
    for place in path[:-1]:
        holder = holder[place]
    found = holder[path[-1]] if path else content
    if isinstance(found, dict):
        found[secret] = next(iter(found.values()), secret)
    elif isinstance(found, list):
        found.append(secret)
    else:
        holder[path[-1]] = secret
    return content


def everything_filled(record):
    """The record with a note of every code, and with every optional part."""
    found = []
    for code in NoteCode:
        facts = {name: 3 if name in ("fold", "expected", "max_new_tokens") else name for name in needed_facts(code)}
        found.append(Note(code, "test", 2, ("u1", "u2"), ("why", "why"), facts))
    counts = Counts(2, dict.fromkeys(LABELS, 1), {label: {"speaker": 1} for label in LABELS}, 0)
    weights = dict.fromkeys(LABELS, 0.5)
    return replace(record, notes=tuple(found), balance=Balance(counts, counts), class_weights=weights)


def planted(content, public, check):
    """Plain data with secrets wherever a check accepts them, and the number of their places.

    Args:
        content: the data
        public: patterns of paths that stay as they are
        check: raises a ``LalmMerError`` for content that is refused, and so cannot be in a run
    """
    secrets, count = cycle(SECRETS.values()), 0
    content = json.loads(json.dumps(content))
    for path in list(sites(content)):
        if any(fnmatchcase(".".join(map(str, path)), pattern) for pattern in public):
            continue
        changed = plant(content, path, next(secrets))
        with suppress(LalmMerError):
            check(changed)
            content, count = changed, count + 1
    return content, count


@pytest.fixture(scope="module")
def full_of_secrets(tiny_folder, tmp_path_factory):
    """A finished run with secrets in every field, in every other file, and in the names of folders."""
    home = tmp_path_factory.mktemp(MARK)
    shutil.copytree(tiny_folder("qwen2_audio"), home / "model")
    folder = write_run(home / f"{MARK}_run", home / "model")
    content, count = planted(
        everything_filled(read_record(folder / "run.json")).to_json(), (*PUBLIC, *IN_USE),
        lambda content: RunRecord.from_json(content, "run.json"),
    )  # fmt: skip
    assert count > 80
    (folder / "run.json").write_text(json.dumps(content))
    plant_in_files(folder)
    plant_in_model(home / "model")
    return folder


def plant_in_files(folder):
    """Secrets in the files besides run.json."""
    secrets = list(SECRETS.values())
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    lines = [json.dumps(row | {"note": secret}) for row, secret in zip(rows, cycle(secrets), strict=False)]
    (folder / "history.jsonl").write_text("\n".join(lines))
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics |= {MARK: secrets, "uar": metrics["uar"] | {"method": secrets[0], MARK: 1}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    predictions = Predictions.read(folder / "predictions.parquet")
    names = {key: [f"{MARK}_{name}" for name in predictions.frame[key]] for key in ("utterance_id", "speaker")}
    Predictions(predictions.frame.assign(**names), predictions.labels).write(folder / "predictions.parquet")
    comments = "".join(f"# {secret}\n" for secret in secrets)
    prompt = folder.parent / "my_prompt.yaml"
    prompt.write_text(comments + prompt.read_text().replace("\n", f"  # {MARK}\n") + comments)
    file = folder / "adapter" / "adapter_config.json"
    config, count = planted(
        json.loads(file.read_text()), PUBLIC_ADAPTER, lambda config: check_saved_config(config, "a")
    )
    assert count > 3
    file.write_text(json.dumps(config))
    (folder / "adapter" / "README.md").write_text("\n".join(secrets))
    (folder / "adapter" / f"{MARK}.json").write_text(json.dumps(secrets))
    (folder / "notes.txt").write_text("\n".join(secrets))


def plant_in_model(folder):
    """Secrets in the settings of the base model's processor."""
    for name in ("tokenizer_config.json", "processor_config.json"):
        content = json.loads((folder / name).read_text())
        content |= {"name_or_path": SECRETS["absolute path"], "origin": {"host": SECRETS["host name"]}}
        content["feature_extractor"] = content.get("feature_extractor", {}) | {"cache": SECRETS["Windows path"]}
        (folder / name).write_text(json.dumps(content))


@pytest.mark.parametrize("reworded", [False, True], ids=["as it is", "reworded"])
def test_no_secret_of_a_run_is_in_the_pushed_folder(full_of_secrets, tmp_path, monkeypatch, reworded):
    if reworded:
        words = {code: "\n".join(reversed(text.split(" "))) for code, text in SENTENCES.items()}
        monkeypatch.setattr(notes, "SENTENCES", words)
    out = assemble(full_of_secrets, tmp_path / "out", repo_id="jane/adapter")
    leaks = [path.name for path in out.iterdir() if MARK in path.name or MARK.encode() in path.read_bytes().lower()]
    assert leaks == []


def test_what_was_planted_is_in_the_run(full_of_secrets):
    written = (full_of_secrets / "run.json").read_text()
    for secret in SECRETS.values():
        assert json.dumps(secret) in written
    for note in read_record(full_of_secrets / "run.json").notes:
        assert any(MARK in name for name in note.ids)
        assert any(MARK in reason for reason in note.reasons)


def test_what_was_pushed_can_be_used(full_of_secrets, tmp_path):
    out = assemble(full_of_secrets, tmp_path / "out", repo_id="jane/adapter")
    there, here = (read_record(folder / "run.json") for folder in (out, full_of_secrets))
    now = context_of(here, "run.json")
    assert require_fit(out, now, here.base_model) == []
    for name in ("corpus", "protocol", "task", "labels", "fold", "seed", "git", "seconds"):
        assert getattr(there, name) == getattr(here, name)
    assert there.class_weights == dict.fromkeys(LABELS, 0.5)
    assert there.balance.after == Counts(2, dict.fromkeys(LABELS, 1))
    assert there.recognizer == "qwen2_audio (model)"
    kept = {NoteCode.CONTAMINATION, NoteCode.MISSING_CLASSES, NoteCode.FEW_UTTERANCES}
    assert [note.code for note in there.notes] == [code for code in NoteCode if code not in kept]
    assert {(note.split, note.n, note.ids, note.reasons) for note in there.notes} == {("test", 2, (), ())}
