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

import logging
import threading
import time
from collections.abc import Mapping
from datetime import datetime
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from email.utils import format_datetime, formataddr
from typing import TYPE_CHECKING, Any

from psycopg.pq import TransactionStatus

from celery_stack.sla.addresses import is_address
from celery_stack.sla.conversation import Answers, Conversation, ServerDownError, SmtpServer
from celery_stack.sla.mail import one_line

if TYPE_CHECKING:
    from psycopg import Connection

log = logging.getLogger(__name__)

NO_SERVER = "No mail server: set SMTP_HOST."
UNANSWERED_TRIES = 2
PASS_S = 60

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
