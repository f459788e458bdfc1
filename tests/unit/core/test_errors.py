import pytest

from lalm_mer.core import errors


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("ConfigError", ValueError),
        ("CorpusError", OSError),
        ("SplitLeakError", ValueError),
        ("AudioError", OSError),
        ("ModelError", OSError),
        ("AdapterError", ValueError),
        ("PredictionError", ValueError),
    ],
)
def test_every_error_is_a_lalm_mer_error_and_a_builtin_one(name, builtin):
    error = getattr(errors, name)("what was found")
    assert isinstance(error, errors.LalmMerError)
    assert isinstance(error, builtin)
    assert str(error) == "what was found"
    assert name in errors.__all__
