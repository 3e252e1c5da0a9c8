"""How far batches are from the data that a model was trained on.

The population stability index (PSI) compares two distributions over bins that each hold a tenth of
the reference: the sum of (p - q) * ln(p / q). By convention below 0.1 is no change, above 0.25 a
marked one. Of a batch of n rows chance alone makes about 9 / n, so small batches need patience.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pandas import DataFrame, concat

BINS = 10
BATCH = "batch"

_Floats = NDArray[np.float64]


def measure_drift(rows: DataFrame, reference: DataFrame, columns: Sequence[str]) -> DataFrame:
    """Give `batch`, `feature`, `psi` and `rows` for each batch and each of the columns.

    Args:
        rows: (n, >= c + 1) the c columns and `batch`, the name of what a row came with.
        reference: (m, >= c) the same columns of the data trained on.
        columns: c names of numeric columns.
    """
    measured = [
        DataFrame(
            {
                BATCH: str(name),
                "feature": columns,
                "psi": [
                    population_stability(reference[column].to_numpy(), batch[column].to_numpy())
                    for column in columns
                ],
                "rows": len(batch),
            }
        )
        for name, batch in rows.groupby(BATCH)
    ]
    return concat(measured, ignore_index=True)


def population_stability(reference: _Floats, values: _Floats) -> float:
    """Give the PSI of `values` against `reference`, >= 0; half a row in each bin keeps it finite."""
    inner = np.unique(np.quantile(reference, np.linspace(0, 1, BINS + 1)[1:-1]))
    expected, found = _shares(reference, inner), _shares(values, inner)
    return float(((found - expected) * np.log(found / expected)).sum())


def _shares(values: _Floats, inner: _Floats) -> _Floats:
    counts = np.bincount(np.searchsorted(inner, values, side="right"), minlength=len(inner) + 1)
    return np.asarray((counts + 0.5) / (counts + 0.5).sum(), dtype="float64")
