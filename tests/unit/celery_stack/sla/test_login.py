"""The way to the mail server: where it is, TLS, the login; and that the password stays there."""

from __future__ import annotations

import json
import logging
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
from psycopg import Connection

from celery_stack.settings import Settings
from celery_stack.sla.conversation import SmtpServer
from celery_stack.sla.sender import send_due
from compose.secret_files import smtp_connections, write_secret
from tests.mail_servers import (
    PASSWORD,
    USER,
    Mailbox,
    encoded,
    mail_server,
    scripted_server,
    server_certificate,
)
from tests.unit.celery_stack.sla.outbox_rows import BODY, LATER, now, put, row


# The server does not see that what it reads comes out of TLS.
@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")
@pytest.mark.parametrize("security", ["none", "starttls", "tls"])
def test_mail_arrives_whole(
    metadata: Connection[Any], mailbox: Mailbox, tls: ssl.SSLContext, security: str
):
    """In clear; after STARTTLS and a login; inside TLS and after a login."""
    put(metadata, "you@example.org", "me@example.org")
    with mail_server(mailbox, security=security, tls=tls) as server:
        assert send_due(metadata, server, now=now()) == 1
    [(recipients, message)] = mailbox.taken
    assert recipients == ["you@example.org", "me@example.org"]
    text, html = message.get_body(("plain",)), message.get_body(("html",))
    assert text is not None
    assert html is not None
    assert text.get_content().splitlines() == BODY.text.splitlines()
    assert html.get_content().splitlines() == [BODY.html]
    sent = row(metadata)
    assert (sent["state"], sent["attempts"], sent["last_error"]) == ("sent", 1, "")
    assert sent["delivered"] == recipients
    assert sent["sent_at"] is not None


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")
@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_certificate_of_a_stranger_is_refused(
    metadata: Connection[Any], mailbox: Mailbox, security: str
):
    """Neither login nor mail is sent; the mail waits."""
    _, context = server_certificate()
    put(metadata)
    with mail_server(mailbox, security=security, tls=context) as server:
        assert send_due(metadata, server, now=now()) == 0
    assert "certificate verify failed" in row(metadata)["last_error"]
    assert mailbox.taken == []


def test_server_without_starttls_gets_no_password(metadata: Connection[Any], mailbox: Mailbox):
    """Where it was promised."""
    put(metadata)
    with mail_server(mailbox) as plain:
        server = SmtpServer(plain.host, plain.port, "starttls", user=USER, password=PASSWORD)
        assert send_due(metadata, server, now=now()) == 0
    assert "STARTTLS" in row(metadata)["last_error"]


def test_wrong_login_is_a_setting_to_be_corrected(
    metadata: Connection[Any], mailbox: Mailbox, tls: ssl.SSLContext
):
    """5xx though it is, no mail is lost by it."""
    put(metadata)
    with mail_server(mailbox, security="starttls", tls=tls) as server:
        wrong = SmtpServer(server.host, server.port, "starttls", user=USER, password="no")
        assert send_due(metadata, wrong, now=now()) == 0
        assert row(metadata)["last_error"].startswith("535")
        assert send_due(metadata, server, now=now() + LATER) == 1


def test_missing_login_is_a_setting_to_be_corrected(
    metadata: Connection[Any], mailbox: Mailbox, tls: ssl.SSLContext
):
    """530 is said of the recipient or the sender, but is about neither."""
    put(metadata)
    with mail_server(mailbox, security="starttls", tls=tls) as server:
        anonymous = SmtpServer(server.host, server.port, "starttls")
        assert send_due(metadata, anonymous, now=now()) == 0
        assert row(metadata)["state"] == "pending"
        assert send_due(metadata, server, now=now() + LATER) == 1


def test_password_is_in_no_error_and_no_log(
    metadata: Connection[Any], caplog: pytest.LogCaptureFixture
):
    """A server may repeat the login, as it came or decoded."""
    caplog.set_level(logging.DEBUG)
    login = encoded(f"\0{USER}\0{PASSWORD}")

    def talk(connection: socket.socket) -> None:
        connection.sendall(b"220 hello\r\n")
        with connection.makefile("rb") as lines:
            for line in lines:
                if line[:4].lower() == b"ehlo":
                    connection.sendall(b"250-hello\r\n250 AUTH PLAIN LOGIN\r\n")
                else:
                    connection.sendall(f"535 no: {login} {PASSWORD}\r\n".encode())

    put(metadata)
    with scripted_server(talk) as bare:
        server = SmtpServer(bare.host, bare.port, user=USER, password=PASSWORD)
        assert send_due(metadata, server, now=now()) == 0
    assert row(metadata)["last_error"] == "535 no: *** ***"
    assert PASSWORD not in repr(server)
    for secret in (PASSWORD, login):
        assert secret not in caplog.text


@pytest.mark.parametrize("password", ["pässword", ""])
def test_login_that_cannot_be_said_is_an_error_of_the_setting(
    metadata: Connection[Any], mailbox: Mailbox, tls: ssl.SSLContext, password: str
):
    """The mail waits."""
    put(metadata)
    with mail_server(mailbox, security="starttls", tls=tls) as known:
        server = SmtpServer(known.host, known.port, "starttls", user=USER, password=password)
        assert send_due(metadata, server, now=now()) == 0
    assert row(metadata)["state"] == "pending"
    assert row(metadata)["last_error"]


def test_server_is_read_from_airflow_s_connection(tmp_path: Path):
    """As the stack writes it, for each kind of security."""
    write_secret(tmp_path / "smtp/password", PASSWORD)
    file = tmp_path / "connections.json"
    for security in ("none", "starttls", "tls"):
        env = {"SMTP_HOST": "mx", "SMTP_PORT": "25", "SMTP_SECURITY": security}
        env |= {"SMTP_FROM": "airflow@example.com"}
        known = {} if security == "none" else {"user": USER, "password": PASSWORD}
        if known:
            env |= {"SMTP_USER": USER}
        file.write_text(json.dumps(smtp_connections(tmp_path, Settings.from_env(env))))
        expected = SmtpServer("mx", 25, security, "airflow@example.com", **known)  # type: ignore[arg-type]
        assert SmtpServer.from_connection_file(file) == expected


def test_no_server_and_a_login_in_clear_are_told_apart(tmp_path: Path):
    """None where none is set; an error where the password would travel unencrypted."""
    file = tmp_path / "connections.json"
    file.write_text("{}")
    assert SmtpServer.from_connection_file(file) is None
    extra = {"disable_ssl": True, "disable_tls": True, "from_email": "a@example.org"}
    connection = {"host": "mx", "port": 25, "login": USER, "password": PASSWORD, "extra": extra}
    file.write_text(json.dumps({"smtp_default": connection}))
    with pytest.raises(ValueError, match="Expected starttls or tls") as error:
        SmtpServer.from_connection_file(file)
    assert PASSWORD not in str(error.value)
