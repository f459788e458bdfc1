import json
from pathlib import Path

import pytest
from fabricated import LABELS
from hub_server import drops, refuses, serve, speak_to
from safetensors.torch import load_file, save_file
from shared_run import FORMS, assert_refused

from lalm_mer.core.errors import AdapterError, ConfigError, LalmMerError, ModelError, PredictionError
from lalm_mer.core.notes import Note, NoteCode
from lalm_mer.core.run_record import read_record
from lalm_mer.models.adapters import load_adapter
from lalm_mer.models.families import family_class
from lalm_mer.prompting.prompts import load_prompt
from lalm_mer.sharing.hub import load_adapter_from, push_run
from lalm_mer.sharing.hub_folder import assemble, read_labels
from lalm_mer.sharing.hub_ids import check_repo_id

PUSHED = {
    "adapter_config.json", "adapter_model.safetensors", "prompt.yaml", "labels.json", "run.json", "metrics.json",
    "README.md", "tokenizer.json", "tokenizer_config.json", "processor_config.json", "chat_template.jinja",
}  # fmt: skip


def change(run, **values):
    content = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(content | values))


def config_of(run):
    return json.loads((run / "run.json").read_text())["config"]


def test_the_folder_contains_the_shared_files_and_nothing_else(finished, tmp_path):
    out = assemble(finished, tmp_path / "out", repo_id="jane/adapter", push_vocabulary=True)
    assert {path.name for path in out.iterdir()} == PUSHED
    weights = "adapter_model.safetensors"
    assert (out / weights).read_bytes() == (finished / "adapter" / weights).read_bytes()
    assert json.loads((out / "labels.json").read_text()) == {
        "task": "fabricated_4", "labels": list(LABELS), "forms": FORMS
    }  # fmt: skip
    assert load_prompt(out / "prompt.yaml").digest == json.loads((out / "run.json").read_text())["hashes"]["prompt"]
    assert json.loads((out / "metrics.json").read_text()) == json.loads((finished / "metrics.json").read_text())


def test_no_local_path_and_no_utterance_is_shared(finished, tmp_path, tiny_folder):
    out = assemble(finished, tmp_path / "out", repo_id="jane/adapter", push_vocabulary=True)
    for path in out.iterdir():
        content = path.read_bytes()
        for secret in (
            str(finished.parent),
            "home_of_jane",
            str(tiny_folder("qwen2_audio")),
            "Users",
            "jane_doe",
            "~/",
        ):
            if path.name != "tokenizer.json" or secret != "~/":  # a token may be spelt so
                assert secret.encode() not in content, (path.name, secret)
    shown = read_record(out / "run.json")
    assert shown.config["data"] == {"transcript_source": "corpus", "without_audio": "refuse"}
    assert "output" not in shown.config
    assert shown.config["split"] == {"fold": 1}
    assert shown.notes == (Note(NoteCode.UNSCORED, "test", 1),)
    assert (shown.base_model, shown.recognizer) == (None, "qwen2_audio (local model)")
    assert tiny_folder("qwen2_audio").name not in (out / "run.json").read_text()
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] is None


def test_the_adapter_loads_again_and_is_the_same(finished, tmp_path, tiny_folder):
    out = assemble(finished, tmp_path / "out", repo_id="jane/adapter", push_vocabulary=True)
    family = family_class("qwen2_audio").load(
        tiny_folder("qwen2_audio"), revision=None, dtype="float32", attn_implementation="sdpa"
    )
    model = load_adapter(family, load_adapter_from(str(out)))
    loaded = dict(model.named_parameters())
    for name, tensor in load_file(finished / "adapter" / "adapter_model.safetensors").items():
        place = name.replace(".weight", ".default.weight")
        assert (loaded[place] == tensor).all()


def test_the_family_loads_the_shared_processor(finished, tmp_path, tiny_folder):
    out = assemble(finished, tmp_path / "out", repo_id="jane/adapter", push_vocabulary=True)
    mine = family_class("qwen2_audio").load_processor(str(out), None)
    base = family_class("qwen2_audio").load_processor(str(tiny_folder("qwen2_audio")), None)
    words = "Which emotion? <|im_end|>"
    assert mine.tokenizer(words)["input_ids"] == base.tokenizer(words)["input_ids"]
    assert mine.chat_template == base.chat_template
    assert mine.feature_extractor.to_dict() == base.feature_extractor.to_dict()


def test_a_copy_of_a_published_model_is_shared_as_its_published_id(finished, tmp_path):
    out = assemble(
        finished,
        tmp_path / "out",
        repo_id="jane/adapter",
        push_vocabulary=True,
        base_model="Qwen/Qwen2-Audio-7B-Instruct",
    )
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"].startswith("Qwen/")
    assert json.loads((out / "run.json").read_text())["config"]["model"]["id"] == "Qwen/Qwen2-Audio-7B-Instruct"
    assert "base_model: Qwen/Qwen2-Audio-7B-Instruct" in (out / "README.md").read_text()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: (run / "metrics.json").unlink(), "not finished"),
        (lambda run: change(run, seconds=None), "has not finished"),
        (lambda run: change(run, method="linear"), "method linear; only an adapter .* or a baseline .* is pushed"),
        (lambda run: change(run, method="late_fusion"), "method late_fusion; only an adapter .* or a baseline"),
        (lambda run: change(run, method="baseline"), "not a saved baseline network"),
        (lambda run: change(run, transcript_source="simulated"), "simulated"),
        (lambda run: (run / "adapter" / "adapter_model.safetensors").rename(run / "adapter" / "adapter_model.bin"),
         "no adapter_model.safetensors"),
        (lambda run: (run / "adapter" / "adapter_model.safetensors").write_bytes(b"\x80\x04K\x01."), "not safetensors"),
        (lambda run: change(run, hashes=json.loads((run / "run.json").read_text())["hashes"] | {"prompt": "0" * 64}),
         "the prompt has changed since the run"),
        (lambda run: change(run, task="another"), "restore the protocol"),
        (lambda run: change(run, config={}), "section 'model': key 'family' is missing"),
        (lambda run: change(run, config=config_of(run) | {"prompt": {}}), "key 'config.prompt.file' is missing"),
        (lambda run: change(run, format=1), "format 1, but this version reads format 2"),
        (lambda run: (run / "predictions.parquet").unlink(), "predictions.parquet"),
    ],
)  # fmt: skip
def test_a_run_that_may_not_be_shared_is_refused_in_one_line(run, tmp_path, spoil, message):
    spoil(run)
    assert_refused(run, tmp_path / "out", message)


def test_weights_with_metadata_of_their_own_are_refused(run, tmp_path):
    file = run / "adapter" / "adapter_model.safetensors"
    save_file(load_file(file), file, metadata={"format": "pt", "trained_by": "jane"})
    with pytest.raises(AdapterError, match=r"has metadata \['format', 'trained_by'\]; expected only format"):
        assemble(run, tmp_path / "out", repo_id="jane/adapter", push_vocabulary=True)


def test_weights_beyond_the_adapter_are_refused(run, tmp_path):
    file = run / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"base_model.model.lm_head.weight": next(iter(tensors.values())).clone()}, file)
    with pytest.raises(AdapterError, match=r"lm_head\.weight"):
        assemble(run, tmp_path / "out", repo_id="jane/adapter", push_vocabulary=True)


def test_metrics_that_do_not_follow_from_the_predictions_are_not_shared(run, tmp_path):
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["uar"]["value"] = 0.99
    (run / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(PredictionError, match=r"UAR 0\.99"):
        assemble(run, tmp_path / "out", repo_id="jane/adapter", push_vocabulary=True)


@pytest.mark.parametrize("fault", [refuses(500), drops])
def test_a_failing_hub_does_not_change_the_run(run, tmp_path, monkeypatch, fault):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with serve() as server:
        speak_to(server, tmp_path / "cache", monkeypatch)
        server.hub.faults = [("PUT /lfs/", fault)]
        with pytest.raises(AdapterError, match="jane/adapter: cannot be pushed to the Hub, sending the files failed"):
            push_run(run, "jane/adapter", push_vocabulary=True)
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
        server.hub.faults = []
        push_run(run, "jane/adapter", push_vocabulary=True)
        pushed = server.hub.head("jane/adapter")[1]
    out = assemble(run, tmp_path / "out", repo_id="jane/adapter", push_vocabulary=True)
    assert pushed.keys() - {".gitattributes"} == PUSHED
    assert {path.name: path.read_bytes() for path in out.iterdir()}.items() <= pushed.items()


def test_a_link_to_a_file_outside_of_the_run_is_not_pushed(run, tmp_path):
    weights = run / "adapter" / "adapter_model.safetensors"
    weights.rename(tmp_path / "elsewhere")
    weights.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AdapterError, match=r"adapter_model\.safetensors is a link that leads out of the folder"):
        assemble(run, tmp_path / "out", repo_id="jane/adapter", push_vocabulary=True)


def test_a_folder_with_files_is_not_written_into(finished, tmp_path):
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(ConfigError, match="not an empty folder"):
        assemble(finished, tmp_path, repo_id="jane/adapter", push_vocabulary=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_missing_base_model_is_an_error(run, tmp_path):
    config = config_of(run)
    change(run, config=config | {"model": config["model"] | {"id": str(tmp_path / "absent")}})
    with pytest.raises(ModelError, match="processor cannot be loaded"):
        assemble(run, tmp_path / "out", repo_id="jane/adapter", push_vocabulary=True)


@pytest.mark.parametrize(
    "repo_id",
    ["adapter", "a/b/c", "../adapter", "jane/..", "jane/a--b", "jane/a b", "jane/x.git", "jane/a`b", "jäne/a"],
)
def test_a_malformed_hub_id_is_refused(repo_id):
    with pytest.raises(ConfigError, match="--repo"):
        check_repo_id(repo_id, "--repo")


@pytest.mark.parametrize("licence", ["CC BY", "mit\nbase_model: x", ""])
def test_a_malformed_licence_is_refused(finished, tmp_path, licence):
    with pytest.raises(ConfigError, match="--licence"):
        assemble(finished, tmp_path / "out", repo_id="jane/adapter", push_vocabulary=True, licence=licence)


def test_an_adapter_is_found_in_its_run_folder(finished):
    assert load_adapter_from(str(finished)) == finished / "adapter"


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_link_out_of_the_folder_is_refused(run, tmp_path, name):
    (run / "adapter" / name).rename(tmp_path / name)
    (run / "adapter" / name).symlink_to(tmp_path / name)
    with pytest.raises(AdapterError, match=f"{name} is a link that leads out of the folder"):
        load_adapter_from(str(run))
    with pytest.raises(AdapterError, match=f"{name} is a link that leads out of the folder"):
        assemble(run, tmp_path / "out", repo_id="jane/adapter", push_vocabulary=True)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_link_to_itself_is_refused(run, name):
    (run / "adapter" / name).unlink()
    (run / "adapter" / name).symlink_to(name)
    with pytest.raises(AdapterError, match=f"{name} is a link that leads out of the folder|no {name}"):
        load_adapter_from(str(run))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "expected a JSON object, found NoneType"),
        ({"task": "t", "labels": ["a", "b"], "forms": 1.5}, "key 'forms'"),
        ({"task": "t", "labels": ["a", 3], "forms": {}}, r"key 'labels\.1'"),
        ({"task": "t", "labels": ["a", {}], "forms": {}}, r"key 'labels\.1'"),
        ({"task": "t", "labels": ["a", "b"], "forms": {"a": [None], "b": []}}, r"key 'forms\.a\.0'"),
        ({"task": "t", "labels": ["a"], "forms": {}}, "two or more distinct labels"),
    ],
)
def test_labels_of_another_shape_are_named(tmp_path, content, message):
    (tmp_path / "labels.json").write_text(json.dumps(content))
    with pytest.raises(LalmMerError, match=rf"labels\.json: .*{message}"):
        read_labels(tmp_path)


def test_a_download_of_the_hub_is_links_to_its_blobs(run, tmp_path):
    blobs, snapshot = tmp_path / "cache" / "blobs", tmp_path / "cache" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (run / "adapter" / name).rename(blobs / name)
        (snapshot / name).symlink_to(Path("../../blobs") / name)
    assert load_adapter_from(str(snapshot)) == snapshot


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"peft_type": "POLY"}, r"says peft_type 'POLY'; expected LORA, LOHA"),
        ({"auto_mapping": {"parent_library": "evil"}}, r"says auto_mapping \{'parent_library': 'evil'\}"),
        ({"layer_replication": [[0, 1]]}, r"says layer_replication \[\[0, 1\]\]; expected None"),
    ],
)
def test_a_config_with_other_values_is_refused_before_anything_is_loaded(run, written, message):
    file = run / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | written))
    with pytest.raises(AdapterError, match=message):
        load_adapter_from(str(run))


def test_a_tower_that_the_config_names_may_be_shared(run, tmp_path):
    tensors = load_file(run / "adapter" / "adapter_model.safetensors")
    copy = {"base_model.model.projector.weight": next(iter(tensors.values())).clone()}
    save_file(tensors | copy, run / "adapter" / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match=r"contains 'base_model\.model\.projector\.weight'"):
        load_adapter_from(str(run))
    file = run / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"modules_to_save": ["projector"]}))
    assert load_adapter_from(str(run)) == run / "adapter"


def test_a_revision_of_a_folder_is_refused(finished):
    with pytest.raises(AdapterError, match=r"argument 'revision': 'main', but .* is a folder"):
        load_adapter_from(str(finished), "main")


def test_neither_folder_nor_id(tmp_path):
    with pytest.raises(AdapterError, match="no such folder either"):
        load_adapter_from(str(tmp_path / "nothing"))
