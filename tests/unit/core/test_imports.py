"""Imports without garbage collection."""

import gc
import sys

import pytest

from lalm_mer.core.imports import quick_imports


@pytest.fixture
def without_torch(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    yield
    gc.unfreeze()


def test_what_is_imported_is_neither_collected_nor_examined_again(without_torch):
    frozen = gc.get_freeze_count()
    with quick_imports():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() > frozen


def test_collection_goes_on_after_an_error(without_torch):
    frozen = gc.get_freeze_count()
    with pytest.raises(ZeroDivisionError), quick_imports():
        _ = 1 / 0
    assert gc.isenabled()
    assert gc.get_freeze_count() == frozen


def test_a_process_that_has_imported_torch_is_not_changed(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    frozen = gc.get_freeze_count()
    with quick_imports():
        assert gc.isenabled()
    assert gc.get_freeze_count() == frozen
