"""A baseline in the folder that is pushed, on a Hub in this process, and back; nothing private leaves."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from fabricated import LABELS
from hub_server import serve, speak_to
from planting import MARK, Secrets, leaks, planted
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from shared_baseline import SECRETS, log_probs, rewrite, spoil_weights, write_baseline_run
from shared_run import assert_refused
from transformers import BertConfig, BertModel

from lalm_mer import open_recognizer
from lalm_mer.core.errors import AdapterError, ConfigError
from lalm_mer.core.run_record import RunRecord, read_record
from lalm_mer.core.settings import settings_of
from lalm_mer.core.strict_json import parse
from lalm_mer.models.encoders.settings import EmbeddingsSettings, ScratchSettings, TextEncoderSettings
from lalm_mer.recognizers.baselines.learnt_text import train_tokenizer
from lalm_mer.recognizers.baselines.saved import SavedNetwork, read_saved
from lalm_mer.recognizers.baselines.settings import NetworkSettings
from lalm_mer.sharing.hub import load_adapter_from, load_from, push, push_run
from lalm_mer.sharing.hub_folder import assemble
from lalm_mer.sharing.public_record import NETWORK_SETTINGS

RECORD = {"run.json", "metrics.json", "README.md"}
WEIGHTS = {"network.json", "model.safetensors"}
TOKENIZER = {"tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub in this process."""
    with serve() as server:
        speak_to(server, tmp_path / "cache", monkeypatch)
        yield server.hub


def names_in(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def keys_of(schema, section=""):
    """Every setting of a dataclass as section.key, without paths that are never shared."""
    for name, declared in settings_of(schema).items():
        if declared.section is not None:
            yield from keys_of(declared.section, f"{section}{name}.")
        elif declared.path != "new":
            yield f"{section}{name}"


def test_every_setting_of_a_network_is_shared_or_left_out_by_name():
    left_out = {"audio.frozen", "transcript.frozen"}  # with start_from
    assert set(NETWORK_SETTINGS) == set(keys_of(NetworkSettings)) - left_out


def test_the_folder_contains_the_shared_files_and_nothing_private(finished_baseline, assembled):
    assert names_in(assembled) == RECORD | WEIGHTS | TOKENIZER
    for name in names_in(assembled):
        content = (assembled / name).read_bytes()
        for secret in (str(finished_baseline.parent), *SECRETS):
            of_vocabulary = name == "tokenizer/tokenizer.json" and secret in ("dreadful", "lovely")
            assert of_vocabulary or secret.encode() not in content, (name, secret)
    with safe_open(assembled / "model.safetensors", framework="pt") as weights:
        assert weights.metadata() == {"format": "pt"}
    own, pushed = (load_file(folder / "model.safetensors") for folder in (finished_baseline / "model", assembled))
    assert own.keys() == pushed.keys()
    assert all(torch.equal(own[name], pushed[name]) for name in own)


def test_record_and_card_are_those_of_a_baseline(assembled):
    record = read_record(assembled / "run.json")
    assert (record.method, record.base_model, record.recognizer) == ("baseline", None, "fusion (log_mel, scratch)")
    assert record.config["baseline"]["audio"]["encoder"]["bands"] == 8
    assert record.config["train"]["learning_rate"] > 0
    assert not {"data.dir", "output", "model"} & record.config.keys()
    assert "start_audio" not in record.hashes
    card = (assembled / "README.md").read_text()
    header, body = card.split("---\n")[1:3]
    for line in ("library_name: lalm-mer", "pipeline_tag: audio-classification", "- baseline\n", "- transcript\n"):
        assert line in header
    assert "base_model" not in header
    assert "model-index" in header
    assert "adapter" not in body.lower()
    assert "base model" not in body.lower()
    assert "| audio | log-mel bands | conv1d |" in body
    assert "| baseline.audio.encoder.bands | 8 |" in body
    assert "whisper" not in body  # a default that is not used
    assert f"{len(LABELS)} labels: {', '.join(LABELS)}." in " ".join(body.split())
    assert 'lalm-mer predict recording.wav --run jane/baseline --transcript "its words"' in body
    assert "This baseline: not stated" in body
    assert "It has no pretrained part" in body


def test_it_opens_from_the_folder_and_from_the_hub_with_the_same_probabilities(finished_baseline, assembled, hub):
    expected = log_probs(open_recognizer(finished_baseline, device="cpu"))
    assert torch.equal(log_probs(open_recognizer(assembled, device="cpu")), expected)
    push_run(finished_baseline, "jane/baseline", push_vocabulary=True)
    files = hub.head("jane/baseline")[1]
    assert files.keys() - {".gitattributes"} == names_in(assembled)
    evil = {"evil.py": b"x", "tokenizer/evil.py": b"x", "tokenizer/more.json": b"{}", "model.bin": b"pickle"}
    hub.commit("jane/baseline", files | evil)
    folder = load_from("jane/baseline")
    assert names_in(folder) == names_in(assembled)
    assert torch.equal(log_probs(open_recognizer("jane/baseline", device="cpu")), expected)
    with pytest.raises(AdapterError, match=r"jane/baseline: no adapter_config\.json; expected an adapter"):
        load_adapter_from("jane/baseline")
    with pytest.raises(ConfigError, match="jane/baseline is a baseline and has none"):
        open_recognizer("jane/baseline", base_model="jane/base")


@pytest.mark.parametrize(
    ("text", "files"),
    [
        (TextEncoderSettings(kind="embeddings", embeddings=EmbeddingsSettings(unit="character", size=8)), TOKENIZER),
        (TextEncoderSettings(kind="tfidf"), {"encoder/tfidf.json", "encoder/tfidf.safetensors"}),
        (TextEncoderSettings(kind="static"), {"encoder/words.json", "encoder/words.safetensors"}),
    ],
    ids=["characters", "tfidf", "static"],
)
def test_every_vocabulary_is_pushed_only_if_wanted(tmp_path, text, files):
    if text.kind == "static":
        (tmp_path / "home_of_jane.txt").write_text("it 1 0 0.5\nlovely 0 1 0\ndreadful 0 0 1\nother 1 1 1\n")
        text = replace(text, file=str(tmp_path / "home_of_jane.txt"))
    run = write_baseline_run(tmp_path / "run", text, modalities="transcript")
    with pytest.raises(AdapterError, match=r"learnt from transcripts, .*; set --push-vocabulary") as caught:
        assemble(run, tmp_path / "out", repo_id="jane/baseline")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    out = assemble(run, tmp_path / "out", repo_id="jane/baseline", push_vocabulary=True)
    assert names_in(out) == RECORD | WEIGHTS | files
    assert not [name for name in names_in(out) if b"home_of_jane" in (out / name).read_bytes()]
    assert torch.equal(log_probs(open_recognizer(out)), log_probs(open_recognizer(run)))
    assert "pipeline_tag: text-classification" in (out / "README.md").read_text()


def test_audio_alone_has_no_vocabulary_and_no_unused_path(tmp_path):
    text = TextEncoderSettings(model=str(tmp_path / "home_of_jane"), file=str(tmp_path / "home_of_jane.txt"))
    run = write_baseline_run(tmp_path / "run", text, modalities="audio")
    out = assemble(run, tmp_path / "out", repo_id="jane/baseline")
    assert names_in(out) == RECORD | WEIGHTS
    assert not [name for name in names_in(out) if b"home_of_jane" in (out / name).read_bytes()]
    assert torch.equal(log_probs(open_recognizer(out)), log_probs(open_recognizer(run)))


@pytest.fixture(scope="session")
def bert_files(tmp_path_factory):
    """Folder of a random BERT, as a repository holds it."""
    folder = tmp_path_factory.mktemp("home_of_jane_bert")
    tokenizer = train_tokenizer(["it was lovely", "it was very dreadful"], ScratchSettings())
    tokenizer.save(folder)
    config = BertConfig(
        vocab_size=len(tokenizer.tokenizer), hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8, max_position_embeddings=40,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("choice", "named"), [({}, "bert"), ({"layers": "all", "pooled": True}, "bert all layers pooled")]
)
def test_a_copy_of_a_published_encoder_is_shared_as_its_id(choice, named, bert_files, tmp_path, hub):
    run = write_baseline_run(tmp_path / "run", TextEncoderSettings(model=str(bert_files), **choice))
    with pytest.raises(
        AdapterError, match=r"the encoder of transcript, .* in a local folder, .*--base-model USER/NAME"
    ):
        assemble(run, tmp_path / "out", repo_id="jane/baseline")
    out = assemble(run, tmp_path / "out", repo_id="jane/baseline", base_model="jane/bert")
    assert names_in(out) == RECORD | WEIGHTS
    assert not [name for name in names_in(out) if b"home_of_jane" in (out / name).read_bytes()]
    record = read_record(out / "run.json")
    assert (record.base_model, record.recognizer) == ("jane/bert", f"fusion (log_mel, {named})")
    card = (out / "README.md").read_text()
    assert "base_model:\n- jane/bert\n" in card
    assert "base_model_relation" not in card
    assert "frozen hidden states of jane/bert" in card
    assert "whether the training data of jane/bert contain fabricated" in card
    hub.commit("jane/bert", {path.name: path.read_bytes() for path in bert_files.iterdir()})
    assert torch.equal(log_probs(open_recognizer(out)), log_probs(open_recognizer(run)))


@pytest.fixture
def trained_bert(bert_files, tmp_path):
    """Run folder of a baseline whose BERT was trained, from a folder that is gone."""
    bert = shutil.copytree(bert_files, tmp_path / "home_of_jane_bert")
    text = TextEncoderSettings(kind="finetuned", model=str(bert), layers="all", learning_rate=3e-5)
    run = write_baseline_run(tmp_path / "run", text)
    shutil.rmtree(bert)
    return run


def test_an_encoder_that_was_trained_is_pushed_with_its_tokenizer_and_needs_no_other_repository(
    trained_bert, tmp_path, hub
):
    with pytest.raises(AdapterError, match=r"the encoder of transcript, .*--base-model USER/NAME"):
        assemble(trained_bert, tmp_path / "out", repo_id="jane/baseline")
    out = assemble(trained_bert, tmp_path / "out", repo_id="jane/baseline", base_model="jane/bert")
    assert names_in(out) == RECORD | WEIGHTS | TOKENIZER | {"tokenizer/config.json"}
    assert not [name for name in names_in(out) if b"home_of_jane" in (out / name).read_bytes()]
    record = read_record(out / "run.json")
    assert (record.base_model, record.recognizer) == ("jane/bert", "fusion (log_mel, bert all layers fine-tuned)")
    assert record.config["baseline"]["transcript"]["encoder"]["learning_rate"] == 3e-5
    card = (out / "README.md").read_text()
    assert "base_model:\n- jane/bert\n" in card
    assert "hidden states of jane/bert, which was trained too" in card
    assert "whether the training data of jane/bert contain fabricated" in card
    expected = log_probs(open_recognizer(trained_bert))
    assert torch.equal(log_probs(open_recognizer(out)), expected)
    push_run(trained_bert, "jane/baseline", base_model="jane/bert")
    assert torch.equal(log_probs(open_recognizer("jane/baseline", device="cpu")), expected)
    assert "jane/bert" not in hub.repos


def test_a_vocabulary_of_random_weights_is_not_pushed_with_an_encoder_that_was_trained(bert_files, tmp_path):
    bert = shutil.copytree(bert_files, tmp_path / "bert")
    run = write_baseline_run(tmp_path / "run", TextEncoderSettings(kind="finetuned", model=str(bert)))
    rewrite(bert / "config.json", randomly_initialised=True)
    with pytest.raises(AdapterError, match="its vocabulary was learnt from transcripts by build_tiny_model"):
        assemble(run, tmp_path / "out", repo_id="jane/baseline", base_model="jane/bert")


@pytest.mark.parametrize(
    "planted", [{"note": "of jane"}, {"hidden act": 1}, {"rope_parameters": {"type": "/home/jane"}}, {"x": ["/home"]}]
)
def test_text_in_the_config_of_an_encoder_that_was_trained_is_not_pushed(planted, trained_bert, tmp_path):
    rewrite(trained_bert / "model" / "tokenizer" / "config.json", **planted)
    with pytest.raises(AdapterError, match=r"config\.json of its encoder: key .* could be private and is not pushed"):
        assemble(trained_bert, tmp_path / "out", repo_id="jane/baseline", base_model="jane/bert")


def test_other_content_of_its_files_is_left_out(trained_bert, tmp_path):
    folder = trained_bert / "model" / "tokenizer"
    rewrite(
        folder / "config.json", _name_or_path="/home/jane", id2label={"0": "jane"}, auto_map={"AutoModel": "jane.J"}
    )
    rewrite(folder / "tokenizer_config.json", name_or_path="/home/jane", chat_template="jane")
    out = assemble(trained_bert, tmp_path / "out", repo_id="j/baseline", base_model="org/bert")
    assert not [name for name in names_in(out) if b"jane" in (out / name).read_bytes()]


def test_an_id_of_an_encoder_on_the_hub_is_shared_and_another_one_is_not_named(baseline, tmp_path):
    file = baseline / "model" / "network.json"
    settings = json.loads(file.read_text())["settings"]
    settings["audio"]["encoder"] |= {"kind": "pretrained", "model": "jane/wav2vec", "revision": "v1"}
    rewrite(file, settings=settings)
    out = assemble(baseline, tmp_path / "out", repo_id="jane/baseline", push_vocabulary=True)
    encoder = json.loads((out / "network.json").read_text())["settings"]["audio"]["encoder"]
    assert (encoder["model"], encoder["revision"]) == ("jane/wav2vec", "v1")
    with pytest.raises(AdapterError, match=r"--base-model a/b: .* has no encoder in a local folder; omit it"):
        assemble(baseline, tmp_path / "b", repo_id="jane/baseline", push_vocabulary=True, base_model="a/b")


def test_two_encoders_in_folders_are_refused(baseline, tmp_path):
    file = baseline / "model" / "network.json"
    settings = json.loads(file.read_text())["settings"]
    for branch in ("audio", "transcript"):
        settings[branch]["encoder"] |= {"kind": "pretrained", "model": "/home/jane/model"}
    rewrite(file, settings=settings)
    with pytest.raises(AdapterError, match="encoders of audio and transcript are in local folders"):
        assemble(baseline, tmp_path / "out", repo_id="jane/baseline", push_vocabulary=True, base_model="a/b")


def change_network(run, **values):
    rewrite(run / "model" / "network.json", **values)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: rewrite(run / "run.json", transcript_source="simulated"), "simulated"),
        (lambda run: rewrite(run / "run.json", modalities="audio", transcript_source=None), "but run.json has audio"),
        (lambda run: rewrite(run / "run.json", task="another"), "restore the protocol"),
        (lambda run: (run / "metrics.json").unlink(), "not finished"),
        (lambda run: change_network(run, labels=["a", "b"]), "expected those of run.json"),
        (lambda run: change_network(run, more=1), "unknown key 'more'"),
        (lambda run: (run / "model" / "model.safetensors").write_bytes(b"\x80\x04K\x01."), "is not safetensors"),
        (lambda run: (run / "model" / "tokenizer" / "tokenizer.json").unlink(), "cannot read a tokenizer"),
        (lambda run: spoil_weights(run / "model", float("nan")), "values that are not finite"),
    ],
)  # fmt: skip
def test_a_run_that_may_not_be_shared_is_refused_in_one_line(baseline, tmp_path, spoil, message):
    spoil(baseline)
    assert_refused(baseline, tmp_path / "out", message, "jane/baseline")


@pytest.mark.parametrize("name", ["evil/../x", "branches.audio.a b", "more.weight"])
def test_tensors_of_another_name_are_not_pushed(baseline, tmp_path, name):
    file = baseline / "model" / "model.safetensors"
    save_file(load_file(file) | {name: torch.zeros(1)}, file)
    with pytest.raises(AdapterError, match=r"has a tensor"):
        assemble(baseline, tmp_path / "out", repo_id="jane/baseline", push_vocabulary=True)


def test_a_baseline_normalised_by_speaker_is_refused(tmp_path):
    run = write_baseline_run(tmp_path / "run", modalities="audio", normalisation="speaker")
    with pytest.raises(AdapterError, match=r"features of audio are normalised by statistics of each speaker"):
        assemble(run, tmp_path / "out", repo_id="jane/baseline")


def test_no_secret_of_a_baseline_is_in_the_pushed_folder(baseline, tmp_path):
    """A secret in each text of run.json and network.json, and in the files of the tokenizer, besides the vocabulary."""
    secrets, model = Secrets(), baseline / "model"
    kept = ("corpus", "protocol", "task", "labels*", "primary_metric", "config.split.protocol", "disjoint_in*",
            "shared_in*", "git.commit", "started_at", "hashes.*", "versions.*", "notes.*.facts*", "method",
            "config.data.transcript_source", "config.data.without_audio", "config.loss.*", "config.balance.*",
            "config.augment.*", "config.train.*")  # fmt: skip
    record, places = planted(
        read_record(baseline / "run.json").to_json(), kept, lambda each: RunRecord.from_json(each, "r"), secrets
    )
    (baseline / "run.json").write_text(json.dumps(record))
    network, more = planted(
        json.loads((model / "network.json").read_text()), ("labels*", "kind"),
        lambda each: parse(SavedNetwork, each, "n"), secrets,
    )  # fmt: skip
    assert places > 20
    assert more > 5
    for key in ("version", "name"):  # of the encoder in training
        network["encoders"]["audio"][key] = secrets()
    (model / "network.json").write_text(json.dumps(network))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        rewrite(model / "tokenizer" / name, name_or_path=secrets(), chat_template=secrets())
    for folder in (model, model / "tokenizer", baseline):
        (folder / f"{MARK}.json").write_text(json.dumps(secrets()))
    out = assemble(baseline, tmp_path / "out", repo_id="jane/baseline", push_vocabulary=True)
    assert leaks(out) == {}


def test_neither_kind_overwrites_the_other_or_something_else(assembled, tmp_path, hub):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "README.md").write_text("---\nlicense: unknown\n---\n")
    push(adapter, "jane/adapter")
    push(assembled, "jane/baseline")
    with pytest.raises(AdapterError, match=r"jane/adapter: contains adapter_config\.json of an adapter"):
        push(assembled, "jane/adapter")
    with pytest.raises(AdapterError, match=r"jane/baseline: contains network\.json of a baseline"):
        push(adapter, "jane/baseline")
    hub.commit("jane/other", {"network.json": b"{}", "years.safetensors": b"work"})
    with pytest.raises(AdapterError, match=r"jane/other: contains network\.json and no run\.json"):
        push(assembled, "jane/other")
    assert [len(hub.repos[name]) for name in ("jane/adapter", "jane/baseline", "jane/other")] == [2, 2, 1]


def test_what_an_earlier_push_left_is_removed_and_nothing_else(assembled, hub):
    earlier = {"network.json": b"{}", "run.json": b"{}", "encoder/tfidf.json": b"{}", "notes/mine.json": b"{}"}
    hub.commit("jane/baseline", earlier | {"vocab.json": b"{}"})
    push(assembled, "jane/baseline")
    assert set(hub.head("jane/baseline")[1]) == names_in(assembled) | {"notes/mine.json", "vocab.json"}


@pytest.mark.parametrize("name", ["network.json", "model.safetensors", "tokenizer/tokenizer.json"])
def test_links_out_of_the_folder_are_refused(shared, baseline, tmp_path, name):
    for folder, act in (
        (shared, lambda: open_recognizer(shared)),
        (baseline / "model", lambda: assemble(baseline, tmp_path / "o", repo_id="j/b", push_vocabulary=True)),
    ):
        elsewhere = tmp_path / f"elsewhere_{folder.name}"
        shutil.move(folder / name, elsewhere)
        (folder / name).symlink_to(elsewhere)
        with pytest.raises(AdapterError, match=f"{name} is a link that leads out of the folder"):
            act()


def test_settings_of_encoders_that_are_texts_are_shared_as_hashes(baseline, tmp_path):
    known = json.loads((baseline / "model" / "network.json").read_text())["encoders"]
    known["audio"] |= {"extractor": '{"name_or_path": "/home/jane"}', "columns": ["F0", "/home/jane"]}
    change_network(baseline, encoders=known)
    out = assemble(baseline, tmp_path / "out", repo_id="jane/baseline", push_vocabulary=True)
    shared = read_saved(out).encoders["audio"]
    assert (shared["name"], shared["bands"]) == ("log_mel", 8)
    assert set(shared["extractor"]) == set(shared["columns"]) == {"sha256"}
    assert "/home/jane" not in (out / "network.json").read_text()
