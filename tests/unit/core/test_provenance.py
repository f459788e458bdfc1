import hashlib
import subprocess

from lalm_mer.core import provenance
from lalm_mer.core.provenance import (
    Commit,
    git_commit,
    hash_bytes,
    hash_file,
    hash_json,
    package_versions,
)


def test_a_file_hashes_as_its_bytes_do(tmp_path):
    content = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(content)
    assert hash_file(tmp_path / "a") == hash_bytes(content) == hashlib.sha256(content).hexdigest()


def test_hash_json_is_canonical():
    assert hash_json({"b": [1, "ä"], "a": None}) == hashlib.sha256('{"a":null,"b":[1,"ä"]}'.encode()).hexdigest()
    assert hash_json([1, 2]) != hash_json([2, 1])
    assert hash_json("1") != hash_json(1)


def test_package_versions():
    versions = package_versions(["numpy", "no-such-package-here"])
    assert versions["no-such-package-here"] is None
    assert versions["numpy"][0].isdigit()
    assert versions["python"].startswith("3.")


def test_git_commit_distinguishes_a_clean_tree_from_a_changed_one(tmp_path, monkeypatch):
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    file = tmp_path / "provenance.py"
    file.write_text("x")
    monkeypatch.setattr(provenance, "__file__", str(file))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_commit() == Commit(commit=None, modified=None)
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "m"]):
        subprocess.run([*git, *arguments], cwd=tmp_path, check=True)
    first = git_commit()
    assert len(first.commit) == 40
    assert first.modified is False
    assert str(first) == first.commit
    file.write_text("y")
    assert git_commit() == Commit(first.commit, modified=True)
    assert str(git_commit()) == f"{first.commit}, with files changed since"


def test_git_commit_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert git_commit() == Commit(commit=None, modified=None)
