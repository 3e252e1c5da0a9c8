"""The sender: takes what is due out of the outbox and hands it to the mail server.

At least once: a mail counts as sent when the server has accepted it and that is committed; its row
stays locked in between, so two senders never take the same one. Whoever dies after the acceptance and
before the commit, or is cut off while the server says "accepted", leaves a mail that is sent
again, under the same Message-ID.

    the server answers 5xx for a recipient, or for the text   refused for good, kept and shown
    4xx, silence, a broken connection                         tried again: after 5 s, 10 s, … 15 min, for ever
    5xx with 5.7.x for a recipient, such as relay denied      the same: a login or a right is missing
    no connection, no TLS, no login, sender not allowed       the same, for all mails: the setting is wrong
    no answer to a whole text                                 tried once more; then it may have arrived twice, and
                                                              is kept and shown as unconfirmed
"""

from __future__ import annotations

import base64
import json
import logging
import re
import smtplib
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from email.utils import format_datetime, formataddr
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from psycopg.pq import TransactionStatus

from celery_stack.sla.addresses import is_address
from celery_stack.sla.mail import one_line

if TYPE_CHECKING:
    from psycopg import Connection

log = logging.getLogger(__name__)

CONNECTION_ID = "smtp_default"
NO_SERVER = "No mail server: set SMTP_HOST."

TIMEOUT_S = 10
# A server may look for viruses before it answers the text of a mail. Whoever hangs up meanwhile sends
# it twice: RFC 5321, 4.5.3.2.6 asks for ten minutes.
ACCEPTANCE_TIMEOUT_S = 600
# A server that sends a byte now and then never runs into a timeout. Without the wait for the acceptance.
CONVERSATION_S = 120
UNANSWERED_TRIES = 2
PASS_S = 60

# 530: a login is missing; 535: it is wrong; 421: the server goes down. None of them is about a recipient.
NOT_ABOUT_THE_RECIPIENT = frozenset({421, 503, 530, 535, 538})
# RFC 3463: security or policy, such as "relay denied" to whoever has not logged in.
POLICY = re.compile(r"\s*5\.7\.")
ERROR_LENGTH = 500
UNCONFIRMED = "Unconfirmed: it may have arrived; not sent again."

# ValueError: what cannot be said in SMTP, such as a login that is not ASCII.
PROBLEMS = (OSError, smtplib.SMTPException, ValueError)

CLAIM = """
select id, key, dag_id, run_id, kind, message_id, recipients, delivered, refused, unanswered, subject,
       body_text, body_html, created_at
from sla.mail
where state = 'pending' and next_try_at <= %(now)s
order by next_try_at, id
limit 1
for update skip locked
"""
# After the first failure 5 s, doubled each time, at most 15 min.
POSTPONED = """
attempts = attempts + 1, last_error = %(error)s,
next_try_at = %(now)s + interval '1 second' * least(900, 5 * 2 ^ least(attempts, 10))
"""
POSTPONE_ALL = f"""
update sla.mail set {POSTPONED} where id in (
  select id from sla.mail where state = 'pending' and next_try_at <= %(now)s for update skip locked
)
"""  # noqa: S608  # constants
POSTPONE = f"""
update sla.mail set {POSTPONED}, delivered = %(delivered)s, refused = %(refused)s,
  unanswered = %(unanswered)s
where id = %(id)s
"""  # noqa: S608  # constants
FINISH = """
update sla.mail set attempts = attempts + 1, last_error = %(error)s, state = %(state)s,
  delivered = %(delivered)s, refused = %(refused)s, unanswered = %(unanswered)s,
  sent_at = case when %(state)s = 'sent' then clock_timestamp() end
where id = %(id)s
"""


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


def send_due(
    connection: Connection[Any],
    smtp: SmtpServer | None,
    *,
    now: datetime,
    stop: threading.Event | None = None,
) -> int:
    """Send the mails that are due, over one connection to the server; give how many were sent.

    Each is claimed, sent and recorded in a transaction of its own. After `PASS_S` the rest waits for the next
    pass.

    Args:
        connection: to the metadata database, outside of a transaction.
        smtp: None: none is sent, and the mails say why.
        stop: once it is set, no further mail is begun.

    Raises:
        ValueError: the connection is inside a transaction.
    """
    if connection.info.transaction_status != TransactionStatus.IDLE:
        # Inside an open one nothing would be committed mail by mail.
        raise ValueError("Expected a connection outside of a transaction, found one. Commit first.")
    if smtp is None:
        _postpone_all(connection, NO_SERVER, now)
        return 0
    sent, end = 0, time.monotonic() + PASS_S
    try:
        with Conversation(smtp) as conversation:
            while time.monotonic() < end and not (stop and stop.is_set()):
                state = _send_one(connection, conversation, now)
                if state is None:
                    break
                sent += state == "sent"
    except ServerDownError as error:
        log.warning("No mail can be sent: %s", error)
        _postpone_all(connection, str(error), now)
    return sent


def _send_one(connection: Connection[Any], conversation: Conversation, now: datetime) -> str | None:
    """Send the mail that has been due for the longest; give its new state, None if there is none."""
    with connection.transaction():
        mail = _claim(connection, now)
        if mail is None:
            return None
        return _record(connection, mail, _deliver(mail, conversation), now)


def _claim(connection: Connection[Any], now: datetime) -> dict[str, Any] | None:
    cursor = connection.execute(CLAIM, {"now": now})
    row = cursor.fetchone()
    return row and dict(zip((c.name for c in cursor.description or ()), row, strict=True))


def _deliver(mail: Mapping[str, Any], conversation: Conversation) -> Answers:
    """Offer the mail to those who neither have it nor were refused.

    Raises:
        ServerDownError: there is no way to send anything.
    """
    done = {*mail["delivered"], *mail["refused"]}
    remaining = [address for address in mail["recipients"] if address not in done]
    answers = Answers(refused={a: "no e-mail address" for a in remaining if not is_address(a)})
    remaining = [address for address in remaining if is_address(address)]
    if not remaining:
        return answers
    try:
        raw = compose(mail, conversation.server.sender)
    except Exception as error:  # one that cannot be written must not hold up the others
        log.exception("Mail %s cannot be composed", mail["key"])
        answers.later |= dict.fromkeys(remaining, f"{type(error).__name__}: {error}")
        return answers
    conversation.deliver(raw, remaining, answers)
    return answers


def _record(
    connection: Connection[Any], mail: Mapping[str, Any], answers: Answers, now: datetime
) -> str:
    unanswered = mail["unanswered"] + bool(answers.unanswered)
    if unanswered >= UNANSWERED_TRIES:
        answers.give_up_unanswered()
    delivered = [*mail["delivered"], *answers.delivered]
    error = answers.describe()
    values = {
        "id": mail["id"],
        "now": now,
        "error": error,
        "delivered": delivered,
        "refused": [*mail["refused"], *answers.refused],
        "unanswered": unanswered,
        "state": "sent" if delivered else "refused",
    }
    if error:
        log.warning("Mail %s: %s", mail["key"], error)
    if answers.later:
        connection.execute(POSTPONE, values)
        return "pending"
    connection.execute(FINISH, values)
    return str(values["state"])


def _postpone_all(connection: Connection[Any], error: str, now: datetime) -> None:
    with connection.transaction():
        connection.execute(POSTPONE_ALL, {"now": now, "error": error})


def compose(mail: Mapping[str, Any], sender: str) -> bytes:
    """Give the message as it travels; the same at every try.

    What comes from DAGs stands in headers as one line of printable characters: it cannot begin another one.
    """
    message = EmailMessage(policy=SMTP_POLICY)
    message["From"] = formataddr(("Airflow", sender))
    message["To"] = ", ".join(filter(is_address, mail["recipients"]))
    message["Subject"] = one_line(mail["subject"])
    message["Date"] = format_datetime(mail["created_at"])
    message["Message-ID"] = mail["message_id"]
    # RFC 3834 and its like: no answer from an absence notice or a mailing list.
    message["Auto-Submitted"] = "auto-generated"
    message["X-Auto-Response-Suppress"] = "All"
    message["X-Airflow-Kind"] = mail["kind"]
    message["X-Airflow-Dag"] = one_line(mail["dag_id"])
    message["X-Airflow-Run"] = one_line(mail["run_id"])
    message.set_content(mail["body_text"], cte="quoted-printable")
    message.add_alternative(mail["body_html"], subtype="html", cte="quoted-printable")
    message.set_boundary(f"=_{mail['message_id'].strip('<>').partition('@')[0]}")
    return message.as_bytes()


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
