"""Data in: both file forms, unreadable files, snapshots, the last good data."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pandas import DataFrame
from pandas.testing import assert_frame_equal
from upath import UPath

from ml.artifacts import ArtifactError
from ml.load import (
    MAX_FILE_BYTES,
    accept_dataset,
    dataset_sha256,
    export_reference,
    gather_dataset,
    read_dataset,
    read_table,
    reference_table,
)
from ml.schema import FEATURES, ID, TARGET, DatasetError, validate_table

WriteCsv = Callable[..., Path]


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> UPath:
    """Give an empty artifact store, once a folder and once an object store."""
    if request.param == "folder":
        return UPath(tmp_path / "store")
    return UPath(f"memory://{tmp_path.name}")


def test_an_empty_landing_folder_gets_the_reference(tmp_path: Path) -> None:
    """The exported file reads back as scikit-learn's table, to the last bit."""
    path = export_reference(tmp_path / "landing")
    assert path.name == "wdbc.csv"
    assert_frame_equal(validate_table(read_table(path)), reference_table(), check_exact=True)
    assert list(path.parent.iterdir()) == [path]


def test_a_landing_folder_with_data_is_left_alone(tmp_path: Path) -> None:
    """The newest data file wins; other files do not count."""
    for seconds, name in enumerate(("old.csv", "new.data", ".hidden.csv", "notes.txt")):
        (tmp_path / name).write_text("x")
        os.utime(tmp_path / name, (seconds, seconds))
    assert export_reference(tmp_path).name == "new.data"
    assert not (tmp_path / "wdbc.csv").exists()


def test_floats_are_read_to_the_last_bit(table: DataFrame, write_csv: WriteCsv) -> None:
    """Numbers of 17 digits come back as they were written."""
    noise = np.random.default_rng(42).random((len(table), len(FEATURES)))
    table[list(FEATURES)] = table[list(FEATURES)] * noise
    assert_frame_equal(read_table(write_csv(table)), table, check_exact=True)


def test_a_csv_without_ids_is_numbered_from_0(table: DataFrame, write_csv: WriteCsv) -> None:
    """Ids are optional in the published form."""
    read = read_table(write_csv(table.drop(columns=ID)))
    assert read[ID].tolist() == list(range(len(table)))


def test_the_raw_uci_form_gives_the_same_table(
    table: DataFrame, uci_text: str, tmp_path: Path
) -> None:
    """Letters become targets; columns come in published order."""
    path = tmp_path / "wdbc.data"
    path.write_text(uci_text)
    assert_frame_equal(validate_table(read_table(path)), table, check_exact=True)


def test_an_unknown_letter_in_the_uci_form_is_shown(uci_text: str, tmp_path: Path) -> None:
    """Neither M nor B is a fault of the target, with its row."""
    lines = uci_text.splitlines()
    lines[1] = lines[1].replace(",M,", ",X,")
    (tmp_path / "wdbc.data").write_text("\n".join(lines))
    with pytest.raises(
        DatasetError, match=r"'target': text instead of a number in 1 row .row 2; e\.g\. 'X'"
    ):
        validate_table(read_table(tmp_path / "wdbc.data"))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "found an empty file"),
        (b" \n\n", "found an empty file"),
        (b"PAR1\x00\x01", "found binary data"),
        (b"mean radius\n\xff\xfe", "must be UTF-8, found byte 0xff at offset 12"),
        (
            b"mean radius,target\n1.0,1\n2.0\n",
            "must have 2 fields on every line, found 1 on line 3",
        ),
        (b"mean radius,target\n1.0,1,7\n", "must have 2 fields on every line, found 3 on line 2"),
        (b"1,M,17.99\n2,B,11.0\n", "found 3 fields beginning ['1', 'M', '17.99']"),
        (b"mean radius\n" + b"1" * 200_000, "found field larger than field limit"),
    ],
)
def test_an_unreadable_file_is_refused_with_its_name(
    tmp_path: Path, content: bytes, found: str
) -> None:
    """The message has the file's name, what was found, and a remedy."""
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    with pytest.raises(DatasetError) as caught:
        read_table(path)
    assert str(caught.value).startswith("bad.csv must ")
    assert found in str(caught.value)
    assert str(caught.value).endswith(".")


def test_a_file_far_too_large_is_refused_unread(tmp_path: Path) -> None:
    """With its size and the limit, before it fills the memory."""
    path = tmp_path / "huge.csv"
    with path.open("w") as file:
        file.truncate(3 * MAX_FILE_BYTES)  # takes no place on the disk
    with pytest.raises(
        DatasetError, match=r"huge.csv must have at most 128 MiB, found 384. Split it"
    ):
        read_table(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A file that vanished is no stack trace."""
    with pytest.raises(DatasetError, match=r"gone\.csv must exist"):
        read_table(tmp_path / "gone.csv")


def test_a_header_without_rows_is_refused(
    table: DataFrame, write_csv: WriteCsv, store: UPath
) -> None:
    """A table of no rows is told so by the validation."""
    with pytest.raises(DatasetError, match=r"data\.csv must be a table .*\n.*fewer than 100 rows"):
        accept_dataset(write_csv(table.head(0)), store)


def test_the_hash_depends_on_content_alone(
    table: DataFrame, write_csv: WriteCsv, uci_text: str, tmp_path: Path, store: UPath
) -> None:
    """Form, column order, row order and number format leave the hash; a value changes it."""
    expected = dataset_sha256(table)
    (tmp_path / "wdbc.data").write_text(uci_text)
    mixed = table.sample(frac=1, random_state=1).assign(target=lambda t: t[TARGET].astype(float))
    assert accept_dataset(write_csv(table), store).sha256 == expected
    assert accept_dataset(write_csv(mixed), store).sha256 == expected
    assert accept_dataset(tmp_path / "wdbc.data", store).sha256 == expected
    table.loc[0, "mean area"] += 1e-9
    assert dataset_sha256(table) != expected


def test_accepted_data_is_the_current_data(
    table: DataFrame, write_csv: WriteCsv, store: UPath
) -> None:
    """Snapshot and pointer lie under the store, and read back as accepted."""
    accepted = accept_dataset(write_csv(table, "wdbc.csv"), store)
    pointer = json.loads((store / "datasets" / "current.json").read_text())
    assert pointer == {"sha256": accepted.sha256, "rows": 569, "source": "wdbc.csv"}
    kept = read_dataset(store, accepted.sha256)
    assert_frame_equal(kept, accepted.table, check_exact=True)


def test_a_bad_file_leaves_the_last_good_data(
    table: DataFrame, write_csv: WriteCsv, store: UPath
) -> None:
    """A refused file changes nothing in the store."""
    good = accept_dataset(write_csv(table), store)
    with pytest.raises(DatasetError, match=r"bad\.csv"):
        accept_dataset(write_csv(table.assign(note="x"), "bad.csv"), store)
    pointer = json.loads((store / "datasets" / "current.json").read_text())
    assert pointer["sha256"] == good.sha256


def test_a_half_written_snapshot_is_written_again(
    table: DataFrame, write_csv: WriteCsv, store: UPath
) -> None:
    """A retry heals what a killed task left."""
    path = write_csv(table)
    digest = accept_dataset(path, store).sha256
    snapshot = store / "datasets" / f"{digest}.parquet"
    snapshot.write_bytes(snapshot.read_bytes()[:1000])
    with pytest.raises(ArtifactError, match="must hold the table with SHA-256"):
        read_dataset(store, digest)
    accept_dataset(path, store)
    assert len(read_dataset(store, digest)) == 569


def test_a_changed_snapshot_is_refused(table: DataFrame, write_csv: WriteCsv, store: UPath) -> None:
    """Other content under the same name does not pass."""
    accepted = accept_dataset(write_csv(table), store)
    snapshot = store / "datasets" / f"{accepted.sha256}.parquet"
    snapshot.write_bytes(table.head(300).to_parquet())
    with pytest.raises(ArtifactError, match="found none or another"):
        read_dataset(store, accepted.sha256)


def test_without_rows_and_files_the_reference_is_trained_on(tmp_path: Path, store: UPath) -> None:
    """A fresh stack lands WDBC by itself, and takes it as if it were a file of somebody's."""
    landing = tmp_path / "landing"
    gathered = gather_dataset(reference_table().head(0), landing, store, offer_reference=True)
    assert gathered.sha256 == dataset_sha256(reference_table())
    assert [file.name for file in landing.iterdir()] == ["wdbc.csv"]


def test_where_real_data_comes_no_reference_is_landed(tmp_path: Path, store: UPath) -> None:
    """Nothing to train on is an error, not WDBC."""
    with pytest.raises(DatasetError, match=r"the warehouse must .*\n.*fewer than 100 rows"):
        gather_dataset(reference_table().head(0), tmp_path, store, offer_reference=False)
    assert list(tmp_path.iterdir()) == []


def test_ingested_rows_are_the_data(
    table: DataFrame, write_csv: WriteCsv, tmp_path: Path, store: UPath
) -> None:
    """They give the same data as their file did; a file that waits, good or bad, is for ingest."""
    write_csv(table.head(3).assign(**{"mean area": -1.0}), "bad.csv")
    gathered = gather_dataset(table, tmp_path, store, offer_reference=True)
    assert gathered.sha256 == dataset_sha256(table)


def test_until_something_is_ingested_the_newest_file_is_the_data(
    table: DataFrame, write_csv: WriteCsv, tmp_path: Path, store: UPath
) -> None:
    """One's own file takes the reference's place; a bad one is refused with its faults."""
    none = table.head(0)
    write_csv(table.head(400), "own.csv")
    gathered = gather_dataset(none, tmp_path, store, offer_reference=True)
    assert gathered.sha256 == dataset_sha256(table.head(400))
    write_csv(table.assign(**{"mean area": -1.0}), "own.csv")
    with pytest.raises(DatasetError, match=r"own\.csv must [\s\S]*negative values in 569 rows"):
        gather_dataset(none, tmp_path, store, offer_reference=True)


def test_an_unknown_snapshot_is_named(store: UPath) -> None:
    """The message has the hash and a remedy."""
    with pytest.raises(ArtifactError, match=r"SHA-256 abc, found none or another\. Restore it"):
        read_dataset(store, "abc")
