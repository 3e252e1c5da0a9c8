"""A database with the tables of the SLAs, in an embedded Postgres."""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import Connection

from celery_stack.sla import schema
from tests.mail_servers import Mailbox, server_certificate
from tests.warehouse.embedded import running_warehouse


@pytest.fixture(scope="session")
def metadata_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the URL of a metadata database, as its superuser."""
    with tempfile.TemporaryDirectory(prefix="metadata-") as folder:
        Path(folder).chmod(0o755)
        with running_warehouse(Path(folder)) as warehouse:
            url = f"{warehouse.rpartition('/')[0]}/airflow"
            with psycopg.connect(url) as connection:
                connection.execute("create schema if not exists sla")
                schema.create(connection)
            yield url


@pytest.fixture
def metadata(metadata_url: str) -> Iterator[Connection[Any]]:
    """Give a connection as the monitor opens it, to an empty outbox."""
    with psycopg.connect(metadata_url, autocommit=True) as connection:
        connection.execute("truncate sla.mail, sla.record cascade")
        yield connection


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """Give the TLS of a server whose authority this process trusts."""
    authority, context = server_certificate()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return context
