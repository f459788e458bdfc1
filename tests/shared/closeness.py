"""Comparison of computed numbers: rounding grows with their scale, so every bound is relative to it."""

import numpy as np
import pandas as pd


def assert_close(found, expected, bound=1e-5, name=""):
    """Every difference is at most ``bound`` times the largest absolute value of ``expected``, or 1 if that is larger.

    Tensors, arrays, or tables, of which other columns than numbers are equal.
    """
    if isinstance(expected, pd.DataFrame):
        numbers = expected.select_dtypes("number").columns
        pd.testing.assert_frame_equal(found.drop(columns=numbers), expected.drop(columns=numbers))
        found, expected = found[numbers], expected[numbers]
    found, expected = (
        np.asarray(getattr(each, "detach", lambda each=each: each)(), np.float64) for each in (found, expected)
    )
    assert found.shape == expected.shape, name
    assert (np.isnan(found) == np.isnan(expected)).all(), name
    largest = max(np.nanmax(np.abs(expected), initial=0), 1)
    difference = np.nanmax(np.abs(found - expected), initial=0)
    assert difference <= bound * largest, f"{name} differs by {difference:.1e}, more than {bound:.1e} of {largest:.3g}"
