"""Data in: the reference table, reading files, and the data accepted into the artifact store.

Source: WDBC (Wolberg, Mangasarian, Street, Street, 1993), via sklearn.datasets.load_breast_cancer;
the raw form is the UCI repository's `wdbc.data`.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from pandas import DataFrame, read_csv, read_parquet
from sklearn.datasets import load_breast_cancer
from upath import UPath

from ml.artifacts import ArtifactError, write_whole
from ml.landing import data_files, quarantine, stamp_of, wait_until_quiet
from ml.schema import (
    BENIGN,
    COLUMNS,
    FEATURES,
    ID,
    MALIGNANT,
    TARGET,
    DatasetError,
    validate_batch,
    validate_table,
)

REFERENCE_FILE = "wdbc.csv"
MAX_FILE_BYTES = 128 * 2**20
"""Some 400,000 rows. A file is read whole, which takes several times its size."""

_DIAGNOSIS = "diagnosis"
_UCI_COLUMNS = (ID, _DIAGNOSIS, *FEATURES)
_LABELS = {"M": MALIGNANT, "B": BENIGN}


@dataclass(frozen=True)
class AcceptedDataset:
    """Validated data, its content hash, and the name of the file that it came from."""

    table: DataFrame
    sha256: str
    source: str


@dataclass(frozen=True)
class Sifted:
    """The names of the good files, oldest first, and the faults of the bad ones by name."""

    good: list[str]
    faults: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as JSON types."""
        return asdict(self)


def reference_table() -> DataFrame:
    """Give scikit-learn's WDBC as a (569, 32) table; `observation_id` counts from 0."""
    data = load_breast_cancer()
    table = DataFrame(data.data, columns=list(FEATURES))
    table.insert(0, ID, np.arange(len(table), dtype="int64"))
    table[TARGET] = data.target.astype("int64")
    return table


def export_reference(landing: Path) -> Path:
    """Give the landing folder's newest data file (.csv, .data); an empty folder first gets WDBC.

    The path's name is `wdbc.csv` for the reference; files that begin with a dot are left alone.
    """
    landing.mkdir(parents=True, exist_ok=True)
    if files := data_files(landing):
        return files[-1]
    path = landing / REFERENCE_FILE
    write_whole(UPath(path), reference_table().to_csv(index=False).encode())
    return path


def read_table(path: Path) -> DataFrame:
    """Read a data file into the columns it has, floats exact; `validate_table` judges them.

    Two forms are known: a CSV whose header holds the published names (`observation_id` optional,
    then counted from 0), and the raw UCI form without a header (id, M or B, 30 numbers).

    Raises:
        DatasetError: the file is missing, empty, too large, binary, not UTF-8, ragged, or of neither form.
    """
    text = _read_text(path)
    first = _check_shape(path.name, text)
    if set(first) & set(COLUMNS):
        return _read_published(text)
    if len(first) == len(_UCI_COLUMNS) and first[1] in _LABELS:
        return _read_uci(text)
    raise DatasetError(
        f"{path.name} must begin with a header of the published column names, or hold "
        f"{len(_UCI_COLUMNS)} fields per line with M or B in the second; found {len(first)} "
        f"fields beginning {first[:3]}. Add the header or use the raw UCI form."
    )


def read_batch(path: Path) -> DataFrame:
    """Give the rows of a waiting file, validated, with the file's name in the column `source`.

    A file that is still being written is waited for: it is read once it is quiet, and again if it
    has changed meanwhile.

    Raises:
        DatasetError: the file cannot be used; lists every fault.
    """
    while True:
        before = wait_until_quiet(path)
        try:
            batch = validate_batch(read_table(path), source=path.name)
        except DatasetError:
            if stamp_of(path) == before:
                raise
        else:
            if stamp_of(path) == before:
                return batch.assign(source=path.name)


def sift_landing(landing: Path) -> Sifted:
    """Read every waiting file; move the bad ones to `quarantine/`, their faults beside them."""
    good: list[str] = []
    faults: dict[str, str] = {}
    for path in data_files(landing):
        try:
            read_batch(path)
        except DatasetError as error:
            faults[path.name] = str(error)
            quarantine(path, str(error))
        else:
            good.append(path.name)
    return Sifted(good, faults)


def dataset_sha256(table: DataFrame) -> str:
    """Give the SHA-256 of a validated table's names and values, whatever the file's formatting."""
    table = table.sort_values(ID)
    digest = sha256(json.dumps(COLUMNS).encode())
    for name in COLUMNS:
        kind = "<f8" if name in FEATURES else "<i8"
        digest.update((table[name].to_numpy(dtype=kind) + 0).tobytes())  # + 0 turns -0.0 into 0.0
    return digest.hexdigest()


def gather_dataset(
    known: DataFrame, landing: Path, store: UPath, *, offer_reference: bool
) -> AcceptedDataset:
    """Accept the rows to train on: those that were ingested, or else the newest file that waits.

    Args:
        known: (n, 32) labelled observations that were ingested, n >= 0.
        landing: folder in which files wait to be ingested; looked into only where n is 0.
        store: the artifact store.
        offer_reference: put WDBC into the landing folder if there is neither row nor file.

    Raises:
        DatasetError: the file cannot be used, or there is too little data.
    """
    if known.empty and (offer_reference or data_files(landing)):
        return accept_dataset(export_reference(landing), store)
    return _accept(validate_table(known, source="the warehouse"), store, source="the warehouse")


def accept_dataset(path: Path, store: UPath) -> AcceptedDataset:
    """Read, validate and keep a file as `datasets/<sha256>.parquet`; name it the current data.

    `datasets/current.json` is written last, so a bad file leaves the last good data in place.

    Raises:
        DatasetError: the file cannot be used; lists every fault.
    """
    table = validate_table(read_table(path), source=path.name)
    return _accept(table, store, source=path.name)


def _accept(table: DataFrame, store: UPath, *, source: str) -> AcceptedDataset:
    digest = dataset_sha256(table)
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    snapshot = _snapshot(store, digest)
    if not _is_intact(snapshot, digest):
        write_whole(snapshot, buffer.getvalue())
    pointer = {"sha256": digest, "rows": len(table), "source": source}
    write_whole(store / "datasets" / "current.json", json.dumps(pointer, indent=2).encode())
    return AcceptedDataset(table=table, sha256=digest, source=source)


def read_dataset(store: UPath, sha256: str) -> DataFrame:
    """Give the accepted data that has this content hash, checked against it.

    Raises:
        ArtifactError: the snapshot is missing or damaged.
    """
    snapshot = _snapshot(store, sha256)
    if not _is_intact(snapshot, sha256):
        raise ArtifactError(
            f"{snapshot} must hold the table with SHA-256 {sha256}, found none or another. "
            "Restore it, or train again."
        )
    return _read_snapshot(snapshot)


def _snapshot(store: UPath, digest: str) -> UPath:
    return store / "datasets" / f"{digest}.parquet"


def _read_snapshot(snapshot: UPath) -> DataFrame:
    return read_parquet(io.BytesIO(snapshot.read_bytes()))


def _is_intact(snapshot: UPath, digest: str) -> bool:
    try:
        return dataset_sha256(_read_snapshot(snapshot)) == digest
    except (
        OSError,
        ValueError,
        KeyError,
    ):  # absent; no parquet (pyarrow's errors are these); other columns
        return False


def _read_text(path: Path) -> str:
    try:
        if (size := path.stat().st_size) > MAX_FILE_BYTES:
            raise DatasetError(
                f"{path.name} must have at most {MAX_FILE_BYTES / 2**20:.0f} MiB, "
                f"found {size / 2**20:.0f}. Split it into several files."
            )
        data = path.read_bytes()
    except FileNotFoundError:
        raise DatasetError(
            f"{path.name} must exist in {path.parent}, found no file. Add it."
        ) from None
    if b"\0" in data:
        raise DatasetError(f"{path.name} must be a text file, found binary data. Export it as CSV.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{path.name} must be UTF-8, found byte 0x{data[error.start]:02x} at offset "
            f"{error.start}. Export it as UTF-8 CSV."
        ) from None
    if not text.strip():
        raise DatasetError(f"{path.name} must hold rows, found an empty file. Export it again.")
    return text


def _check_shape(name: str, text: str) -> list[str]:
    """Give the first line's fields; every line must have as many (pandas fills short ones)."""
    reader = csv.reader(io.StringIO(text), skipinitialspace=True)
    first: list[str] = []
    try:
        for row in reader:
            first = first or [field.strip() for field in row]
            if row and len(row) != len(first):
                raise DatasetError(
                    f"{name} must have {len(first)} fields on every line, found {len(row)} on line "
                    f"{reader.line_num}. Correct that line."
                )
    except csv.Error as error:
        raise DatasetError(
            f"{name} must be comma-separated text, found {error} on line {reader.line_num}. "
            "Export it as CSV."
        ) from None
    return first


def _read_published(text: str) -> DataFrame:
    table = _read_exactly(text)
    table.columns = table.columns.str.strip()
    if ID not in table:
        table.insert(0, ID, np.arange(len(table), dtype="int64"))
    return table


def _read_uci(text: str) -> DataFrame:
    table = _read_exactly(text, names=list(_UCI_COLUMNS))
    # An unknown letter stays as it is: the validation then shows it with its row.
    target = [_LABELS.get(letter, letter) for letter in table.pop(_DIAGNOSIS)]
    return table.assign(**{TARGET: target})


def _read_exactly(text: str, names: list[str] | None = None) -> DataFrame:
    # The default float precision is exact: tests/unit/ml/test_load.py reads 17 digits back.
    return read_csv(
        io.StringIO(text),
        header=0 if names is None else None,
        names=names,
        index_col=False,
        skipinitialspace=True,
    )
