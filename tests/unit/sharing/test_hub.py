import json
import shutil
from pathlib import Path

import pytest
import yaml
from fabricated import LABELS, fabricated_predictions, fabricated_run_json, write_history
from hub_server import drops, refuses, serve, speak_to
from safetensors.torch import load_file, save_file

from lalm_mer.core.errors import AdapterError, ConfigError, LalmMerError, ModelError, PredictionError, SplitLeakError
from lalm_mer.evaluation.scores import score
from lalm_mer.models.adapters import add_adapter, load_adapter
from lalm_mer.models.families import family_class
from lalm_mer.prompting.prompts import load_prompt
from lalm_mer.sharing.hub import load_adapter_from, push_run, require_fit
from lalm_mer.sharing.hub_folder import assemble, check_repo_id

PUSHED = {
    "adapter_config.json", "adapter_model.safetensors", "prompt.yaml", "labels.json", "run.json", "metrics.json",
    "README.md", "tokenizer.json", "tokenizer_config.json", "processor_config.json", "chat_template.jinja",
}  # fmt: skip
FORMS = {label: [label, f"very {label}"] for label in LABELS}


@pytest.fixture(scope="module")
def finished(tiny_folder, tmp_path_factory):
    """Run folder of a LoRA run with fabricated predictions and a real adapter; everything lies at absolute paths."""
    folder = tmp_path_factory.mktemp("home_of_jane") / "run"
    base = tiny_folder("qwen2_audio")
    family = family_class("qwen2_audio").load(base, revision=None, dtype="float32", attn_implementation="sdpa")
    model, _ = add_adapter(family, {"language_model": ["q_proj"]}, {"r": 2, "lora_alpha": 4, "lora_dropout": 0.0})
    model.save_pretrained(folder / "adapter")
    prompt = folder.parent / "my_prompt.yaml"
    prompt.write_text('name: mine\nuser: "{{ audio }}{{ transcript }}Emotion?"\n')
    protocol = folder.parent / "speaker_folds.yaml"
    rule = {"rule": "listed", "column": "speaker", "test": {fold: [f"s{fold}"] for fold in (1, 2, 3)}}
    task = {"name": "fabricated_4", "labels": FORMS}
    content = {"name": "speaker_folds", "version": 1, "source": "tests", "disjoint_in": ["speaker"]}
    protocol.write_text(yaml.safe_dump(content | {"inline_task": task, "folds": rule}))
    predictions = fabricated_predictions(unscored=1)
    predictions.write(folder / "predictions.parquet")
    hashes = {"data": "d" * 64, "folds": "f" * 64, "prompt": load_prompt(prompt).digest, "base_model": "b" * 64}
    config = {
        "data": {"dir": str(folder.parent / "data"), "transcripts": "~/asr.parquet"},
        "split": {"protocol": str(protocol), "fold": 1},
        "prompt": {"file": str(prompt)},
        "model": {"family": "qwen2_audio", "id": str(base), "revision": None},
        "adapter": {"r": 2, "towers": {"language_model": ["q_proj"]}},
        "train": {"learning_rate": 2e-5},
        "output": {"dir": "C:\\Users\\jane\\runs"},
    }
    notes = [
        "1 utterances of test unscored, counted as errors: jane_doe_01: 40.00 s long",
        f"Features are kept in {folder.parent}/cache/opensmile of this machine.",
    ]
    description = fabricated_run_json(
        hashes=hashes, config=config, notes=notes, modalities="audio+transcript", base_model=str(base)
    )
    (folder / "run.json").write_text(json.dumps(description))
    (folder / "metrics.json").write_text(json.dumps(score(predictions)))
    write_history(folder, 0, 0.6)
    (folder / "checkpoints" / "checkpoint-1").mkdir(parents=True)
    (folder / "checkpoints" / "checkpoint-1" / "optimizer.pt").write_bytes(b"pickle")
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """A copy to spoil."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def change(run, **values):
    content = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(content | values))


def test_the_folder_holds_what_is_shared_and_nothing_else(finished, tmp_path):
    out = assemble(finished, tmp_path / "out", repo_id="jane/adapter")
    assert {path.name for path in out.iterdir()} == PUSHED
    weights = "adapter_model.safetensors"
    assert (out / weights).read_bytes() == (finished / "adapter" / weights).read_bytes()
    assert json.loads((out / "labels.json").read_text()) == {
        "task": "fabricated_4", "labels": list(LABELS), "forms": FORMS
    }  # fmt: skip
    assert load_prompt(out / "prompt.yaml").digest == json.loads((out / "run.json").read_text())["hashes"]["prompt"]
    assert json.loads((out / "metrics.json").read_text()) == json.loads((finished / "metrics.json").read_text())


def test_no_local_path_and_no_utterance_leaves(finished, tmp_path, tiny_folder):
    out = assemble(finished, tmp_path / "out", repo_id="jane/adapter")
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
    shown = json.loads((out / "run.json").read_text())
    assert shown["config"]["data"] == {"dir": "data", "transcripts": "asr.parquet"}
    assert shown["config"]["output"]["dir"] == "runs"
    assert shown["config"]["split"]["protocol"] == "speaker_folds.yaml"
    assert shown["notes"] == [
        "1 utterances of test unscored, counted as errors.",
        "Features are kept in opensmile of this machine.",
    ]
    assert shown["base_model"] == tiny_folder("qwen2_audio").name
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] is None


def test_the_adapter_loads_again_and_is_the_same(finished, tmp_path, tiny_folder):
    out = assemble(finished, tmp_path / "out", repo_id="jane/adapter")
    family = family_class("qwen2_audio").load(
        tiny_folder("qwen2_audio"), revision=None, dtype="float32", attn_implementation="sdpa"
    )
    model = load_adapter(family, load_adapter_from(str(out)))
    loaded = dict(model.named_parameters())
    for name, tensor in load_file(finished / "adapter" / "adapter_model.safetensors").items():
        place = name.replace(".weight", ".default.weight")
        assert (loaded[place] == tensor).all()


def test_the_processor_comes_back_as_the_family_needs_it(finished, tmp_path, tiny_folder):
    out = assemble(finished, tmp_path / "out", repo_id="jane/adapter")
    mine = family_class("qwen2_audio").load_processor(str(out), None)
    base = family_class("qwen2_audio").load_processor(str(tiny_folder("qwen2_audio")), None)
    words = "Which emotion? <|im_end|>"
    assert mine.tokenizer(words)["input_ids"] == base.tokenizer(words)["input_ids"]
    assert mine.chat_template == base.chat_template
    assert mine.feature_extractor.to_dict() == base.feature_extractor.to_dict()


def test_a_copy_of_a_published_model_goes_by_its_published_name(finished, tmp_path):
    out = assemble(finished, tmp_path / "out", repo_id="jane/adapter", base_model="Qwen/Qwen2-Audio-7B-Instruct")
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"].startswith("Qwen/")
    assert json.loads((out / "run.json").read_text())["config"]["model"]["id"] == "Qwen/Qwen2-Audio-7B-Instruct"
    assert "base_model: Qwen/Qwen2-Audio-7B-Instruct" in (out / "README.md").read_text()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda run: (run / "metrics.json").unlink(), "not finished"),
        (lambda run: change(run, seconds=None), "not ended"),
        (lambda run: change(run, method="baseline"), "only a run that trained an adapter"),
        (lambda run: change(run, transcript_source="simulated"), "simulated"),
        (lambda run: (run / "adapter" / "adapter_model.safetensors").rename(run / "adapter" / "adapter_model.bin"),
         "no adapter_model.safetensors"),
        (lambda run: (run / "adapter" / "adapter_model.safetensors").write_bytes(b"\x80\x04K\x01."), "not safetensors"),
        (lambda run: change(run, hashes=json.loads((run / "run.json").read_text())["hashes"] | {"prompt": "0" * 64}),
         "not the prompt of the run"),
        (lambda run: change(run, task="another"), "restore the protocol"),
        (lambda run: change(run, config={}), "config.model.family"),
        (lambda run: (run / "fairness.json").write_text('{"a": 1}'), "expected a list of rows"),
        (lambda run: (run / "predictions.parquet").unlink(), "predictions.parquet"),
    ],
)  # fmt: skip
def test_a_run_that_may_not_be_shared_is_refused_in_one_line(run, tmp_path, spoil, said):
    spoil(run)
    with pytest.raises(LalmMerError, match=said) as caught:
        assemble(run, tmp_path / "out", repo_id="jane/adapter")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_weights_beyond_the_adapter_are_refused(run, tmp_path):
    file = run / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"base_model.model.lm_head.weight": next(iter(tensors.values())).clone()}, file)
    with pytest.raises(AdapterError, match=r"lm_head\.weight"):
        assemble(run, tmp_path / "out", repo_id="jane/adapter")


def test_metrics_that_do_not_follow_from_the_predictions_are_not_shared(run, tmp_path):
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["uar"]["value"] = 0.99
    (run / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(PredictionError, match=r"UAR 0\.99"):
        assemble(run, tmp_path / "out", repo_id="jane/adapter")


@pytest.mark.parametrize("fault", [refuses(500), drops])
def test_a_hub_that_fails_leaves_the_run_as_it_was(run, tmp_path, monkeypatch, fault):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with serve() as server:
        speak_to(server, tmp_path / "cache", monkeypatch)
        server.hub.faults = [("PUT /lfs/", fault)]
        with pytest.raises(AdapterError, match="jane/adapter: cannot be pushed to the Hub, sending the files failed"):
            push_run(run, "jane/adapter")
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
        server.hub.faults = []
        push_run(run, "jane/adapter")
        pushed = server.hub.head("jane/adapter")[1]
    out = assemble(run, tmp_path / "out", repo_id="jane/adapter")
    assert pushed.keys() - {".gitattributes"} == PUSHED
    assert {path.name: path.read_bytes() for path in out.iterdir()}.items() <= pushed.items()


def test_a_link_out_of_the_run_is_not_pushed(run, tmp_path):
    weights = run / "adapter" / "adapter_model.safetensors"
    weights.rename(tmp_path / "elsewhere")
    weights.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AdapterError, match=r"adapter_model\.safetensors is a link that leads out of the folder"):
        assemble(run, tmp_path / "out", repo_id="jane/adapter")


def test_a_folder_with_files_is_not_written_into(finished, tmp_path):
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(ConfigError, match="not an empty folder"):
        assemble(finished, tmp_path, repo_id="jane/adapter")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_base_model_that_is_gone_is_said(run, tmp_path):
    config = json.loads((run / "run.json").read_text())["config"]
    change(run, config=config | {"model": config["model"] | {"id": str(tmp_path / "gone")}})
    with pytest.raises(ModelError, match="processor cannot be loaded"):
        assemble(run, tmp_path / "out", repo_id="jane/adapter")


@pytest.mark.parametrize(
    "repo_id",
    ["adapter", "a/b/c", "../adapter", "jane/..", "jane/a--b", "jane/a b", "jane/x.git", "jane/a`b", "jäne/a"],
)
def test_what_is_no_id_of_the_hub_is_refused(repo_id):
    with pytest.raises(ConfigError, match="--repo"):
        check_repo_id(repo_id, "--repo")


@pytest.mark.parametrize("licence", ["CC BY", "mit\nbase_model: x", ""])
def test_what_is_no_licence_is_refused(finished, tmp_path, licence):
    with pytest.raises(ConfigError, match="--licence"):
        assemble(finished, tmp_path / "out", repo_id="jane/adapter", licence=licence)


def test_an_adapter_is_found_in_its_run_folder(finished):
    assert load_adapter_from(str(finished)) == finished / "adapter"


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_link_that_leaves_the_folder_is_refused(run, tmp_path, name):
    (run / "adapter" / name).rename(tmp_path / name)
    (run / "adapter" / name).symlink_to(tmp_path / name)
    with pytest.raises(AdapterError, match=f"{name} is a link that leads out of the folder"):
        load_adapter_from(str(run))
    with pytest.raises(AdapterError, match=f"{name} is a link that leads out of the folder"):
        assemble(run, tmp_path / "out", repo_id="jane/adapter")


def test_a_download_of_the_hub_is_links_to_its_blobs(run, tmp_path):
    blobs, snapshot = tmp_path / "cache" / "blobs", tmp_path / "cache" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (run / "adapter" / name).rename(blobs / name)
        (snapshot / name).symlink_to(Path("../../blobs") / name)
    assert load_adapter_from(str(snapshot)) == snapshot


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"peft_type": "POLY"}, r"says peft_type 'POLY'; expected LORA, LOHA"),
        ({"auto_mapping": {"parent_library": "evil"}}, r"says auto_mapping 'evil'"),
        ({"layer_replication": [[0, 1]]}, r"says layer_replication \[\[0, 1\]\]; expected None"),
    ],
)
def test_a_config_that_asks_for_more_is_refused_before_anything_is_loaded(run, written, said):
    file = run / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | written))
    with pytest.raises(AdapterError, match=said):
        load_adapter_from(str(run))


def test_a_tower_that_the_config_names_may_be_shared(run, tmp_path):
    tensors = load_file(run / "adapter" / "adapter_model.safetensors")
    copy = {"base_model.model.projector.weight": next(iter(tensors.values())).clone()}
    save_file(tensors | copy, run / "adapter" / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match=r"holds base_model\.model\.projector\.weight"):
        load_adapter_from(str(run))
    file = run / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"modules_to_save": ["projector"]}))
    assert load_adapter_from(str(run)) == run / "adapter"


def test_a_revision_of_a_folder_means_nothing(finished):
    with pytest.raises(AdapterError, match=r"argument 'revision': 'main', but .* is a folder"):
        load_adapter_from(str(finished), "main")


def test_neither_folder_nor_id(tmp_path):
    with pytest.raises(AdapterError, match="no such folder either"):
        load_adapter_from(str(tmp_path / "nothing"))


def now_of(finished, **changed):
    then = json.loads((finished / "run.json").read_text())
    hashes = then["hashes"] | changed.pop("hashes", {})
    now = {"corpus": "fabricated", "fold": 1, "labels": LABELS, "hashes": hashes, "quantization": None}
    return now | {"base_model": then["base_model"]} | changed


def test_the_run_it_was_trained_for_needs_no_note(finished):
    assert require_fit(finished / "adapter", now=now_of(finished)) == []


def test_another_fold_of_the_same_folds_is_a_leak(finished):
    with pytest.raises(SplitLeakError, match="argument 'fold': 2, but the adapter was trained on fold 1 of"):
        require_fit(finished / "adapter", now=now_of(finished, fold=2))


def test_another_base_model_is_refused_and_another_copy_noted(finished):
    with pytest.raises(AdapterError, match="another base model"):
        require_fit(finished / "adapter", now=now_of(finished, hashes={"base_model": "c" * 64}))
    notes = require_fit(finished / "adapter", now=now_of(finished, hashes={"base_model": "Qwen/Qwen2-Audio-7B@0"}))
    assert "another copy or revision" in notes[0]


@pytest.mark.parametrize("beside", [True, False], ids=["run.json", "alone"])
def test_an_adapter_of_another_published_model_is_refused(finished, tmp_path, beside):
    out = assemble(finished, tmp_path / "out", repo_id="jane/adapter", base_model="Qwen/Qwen2-Audio-7B-Instruct")
    if not beside:
        (out / "run.json").unlink()
    hashes = {"base_model": "Qwen/Qwen2-Audio-7B@0"}
    with pytest.raises(AdapterError, match=r"trained on Qwen/Qwen2-Audio-7B-Instruct.*set model\.id=Qwen/Qwen2"):
        require_fit(out, now=now_of(finished, base_model="Qwen/Qwen2-Audio-7B", hashes=hashes))
    require_fit(out, now=now_of(finished, base_model="qwen/qwen2-audio-7b-instruct"))
    require_fit(out, now=now_of(finished, base_model=str(tmp_path)))  # a copy may lie anywhere


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"hashes": {"folds": "e" * 64}}, "may know test utterances"),
        ({"hashes": {"folds": "e" * 64}, "corpus": "other"}, "another corpus"),
        ({"hashes": {"prompt": "e" * 64}}, "another prompt"),
        ({"labels": ["a", "b"]}, "other labels"),
        ({"quantization": "nf4"}, "quantization none, this is nf4"),
    ],
)
def test_other_differences_are_noted(finished, changed, said):
    (note,) = require_fit(finished / "adapter", now=now_of(finished, **changed))
    assert said in note


def test_an_adapter_of_unknown_origin_is_noted(finished, tmp_path):
    shutil.copytree(finished / "adapter", tmp_path / "place" / "adapter")
    (note,) = require_fit(Path(tmp_path / "place" / "adapter"), now=now_of(finished))
    assert "Nothing tells" in note
