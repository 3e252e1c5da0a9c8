"""What mail servers say, and what becomes of each recipient: real servers, and a real outbox."""

from __future__ import annotations

import re
import socket
import threading
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from psycopg import Connection

from celery_stack.sla import conversation
from celery_stack.sla.mail import Rendered
from celery_stack.sla.outbox import enqueue
from celery_stack.sla.sender import send_due
from tests.mail_servers import (
    Mailbox,
    answer_but,
    answer_until,
    mail_server,
    scripted_server,
)
from tests.unit.celery_stack.sla.outbox_rows import BODY, LATER, now, put, row


def test_refused_recipient_does_not_keep_the_others_from_it(
    metadata: Connection[Any], mailbox: Mailbox
):
    """Nor is anybody asked twice."""
    mailbox.refuses["nobody@example.org"] = "550 no such user"
    put(metadata, "nobody@example.org", "you@example.org")
    with mail_server(mailbox) as server:
        assert send_due(metadata, server, now=now()) == 1
        assert send_due(metadata, server, now=now() + LATER) == 0
    assert mailbox.receivers == ["you@example.org"]
    found = row(metadata)
    assert (found["state"], found["refused"]) == ("sent", ["nobody@example.org"])
    assert found["last_error"] == "nobody@example.org: 550 no such user"


def test_mail_that_all_recipients_are_refused_of_is_given_up(
    metadata: Connection[Any], mailbox: Mailbox
):
    """Its state says so, with the server's words for each."""
    mailbox.refuses = {"a@example.org": "550 no such user", "b@example.org": "551 moved"}
    put(metadata, "a@example.org", "b@example.org")
    with mail_server(mailbox) as server:
        assert send_due(metadata, server, now=now()) == 0
    found = row(metadata)
    assert (found["state"], found["refused"]) == ("refused", ["a@example.org", "b@example.org"])
    assert found["last_error"] == "a@example.org: 550 no such user; b@example.org: 551 moved"
    assert found["sent_at"] is None


@pytest.mark.parametrize("address", ["nobody", "a@example.org\nBcc: b@example.org", "ü@x.org", ""])
def test_what_is_no_address_is_refused_here(
    metadata: Connection[Any], mailbox: Mailbox, address: str
):
    """The others get their mail, and its header names them alone."""
    put(metadata, address, "you@example.org")
    with mail_server(mailbox) as server:
        assert send_due(metadata, server, now=now()) == 1
    [(recipients, message)] = mailbox.taken
    assert recipients == ["you@example.org"]
    assert message["To"] == "you@example.org"
    assert row(metadata)["refused"] == [address]


def test_recipient_who_is_put_off_gets_it_later_and_the_others_once(
    metadata: Connection[Any], mailbox: Mailbox
):
    """Greylisting of one of two."""
    mailbox.refuses["slow@example.org"] = "451 greylisted, come back"
    put(metadata, "slow@example.org", "you@example.org")
    with mail_server(mailbox) as server:
        assert send_due(metadata, server, now=now()) == 0
        assert row(metadata)["state"] == "pending"
        assert row(metadata)["delivered"] == ["you@example.org"]
        mailbox.refuses.clear()
        assert send_due(metadata, server, now=now() + LATER) == 1
    assert mailbox.receivers == ["you@example.org", "slow@example.org"]
    ids = {message["Message-ID"] for _, message in mailbox.taken}
    assert ids == {row(metadata)["message_id"]}
    assert row(metadata)["state"] == "sent"


def test_text_that_is_put_off_is_sent_again(metadata: Connection[Any], mailbox: Mailbox):
    """4xx, then accepted; not before its time."""
    mailbox.answers = ["451 try later"]
    put(metadata)
    start = now()
    with mail_server(mailbox) as server:
        assert send_due(metadata, server, now=start) == 0
        assert row(metadata)["last_error"] == "you@example.org: 451 try later"
        assert send_due(metadata, server, now=start + timedelta(seconds=4)) == 0
        assert len(mailbox.seen) == 1
        assert send_due(metadata, server, now=start + timedelta(seconds=5)) == 1
    found = row(metadata)
    assert (found["state"], found["attempts"], found["last_error"]) == ("sent", 2, "")


def test_server_that_hangs_up_in_a_text_is_called_again(
    metadata: Connection[Any], mailbox: Mailbox
):
    """The other mails are sent in the same pass, over a new connection; that one later."""
    mailbox.answers = ["drop"]
    for key in "abc":
        put(metadata, key=key)
    with mail_server(mailbox) as server:
        assert send_due(metadata, server, now=now()) == 2
        assert row(metadata)["state"] == "pending"
        assert send_due(metadata, server, now=now() + LATER) == 1
    assert mailbox.subjects == ["b", "c", "a"]
    assert len(mailbox.sessions) == 3


def test_silent_server_is_given_up_and_the_next_mail_is_tried(
    metadata: Connection[Any], monkeypatch: pytest.MonkeyPatch
):
    """One that says nothing after the text; each mail of the pass gets its turn."""
    monkeypatch.setattr(conversation, "ACCEPTANCE_TIMEOUT_S", 0.2)
    asked = []

    def talk(connection: socket.socket) -> None:
        asked.append(connection)
        answer_until(connection, b"data")
        while connection.recv(65536):
            pass

    put(metadata, key="a")
    put(metadata, key="b")
    with scripted_server(talk) as server:
        assert send_due(metadata, server, now=now()) == 0
    assert len(asked) == 2
    for key in "ab":
        assert "timed out" in row(metadata, key)["last_error"]


def test_server_that_takes_its_time_to_accept_is_waited_for(
    metadata: Connection[Any], mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
):
    """Longer than for anything else: whoever hangs up meanwhile sends a copy."""
    assert conversation.ACCEPTANCE_TIMEOUT_S >= 600
    monkeypatch.setattr(conversation, "TIMEOUT_S", 0.5)
    monkeypatch.setattr(conversation, "CONVERSATION_S", 0.7)
    mailbox.release = lambda: threading.Event().wait(1.5)
    put(metadata)
    with mail_server(mailbox) as server:
        assert send_due(metadata, server, now=now()) == 1
    assert mailbox.subjects == ["a"]


def resend() -> str:
    """Give the statement of the README."""
    text = Path(__file__).parents[4].joinpath("README.md").read_text()
    [statement] = re.findall(r"update sla\.mail [^;`]*;", text)
    return str(statement)


def test_text_that_goes_unanswered_twice_is_unconfirmed(
    metadata: Connection[Any], mailbox: Mailbox
):
    """It may have arrived twice: no third copy, but it is shown; people may send it again."""
    mailbox.answers = ["drop", "drop"]
    put(metadata)
    with mail_server(mailbox) as server:
        for later in range(4):
            assert send_due(metadata, server, now=now() + later * LATER) == 0
        assert len(mailbox.seen) == 2
        found = row(metadata)
        assert (found["state"], found["refused"]) == ("refused", ["you@example.org"])
        assert found["last_error"].startswith(f"you@example.org: {conversation.UNCONFIRMED}")
        metadata.execute(resend())
        assert send_due(metadata, server, now=now()) == 1
    assert mailbox.subjects == ["a"]


def test_text_that_breaks_off_is_no_copy(metadata: Connection[Any]):
    """Nobody accepts half a mail: it is tried for ever."""
    put(metadata, body=Rendered("a", "line\n" * 1_500_000, "<p>html</p>"))

    def talk(connection: socket.socket) -> None:
        answer_until(connection, b"data")
        connection.recv(1)

    with scripted_server(talk) as server:
        for later in range(4):
            assert send_due(metadata, server, now=now() + later * LATER) == 0
    found = row(metadata)
    assert (found["state"], found["attempts"], found["unanswered"]) == ("pending", 4, 0)


@pytest.mark.parametrize("until", [b"", b"ehlo", b"data"])
def test_server_that_drips_is_cut_off(
    metadata: Connection[Any], monkeypatch: pytest.MonkeyPatch, until: bytes
):
    """A byte now and then keeps no timeout from running out: the whole conversation has one too."""
    monkeypatch.setattr(conversation, "CONVERSATION_S", 0.5)
    monkeypatch.setattr(conversation, "TIMEOUT_S", 0.4)
    monkeypatch.setattr(conversation, "ACCEPTANCE_TIMEOUT_S", 0.4)
    over = threading.Event()

    def talk(connection: socket.socket) -> None:
        if until:
            answer_until(connection, until)
        else:
            connection.sendall(b"220 hello\r\n")
        while not over.wait(0.05):
            connection.sendall(b"2")

    put(metadata)
    with scripted_server(talk) as server:
        assert send_due(metadata, server, now=now()) == 0
    over.set()
    assert row(metadata)["last_error"]


def test_denied_relay_is_a_setting_to_be_corrected(metadata: Connection[Any], mailbox: Mailbox):
    """What servers say to whoever should have logged in is said of the recipient; no mail is lost by it."""
    mailbox.refuses["you@example.org"] = "554 5.7.1 <you@example.org>: Relay access denied"
    put(metadata)
    with mail_server(mailbox) as server:
        assert send_due(metadata, server, now=now()) == 0
        assert row(metadata)["state"] == "pending"
        assert "Relay access denied" in row(metadata)["last_error"]
        mailbox.refuses.clear()
        assert send_due(metadata, server, now=now() + LATER) == 1


def test_what_was_refused_can_be_sent_again(metadata: Connection[Any], mailbox: Mailbox):
    """By the statement of the README; to nobody who has it, and not what has no recipient."""
    mailbox.refuses["new@example.org"] = "550 no such user"
    put(metadata, "new@example.org", "you@example.org")
    enqueue(metadata, key="b", kind="sla", dag_id="d", run_id="r", recipients=[], rendered=BODY)
    with mail_server(mailbox) as server:
        assert send_due(metadata, server, now=now()) == 1
        mailbox.refuses.clear()
        metadata.execute(resend())
        assert send_due(metadata, server, now=now()) == 1
    assert mailbox.receivers == ["you@example.org", "new@example.org"]
    assert (row(metadata)["state"], row(metadata)["refused"]) == ("sent", [])
    assert row(metadata, "b")["state"] == "refused"


def test_sender_that_is_not_allowed_is_a_setting_to_be_corrected(metadata: Connection[Any]):
    """All mails wait, with the server's words."""

    talk = partial(answer_but, b"mail", b"553 not yours")
    put(metadata, key="a")
    put(metadata, key="b")
    with scripted_server(talk) as server:
        assert send_due(metadata, server, now=now()) == 0
    for key in "ab":
        found = row(metadata, key)
        assert (found["state"], found["last_error"]) == ("pending", "553 not yours")


def test_server_that_wants_no_text_is_heard(metadata: Connection[Any]):
    """The answer to DATA itself counts as one to the text."""

    talk = partial(answer_but, b"data", b"554 no")
    put(metadata)
    with scripted_server(talk) as server:
        assert send_due(metadata, server, now=now()) == 0
    found = row(metadata)
    assert (found["state"], found["last_error"]) == ("refused", "you@example.org: 554 no")
