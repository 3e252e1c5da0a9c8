"""The gates of training: whether to train at all, and whether the result may become the champion."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from pandas import DataFrame, read_csv
from upath import UPath

from ml.artifacts import ArtifactError, load_model
from ml.evaluate import Comparison, Estimate, compare_paired
from ml.load import AcceptedDataset, read_dataset
from ml.preprocess import labels_of
from ml.registry import HELD_OUT_FILE, Manifest, Registry
from ml.schema import COLUMNS, ID

MIN_ROWS_PER_CLASS = 10
"""Below this a comparison says nothing: with 9 malignant rows one more hit is 0.11 of recall."""


@dataclass(frozen=True)
class Verdict:
    """Whether a challenger takes over, and what speaks against it.

    `champion` is the version it was held against, None for the first model; `differences` are the
    challenger's metrics minus the champion's on `rows` held-out rows that neither has seen.
    """

    champion: str | None
    differences: dict[str, Estimate]
    rows: int
    objections: list[str]

    @property
    def takes_over(self) -> bool:
        return not self.objections

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as JSON types, and whether the challenger takes over."""
        return {**asdict(self), "takes_over": self.takes_over}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild what `to_dict` gave."""
        differences = {name: Estimate(**one) for name, one in values["differences"].items()}
        return cls(values["champion"], differences, values["rows"], values["objections"])


def reason_to_skip(
    data: AcceptedDataset, latest: Manifest | None, store: UPath, *, least_new_rows: int
) -> str | None:
    """Say why training on `data` is not worth it, or give None.

    Args:
        data: what would be trained on.
        latest: the newest registered model, champion or not.
        store: the artifact store, with the data that `latest` was trained on.
        least_new_rows: rows that must be new or corrected since then, >= 1.
    """
    if latest is None:
        return None
    if latest.data_sha256 == data.sha256:
        return f"Nothing to do: {latest.version} was trained on these very rows."
    try:
        before = read_dataset(store, latest.data_sha256)
    except ArtifactError:
        return None  # what is new cannot be told: train
    new = len(data.table) - len(data.table.merge(before, on=list(COLUMNS)))
    if new < least_new_rows:
        return (
            f"Nothing to do yet: {new} rows are new or corrected since {latest.version}; "
            f"{least_new_rows} start a training."
        )
    return None


def challenge(
    challenger: Comparison,
    test: DataFrame,
    champion: str | None,
    store: UPath,
    *,
    bootstrap_samples: int,
    seed: int,
) -> Verdict:
    """Judge a challenger. The rule:

    1. It reaches the `BARS`, as `Comparison.missed_bars` has it.
    2. It is not worse than the champion: for no metric does the 95 % interval of its difference
       (challenger minus champion, paired bootstrap) lie wholly below 0. Both are measured on the
       same rows: the challenger's held-out rows but for those that the champion was trained on.
       With fewer than 10 of a class, or a champion that cannot be loaded, nothing moves.

    A challenger that is as good takes over, for it knows the newer data. The first model has only
    the bars to reach.

    Args:
        challenger: the best candidate of a training.
        test: (n, 32) rows held out in that training.
        champion: the version in use, None while there is none.
        store: the artifact store.
        bootstrap_samples: resamples behind each interval, >= 1.
        seed: of the resampling.

    Raises:
        ArtifactError: the challenger's file is missing or was changed.
    """
    if champion is None:
        return Verdict(None, {}, 0, challenger.missed_bars)
    try:
        incumbent = Registry(store).load_model(champion)
        rows = _unseen_by(champion, test, store)
    except ArtifactError as error:
        return Verdict(champion, {}, 0, [*challenger.missed_bars, f"no comparison: {error}"])
    least = min(int(labels_of(rows).sum()), int((1 - labels_of(rows)).sum()))
    if least < MIN_ROWS_PER_CLASS:
        few = (
            f"no comparison: it needs {MIN_ROWS_PER_CLASS} held-out rows of each class that "
            f"{champion} was not trained on, found {least}"
        )
        return Verdict(champion, {}, len(rows), [*challenger.missed_bars, few])
    file = challenger.best.model_file
    differences = compare_paired(
        load_model(file.path, file.sha256),
        incumbent,
        rows,
        bootstrap_samples=bootstrap_samples,
        seed=seed,
    )
    objections = challenger.missed_bars + _worse(differences, champion)
    return Verdict(champion, differences, len(rows), objections)


def _worse(differences: Mapping[str, Estimate], champion: str) -> list[str]:
    return [
        f"{name} is worse than that of {champion} by {-one.value:.4f} "
        f"(95 % interval {one.low:+.4f} to {one.high:+.4f})"
        for name, one in differences.items()
        if one.high < 0
    ]


def _unseen_by(version: str, test: DataFrame, store: UPath) -> DataFrame:
    """Give the test rows that `version` was not trained on, known by their id."""
    registry = Registry(store)
    manifest = registry.read_manifest(version)
    trained_on = read_dataset(store, manifest.data_sha256)[ID]
    if HELD_OUT_FILE in manifest.files:
        held_out = read_csv(io.BytesIO(registry.read_file(version, HELD_OUT_FILE)))
        trained_on = trained_on[~trained_on.isin(held_out[ID])]
    return test[~test[ID].isin(trained_on)].reset_index(drop=True)
