"""Labelled synthetic batches, drawn from the reference distribution: for stacks without real data.

Each row is a WDBC row of its class, smoothed by that class' own covariance (a Gaussian kernel
density estimate, shrunk so that the spread stays WDBC's) and kept within the class' range.
"""

from __future__ import annotations

from datetime import date

import numpy as np
from numpy.typing import NDArray
from pandas import DataFrame, concat

from ml.load import reference_table
from ml.schema import BENIGN, FEATURES, ID, MALIGNANT, TARGET

MAX_ROWS = 10_000
BANDWIDTH = 0.2
"""Share of the class' spread by which a row is moved: enough that no row repeats one of WDBC."""


def batch_name(day: date) -> str:
    """Give the file name of a day's batch: `synthetic-20261124.csv`."""
    return f"synthetic-{day:%Y%m%d}.csv"


def make_batch(day: date, *, rows: int, seed: int) -> DataFrame:
    """Make the batch of a day: (rows, 32), valid, with WDBC's share of each class.

    Day, rows and seed decide every value. Observation ids are negative, which real ones are not,
    and no two days share one.

    Args:
        day: the batch's day.
        rows: 20 to 10 000.
        seed: of the draw.
    """
    random = np.random.default_rng([seed, day.toordinal()])
    reference = reference_table()
    malignant = round(rows * float((reference[TARGET] == MALIGNANT).mean()))
    parts = [
        _draw(reference[reference[TARGET] == label], count, random)
        for label, count in ((MALIGNANT, malignant), (BENIGN, rows - malignant))
    ]
    batch = concat(parts, ignore_index=True).iloc[random.permutation(rows)]
    ids = -(day.toordinal() * MAX_ROWS + np.arange(rows, dtype="int64")) - 1
    batch.insert(0, ID, ids)
    return batch.reset_index(drop=True)


def _draw(members: DataFrame, count: int, random: np.random.Generator) -> DataFrame:
    """Draw `count` smoothed rows of one class."""
    values = members[list(FEATURES)].to_numpy()
    centre = values.mean(axis=0)
    picked = values[random.integers(len(values), size=count)]
    noise: NDArray[np.float64] = random.multivariate_normal(
        np.zeros(len(FEATURES)), np.cov(values, rowvar=False), size=count, method="eigh"
    )
    moved = centre + (picked - centre + BANDWIDTH * noise) / np.sqrt(1 + BANDWIDTH**2)
    drawn = DataFrame(
        np.clip(moved, values.min(axis=0), values.max(axis=0)), columns=list(FEATURES)
    )
    return drawn.assign(**{TARGET: int(members[TARGET].iloc[0])})
