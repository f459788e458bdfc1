"""A composed model gives what its parts give; other parts are refused."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from closeness import assert_close
from safetensors.torch import load_file, save_file
from tiny_language_model import build_tiny_language_model
from transformers import AutoModel, AutoModelForCausalLM, BertConfig, BertModel, WhisperModel

from lalm_mer.core.audio import Waveform
from lalm_mer.core.errors import ConfigError, ModelError
from lalm_mer.models.compose import Part, compose, compose_clap
from lalm_mer.models.composed_clap import ComposedClap
from lalm_mer.models.encoders.pretrained_audio import PretrainedAudio
from lalm_mer.models.families import family_class
from lalm_mer.models.families.parts.tiny_shape import TinyShape, encoder_bpe
from lalm_mer.models.registry import family_of


@pytest.fixture
def chat_model(tmp_path):
    """A maker of folders of tiny random language models with a chat template."""

    def make(kind="llama", **options):
        build_tiny_language_model(tmp_path / kind, kind, **options)
        return str(tmp_path / kind)

    return make


def opened(folder):
    family = family_class("composed").load(folder, dtype="float32", attn_implementation="eager")
    family.model.eval()
    return family


def assert_gives_what_its_parts_give(folder, whisper, language_model, tower_layers=None, language_layers=None):
    """Tower output and logits are those of the parts, by transformers alone."""
    family = opened(folder)
    samples = np.random.default_rng(0).normal(scale=0.1, size=16_000).astype(np.float32)
    mel = family.processor.feature_extractor(samples, sampling_rate=16_000, return_tensors="pt")["input_features"]
    encoder = WhisperModel.from_pretrained(whisper, attn_implementation="eager").encoder.eval()
    theirs = AutoModelForCausalLM.from_pretrained(language_model, attn_implementation="eager").eval()
    ids = torch.tensor([family.word_ids("what was said")])
    with torch.no_grad():
        states = encoder(mel, output_hidden_states=True).hidden_states
        last = states[-1 if tower_layers is None else tower_layers]
        pooled = torch.nn.functional.avg_pool1d(last.transpose(1, 2), 2).transpose(1, 2)
        if tower_layers is None:  # of a complete encoder, the last states are normalised already
            before = []
            encoder.layer_norm.register_forward_pre_hook(lambda _, given: before.append(given[0]))
            encoder(mel)
            pooled = torch.nn.functional.avg_pool1d(before[0].transpose(1, 2), 2).transpose(1, 2)
        tower = family.submodule("audio_tower")
        assert_close(tower(mel).last_hidden_state, encoder.layer_norm(pooled), 1e-5)
        if language_layers is None:
            ours = family.model(input_ids=ids).logits[..., : theirs.config.vocab_size]
            assert_close(ours, theirs(input_ids=ids).logits, 1e-5)
    return family


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_composed_model_gives_what_its_parts_give(kind, chat_model, tiny_whisper_folder, tmp_path):
    language_model = chat_model(kind)
    compose(Part(str(tiny_whisper_folder)), Part(language_model), tmp_path / "out")
    family = assert_gives_what_its_parts_give(tmp_path / "out", tiny_whisper_folder, language_model)
    assert family.stop_token == "<end>"
    assert family_of(str(tmp_path / "out")) == "composed"
    assert str(tmp_path) not in (tmp_path / "out" / "config.json").read_text("utf-8")
    assert family.fsdp_layers[1] == {"llama": "LlamaDecoderLayer", "gpt2": "GPT2Block"}[kind]
    output, embeddings = family.model.lm_head.weight, family.submodule("language_model").get_input_embeddings().weight
    assert output.data_ptr() != embeddings.data_ptr()
    assert_close(output, embeddings, 0)  # tied in the language model
    assert_close(embeddings[-1], embeddings[:-3].mean(dim=0), 1e-6)
    assert len(embeddings) == len(family.tokenizer)


def test_first_layers_are_kept_and_named_in_the_config_and_the_card(chat_model, tiny_whisper_folder, tmp_path):
    language_model = chat_model()
    layers = WhisperModel.from_pretrained(tiny_whisper_folder).config.encoder_layers
    tower = Part(str(tiny_whisper_folder), layers=layers - 1)
    compose(tower, Part(language_model, layers=1), tmp_path / "out", seed=3)
    family = assert_gives_what_its_parts_give(
        tmp_path / "out", tiny_whisper_folder, language_model, tower_layers=layers - 1, language_layers=1
    )
    assert len(family.submodule("language_model").layers) == family.model.config.text_config.num_hidden_layers == 1
    origin = json.loads((tmp_path / "out" / "config.json").read_text())["composed_of"]
    assert origin["audio_tower"]["layers"] == layers - 1
    assert f"| audio tower | {tiny_whisper_folder.name} | the first {layers - 1} | not stated" in (
        tmp_path / "out" / "README.md"
    ).read_text("utf-8")


def test_a_licence_in_a_card_is_shown_if_it_is_a_name(chat_model, tiny_whisper_folder, tmp_path):
    language_model = chat_model()
    card = tmp_path / "llama" / "README.md"
    for number, (licence, shown) in enumerate(
        (("apache-2.0", "apache-2.0"), ("'a | b'", "not stated"), ("[", "not stated"))
    ):
        card.write_text(f"---\nlicense: {licence}\n---\n# m\n")
        out = tmp_path / f"out{number}"
        compose(Part(str(tiny_whisper_folder)), Part(language_model), out)
        assert f"| language model | llama | all | {shown}" in (out / "README.md").read_text("utf-8")


@pytest.fixture
def recipe():
    """The ``main`` of recipes/compose_model.py."""
    file = Path(__file__).resolve().parents[3] / "recipes" / "compose_model.py"
    specification = importlib.util.spec_from_file_location("compose_model", file)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.main


@pytest.fixture
def sentence_model(tmp_path):
    """Folder of a tiny random BERT with its pooling layer, and a tokenizer."""
    folder = tmp_path / "bert"
    tokenizer = encoder_bpe(TinyShape(("The speaker sounds happy.",), 1, vocabulary=300))
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(tokenizer), pad_token_id=1, **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def assert_encodes_as_its_parts(folder, whisper, text_encoder, tower_layers=None):
    """States of the audio tower and means of the text encoder are those of the parts, by transformers alone."""
    clap = ComposedClap.load(folder)
    model = clap.model.eval()
    samples = np.random.default_rng(0).normal(scale=0.1, size=16_000).astype(np.float32)
    mel = clap.processor.feature_extractor(samples, sampling_rate=16_000, return_tensors="pt")["input_features"]
    encoder = WhisperModel.from_pretrained(whisper).encoder.eval()
    words = clap.tokenizer(["The speaker sounds happy.", "happy"], padding=True, return_tensors="pt")
    states = AutoModel.from_pretrained(text_encoder).eval()
    pooled = []
    model.text_projection.register_forward_pre_hook(lambda _, given: pooled.append(given[0]))
    with torch.no_grad():
        theirs = encoder(mel, output_hidden_states=True)
        last = theirs.last_hidden_state
        if tower_layers is not None:
            last = encoder.layer_norm(theirs.hidden_states[tower_layers])
        window = model.get_audio_features(mel, torch.tensor([mel.shape[-1]]))
        assert_close(window.last_hidden_state, last, 1e-5)
        expected = states(**words).last_hidden_state
        model.get_text_features(words["input_ids"], words["attention_mask"])
        count = int(words["attention_mask"][1].sum())
        assert count < words["input_ids"].shape[1]
        assert_close(pooled[0], torch.stack([expected[0].mean(dim=0), expected[1, :count].mean(dim=0)]), 1e-5)
        if tower_layers is None:
            frames = PretrainedAudio(str(whisper), trim_db=None)._compute(samples)  # at its own length
            own = model.get_audio_features(**clap.audio_inputs([Waveform(samples, 16_000)])).last_hidden_state[0]
            assert_close(own[: len(frames)], frames, 1e-5)
            assert len(frames) == 50
    return clap


@pytest.mark.parametrize("layers", [None, 1])
def test_a_composed_dual_encoder_gives_what_its_parts_give(sentence_model, tiny_whisper_folder, layers, tmp_path):
    count = compose_clap(Part(str(tiny_whisper_folder), layers=layers), Part(sentence_model), tmp_path / "out")
    clap = assert_encodes_as_its_parts(tmp_path / "out", tiny_whisper_folder, sentence_model, layers)
    assert count == sum(each.numel() for each in clap.model.parameters())
    assert len(clap.submodule("audio_tower").layers) == (layers or 2)
    assert family_of(str(tmp_path / "out")) == "composed_clap"
    assert not clap.randomly_initialised
    config, card = ((tmp_path / "out" / name).read_text("utf-8") for name in ("config.json", "README.md"))
    assert json.loads(config)["composed_of"]["text_encoder"]["model"] == "bert"
    assert str(tmp_path) not in config
    assert "| text encoder | bert | all | not stated" in card
    assert "| audio tower | tiny_whisper" in card


def test_the_seed_decides_the_projections_alone(sentence_model, tiny_whisper_folder, tmp_path):
    weights = {}
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        state = torch.get_rng_state()
        compose_clap(Part(str(tiny_whisper_folder)), Part(sentence_model), tmp_path / name, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        weights[name] = load_file(tmp_path / name / "model.safetensors")
    differ = {key for key, value in weights["first"].items() if not torch.equal(value, weights["other"][key])}
    assert differ == {f"{side}_projection.linear{number}.weight" for side in ("audio", "text") for number in (1, 2)}
    assert all(torch.equal(value, weights["again"][key]) for key, value in weights["first"].items())


def test_the_recipe_takes_one_second_part_and_its_own_options(
    recipe, chat_model, sentence_model, tiny_whisper_folder, tmp_path, capsys
):
    tower = ["--tower", str(tiny_whisper_folder), "--out", str(tmp_path / "out")]
    language, text = ["--language-model", chat_model()], ["--text-encoder", sentence_model]
    for parts, says in (
        ([], "one of the arguments --language-model --text-encoder is required"),
        ([*language, *text], "--text-encoder: not allowed with argument --language-model"),
    ):
        with pytest.raises(SystemExit):
            recipe([*tower, *parts])
        assert says in capsys.readouterr().err
    for parts, says in (
        (
            [*text, "--language-layers", "1"],
            "argument '--language-layers': 1; only with --language-model; leave it out",
        ),
        (
            [*language, "--text-revision", "v2"],
            "argument '--text-revision': v2; only with --text-encoder; leave it out",
        ),
        ([*text, "--text-layers", "4"], "argument 'text_layers': 4; BertEncoder has 3 layers"),
        (["--text-encoder", chat_model()], "is of type 'llama'; expected a BERT as the text encoder"),
    ):
        assert recipe([*tower, *parts]) == 1
        assert says in capsys.readouterr().err.splitlines()[-1]
    assert recipe([*tower, *text, "--text-layers", "2", "--dtype", "bfloat16"]) == 0
    assert f"model.family=composed_clap model.id={tmp_path / 'out'}" in capsys.readouterr().out
    clap = ComposedClap.load(tmp_path / "out", dtype="bfloat16")
    assert len(clap.submodule("text_tower").encoder.layer) == clap.model.config.text_config.num_hidden_layers == 2


def test_the_recipe_says_how_to_use_the_model_or_what_is_wrong(
    recipe, chat_model, tiny_whisper_folder, tmp_path, capsys
):
    parts = ["--tower", str(tiny_whisper_folder), "--language-model", chat_model()]
    out = ["--out", str(tmp_path / "out")]
    assert recipe([*parts, *out, "--language-layers", "9"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == "error: argument 'language_layers': 9; LlamaModel has 3 layers"
    assert recipe([*parts, *out, "--language-layers", "2", "--dtype", "bfloat16"]) == 0
    assert f"model.family=composed model.id={tmp_path / 'out'}" in capsys.readouterr().out
    assert len(opened(tmp_path / "out").submodule("language_model").layers) == 2
    assert recipe([*parts, *out]) == 1
    assert "is not an empty folder; choose a new one" in capsys.readouterr().err


def test_the_seed_decides_the_projector_alone(chat_model, tiny_whisper_folder, tmp_path):
    language_model = chat_model()
    weights = {}
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        compose(Part(str(tiny_whisper_folder)), Part(language_model), tmp_path / name, seed=seed)
        weights[name] = load_file(tmp_path / name / "model.safetensors")
    differ = [key for key, value in weights["first"].items() if not torch.equal(value, weights["other"][key])]
    assert differ == ["multi_modal_projector.linear.weight"]
    assert all(torch.equal(value, weights["again"][key]) for key, value in weights["first"].items())


def test_an_audio_slot_is_in_the_language_models_own_turns(chat_model, tiny_whisper_folder, tmp_path):
    compose(Part(str(tiny_whisper_folder)), Part(chat_model()), tmp_path / "out")
    family = opened(tmp_path / "out")
    waveform = Waveform(np.zeros(16_000, np.float32), 16_000)
    messages = [{"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "what"}]}]
    rendered = family.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert rendered == "<turn>user: <|audio_bos|><|AUDIO|><|audio_eos|>what<end>"
    made = family.processor(text=[rendered], audio=[waveform.samples], sampling_rate=16_000, return_tensors="pt")
    count = int((made["input_ids"] == family.audio_token_id).sum())
    assert count == family.audio_token_count(16_000) == 25


def cut(folder):
    weights = load_file(f"{folder}/model.safetensors")
    del weights[next(name for name in weights if "mlp" in name)]
    save_file(weights, f"{folder}/model.safetensors", metadata={"format": "pt"})


def test_parts_that_cannot_be_composed_are_named(chat_model, tiny_whisper_folder, tmp_path):
    whisper, out = Part(str(tiny_whisper_folder)), tmp_path / "out"
    language_model = chat_model()
    for tower, model, says in (
        (Part(language_model), Part(language_model), "is of type 'llama'; expected a Whisper"),
        (whisper, Part(str(tmp_path / "gone")), "gone' cannot be "),
        (whisper, Part(chat_model("gpt2", template=None)), "no chat template"),
        (whisper, Part(chat_model("gemma2")), "Gemma2ForCausalLM: its logits are more than an output layer"),
        (Part(whisper.model, layers=0), Part(language_model), "argument 'tower_layers': 0; WhisperEncoder has "),
        (whisper, Part(language_model, layers=4), "argument 'language_layers': 4; LlamaModel has 3 layers"),
    ):
        with pytest.raises(ModelError, match=says):
            compose(tower, model, out)
    cut(language_model)
    with pytest.raises(ModelError, match=r"has no weights for 1 tensors of LlamaForCausalLM, such as .*mlp"):
        compose(whisper, Part(language_model), out)
    assert not out.exists()
    out.mkdir()
    (out / "thesis.docx").touch()
    with pytest.raises(ConfigError, match="is not an empty folder"):
        compose(whisper, Part(language_model), out)


def test_a_model_whose_template_ends_turns_with_words_is_refused(chat_model, tiny_whisper_folder, tmp_path):
    template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + ' over ' }}{% endfor %}"
    compose(Part(str(tiny_whisper_folder)), Part(chat_model(template=template)), tmp_path / "out")
    with pytest.raises(ModelError, match="composed: its chat template ends the assistant's turn with"):
        opened(tmp_path / "out")


@pytest.mark.parametrize(
    ("tower", "layers"), [("whisper-tiny.en", None), ("whisper-tiny.en", 3), ("whisper-base", None)]
)
def test_real_parts_give_what_they_gave(real_weights, tower, layers, tmp_path):
    whisper, language_model = real_weights(tower), real_weights("smollm2-135m-instruct")
    compose(Part(str(whisper), layers=layers), Part(str(language_model)), tmp_path / "out")
    family = assert_gives_what_its_parts_give(tmp_path / "out", whisper, language_model, tower_layers=layers)
    assert family.stop_token == "<|im_end|>"


@pytest.mark.parametrize("layers", [None, 3])
def test_real_parts_of_a_dual_encoder_give_what_they_gave(real_weights, layers, tmp_path):
    whisper, text_encoder = real_weights("whisper-tiny.en"), real_weights("all-minilm-l6-v2")
    compose_clap(Part(str(whisper), layers=layers), Part(str(text_encoder)), tmp_path / "out")
    assert_encodes_as_its_parts(tmp_path / "out", whisper, text_encoder, layers)
