"""Databases with the tables of the SLAs, in embedded Postgres, and the page before one."""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from airflow.api_fastapi import app as airflow_app
from fastapi import FastAPI
from fastapi.testclient import TestClient
from psycopg import Connection

import stack_plugin
from celery_stack.sla import schema
from compose.secret_files import read_secret
from tests.mail_servers import Mailbox, server_certificate
from tests.unit.celery_stack.sla.page import (
    Users,
    sessions_of,
)
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


@pytest.fixture(scope="session")
def server() -> Iterator[dict[str, str]]:
    """Give the URLs of a metadata database with the schema `sla`, by role."""
    with tempfile.TemporaryDirectory(prefix="sla-") as folder:
        Path(folder).chmod(0o755)
        with running_warehouse(Path(folder)) as warehouse:
            address = warehouse.split("@", 1)[1].replace("/warehouse", "/airflow")
            urls = {
                role: f"postgresql://{role}:{read_secret(Path(folder) / 'secrets/postgres' / role)}@{address}"
                for role in ("sla", "airflow")
            }
            urls["superuser"] = warehouse.replace("/warehouse", "/airflow")
            with psycopg.connect(urls["superuser"]) as connection:
                connection.execute("create schema sla authorization sla")
            with psycopg.connect(urls["sla"]) as connection:
                schema.create(connection)
            yield urls


@pytest.fixture
def rows(server: dict[str, str]) -> Iterator[Connection[Any]]:
    """Give the monitor's connection to tables without rows."""
    with psycopg.connect(server["sla"], autocommit=True) as connection:
        connection.execute("truncate sla.record, sla.mail, sla.mail_record restart identity")
        yield connection


@pytest.fixture
def client(server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """Give a browser without a login, before an api-server that has the plugin mounted."""
    monkeypatch.setattr(airflow_app._AuthManagerState, "instance", Users())
    root = FastAPI()
    for entry in stack_plugin.apps():
        root.mount(entry["url_prefix"], entry["app"])
    with sessions_of(server["airflow"], monkeypatch):
        yield TestClient(root, follow_redirects=False)


@pytest.fixture
def anna(client: TestClient) -> TestClient:
    """The same, with the cookie of a user who may read two DAGs."""
    client.cookies.set("_token", "anna")
    return client
