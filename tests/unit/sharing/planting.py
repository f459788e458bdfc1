"""Distinct secrets for every field of plain data, and the search for them."""

import json
from contextlib import suppress
from copy import deepcopy
from fnmatch import fnmatchcase

from lalm_mer.core.errors import LalmMerError

MARK = "zqxsecret"
KINDS = (
    "{0}_Ses01F_007",  # an utterance id
    "I told my {0} doctor",
    "/home/{0}/{0}_corpus/{0}.wav",
    "clinics/{0}/speech",
    "../{0}/{0}.parquet",
    "my recordings/of {0}/a b.wav",
    "file:///srv/{0}/{0}.flac",
    "~{0}/{0}",
    r"C:\\Users\\{0}\\{0}",
    r"\\\\server\\{0}",
    "{0}.clinic.example",
    "{0}",
    "Features are kept in /scratch/{0}/{0} of {0}@{0}-17.",
)


class Secrets:
    """A new secret in each place, of the next kind."""

    def __init__(self):
        self.made = []

    def __call__(self):
        self.made.append(KINDS[len(self.made) % len(KINDS)].format(f"{MARK}{len(self.made):03d}"))
        return self.made[-1]


def sites(value, path=()):
    """Path of every text, null, list and mapping in plain data."""
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from sites(item, (*path, key))
    if value is None or isinstance(value, str | dict | list):
        yield path


def plant(content, path, secret):
    """Plain data with a secret at a path: in place of a text, as one more item of a list, or as a key of a mapping."""
    content = holder = deepcopy(content)
    for place in path[:-1]:
        holder = holder[place]
    found = holder[path[-1]] if path else content
    if isinstance(found, dict):
        found[secret] = next(iter(found.values()), secret)
    elif isinstance(found, list):
        found.append(secret)
    else:
        holder[path[-1]] = secret
    return content


def matches(path, patterns):
    return any(fnmatchcase(".".join(map(str, path)), pattern) for pattern in patterns)


def planted(content, kept, check, secrets):
    """Plain data with secrets wherever a check accepts them, and the number of their places.

    Args:
        content: the data
        kept: patterns of paths that stay as they are
        check: raises a ``LalmMerError`` for content that is refused, and so cannot be in a run
        secrets: makes the secrets
    """
    content, places = json.loads(json.dumps(content)), 0
    for path in [path for path in sites(content) if not matches(path, kept)]:
        changed = plant(content, path, secrets())
        with suppress(LalmMerError):
            check(changed)
            content, places = changed, places + 1
    return content, places


def leaks(folder):
    """Files of a folder with a secret, and what surrounds the first one."""
    found = {
        path.name: path.read_bytes().lower().partition(MARK.encode()) for path in folder.rglob("*") if path.is_file()
    }
    return {name: before[-60:] + after[:60] for name, (before, mark, after) in found.items() if mark or MARK in name}
