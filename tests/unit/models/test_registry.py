import json

import pytest

from lalm_mer.core.errors import ModelError
from lalm_mer.models.families import DUAL_ENCODERS, FAMILIES
from lalm_mer.models.registry import family_of
from lalm_mer.models.tiny import build_tiny


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_family_is_found_by_the_config_of_a_model(family, tiny_folder):
    assert family_of(str(tiny_folder(family))) == family


@pytest.mark.parametrize("family", DUAL_ENCODERS)
def test_a_dual_encoder_is_found_by_its_config(family, tmp_path):
    build_tiny(family, tmp_path, words=["one two"], window_s=1, hidden_size=32, layers=1)
    assert family_of(str(tmp_path)) == family


@pytest.mark.parametrize("family", ["qwen2_5_omni", "qwen3_omni_moe"])
def test_a_published_omni_model_is_found_by_the_type_of_the_complete_model(family, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    assert family_of(str(tmp_path)) == family


@pytest.mark.parametrize("model_type", ["bert", "generic"])
def test_a_model_of_no_family_is_an_error_that_lists_them(model_type, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(
        ModelError, match=f"is of type '{model_type}', which has no family; name one of qwen2_audio, .*clap"
    ):
        family_of(str(tmp_path))


def test_a_model_that_names_no_type_is_an_error(tmp_path):
    with pytest.raises(ModelError, match=r"has no config\.json with a model_type; name one of qwen2_audio, .*clap"):
        family_of(str(tmp_path))
    with pytest.raises(
        ModelError, match=r"model 'no/such/model' cannot be found: .*expected a Hub id or a local folder"
    ):
        family_of("no/such/model")
