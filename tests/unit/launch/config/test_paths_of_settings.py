"""Every setting that is a path is declared as one."""

import re

import pytest

from lalm_mer.core.settings import settings_of
from lalm_mer.corpora.settings import PrepareSettings
from lalm_mer.launch.config import settings

SCHEMAS = [PrepareSettings, *(getattr(settings, name) for name in settings.__all__)]
NAMES = re.compile(r"dir|file|folder|root|id|adapter|bert|protocol|transcripts|also|synonyms|accelerate_config|\w+_dir")


def declarations(schema, section=""):
    for name, declared in settings_of(schema).items():
        if declared.section is None:
            yield f"{section}{name}", name, declared
        else:
            yield from declarations(declared.section, f"{section}{name}.")


@pytest.mark.parametrize("schema", SCHEMAS)
def test_every_path_is_declared(schema):
    found = {key: declared.path for key, name, declared in declarations(schema) if NAMES.fullmatch(name)}
    assert found
    assert [key for key, path in found.items() if not path] == []
    folders = r"\b(folder|file of|Hub id or)\b"
    described = {
        key for key, _, each in declarations(schema) if "str" in str(each.type) and re.search(folders, each.help)
    }
    assert described - {key for key, _, each in declarations(schema) if each.path} == set()
