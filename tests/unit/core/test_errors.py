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
def test_every_error_is_ours_and_one_a_caller_would_expect(name, builtin):
    error = getattr(errors, name)("what was found")
    assert isinstance(error, errors.LalmMerError)
    assert isinstance(error, builtin)
    assert str(error) == "what was found"
    assert name in errors.__all__
