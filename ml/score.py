"""Predictions of a registered model."""

from __future__ import annotations

from typing import Any

from pandas import DataFrame
from sklearn.model_selection import FixedThresholdClassifier

from ml.preprocess import features_of
from ml.schema import BENIGN, ID, MALIGNANT
from ml.train import Calibration, bounded_threads, raw_scores

SCORE = "score"
LABEL = "label"


def score_rows(
    rows: DataFrame, model: FixedThresholdClassifier | Any, calibration: Calibration
) -> DataFrame:
    """Give `observation_id`, `score` and `label` for each row, in the order of `rows`.

    `score` is the probability of malignancy, calibrated at training. `label` is coded as `target`
    is (0 malignant, 1 benign) and decided by the model's own threshold, which weighs recall above
    precision: it need not lie at a score of 0.5.

    Args:
        rows: (n, >= 31) with id and features.
        model: gives 1 for malignant.
        calibration: of that model.
    """
    features = features_of(rows)
    with bounded_threads(1):
        scores = calibration.probabilities(raw_scores(model, features))
        malignant = model.predict(features) == 1
    return DataFrame(
        {
            ID: rows[ID].to_numpy(),
            SCORE: scores,
            LABEL: [MALIGNANT if one else BENIGN for one in malignant],
        }
    )
