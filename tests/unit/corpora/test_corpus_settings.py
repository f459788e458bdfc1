from dataclasses import fields
from pathlib import Path

import pytest

from lalm_mer.core.config import load_config
from lalm_mer.core.errors import ConfigError
from lalm_mer.corpora.settings import READERS, CorpusSettings, PrepareSettings, open_reader

RECIPES = Path(__file__).resolve().parents[3] / "recipes" / "corpora"


def test_every_shipped_yaml_loads_and_opens_with_its_launch_settings():
    paths = sorted(RECIPES.glob("*.yaml"))
    assert {path.stem for path in paths} == set(READERS)
    for path in paths:
        config = load_config(PrepareSettings, path)
        assert config.corpus.name == path.stem
        open_reader(config.corpus)  # its keys belong together; nothing is read before the first row
        head = path.read_text().split("\ncorpus:")[0]
        assert all(word in head for word in ("Needs:", "Launch:", f"recipes/corpora/{path.name}", "One override:"))


def test_every_key_applies_to_a_reader():
    owned = set().union(*(reader.keys for reader in READERS.values()))
    assert owned == {key.name for key in fields(CorpusSettings)} - {"name"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("corpus.variant=spoken", r"key 'corpus\.variant': applies to circumplex, but corpus\.name is ravdess"),
        ("corpus.columns={label: emotion}", r"key 'corpus\.columns': applies to manifest, but"),
        ("corpus.root=", r"key 'corpus\.root': ravdess needs it"),
        (
            "corpus.name=iemocop",
            r"^override .corpus.name=iemocop.: key .corpus.name.: .iemocop.; expected .*; did you mean iemocap\?$",
        ),
        ("corpus.missing_audio=drop", r"key 'corpus\.missing_audio': 'drop'; expected one of reject, keep, null"),
        ("output.processes=0", r"key 'output\.processes': 0; expected 1 or more, or null"),
        ("corpus.rot=x", r"unknown key 'corpus\.rot'"),
    ],
)
def test_a_key_of_another_reader_is_named(override, message):
    with pytest.raises(ConfigError, match=message):
        open_reader(load_config(PrepareSettings, RECIPES / "ravdess.yaml", [override]).corpus)


def test_settings_reach_the_reader(tmp_path):
    overrides = ["corpus.variant=sarcastic", "corpus.noise=0.25", "corpus.seed=4"]
    reading = open_reader(load_config(PrepareSettings, RECIPES / "circumplex.yaml", overrides).corpus)
    assert reading.synthetic
    assert {key: reading.extra[key] for key in ("variant", "noise", "seed")} == {
        "variant": "sarcastic",
        "noise": 0.25,
        "seed": 4,
    }
    assert reading.extra["ceilings"]["additive"] == pytest.approx(0.625)
