"""Rows per second and peak memory of the write path, against what else one would use.

    python -m tests.benchmarks.bench_io [ROWS] [ROUNDS]

Writes ROWS × 32 columns (a million unless told, 20 000 with QUICK set) into an emptied table with a
primary key, by each way in turn, ROUNDS times over, each in a process of its own against one
Postgres that runs for the benchmark. The slow ways get a share of the rows. Memory is what the
process's peak grows by while it writes, beyond the table that it was given; the write path's is
also measured once with a tenth of the rows and with three times as many.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import psycopg
from psycopg import sql

from celery_stack.migrate import migrate
from celery_stack.warehouse.binary import (
    HEADER,
    TRAILER,
    Column,
    encode,
)
from celery_stack.warehouse.kinds import KINDS
from celery_stack.warehouse.load import Target, store
from celery_stack.warehouse.rows import read_chunks
from ml.schema import COLUMNS, FEATURES
from tests.warehouse.embedded import running_warehouse, writer

TABLE = "observations"
CHUNK_ROWS = 10_000
OURS = ("write_rows, DataFrame", "write_rows, records")
SHARE = {"to_sql": 20, "to_sql multi": 200, "execute_values": 10}
NAMES = sql.SQL(", ").join(map(sql.Identifier, COLUMNS))


def make_table(rows: int) -> pd.DataFrame:
    """Give (rows, 32): id, 30 features, target."""
    numbers = np.random.default_rng(7).lognormal(size=(rows, len(FEATURES)))
    table = pd.DataFrame(numbers, columns=list(FEATURES))
    table.insert(0, "observation_id", np.arange(rows))
    table["target"] = np.arange(rows) % 2
    return table


def write_frame(url: str, table: pd.DataFrame) -> None:
    """The write path, from a DataFrame."""
    with psycopg.connect(url) as connection:
        target = Target(TABLE, ("observation_id",))
        store(connection, writer(), table, target, columns=None, chunk_rows=CHUNK_ROWS)


def write_records(url: str, table: pd.DataFrame) -> None:
    """The write path, from an iterator of tuples."""
    with psycopg.connect(url) as connection:
        records = table.itertuples(index=False, name=None)
        target = Target(TABLE, ("observation_id",))
        store(connection, writer(), records, target, columns=COLUMNS, chunk_rows=CHUNK_ROWS)


def copy_text(url: str, table: pd.DataFrame) -> Callable[[], None]:
    """COPY of a CSV made beforehand, straight into the table: what psql's COPY would take."""
    content = table.to_csv(index=False, header=False)

    def copy() -> None:
        query = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT csv)").format(sql.Identifier(TABLE), NAMES)
        source = io.StringIO(content)
        with psycopg.connect(url) as connection, connection.cursor().copy(query) as stream:
            while part := source.read(1 << 18):
                stream.write(part)

    return copy


def copy_binary(url: str, table: pd.DataFrame) -> Callable[[], None]:
    """Binary COPY of bytes made beforehand, straight into the table: the limit."""
    types = ["int8", *["float8"] * len(FEATURES), "int2"]
    columns = [Column(n, KINDS[t], required=False) for n, t in zip(COLUMNS, types, strict=True)]
    parts = [encode(chunk, columns) for chunk in read_chunks(table, None, CHUNK_ROWS)[1]]

    def copy() -> None:
        query = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)")
        filled = query.format(sql.Identifier(TABLE), NAMES)
        with psycopg.connect(url) as connection, connection.cursor().copy(filled) as stream:
            for part in (HEADER, *parts, TRAILER):
                stream.write(part)

    return copy


def to_sql(url: str, table: pd.DataFrame, **options: Any) -> None:
    from sqlalchemy import create_engine

    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg2:", 1))
    table.to_sql(TABLE, engine, if_exists="append", index=False, **options)


def execute_values(url: str, table: pd.DataFrame) -> None:
    """psycopg2's helper, with ON CONFLICT, pages of 1000 rows."""
    import psycopg2
    from psycopg2 import extras
    from psycopg2 import sql as old_sql

    names = old_sql.SQL(", ").join(map(old_sql.Identifier, COLUMNS))
    news = old_sql.SQL(", ").join(old_sql.Identifier("excluded", name) for name in COLUMNS)
    query = (
        "INSERT INTO {} ({}) VALUES %s ON CONFLICT (observation_id) DO UPDATE SET ({}) = ROW ({})"
    )
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        filled = old_sql.SQL(query).format(old_sql.Identifier(TABLE), names, names, news)
        rows = table.itertuples(index=False, name=None)
        extras.execute_values(cursor, filled, rows, page_size=1000)


WAYS: dict[str, Callable[[str, pd.DataFrame], Callable[[], Any]]] = {
    "write_rows, DataFrame": lambda url, table: lambda: write_frame(url, table),
    "write_rows, records": lambda url, table: lambda: write_records(url, table),
    "raw COPY, csv": copy_text,
    "raw COPY, binary": copy_binary,
    # 32 columns × 1000 rows: below the 65 535 parameters of a statement.
    "to_sql": lambda url, table: lambda: to_sql(url, table),
    "to_sql multi": lambda url, table: lambda: to_sql(url, table, method="multi", chunksize=1000),
    "execute_values": lambda url, table: lambda: execute_values(url, table),
}


def measure(way: str, url: str, rows: int) -> tuple[float, float]:
    """Write by one way; give rows per second and MiB that the peak grew by."""
    work = WAYS[way](url, make_table(rows))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("TRUNCATE observations, write_fences")
        connection.execute("CHECKPOINT")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is held now
    before, start = _peak_mib(), time.perf_counter()
    work()
    taken = time.perf_counter() - start
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT count(*) FROM observations").fetchone()
    assert found == (rows,), (way, found)
    return rows / taken, _peak_mib() - before


def _peak_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:", 1)[1].split(maxsplit=1)[0]) / 1024


def measure_apart(way: str, url: str, rows: int) -> tuple[float, float]:
    """Measure in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_io", "--one", way, str(rows)]
    done = subprocess.run(command, input=url, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rate, memory = done.stdout.split()
    return float(rate), float(memory)


def run(rows: int, rounds: int) -> str:
    """Give the table of medians, and the memory of the write path by number of rows."""
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="bench-io-") as folder:
        Path(folder).chmod(0o755)
        with running_warehouse(Path(folder)) as url:
            migrate(url)
            for _ in range(rounds):
                for way in WAYS:
                    count = max(rows // SHARE.get(way, 1), 1)
                    found[way].append(measure_apart(way, url, count))
            grown = [
                f"{way}, {count} rows: {measure_apart(way, url, count)[1]:.0f} MiB"
                for way in OURS
                for count in (max(rows // 10, 1), 3 * rows)
            ]
    return "\n".join([as_table(found, rows, rounds), *grown])


def as_table(found: dict[str, list[tuple[float, float]]], rows: int, rounds: int) -> str:
    rates = {way: median(rate for rate, _ in results) for way, results in found.items()}
    lines = [
        f"{rows} rows × {len(COLUMNS)} columns, median of {rounds}",
        f"{'way':24}{'rows/s':>10}{'min':>10}{'max':>10}{'× to_sql':>10}{'of csv':>8}{'of bin':>8}{'MiB':>7}",
    ]
    for way, results in found.items():
        rate, each = rates[way], [result for result, _ in results]
        lines.append(
            f"{way:24}{rate:10.0f}{min(each):10.0f}{max(each):10.0f}"
            f"{rate / rates['to_sql']:10.1f}{rate / rates['raw COPY, csv']:8.2f}"
            f"{rate / rates['raw COPY, binary']:8.2f}{median(mib for _, mib in results):7.0f}"
        )
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Run the benchmark, or one way of it in this process."""
    if arguments[:1] == ["--one"]:
        rate, memory = measure(arguments[1], sys.stdin.read(), int(arguments[2]))
        sys.stdout.write(f"{rate} {memory}\n")
        return
    default = 20_000 if os.environ.get("QUICK") else 1_000_000
    rows = int(arguments[0]) if arguments else default
    rounds = int(arguments[1]) if len(arguments) > 1 else 3
    sys.stdout.write(run(rows, rounds) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
