"""The population stability index."""

from __future__ import annotations

import numpy as np
import pytest
from pandas import DataFrame

from ml.drift import measure_drift, population_stability

RANDOM = np.random.default_rng(42)
REFERENCE = RANDOM.normal(size=1000)


def test_the_same_distribution_has_none() -> None:
    """A fresh draw stays below what counts as a change."""
    assert population_stability(REFERENCE, REFERENCE) == pytest.approx(0)
    assert population_stability(REFERENCE, RANDOM.normal(size=1000)) < 0.1


def test_a_shift_grows_with_its_size() -> None:
    """Half a standard deviation is marked; more is more."""
    small, large = (population_stability(REFERENCE, REFERENCE + by) for by in (0.5, 2))
    assert 0.2 < small < large


def test_values_outside_of_the_reference_are_finite() -> None:
    """Bins that one side leaves empty do not make it infinite."""
    assert 2 < population_stability(REFERENCE, REFERENCE + 100) < 100


def test_a_constant_reference_tells_itself_from_others() -> None:
    """One bin edge is enough."""
    constant = np.ones(50)
    assert population_stability(constant, constant) == 0
    assert population_stability(constant, np.zeros(50)) > 1


def test_each_batch_is_measured_by_itself() -> None:
    """A row per batch and column, with the number of rows behind it."""
    rows = DataFrame(
        {"x": [*REFERENCE, *(REFERENCE[:500] + 3)], "batch": ["a"] * 1000 + ["b"] * 500}
    )
    found = measure_drift(rows, DataFrame({"x": REFERENCE}), columns=["x"])
    assert found[["batch", "feature", "rows"]].to_numpy().tolist() == [
        ["a", "x", 1000],
        ["b", "x", 500],
    ]
    assert found["psi"][0] == pytest.approx(0)
    assert found["psi"][1] > 1
