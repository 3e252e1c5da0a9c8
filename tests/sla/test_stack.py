"""Misses and their mails on the whole stack, with two of everything that may be doubled.

All runs are started in the fixture; the tests wait for what becomes of them.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from compose import launch
from compose.home import REPO
from compose.secret_files import read_secret
from compose.supervise import Supervisor
from tests.integration.conftest import RunningStack, running_stack
from tests.waiting import wait_for

pytestmark = pytest.mark.sla

TEAM = "team@example.org"
DOUBLED = ("scheduler", "triggerer", "sla")
STARTED_TOGETHER = (
    "late",
    "without_worker",
    "waiting_for_pool",
    "failing",
    "in_time",
    "goes_on",
    "on_pause",
    "changed",
)


class MailServer:
    """Keeps what it is sent; `held`, it takes a mail and does not answer until it is let go."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.open = threading.Event()
        self.open.set()
        self.asked = threading.Event()

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        self.asked.set()
        while not self.open.is_set():
            await asyncio.sleep(0.05)
        content = envelope.content
        assert isinstance(content, bytes)
        mail = message_from_bytes(content, policy=policy.default)
        mail["X-To"] = ",".join(envelope.rcpt_tos)
        self.mails.append(mail)
        return "250 OK"

    def of(self, dag_id: str) -> list[EmailMessage]:
        """Give the mails whose subject names the DAG."""
        return [mail for mail in self.mails if dag_id in str(mail["Subject"]).split()]


def body(mail: EmailMessage, kind: str = "plain") -> str:
    part = mail.get_body((kind,))
    assert part is not None
    return str(part.get_content())


@dataclass
class Promised:
    """The stack, its mail server, and the runs that were started together."""

    stack: RunningStack
    mail: MailServer
    gate: Path
    others: dict[str, psutil.Process]
    runs: dict[str, str] = field(default_factory=dict)

    def start(self, dag_id: str) -> str:
        self.runs[dag_id] = self.stack.client.trigger(dag_id, {"gate": str(self.gate)})
        return self.runs[dag_id]

    def records(self, dag_id: str) -> dict[str, Any]:
        """Give the records of a DAG's run that was started, by name."""
        query = "select * from sla.record where dag_id = %s and run_id = %s"
        rows = self.stack.metadata(query, dag_id, self.runs[dag_id])
        return {row.name: row for row in rows}

    def wait_for_verdict(self, dag_id: str, name: str, verdict: str) -> Any:
        found = wait_for(
            lambda: self.records(dag_id).get(name),
            lambda record: record is not None and record.verdict != "pending",
            deadline_s=90,
        )
        assert found.verdict == verdict, found
        return found

    def wait_for_mail(self, dag_id: str, sla: bool = True) -> EmailMessage:
        """Wait for the one mail of a DAG, of a missed SLA or of a failed run."""
        mails = wait_for(lambda: self._mails(dag_id, sla), bool, deadline_s=90)
        [mail] = mails
        return mail

    def _mails(self, dag_id: str, sla: bool) -> list[EmailMessage]:
        kind = "sla" if sla else "failure"
        query = "select message_id from sla.mail where dag_id = %s and kind = %s and run_id = %s"
        rows = self.stack.metadata(query, dag_id, kind, self.runs[dag_id])
        ids = {row.message_id for row in rows}
        return [mail for mail in self.mail.mails if str(mail["Message-ID"]) in ids]

    def program(self, name: str, start: bool) -> None:
        """Start or stop one of the stack's programs."""
        rpc = Supervisor(self.stack.home)._rpc.supervisor
        (rpc.startProcess if start else rpc.stopProcess)(f"control:{name}")

    def leader(self) -> psutil.Process:
        """Give the monitor that leads, by the port from which it holds the lock."""
        query = (
            "select a.client_port from pg_locks l join pg_stat_activity a using (pid)"
            " where l.locktype = 'advisory' and l.granted and a.usename = 'sla'"
        )
        url = read_secret(self.stack.home.secrets / "sla/sql_alchemy_conn").replace("+psycopg2", "")
        with psycopg.connect(url) as connection:  # others are not told the port
            [(port,)] = connection.execute(query).fetchall()
        processes = Supervisor(self.stack.home).processes()
        own = next(one["pid"] for one in processes if one["name"] == "sla")
        return next(
            monitor
            for monitor in (psutil.Process(own), self.others["sla"])
            if port in {one.laddr.port for one in monitor.net_connections("tcp")}
        )


@contextmanager
def second(stack: RunningStack, program: str) -> Iterator[psutil.Process]:
    """Run another one of a program beside the supervisor's."""
    command = [sys.executable, launch.__file__, str(stack.home.programs_file), program]
    log = stack.home.program_logs / f"second-{program}.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def promised(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Promised]:
    """Start the stack, what is doubled, and all runs but those that something is stopped for."""
    gate, server = tmp_path_factory.mktemp("sla") / "gate", MailServer()
    port = free_port()
    controller = Controller(server, hostname="127.0.0.1", port=port)
    controller.start()
    settings = {
        "SMTP_HOST": "127.0.0.1",
        "SMTP_PORT": str(port),
        "SLA_EMAIL_TO": TEAM,
        "SLA_CHECK_S": "1",
        "WORKER_CONCURRENCY": "10",  # more than what is held
        "DAG_REFRESH_S": "600",
    }
    scale = ("worker=1", "worker-cpu-train=0")
    folder = REPO / ".stack-test-sla"
    try:
        with (
            running_stack(
                folder, *scale, dags_of_tests=REPO / "tests/sla/dags", **settings
            ) as stack,
            ExitStack() as doubled,
        ):
            others = {name: doubled.enter_context(second(stack, name)) for name in DOUBLED}
            promised = Promised(stack, server, gate, others)
            for dag_id in (*STARTED_TOGETHER, "unseen", "daily", "every_minute"):
                wait_for(partial(stack.client.find_dag, dag_id), bool, deadline_s=90)
            finish_unseen(promised)
            for key, value in {"sla_of_changed": "6", "sla_of_every_minute": "300"}.items():
                stack.client._send("POST", "/api/v2/variables", json={"key": key, "value": value})
            stack.set_paused("every_minute", False)
            start_backfill(stack)
            for dag_id in STARTED_TOGETHER:
                promised.start(dag_id)
            yield promised
            gate.touch()
    finally:
        controller.stop()


def finish_unseen(promised: Promised) -> None:
    """Let a run finish late, and another in time, while no monitor looks."""
    wait_for_monitor(promised.stack)
    other = promised.others["sla"]
    promised.program("sla", start=False)
    other.suspend()
    try:
        run_id = promised.start("unseen")
        wait_for(
            lambda: [task.state for task in promised.stack.client.tasks("unseen", run_id)],
            lambda states: states == ["running"],
            deadline_s=60,
        )
        late = datetime.now(UTC) + timedelta(seconds=2)
        wait_for(lambda: datetime.now(UTC), lambda now: now > late, deadline_s=10)
        promised.gate.touch()
        promised.stack.wait_for_end("unseen", run_id)
        promised.gate.unlink()
        assert promised.records("unseen") == {}
    finally:
        other.resume()
        promised.program("sla", start=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_monitor(stack: RunningStack) -> None:
    """Wait until one of them leads."""
    query = "select pid from pg_locks where locktype = 'advisory' and granted"
    wait_for(lambda: stack.metadata(query), bool, deadline_s=60)


def start_backfill(stack: RunningStack) -> None:
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    body = {
        "dag_id": "daily",
        "from_date": (midnight - timedelta(days=20)).isoformat(),
        "to_date": (midnight - timedelta(days=11)).isoformat(),
        "max_active_runs": 10,
    }
    stack.client._send("POST", "/api/v2/backfills", json=body)


def test_finished_late_before_anyone_looked(promised: Promised):
    """The monitor comes back and tells of it: when it finished counts."""
    record = promised.wait_for_verdict("unseen", "run", "missed")
    assert record.finished > record.promised
    assert record.finished < record.created_at, "it was recorded after it had finished"
    assert record.reason.startswith("It started ")
    mail = promised.wait_for_mail("unseen")
    assert mail["X-To"] == TEAM


def test_late_run_and_its_late_task_make_one_mail(promised: Promised):
    """Subject, both promises, the task that holds it, a link, the end of its log; text and HTML."""
    promised.wait_for_verdict("late", "run", "missed")
    record = promised.wait_for_verdict("late", "slow", "missed")
    assert record.state == "running"
    assert "It is running" in record.reason
    mail = promised.wait_for_mail("late")
    for text in (body(mail), body(mail, "html")):
        assert "slow" in text
        assert promised.stack.client.url in text
    assert "waiting for the gate" in body(mail)


def test_never_started_because_its_queue_has_no_worker(promised: Promised):
    """The mail says which worker to start, and goes to whom the SLA names."""
    record = promised.wait_for_verdict("without_worker", "train", "missed")
    assert record.state == "queued"
    assert "start worker-cpu-train" in record.reason
    mail = promised.wait_for_mail("without_worker")
    assert mail["X-To"] == "ml@example.org"
    assert "worker-cpu-train" in body(mail)


def test_waiting_for_the_pool(promised: Promised):
    """Named with its pool and who is in it."""
    record = promised.wait_for_verdict("waiting_for_pool", "wants", "missed")
    assert "Pool pg_io is full" in record.reason
    assert [task["task"] for task in record.blocking] == ["wants"]
    promised.wait_for_mail("waiting_for_pool")


def test_failed_run_is_told_of_twice_for_two_causes(promised: Promised):
    """At once that it failed, with the log; when it is due, that it is late."""
    failure = promised.wait_for_mail("failing", sla=False)
    assert "the reason in the log" in body(failure)
    record = promised.wait_for_verdict("failing", "run", "missed")
    assert record.state == "failed"
    assert [task["task"] for task in record.blocking] == ["fail"]
    promised.wait_for_mail("failing")


def test_paused_dag(promised: Promised):
    """Its run is late, and why is said."""
    promised.wait_for_verdict("on_pause", "run", "missed")
    assert "paused" in body(promised.wait_for_mail("on_pause"))


def test_variable_shortens_the_promise(promised: Promised):
    """As it was when the run was created; the DAG promises two hours."""
    record = promised.wait_for_verdict("changed", "run", "missed")
    assert record.promised - record.due_from == timedelta(seconds=6)
    promised.wait_for_mail("changed")


def test_task_in_time_while_the_run_goes_on(promised: Promised):
    """Met, and Airflow marks nothing: it has no deadline for a task."""
    promised.wait_for_verdict("goes_on", "quick", "met")
    run_id = promised.runs["goes_on"]
    assert promised.stack.client.run_state("goes_on", run_id) == "running"
    marked = "select d.* from deadline d join dag_run r on r.id = d.dagrun_id where r.dag_id = %s"
    assert promised.stack.metadata(marked, "goes_on") == []
    [deadline] = promised.stack.metadata(marked, "late")
    record = promised.records("late")["run"]
    assert abs(deadline.deadline_time - record.promised) < timedelta(seconds=1)


def test_done_in_time_and_cleared_afterwards(promised: Promised):
    """Counted as met at once, whatever is run again; clearing works."""
    for name in ("run", "quick"):
        promised.wait_for_verdict("in_time", name, "met")
    path = "/api/v2/dags/in_time/clearTaskInstances"
    what = {"dry_run": False, "dag_run_id": promised.runs["in_time"], "only_failed": False}
    promised.stack.client._send("POST", path, json=what | {"reset_dag_runs": True})
    promised.stack.wait_for_end("in_time", promised.runs["in_time"])
    assert {record.verdict for record in promised.records("in_time").values()} == {"met"}


def test_backfill_of_ten_old_runs_is_no_storm(promised: Promised):
    """Their clock starts when they are created."""
    query = "select * from sla.record where dag_id = 'daily' and run_id like 'backfill%%'"
    records = wait_for(
        lambda: promised.stack.metadata(query),
        lambda rows: [row.verdict for row in rows] == ["met"] * 10,
        deadline_s=120,
    )
    newest = datetime.now(UTC) - timedelta(minutes=10)
    assert all(record.due_from > newest for record in records)
    assert not [mail for mail in promised.mail.mails if "daily" in str(mail["Subject"])]


def test_scheduled_run(promised: Promised):
    """Its clock starts when it was due; the scheduler reads the Variable."""
    query = (
        "select k.*, r.run_after from sla.record k join dag_run r using (dag_id, run_id)"
        " where k.dag_id = 'every_minute' and verdict = 'met'"
    )
    first = wait_for(lambda: promised.stack.metadata(query), bool, deadline_s=120)[0]
    assert first.due_from == first.run_after
    assert first.promised - first.due_from == timedelta(minutes=5)


def test_scheduler_down_across_the_deadline(promised: Promised):
    """What was done in time is met though no scheduler saw it; what was not is told of meanwhile."""
    stack, run_id = promised.stack, promised.start("seen_late")
    wait_for(
        lambda: [task.state for task in stack.client.tasks("seen_late", run_id)],
        lambda states: states == ["running"],
        deadline_s=60,
    )
    promised.program("scheduler", start=False)
    promised.others["scheduler"].suspend()
    try:
        promised.gate.touch()
        promised.wait_for_verdict("seen_late", "run", "met")
        assert stack.client.run_state("seen_late", run_id) == "running"
        promised.start("without_scheduler")
        record = promised.wait_for_verdict("without_scheduler", "run", "missed")
        assert record.state == "queued"
        promised.wait_for_mail("without_scheduler")
    finally:
        promised.others["scheduler"].resume()
        promised.program("scheduler", start=True)
        promised.gate.unlink(missing_ok=True)
    assert stack.wait_for_end("seen_late", run_id) == "success"


def test_sender_killed_in_the_middle(promised: Promised):
    """The other monitor sends the mail again, under the same Message-ID."""
    promised.mail.asked.clear()
    promised.mail.open.clear()
    promised.start("cut_off")
    assert promised.mail.asked.wait(timeout=60), "nobody sends"
    promised.leader().kill()
    promised.mail.open.set()
    query = "select * from sla.mail where dag_id = 'cut_off' and state = 'sent'"
    [row] = wait_for(lambda: promised.stack.metadata(query), bool, deadline_s=90)
    ids = [str(mail["Message-ID"]) for mail in promised.mail.mails]
    assert 1 <= ids.count(row.message_id) <= 2
    promised.gate.touch()


def test_nobody_is_told_twice(promised: Promised):
    """Two schedulers, two triggerers, two monitors: no mail of a missed SLA came twice."""
    query = "select message_id, state from sla.mail where dag_id <> 'cut_off'"
    known = {row.message_id: row.state for row in promised.stack.metadata(query)}
    ids = [str(mail["Message-ID"]) for mail in promised.mail.mails]
    assert {ids.count(one) for one in known} == {1}
    assert set(known.values()) == {"sent"}
    twice = (
        "select dag_id, run_id from sla.mail where kind = 'sla' group by 1, 2 having count(*) > 1"
    )
    assert promised.stack.metadata(twice) == []
