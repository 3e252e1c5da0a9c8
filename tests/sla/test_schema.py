"""The tables of the SLAs, on a database of an earlier version."""

from __future__ import annotations

import psycopg

from celery_stack.sla import schema
from tests.sla.runs import Metadata

LATER = ("silent", "called_at")
"""Columns that the first version did not have."""


def test_tables_of_an_earlier_version_get_what_they_lack(metadata: Metadata):
    """Each start makes them again; what they hold stays."""
    columns = "select column_name from information_schema.columns where table_name = 'record'"
    with psycopg.connect(metadata.sla_url) as connection:
        connection.execute(
            "insert into sla.record (dag_id, run_id, name, due_from, promised, verdict, state)"
            " values ('nightly', 'run', 'run', now(), now(), 'pending', 'queued')"
        )
        for column in LATER:
            connection.execute(f"alter table sla.record drop column {column}")
        for _ in range(2):
            schema.create(connection)
        assert set(LATER) <= {name for (name,) in connection.execute(columns)}
    assert len(metadata.records()) == 1
