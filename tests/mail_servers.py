"""Mail servers for the tests: one that keeps what it takes, and one that follows a script."""

from __future__ import annotations

import base64
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage

import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from celery_stack.sla.conversation import SmtpServer

USER, PASSWORD = "me", "p@ss: w/rd%"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Mailbox:
    """What a mail server has taken, and how it answers."""

    taken: list[tuple[list[str], EmailMessage]] = field(default_factory=list)
    refuses: dict[str, str] = field(default_factory=dict)  # recipient to answer
    greylists: set[str] = field(default_factory=set)  # put off once
    answers: list[str] = field(default_factory=list)  # to the next texts; then 250
    seen: list[Sequence[str]] = field(default_factory=list)  # recipients of each text
    sessions: set[int] = field(default_factory=set)
    logins: list[bool] = field(default_factory=list)  # whether each was right
    release: Callable[[], object] = lambda: None  # called before a text is answered

    async def handle_RCPT(  # noqa: N802
        self, _server: SMTP, session: Session, envelope: Envelope, address: str, _options: object
    ) -> str:
        self.sessions.add(id(session))
        if address in self.refuses:
            return self.refuses[address]
        if address in self.greylists:
            self.greylists.remove(address)
            return "451 4.7.1 Greylisted, try again later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        assert isinstance(envelope.content, bytes)
        self.seen.append(list(envelope.rcpt_tos))
        answer = self.answers.pop(0) if self.answers else "250 OK"
        if answer == "drop":
            server.transport.abort()
            return "250 unheard"
        await server.loop.run_in_executor(None, self.release)
        if answer.startswith("250"):
            message = message_from_bytes(envelope.content, policy=policy.default)
            self.taken.append((list(envelope.rcpt_tos), message))
        return answer

    def authenticate(
        self, _server: SMTP, _session: Session, _envelope: Envelope, _how: str, login: object
    ) -> AuthResult:
        good = login == LoginPassword(USER.encode(), PASSWORD.encode())
        self.logins.append(good)
        return AuthResult(success=good, handled=False)

    @property
    def subjects(self) -> list[str]:
        return [str(message["Subject"]) for _, message in self.taken]

    @property
    def message_ids(self) -> list[str]:
        return [str(message["Message-ID"]) for _, message in self.taken]

    @property
    def receivers(self) -> list[str]:
        return [address for recipients, _ in self.taken for address in recipients]


@contextmanager
def mail_server(
    mailbox: Mailbox,
    *,
    security: str = "none",
    tls: ssl.SSLContext | None = None,
    port: int | None = None,
) -> Iterator[SmtpServer]:
    """Run a real mail server; with encryption it takes mail after a login alone."""
    kinds: Mapping[str, dict[str, object]] = {
        "none": {},
        "starttls": {"tls_context": tls, "require_starttls": True},
        "tls": {"ssl_context": tls, "auth_require_tls": False},  # its name for STARTTLS
    }
    login = {"authenticator": mailbox.authenticate, "auth_required": True}
    options = kinds[security] | (login if security != "none" else {})
    port = port or free_port()
    server = Controller(mailbox, hostname="127.0.0.1", port=port, **options)
    server.start()
    known = {"user": USER, "password": PASSWORD} if security != "none" else {}
    try:
        yield SmtpServer("127.0.0.1", port, security, **known)  # type: ignore[arg-type]
    finally:
        server.stop()


def server_certificate() -> tuple[trustme.CA, ssl.SSLContext]:
    """Give an authority and the TLS of a server on this machine with its certificate."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return authority, context


@contextmanager
def scripted_server(talk: Callable[[socket.socket], None]) -> Iterator[SmtpServer]:
    """Run a server that does with each connection what `talk` says."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)  # little is read ahead

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=_talk, args=[talk, connection], daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield SmtpServer("127.0.0.1", int(listener.getsockname()[1]))
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _talk(talk: Callable[[socket.socket], None], connection: socket.socket) -> None:
    with connection:
        try:
            talk(connection)
        except OSError:
            return  # the client has hung up


def answer_until(connection: socket.socket, last: bytes) -> None:
    """Answer each command with yes, up to and with the one that begins with `last`."""
    connection.sendall(b"220 hello\r\n")
    with connection.makefile("rb") as lines:
        for line in lines:
            command = line[:4].lower()
            connection.sendall(b"354 go\r\n" if command == b"data" else b"250 yes\r\n")
            if command == last:
                return


def answer_but(command: bytes, said: bytes, connection: socket.socket) -> None:
    """Answer each command with yes, but that one."""
    connection.sendall(b"220 hello\r\n")
    with connection.makefile("rb") as lines:
        for line in lines:
            connection.sendall((said if line[:4].lower() == command else b"250 yes") + b"\r\n")


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
