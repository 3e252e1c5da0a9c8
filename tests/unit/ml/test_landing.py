"""The landing folder: nothing in it is lost, whenever a task is killed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pandas import DataFrame

from ml.landing import data_files, has_data, mark_ingested, quarantine
from ml.load import read_batch, sift_landing
from ml.schema import ID

WriteCsv = Callable[..., Path]


@pytest.fixture
def land(write_csv: WriteCsv) -> WriteCsv:
    """Give a function that lands a table as a file that has been there for a while."""

    def write(table: DataFrame, name: str, age_s: float = 60) -> Path:
        path = write_csv(table, name)
        os.utime(path, (time.time() - age_s,) * 2)
        return path

    return write


def test_bad_files_go_into_quarantine_with_their_faults(
    table: DataFrame, land: WriteCsv, tmp_path: Path
) -> None:
    """The good one stays where it is, to be stored; the bad one keeps every byte."""
    land(table.head(5), "good.csv")
    bad = land(table.head(3).assign(**{"mean area": -1.0}), "bad.csv").read_bytes()
    sifted = sift_landing(tmp_path)
    assert sifted.good == ["good.csv"]
    assert list(sifted.faults) == ["bad.csv"]
    assert (tmp_path / "quarantine/bad.csv").read_bytes() == bad
    faults = (tmp_path / "quarantine/bad.csv.faults.txt").read_text()
    assert "column 'mean area': negative values in 3 rows" in faults
    assert [file.name for file in data_files(tmp_path)] == ["good.csv"]


def test_files_are_taken_by_age(table: DataFrame, land: WriteCsv, tmp_path: Path) -> None:
    """What came last has the last word about an observation."""
    for name, age_s in (("b.csv", 90), ("a.csv", 30), ("c.csv", 60)):
        land(table.head(1), name, age_s)
    assert sift_landing(tmp_path).good == ["b.csv", "c.csv", "a.csv"]


def test_another_file_of_the_same_name_overwrites_nothing(
    table: DataFrame, land: WriteCsv, tmp_path: Path
) -> None:
    """Daily files may all be called the same."""
    for rows in (1, 2, 3):
        mark_ingested(land(table.head(rows), "data.csv"))
        quarantine(land(table.head(rows), "bad.csv"), f"fault {rows}")
    kept = {file.name: len(file.read_text().splitlines()) - 1 for file in tmp_path.rglob("*.csv")}
    assert kept == {
        "data.csv": 1, "data.1.csv": 2, "data.2.csv": 3, "bad.csv": 1, "bad.1.csv": 2, "bad.2.csv": 3,
    }  # fmt: skip
    assert (tmp_path / "quarantine/bad.1.csv.faults.txt").read_text() == "fault 2\n"


def test_the_same_file_again_is_kept_once(table: DataFrame, land: WriteCsv, tmp_path: Path) -> None:
    """A batch that is generated again leaves no copies."""
    for _ in range(2):
        mark_ingested(land(table.head(1), "data.csv"))
    assert [file.name for file in (tmp_path / "ingested").iterdir()] == ["data.csv"]


def test_a_file_that_is_being_written_is_waited_for(
    table: DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of a file would be valid too: it is read when it has grown no more."""
    monkeypatch.setattr("ml.landing.QUIET_S", 0.3)
    path = tmp_path / "slow.csv"
    lines = table.head(12).to_csv(index=False).splitlines(keepends=True)
    path.write_text(lines[0])

    def write_slowly() -> None:
        for line in lines[1:]:
            with path.open("a") as file:
                file.write(line)
            time.sleep(0.05)

    writer = threading.Thread(target=write_slowly)
    writer.start()
    assert len(read_batch(path)) == 12
    writer.join()


def test_what_was_ingested_counts_as_data_and_what_is_in_quarantine_does_not(
    table: DataFrame, land: WriteCsv, tmp_path: Path
) -> None:
    """Training need not wait once a file was good."""
    assert not has_data(tmp_path / "absent")
    quarantine(land(table.head(1), "bad.csv"), "fault")
    assert not has_data(tmp_path)
    mark_ingested(land(table.head(1), "good.csv"))
    assert has_data(tmp_path)


def test_a_batch_names_its_file(table: DataFrame, land: WriteCsv) -> None:
    """The warehouse says of each observation where it came from."""
    batch = read_batch(land(table.head(2), "today.csv"))
    assert batch["source"].tolist() == ["today.csv"] * 2
    assert batch[ID].tolist() == [0, 1]
