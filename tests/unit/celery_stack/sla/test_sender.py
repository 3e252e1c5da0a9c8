"""The sender and the outbox, against real mail servers and a real database."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg import Connection

from celery_stack.sla import sender
from celery_stack.sla.conversation import SmtpServer
from celery_stack.sla.mail import Rendered, one_line
from celery_stack.sla.outbox import NO_RECIPIENT, enqueue
from celery_stack.sla.sender import compose, send_due
from tests.mail_servers import (
    Mailbox,
    answer_until,
    free_port,
    mail_server,
    scripted_server,
)
from tests.unit.celery_stack.sla.outbox_rows import BODY, LATER, now, put, row
from tests.waiting import wait_for


def test_headers_say_what_it_is(metadata: Connection[Any], mailbox: Mailbox):
    """A Message-ID that is kept, the time of the cause, and that no machine should answer."""
    put(metadata)
    with mail_server(mailbox) as server:
        send_due(metadata, server, now=now())
    [(_, message)] = mailbox.taken
    stored = row(metadata)
    assert message["Message-ID"] == stored["message_id"]
    assert message["Date"].datetime == stored["created_at"].replace(microsecond=0)
    assert message["From"] == "Airflow <airflow@example.org>"
    assert message["Auto-Submitted"] == "auto-generated"
    assert (message["X-Airflow-Dag"], message["X-Airflow-Run"]) == ("dag", "run")


def test_line_breaks_in_ids_begin_no_header(metadata: Connection[Any], mailbox: Mailbox):
    """They become spaces, in the subject too."""
    evil = "x\r\nBcc: thief@example.org\r\n\r\nbody\u2028\x85"
    enqueue(
        metadata,
        key="a",
        kind="sla",
        dag_id=evil,
        run_id=evil * 20,
        recipients=["you@example.org"],
        rendered=Rendered(evil, evil, evil),
    )
    with mail_server(mailbox) as server:
        assert send_due(metadata, server, now=now()) == 1
    [(recipients, message)] = mailbox.taken
    assert recipients == ["you@example.org"]
    assert "Bcc" not in message
    assert message["X-Airflow-Dag"] == "x Bcc: thief@example.org body"
    assert message["X-Airflow-Run"] == one_line(evil * 20)
    assert message["Subject"] == "x Bcc: thief@example.org body"


def test_message_is_what_servers_take(metadata: Connection[Any]):
    """Lines end with CR LF and are not too long, whatever is in it; each try sends the same bytes."""
    lone, long = "a\rb\nc\r\n", "x" * 250 + " " + "ü" * 2000
    put(metadata, body=Rendered(long, lone + long, f"<p>{lone}{long}</p>"))
    mail = row(metadata) | {"dag_id": "d" * 250, "run_id": "ü" * 250}
    raw = compose(mail, "airflow@example.org")
    lines = raw.split(b"\r\n")
    assert not [line for line in lines if b"\n" in line or b"\r" in line or len(line) > 998]
    assert raw.isascii()
    assert compose(mail, "airflow@example.org") == raw


def test_one_connection_serves_a_whole_pass(metadata: Connection[Any], mailbox: Mailbox):
    """Also past a recipient who is refused and a text that is."""
    mailbox.refuses["nobody@example.org"] = "550 no such user"
    mailbox.answers = ["250 OK", "554 looks like spam"]
    for number in range(6):
        put(metadata, "nobody@example.org" if number == 2 else "you@example.org", key=f"{number}")
    with mail_server(mailbox) as server:
        assert send_due(metadata, server, now=now()) == 4
    assert mailbox.subjects == ["0", "3", "4", "5"]
    assert len(mailbox.sessions) == 1


def test_same_cause_makes_one_mail(metadata: Connection[Any]):
    """The second one is left out, whatever it says."""
    assert put(metadata)
    assert not put(metadata, "other@example.org")
    assert row(metadata)["recipients"] == ["you@example.org"]


def test_mail_and_its_cause_are_written_together_or_not_at_all(metadata: Connection[Any]):
    """It is in the transaction of the caller, with the records that it tells of."""
    record = """insert into sla.record (dag_id, run_id, name, due_from, promised, verdict, state)
                values ('dag', 'run', 'run', now(), now(), 'missed', 'running') returning id"""
    with metadata.transaction(force_rollback=True):
        put(metadata)
    assert metadata.execute("select count(*) from sla.mail").fetchone() == (0,)
    with metadata.transaction():
        found = metadata.execute(record).fetchone()
        assert found is not None
        enqueue(
            metadata,
            key="a",
            kind="sla",
            dag_id="dag",
            run_id="run",
            recipients=["you@example.org"],
            rendered=BODY,
            record_ids=[found[0]],
        )
    tells_of = "select record_id from sla.mail_record where mail_id = %s"
    assert metadata.execute(tells_of, (row(metadata)["id"],)).fetchall() == [found]


def test_mail_without_recipients_is_kept_and_says_so(metadata: Connection[Any], mailbox: Mailbox):
    """It is not sent."""
    enqueue(metadata, key="a", kind="sla", dag_id="d", run_id="r", recipients=[], rendered=BODY)
    with mail_server(mailbox) as server:
        assert send_due(metadata, server, now=now() + LATER) == 0
    found = row(metadata)
    assert (found["state"], found["last_error"]) == ("refused", NO_RECIPIENT)


def test_backoff_doubles_up_to_a_quarter_of_an_hour(metadata: Connection[Any]):
    """Nobody listens: 5 s, 10 s, … 900 s, and never an end."""
    put(metadata)
    nobody = SmtpServer("127.0.0.1", free_port())
    at, waited = now(), []
    for _ in range(12):
        assert send_due(metadata, nobody, now=at) == 0
        waited.append((row(metadata)["next_try_at"] - at).total_seconds())
        at = row(metadata)["next_try_at"]
    assert waited == [5, 10, 20, 40, 80, 160, 320, 640, 900, 900, 900, 900]
    assert row(metadata)["state"] == "pending"
    assert "refused" in row(metadata)["last_error"]


def test_server_that_is_down_for_a_while_loses_nothing(metadata: Connection[Any], mailbox: Mailbox):
    """All that is due is put off together, after one attempt to connect."""
    for key in "abc":
        put(metadata, key=key)
    port = free_port()
    assert send_due(metadata, SmtpServer("127.0.0.1", port), now=now()) == 0
    assert {row(metadata, key)["attempts"] for key in "abc"} == {1}
    put(metadata, key="d")
    with mail_server(mailbox, port=port) as server:
        assert send_due(metadata, server, now=now()) == 1
        assert send_due(metadata, server, now=now() + LATER) == 3
    assert mailbox.subjects == ["d", "a", "b", "c"]


def test_without_a_server_mails_wait_and_say_why(metadata: Connection[Any], mailbox: Mailbox):
    """SMTP_HOST is not set."""
    put(metadata)
    assert send_due(metadata, None, now=now()) == 0
    assert row(metadata)["last_error"] == sender.NO_SERVER
    with mail_server(mailbox) as server:
        assert send_due(metadata, server, now=now() + LATER) == 1


def test_pass_ends_in_time_for_others_to_be_told(
    metadata: Connection[Any], mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
):
    """What is left over is sent by the next one."""
    monkeypatch.setattr(sender, "PASS_S", 0)
    put(metadata)
    with mail_server(mailbox) as server:
        assert send_due(metadata, server, now=now()) == 0
        assert row(metadata)["attempts"] == 0
        monkeypatch.setattr(sender, "PASS_S", 60)
        assert send_due(metadata, server, now=now()) == 1


def test_stop_comes_between_two_mails(metadata: Connection[Any], mailbox: Mailbox):
    """The one that is under way is finished and recorded: nobody gets it twice."""
    stop = threading.Event()
    mailbox.release = stop.set
    for key in "ab":
        put(metadata, key=key)
    with mail_server(mailbox) as server:
        assert send_due(metadata, server, now=now(), stop=stop) == 1
    assert (row(metadata, "a")["state"], row(metadata, "b")["state"]) == ("sent", "pending")


def test_mail_that_cannot_be_written_does_not_hold_up_the_others(
    metadata: Connection[Any], mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
):
    """It is tried again, with its error."""

    def fail_for_a(mail: Any, sender: str) -> bytes:
        if mail["key"] == "a":
            raise RuntimeError("odd")
        return compose(mail, sender)

    monkeypatch.setattr(sender, "compose", fail_for_a)
    for key in "ab":
        put(metadata, key=key)
    with mail_server(mailbox) as server:
        assert send_due(metadata, server, now=now()) == 1
    assert mailbox.subjects == ["b"]
    assert row(metadata)["last_error"] == "you@example.org: RuntimeError: odd"


def test_two_senders_at_once_send_each_mail_once(
    metadata: Connection[Any], metadata_url: str, mailbox: Mailbox
):
    """While one is at a mail, the other takes the next."""
    keys = [f"{number:02}" for number in range(20)]
    for key in keys:
        put(metadata, key=key)
    both = threading.Barrier(2, timeout=30)
    mailbox.release = lambda: both.wait() if len(mailbox.seen) <= 2 else None
    sent: list[int] = []

    def send(server: SmtpServer) -> None:
        with psycopg.connect(metadata_url, autocommit=True) as connection:
            sent.append(send_due(connection, server, now=now()))

    with mail_server(mailbox) as server:
        senders = [threading.Thread(target=send, args=[server]) for _ in range(2)]
        for thread in senders:
            thread.start()
        for thread in senders:
            thread.join(timeout=60)
    assert sorted(mailbox.subjects) == keys
    assert sum(sent) == 20
    assert min(sent) > 0


def test_open_transaction_is_refused(metadata_url: str, metadata: Connection[Any]):
    """Inside one, nothing would be committed after each mail."""
    with psycopg.connect(metadata_url) as connection:
        connection.execute("select 1")
        with pytest.raises(ValueError, match="outside of a transaction"):
            send_due(connection, None, now=now())


CHILD = """
import sys, json, psycopg
from datetime import UTC, datetime
from celery_stack.sla.conversation import SmtpServer
from celery_stack.sla.sender import send_due
url, port = json.load(sys.stdin)
with psycopg.connect(url, autocommit=True) as connection:
    send_due(connection, SmtpServer("127.0.0.1", port), now=datetime.now(UTC))
"""


@contextmanager
def sending_child(url: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a sender in a process of its own; kill it at the end."""
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE)
    assert child.stdin is not None
    child.stdin.write(json.dumps([url, port]).encode())
    child.stdin.close()
    try:
        yield child
    finally:
        child.kill()
        assert child.wait(timeout=10) == -signal.SIGKILL


def sessions(connection: Connection[Any]) -> int:
    others = "select count(*) from pg_stat_activity where datname = 'airflow' and pid <> %s"
    found = connection.execute(others, (connection.info.backend_pid,)).fetchone()
    assert found is not None
    return int(found[0])


def test_sender_killed_in_the_text_leaves_the_mail_to_the_next(
    metadata: Connection[Any], metadata_url: str, mailbox: Mailbox
):
    """The server has half of it, and takes it once."""
    put(metadata, body=Rendered("a", "line\n" * 1_500_000, "<p>html</p>"))
    reading = threading.Event()

    def talk(connection: socket.socket) -> None:
        answer_until(connection, b"data")
        assert connection.recv(1)
        reading.set()
        threading.Event().wait(60)  # reads no more: the sender is stuck in its text

    with scripted_server(talk) as deaf, sending_child(metadata_url, deaf.port):
        assert reading.wait(30)
    wait_for(lambda: sessions(metadata), lambda number: number == 0, deadline_s=20)
    assert (row(metadata)["state"], row(metadata)["attempts"]) == ("pending", 0)
    metadata.execute("update sla.mail set body_text = 'short'")
    with mail_server(mailbox) as server:
        assert send_due(metadata, server, now=now()) == 1
    assert mailbox.subjects == ["a"]


def test_sender_killed_before_its_commit_sends_the_same_message_again(
    metadata: Connection[Any], metadata_url: str, mailbox: Mailbox
):
    """The one case of a duplicate: the server has accepted it. Its Message-ID is the same."""
    put(metadata)
    metadata.execute("""
        create or replace function wait_at_update() returns trigger language plpgsql as
        $$ begin perform pg_advisory_xact_lock(7); return new; end $$""")
    metadata.execute("""
        create trigger wait_at_update before update on sla.mail
        for each row execute function wait_at_update()""")
    try:
        with (
            psycopg.connect(metadata_url) as blocker,
            mail_server(mailbox) as server,
        ):
            blocker.execute("select pg_advisory_lock(7)")
            with sending_child(metadata_url, server.port):
                wait_for(lambda: mailbox.subjects, lambda taken: taken == ["a"], deadline_s=30)
                waiting = (
                    "select count(*) from pg_locks where locktype = 'advisory' and not granted"
                )
                wait_for(
                    lambda: metadata.execute(waiting).fetchone(),
                    lambda found: found == (1,),
                    deadline_s=20,
                )
    finally:
        wait_for(lambda: sessions(metadata), lambda number: number == 0, deadline_s=20)
        metadata.execute("drop trigger wait_at_update on sla.mail")
    assert row(metadata)["state"] == "pending"
    with mail_server(mailbox) as server:
        assert send_due(metadata, server, now=now()) == 1
    assert len({message["Message-ID"] for _, message in mailbox.taken}) == 1
    assert len(mailbox.taken) == 2
