"""What of a record may be shared."""

from dataclasses import replace
from pathlib import Path

import pytest
from fabricated import LABELS

from lalm_mer.core.config import to_dict
from lalm_mer.core.notes import Note, NoteCode
from lalm_mer.core.run_record import RunRecord, read_record
from lalm_mer.launch.config.sections import (
    AdapterSettings,
    DataSettings,
    FinetuneOutputSettings,
    ModelSettings,
    PromptSettings,
    SplitSettings,
)
from lalm_mer.launch.config.settings import FinetuneSettings
from lalm_mer.models.families import family_class
from lalm_mer.prompting.ensembles import load_ensemble
from lalm_mer.prompting.prompts import load_prompt
from lalm_mer.sharing.hub_folder import assemble, write_prompt
from lalm_mer.sharing.public_record import SHARED_SETTINGS, public_record


@pytest.fixture
def record(finished):
    return read_record(finished / "run.json")


def shared(record, published=None, revision=None):
    return public_record(record, record.model("run.json"), published, revision)


def keys(config, section=""):
    """Every key of a config as section.key."""
    for key, value in config.items():
        yield f"{section}{key}"
        if isinstance(value, dict):
            yield from keys(value, f"{section}{key}.")


def test_every_shared_setting_exists():
    settings = FinetuneSettings(
        DataSettings(""), SplitSettings(""), ModelSettings("", ""), FinetuneOutputSettings(""), PromptSettings(""),
        AdapterSettings({}),
    )  # fmt: skip
    assert set(SHARED_SETTINGS) <= set(keys(to_dict(settings)))


def test_only_named_settings_are_shared(record):
    found = set(keys(shared(record).config))
    assert {"seed", "train.learning_rate", "adapter.towers", "augment.speed.p", "model.id"} <= found
    assert not {"data.dir", "split.protocol", "prompt.file", "output", "engine", "balance.by"} & found


def test_options_are_those_of_the_adapter_s_kind(record):
    adapter = record.config["adapter"] | {"kind": "ia3", "options": {"init_ia3_weights": False, "r": 8, "dir": "/home"}}
    of_ia3 = replace(record, method="ia3", config={**record.config, "adapter": adapter})
    assert shared(of_ia3).config["adapter"]["options"] == {"init_ia3_weights": False}


def test_a_published_base_model_is_shared_as_its_id(record):
    public = shared(record, "Qwen/Qwen2-Audio-7B-Instruct", "main")
    assert (public.base_model, public.recognizer) == (
        "Qwen/Qwen2-Audio-7B-Instruct",
        "qwen2_audio (Qwen2-Audio-7B-Instruct)",
    )
    assert public.config["model"]["id"] == "Qwen/Qwen2-Audio-7B-Instruct"
    assert public.config["model"]["revision"] == "main"
    assert shared(record).config["model"]["revision"] is None


@pytest.mark.parametrize("path", ["/home/jane/base/", "C:\\jane\\base", "base", "file:///jane/base", "~jane/base"])
def test_a_folder_is_shared_without_its_name(record, path):
    model = replace(record.model("run.json"), id=path)
    public = public_record(record, model, None, None)
    assert (public.base_model, public.recognizer) == (None, "qwen2_audio (local model)")
    assert public.config["model"]["id"] == "local model"


def test_a_public_record_can_be_read_as_any_other(record):
    public = shared(record)
    assert RunRecord.from_json(public.to_json(), "run.json") == public
    assert shared(public) == public


def test_contamination_is_stated_once_and_by_the_family(run, record, tmp_path, monkeypatch):
    noted = Note(NoteCode.CONTAMINATION, facts={"model": "qwen2_audio", "known": "what the run says"})
    assert shared(replace(record, notes=(noted,))).notes == ()
    monkeypatch.setattr(family_class("qwen2_audio"), "contamination", {"fabricated": "its authors reported on it."})
    card = (assemble(run, tmp_path / "out", repo_id="jane/adapter", push_vocabulary=True) / "README.md").read_text()
    assert card.count("its authors reported on it.") == 1


@pytest.mark.parametrize(
    "extra", ["", "system: ' two\n\n  lines '\n", "answers: {'no': ['010', '~', 2e-5x, 'Grüße 🙂']}\n"]
)
def test_a_prompt_is_rewritten_with_the_same_content(tmp_path, extra):
    file = tmp_path / "mine.yaml"
    file.write_text(
        f"# a comment\nname: mine\n{extra}user: |\n  {{{{ audio }}}} 'Emotion': \"#1\"?\n", encoding="utf-8"
    )
    write_prompt(load_prompt(file).content, tmp_path)
    assert load_prompt(tmp_path / "prompt.yaml") == load_prompt(file)
    assert "comment" not in (tmp_path / "prompt.yaml").read_text()


def test_shipped_prompts_are_rewritten_with_the_same_content(tmp_path):
    for file in sorted((Path(__file__).parents[3] / "prompts").rglob("*.yaml")):
        load = {"ensembles": load_ensemble, "synonyms": None}.get(file.parent.name, load_prompt)
        if load is not None:
            write_prompt(load(file).content, tmp_path)
            assert load(tmp_path / "prompt.yaml") == load(file)


def test_labels_keep_their_weights(record):
    weights = dict.fromkeys(LABELS, 0.5)
    assert shared(replace(record, class_weights=weights | {"jane": 1.0})).class_weights == weights
