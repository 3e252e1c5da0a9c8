"""A conversation with a mail server: what it says to each recipient of a mail, and what that means."""

from __future__ import annotations

import base64
import json
import re
import smtplib
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from celery_stack.sla.mail import one_line

CONNECTION_ID = "smtp_default"

TIMEOUT_S = 10
# A server may look for viruses before it answers the text of a mail. Whoever hangs up meanwhile sends
# it twice: RFC 5321, 4.5.3.2.6 asks for ten minutes.
ACCEPTANCE_TIMEOUT_S = 600
# A server that sends a byte now and then never runs into a timeout. Without the wait for the acceptance.
CONVERSATION_S = 120

# 530: a login is missing; 535: it is wrong; 421: the server goes down. None of them is about a recipient.
NOT_ABOUT_THE_RECIPIENT = frozenset({421, 503, 530, 535, 538})
# RFC 3463: security or policy, such as "relay denied" to whoever has not logged in.
POLICY = re.compile(r"\s*5\.7\.")
ERROR_LENGTH = 500
UNCONFIRMED = "Unconfirmed: it may have arrived; not sent again."

# ValueError: what cannot be said in SMTP, such as a login that is not ASCII.
PROBLEMS = (OSError, smtplib.SMTPException, ValueError)


class ServerDownError(Exception):
    """Nothing can be sent to anybody now; the message says why, without the password."""


@dataclass(frozen=True)
class SmtpServer:
    """A mail server: where it is, how the way there is encrypted, who logs in, who sends."""

    host: str
    port: int
    security: Literal["none", "starttls", "tls"] = "none"
    sender: str = "airflow@example.org"
    user: str = ""
    password: str = field(default="", repr=False)

    @classmethod
    def from_connection_file(cls, path: Path) -> Self | None:
        """Read Airflow's connection `smtp_default`; None where no mail server is set.

        Raises:
            ValueError: it would send the password unencrypted.
        """
        connection = json.loads(path.read_text()).get(CONNECTION_ID)
        if connection is None:
            return None
        extra = connection.get("extra", {})
        server = cls(
            host=connection["host"],
            port=int(connection["port"]),
            security=_security(extra),
            sender=extra["from_email"],
            user=connection.get("login", ""),
            password=connection.get("password", ""),
        )
        if server.user and server.security == "none":
            raise ValueError("Expected starttls or tls where a user logs in, found none. Set it.")
        return server

    def hide_password(self, text: str) -> str:
        """Give `text` without the password, also as the server may repeat it: in base64."""
        if not self.password:
            return text
        login = f"\0{self.user}\0{self.password}"
        encoded = [base64.b64encode(t.encode()).decode() for t in (login, self.password)]
        for secret in (self.password, *encoded):
            text = text.replace(secret, "***")
        return text


@dataclass
class Answers:
    """What became of each recipient, with the server's words where it did not take the mail.

    Args:
        unanswered: those of `later` for whom the server has the whole text, and did not say whether it takes it.
    """

    delivered: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    later: dict[str, str] = field(default_factory=dict)
    unanswered: list[str] = field(default_factory=list)

    def give_up_unanswered(self) -> None:
        """Send it to them no more."""
        for address in self.unanswered:
            self.refused[address] = f"{UNCONFIRMED} {self.later.pop(address)}"

    def describe(self) -> str:
        """Give one line with what went wrong; empty if nothing did."""
        wrong = {**self.refused, **self.later}
        return _short("; ".join(f"{address}: {why}" for address, why in wrong.items()))


class Conversation:
    """A conversation with the mail server, begun at the first mail and again after a break."""

    def __init__(self, server: SmtpServer) -> None:
        self.server = server
        self._client: smtplib.SMTP | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._client is not None:
            with suppress(OSError, smtplib.SMTPException):
                self._client.quit()
        self._hang_up()

    def deliver(self, raw: bytes, recipients: Sequence[str], answers: Answers) -> None:
        """Offer one mail to the recipients; `answers` gets what the server says.

        Raises:
            ServerDownError: no connection, no TLS, no login, or the sender is not allowed.
        """
        client = self._client or self._call()
        try:
            with _at_most(CONVERSATION_S, client):
                accepted = self._offer(client, raw, recipients, answers)
            if accepted:
                self._hear(client, accepted, answers)
        except PROBLEMS as error:
            self._hang_up()
            known = {*answers.delivered, *answers.refused, *answers.later}
            said = self._describe(error)
            answers.later |= {address: said for address in recipients if address not in known}

    def _call(self) -> smtplib.SMTP:
        try:
            self._client = client = _connect(self.server)
            with _at_most(CONVERSATION_S, client):
                if self.server.security == "starttls":
                    client.starttls(context=ssl.create_default_context())
                if self.server.user:
                    client.login(self.server.user, self.server.password)
                client.ehlo_or_helo_if_needed()
        except PROBLEMS as error:
            self._hang_up()
            raise ServerDownError(self._describe(error)) from None
        return client

    def _offer(
        self, client: smtplib.SMTP, raw: bytes, recipients: Sequence[str], answers: Answers
    ) -> list[str]:
        """Send the text, if the server wants it; give those for whom it now has the whole of it."""
        code, said = client.mail(self.server.sender)
        if code != 250:
            self._hang_up()
            raise ServerDownError(self._words(code, said))
        accepted = []
        for address in recipients:
            code, said = client.rcpt(address)
            if code in (250, 251):
                accepted.append(address)
            elif POLICY.match(said.decode(errors="replace")):
                answers.later[address] = self._words(code, said)
            else:
                self._refuse([address], code, said, answers)
        if not accepted:
            client.rset()
            return []
        with _patience(client, CONVERSATION_S):
            code, said = client.docmd("DATA")
            if code == 354:
                client.send(_as_text(raw))
                return accepted
        self._refuse(accepted, code, said, answers)
        client.rset()
        return []

    def _hear(self, client: smtplib.SMTP, accepted: Sequence[str], answers: Answers) -> None:
        """Wait for the server's answer to the text."""
        wait_s = ACCEPTANCE_TIMEOUT_S
        try:
            with _at_most(wait_s + TIMEOUT_S, client), _patience(client, wait_s):
                code, said = client.getreply()
        except PROBLEMS:
            answers.unanswered += accepted
            raise
        if code == 250:
            answers.delivered += accepted
        else:
            self._refuse(accepted, code, said, answers)

    def _refuse(self, recipients: Sequence[str], code: int, said: bytes, answers: Answers) -> None:
        for_good = 500 <= code < 600 and code not in NOT_ABOUT_THE_RECIPIENT
        kind = answers.refused if for_good else answers.later
        kind |= dict.fromkeys(recipients, self._words(code, said))

    def _hang_up(self) -> None:
        if self._client is not None:
            self._client.close()
        self._client = None

    def _words(self, code: int, said: bytes) -> str:
        text = self.server.hide_password(said.decode(errors="replace"))
        return _short(f"{code} {text}")

    def _describe(self, error: Exception) -> str:
        if isinstance(error, smtplib.SMTPResponseException):
            return self._words(error.smtp_code, _bytes(error.smtp_error))
        return _short(self.server.hide_password(f"{type(error).__name__}: {error}"))


def _connect(server: SmtpServer) -> smtplib.SMTP:
    """Connect; certificates are checked against the system's authorities, or those of SSL_CERT_FILE."""
    if server.security == "tls":
        context = ssl.create_default_context()
        return smtplib.SMTP_SSL(server.host, server.port, timeout=TIMEOUT_S, context=context)
    return smtplib.SMTP(server.host, server.port, timeout=TIMEOUT_S)


def _as_text(raw: bytes) -> bytes:
    """Give a message as it follows DATA: dots doubled at the beginning of lines, and the final dot."""
    ended = raw if raw.endswith(b"\r\n") else raw + b"\r\n"
    return re.sub(rb"(?m)^\.", b"..", ended) + b".\r\n"


def _bytes(said: bytes | str) -> bytes:
    return said.encode() if isinstance(said, str) else said


@contextmanager
def _at_most(seconds: float, client: smtplib.SMTP) -> Iterator[None]:
    """Cut the connection when the block takes longer: its reads and writes fail."""
    timer = threading.Timer(seconds, _cut, [client])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def _patience(client: smtplib.SMTP, seconds: float) -> Iterator[None]:
    """Let each read and write of the block take so long, instead of `TIMEOUT_S`."""
    assert client.sock is not None, "the server has just answered"  # noqa: S101
    client.sock.settimeout(seconds)
    yield
    client.sock.settimeout(TIMEOUT_S)


def _cut(client: smtplib.SMTP) -> None:
    if isinstance(client.sock, socket.socket):
        with suppress(OSError):
            # Not SSLSocket's own, which takes TLS off: the reader would go on in clear.
            socket.socket.shutdown(client.sock, socket.SHUT_RDWR)


def _security(extra: Mapping[str, Any]) -> Literal["none", "starttls", "tls"]:
    if not extra.get("disable_ssl", False):
        return "tls"
    return "none" if extra.get("disable_tls", False) else "starttls"


def _short(text: str) -> str:
    return one_line(text)[:ERROR_LENGTH]
