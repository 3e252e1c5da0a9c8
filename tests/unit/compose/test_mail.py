"""The connection to the mail server: who reads it, and that Airflow's hook sends mail through it."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from airflow.providers.smtp.hooks.smtp import SmtpHook
from airflow.sdk.configuration import clear_secrets_backends_cache

from celery_stack.settings import SettingError, Settings
from compose.commands import connections_from
from compose.secret_files import Addresses, derive_secrets, make_secrets, write_secret

ADDRESSES = Addresses("127.0.0.1", 15432, "127.0.0.1", 16379)
PASSWORD = "p@ss: w/rd%"


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """Give the secrets of a stack; a mail server's password is none of those that are made."""
    make_secrets(tmp_path)
    assert not (tmp_path / "smtp").exists()
    return tmp_path


def connections(secrets: Path, group: str, **env: str) -> dict[str, object]:
    derive_secrets(secrets, ADDRESSES, Settings.from_env(env))
    found: dict[str, object] = json.loads((secrets / group / "connections.json").read_text())
    return found


def test_without_a_mail_server_there_is_no_connection(secrets: Path):
    """Nobody finds one that leads nowhere."""
    assert connections(secrets, "smtp") == {}
    assert connections(secrets, "worker").keys() == {"warehouse"}


def test_tasks_get_mail_and_warehouse_and_callbacks_get_mail_alone(secrets: Path):
    """What the DAG processor and the triggerer read does not open the warehouse."""
    assert connections(secrets, "worker", SMTP_HOST="mx").keys() == {"warehouse", "smtp_default"}
    assert connections(secrets, "smtp", SMTP_HOST="mx").keys() == {"smtp_default"}
    for path in (secrets / "smtp").iterdir():
        assert (secrets / "postgres/warehouse").read_text() not in path.read_text()


@pytest.mark.parametrize("env", [{"SMTP_USER": "me"}, {}])
def test_login_takes_a_user_and_a_password(secrets: Path, env: dict[str, str]):
    """One without the other is no login."""
    if not env:
        write_secret(secrets / "smtp/password", PASSWORD)
    [connection] = connections(secrets, "smtp", SMTP_HOST="mx", **env).values()
    assert "password" not in connection
    assert "login" not in connection


def test_password_never_travels_unencrypted(secrets: Path):
    """One line says what to set."""
    write_secret(secrets / "smtp/password", PASSWORD)
    with pytest.raises(SettingError, match="SMTP_SECURITY must be starttls or tls where .* 'none'"):
        connections(secrets, "smtp", SMTP_HOST="mx", SMTP_USER="me")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("SMTP_SECURITY", "ssl", "one of none, starttls, tls"),
        ("SMTP_PORT", "smtp", "a whole number from 1 to 65535"),
        ("SMTP_HOST", "mx example", "text matching "),
        ("SMTP_FROM", "airflow", "text matching "),
    ],
)
def test_wrong_mail_setting_is_one_line(name: str, value: str, expected: str):
    """Variable, expectation and value."""
    with pytest.raises(SettingError, match=f"{name} must be {expected}.*got '{value}'"):
        Settings.from_env({name: value})


class Mailbox(Message):
    """Keeps what arrives: the message, and who had logged in."""

    def __init__(self) -> None:
        super().__init__()
        self.caught: list[tuple[str, str]] = []
        self.logged_in = ""

    def handle_message(self, message: object) -> None:
        self.caught.append((str(message["Subject"]), self.logged_in))  # type: ignore[index]

    def authenticate(
        self, _server: SMTP, _session: Session, _envelope: Envelope, _how: str, login: object
    ) -> AuthResult:
        good = login == LoginPassword(b"me", PASSWORD.encode())
        self.logged_in = "me" if good else ""
        return AuthResult(success=good, handled=False)


@contextmanager
def mail_server(security: str, tls: ssl.SSLContext) -> Iterator[tuple[Mailbox, int]]:
    """Give a real mail server with this security that takes mail after a login alone."""
    mailbox = Mailbox()
    kinds = {
        "none": {},
        "starttls": {"tls_context": tls, "require_starttls": True},
        "tls": {"ssl_context": tls, "auth_require_tls": False},  # its name for STARTTLS
    }
    login = {"authenticator": mailbox.authenticate, "auth_required": True}
    options = kinds[security] | (login if security != "none" else {})
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    server = Controller(mailbox, hostname="127.0.0.1", port=port, **options)
    server.start()
    try:
        yield mailbox, port
    finally:
        server.stop()


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """Give the certificate of a server on this machine, which this process trusts."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


# The server does not see that what it reads comes out of TLS.
@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")
@pytest.mark.parametrize("security", ["none", "starttls", "tls"])
def test_airflow_sends_mail_through_the_connection(
    secrets: Path, certificate: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch, security: str
):
    """In clear; after STARTTLS and a login; inside TLS and after a login."""
    env = {"SMTP_HOST": "127.0.0.1", "SMTP_SECURITY": security}
    if security != "none":
        write_secret(secrets / "smtp/password", PASSWORD)
        env |= {"SMTP_USER": "me"}
    with mail_server(security, certificate) as (mailbox, port):
        connections(secrets, "smtp", SMTP_PORT=str(port), **env)
        for name, value in connections_from(secrets / "smtp/connections.json").items():
            monkeypatch.setenv(name, value)
        clear_secrets_backends_cache()
        with SmtpHook() as hook:
            hook.send_email_smtp(to="you@example.org", subject="hello", html_content="hello")
    clear_secrets_backends_cache()
    assert mailbox.caught == [("hello", "me" if security != "none" else "")]
