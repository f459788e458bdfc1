from pathlib import Path

import lalm_mer.models.families
from lalm_mer.models.families import FAMILIES
from lalm_mer.models.families.parts.templates import load_template

FOLDER = Path(lalm_mer.models.families.__file__).parent / "templates"


def test_every_template_is_a_familys_or_shared():
    assert {path.stem for path in FOLDER.iterdir()} == (FAMILIES.keys() - {"voxtral", "composed"}) | {
        "joined_parts",
        "default_system",
    }


def test_only_line_breaks_and_indentation_are_removed():
    text = (FOLDER / "qwen2_audio.jinja").read_text("utf-8")
    loaded = load_template("qwen2_audio")
    assert "\n" not in loaded
    assert loaded.startswith("{% set audio = namespace(count=0) %}{% for message in messages %}{{ '<|im_start|>' +")
    assert loaded.replace(" ", "") == "".join(text.split())
