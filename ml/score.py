"""Predictions of a registered model, and how far what it scores is from what it was trained on."""

from __future__ import annotations

from pandas import DataFrame
from sklearn.model_selection import FixedThresholdClassifier
from upath import UPath

from ml.drift import measure_drift
from ml.load import read_dataset
from ml.preprocess import features_of
from ml.registry import Registry
from ml.schema import BENIGN, FEATURES, ID, MALIGNANT
from ml.train import Calibration, bounded_threads, raw_scores

SCORE = "score"
LABEL = "label"


def score_batches(rows: DataFrame, version: str, store: UPath) -> tuple[DataFrame, DataFrame]:
    """Give the predictions and the drift of `rows` by a registered version, ready to be stored.

    The predictions have `observation_id`, `model_version`, `score` and `label`, the drift has
    `model_version`, `batch`, `feature`, `psi` and `rows`; a batch is what came with one `source`.

    Args:
        rows: (n, >= 32) observations with `source`, n >= 1.
        version: of the model.
        store: the artifact store, with the data that the version was trained on.

    Raises:
        ArtifactError: there is no such version, or a file of it is missing or was changed.
    """
    registry = Registry(store)
    reference = read_dataset(store, registry.read_manifest(version).data_sha256)
    model, calibration = registry.load_model(version), registry.load_calibration(version)
    predictions = score_rows(rows, model, calibration)
    batches = rows.assign(score=predictions[SCORE].to_numpy(), batch=rows["source"].fillna("?"))
    reference = reference.assign(score=score_rows(reference, model, calibration)[SCORE].to_numpy())
    drift = measure_drift(batches, reference, columns=(*FEATURES, SCORE))
    return (
        predictions.assign(model_version=version),
        drift.assign(model_version=version),
    )


def score_rows(
    rows: DataFrame, model: FixedThresholdClassifier, calibration: Calibration
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
