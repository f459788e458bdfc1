"""Harmful prompt files: each is read or refused in one line, at once, in little memory."""

import random
import resource
import time
from pathlib import Path

import pytest
import yaml

from lalm_mer.core.errors import ConfigError
from lalm_mer.core.labels import LabelSet
from lalm_mer.core.schema import Input
from lalm_mer.prompting.ensembles import load_ensemble
from lalm_mer.prompting.parsing import load_synonyms
from lalm_mer.prompting.prompts import load_prompt

PROMPTS = Path(__file__).resolve().parents[3] / "prompts"
LABELS = LabelSet(("happy", "sad"))
PIECES = (
    "{{ ('x'*10**9)*9 }}", "{{ 9**9**9 }}", "{{ 'a'|center(10**9) }}", "{{ range(10**9)|list }}", "{{ audio|upper }}",
    "{{ audio.__class__ }}", "{{ self }}", "{{ lipsum(9**5) }}", "{{ cycler.__init__.__globals__ }}", "{{audio}}",
    "{{", "}}", "{%", "{#", "{{{", "{{ }}", "{{ {{ audio }} }}", "{{ audio }}" * 500, "{{" * 9000, "{{ audio" * 3000,
    "{% for a in range(10**9) %}{% for b in range(10**9) %}{{ audio }}{% endfor %}{% endfor %}",
    "{% include 'x' %}", "{% raw %}", "\\ud800", "\\0", "\\x1b[31m", "\ue000", "\u202e", "\U0001f600", "'", '"', "\n\t",
    "%s%n", "${oc.env:HOME}", "???", "&a ", "*a", "!!python/object/apply:os.system ['true']", "|\n  ", ": ", "- ", "# ",
)  # fmt: skip
NODES = (
    "null", "[]", "{}", "3", "true", "2001-99-99", "!!timestamp 2001-99-99", "!!int x", "!!float x", "!!binary é", "~",
    "!!set {a, b}", "!!omap [a: 1]", "*none", "&a [*a]", "&a {b: *a}", "1" * 5000, "[" * 9000, "[" * 9000 + "]" * 9000,
    "{a: " * 5000 + "}" * 5000, "1e999", ".nan", "'" + "x" * 70_000 + "'", "? [a]\n: b", "{happy: [a], sad: [a]}",
    "{happy: [], sad: [b]}", "{happy: ['']}", "{? {a: b} : c}", "\"\\ud800\"", "[[a]]", "{happy: [1], sad: [2]}",
)  # fmt: skip


def bomb(generator):
    """Aliases that stand for a very long list."""
    lines = ["  l0: &l0 [" + ", ".join("x" * 9) + "]"]
    lines += [f"  l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, generator.randrange(2, 30))]
    return "answers:\n" + "\n".join(lines) + "\n"


def harmful(text, generator):
    """A shipped file with one to three changes."""
    for _ in range(generator.choice((1, 1, 2, 3))):
        kind, place = generator.randrange(7), generator.randrange(len(text) + 1)
        if kind == 0:
            text = text[:place] + generator.choice(PIECES) + text[place:]
        elif kind == 1:
            keys = ("name", "user", "system", "answers", "templates", "synonyms", "other", "<<", "", "user")
            text += f"\n{generator.choice(keys)}: {generator.choice(NODES)}\n"
        elif kind == 2:
            text = "".join(text.splitlines(keepends=True)[generator.randrange(3) :]) + bomb(generator)
        elif kind == 3:
            text = text[:place]
        elif kind == 4:
            text = text[:place] + "".join(map(chr, generator.choices(range(1, 0x2FF), k=9))) + text[place + 3 :]
        elif kind == 5:
            quoted = generator.choice(PIECES).replace('"', '\\"').replace("\n", "\\n")
            text = f'name: p\nuser: "{{{{ audio }}}} {quoted}"\n'
        else:
            text = (
                f"name: p\nuser: '{{{{ transcript }}}}'\nsystem: {generator.choice(NODES)}\n{text if place % 2 else ''}"
            )
    return text


def refusal(load, path):
    """The error by which a file is refused; None if it can be used."""
    try:
        use(load, path)
    except ConfigError as error:
        return str(error)
    return None


def use(load, path):
    """Read a file and do with it what a run does."""
    read = load(path)
    if load is load_prompt:
        conversation = read.conversation(Input("u", "{{ 7*7 }}", None, "s", descriptors="low"), read.label_set(LABELS))
        assert sum(len(part.words) for message in conversation.messages for part in message.parts) < 200_000
        yaml.safe_dump(dict(read.content))
    elif load is load_ensemble:
        read.descriptions(read.label_set(LABELS))


@pytest.mark.parametrize("block", range(5))
def test_a_harmful_prompt_is_read_or_refused_in_one_line(tmp_path, block):
    files = [path for path in sorted(PROMPTS.rglob("*.yaml")) for _ in (range(3) if "ensembles" in path.parts else "x")]
    loaders = {"ensembles": load_ensemble, "synonyms": load_synonyms}
    generator, path, refused = random.Random(block), tmp_path / "prompt.yaml", 0
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(40):
        file = generator.choice(files)
        content = harmful(file.read_text("utf-8"), generator).encode("utf-8", "surrogatepass")
        path.write_bytes(content if generator.random() < 0.9 else content + generator.randbytes(9))
        started = time.perf_counter()
        message = refusal(loaders.get(file.parent.name, load_prompt), path)
        if message is not None:
            assert "\n" not in message, content
            assert len(message) < 2000, content
            refused += 1
        assert time.perf_counter() - started < 5, content
    assert refused > 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200_000  # KiB
    assert [item.name for item in tmp_path.iterdir()] == ["prompt.yaml"]
