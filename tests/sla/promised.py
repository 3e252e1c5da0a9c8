"""A whole stack with two of everything that may be doubled, its mail server, and runs with promises."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import psycopg

from celery_stack.settings import Settings
from compose.home import REPO
from compose.secret_files import Addresses, derive_secrets, read_secret
from compose.supervise import Supervisor
from tests.integration.conftest import RunningStack, another, running_stack
from tests.mail_servers import Mailbox, free_port, mail_server, server_certificate
from tests.waiting import wait_for

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


def body(mail: EmailMessage, kind: str = "plain") -> str:
    part = mail.get_body((kind,))
    assert part is not None
    return str(part.get_content())


@dataclass
class Promised:
    """The stack, its mail server, and the runs that were started together.

    Args:
        mail: what the server has taken, and how it answers.
        tls: of a server whose authority the stack trusts.
        others: the second one of what is doubled.
    """

    stack: RunningStack
    mail: Mailbox
    port: int
    tls: ssl.SSLContext
    gate: Path
    doubled: ExitStack
    others: dict[str, psutil.Process] = field(default_factory=dict)
    servers: ExitStack = field(default_factory=ExitStack)
    runs: dict[str, str] = field(default_factory=dict)

    def start(self, dag_id: str, gate: Path | None = None) -> str:
        self.runs[dag_id] = self.stack.client.trigger(dag_id, {"gate": str(gate or self.gate)})
        return self.runs[dag_id]

    def wait_until_it_runs(self, dag_id: str) -> None:
        """Wait until the only task of the run that was started is running."""
        wait_for(
            lambda: [task.state for task in self.stack.client.tasks(dag_id, self.runs[dag_id])],
            lambda states: states == ["running"],
            deadline_s=60,
        )

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

    def wait_for_mail(self, dag_id: str, sla: bool = True, deadline_s: float = 90) -> EmailMessage:
        """Wait for the one mail of a DAG, of a missed SLA or of a failed run."""
        mails = wait_for(lambda: self._mails(dag_id, sla), bool, deadline_s=deadline_s)
        [mail] = mails
        return mail

    def _mails(self, dag_id: str, sla: bool) -> list[EmailMessage]:
        kind = "sla" if sla else "failure"
        query = "select message_id from sla.mail where dag_id = %s and kind = %s and run_id = %s"
        rows = self.stack.metadata(query, dag_id, kind, self.runs[dag_id])
        ids = {row.message_id for row in rows}
        return [mail for _, mail in self.mail.taken if str(mail["Message-ID"]) in ids]

    def receivers(self, mail: EmailMessage) -> list[str]:
        """Give those whom the server took the mail for."""
        return [to for known, one in list(self.mail.taken) if one is mail for to in known]

    def serve_mail(self, security: str = "none") -> None:
        """Run the mail server in place of the one that runs."""
        self.servers.close()
        options = {"security": security, "tls": self.tls, "port": self.port}
        self.servers.enter_context(mail_server(self.mail, **options))

    def start_other(self, name: str) -> None:
        """Run a second one of a program beside the supervisor's."""
        self.others[name] = self.doubled.enter_context(another(self.stack, name))

    def restart_monitors(self, **settings: str) -> None:
        """Change settings of mails, and start both monitors anew."""
        home = self.stack.home
        ports = json.loads(home.ports_file.read_text())
        addresses = Addresses("127.0.0.1", ports["postgres"], "127.0.0.1", ports["redis"])
        derive_secrets(home.secrets, addresses, Settings.from_env(self.stack.env | settings))
        self.program("sla", start=False)
        self.others["sla"].terminate()
        self.program("sla", start=True)
        self.start_other("sla")

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
def running_promises(folder: Path) -> Iterator[Promised]:
    """Start the stack, what is doubled, and all runs but those that something is stopped for."""
    authority, tls = server_certificate()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    port = free_port()
    settings = {
        "SMTP_HOST": "127.0.0.1",
        "SMTP_PORT": str(port),
        "SSL_CERT_FILE": str(folder / "ca.pem"),
        "SLA_EMAIL_TO": TEAM,
        "SLA_CHECK_S": "1",
        "WORKER_CONCURRENCY": "10",  # more than what is held
        "DAG_REFRESH_S": "600",
    }
    scale = ("worker=1", "worker-cpu-train=0")
    home, dags = REPO / ".stack-test-sla", REPO / "tests/sla/dags"
    with (
        running_stack(home, *scale, dags_of_tests=dags, **settings) as stack,
        ExitStack() as doubled,
    ):
        promised = Promised(stack, Mailbox(), port, tls, folder / "gate", doubled)
        with promised.servers:
            promised.serve_mail()
            for name in DOUBLED:
                promised.start_other(name)
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
            promised.gate.touch()


def finish_unseen(promised: Promised) -> None:
    """Let a run finish late, and another in time, while no monitor looks."""
    wait_for_monitor(promised.stack)
    other = promised.others["sla"]
    promised.program("sla", start=False)
    other.suspend()
    try:
        run_id = promised.start("unseen")
        promised.wait_until_it_runs("unseen")
        late = datetime.now(UTC) + timedelta(seconds=2)
        wait_for(lambda: datetime.now(UTC), lambda now: now > late, deadline_s=10)
        promised.gate.touch()
        promised.stack.wait_for_end("unseen", run_id)
        promised.gate.unlink()
        assert promised.records("unseen") == {}
    finally:
        other.resume()
        promised.program("sla", start=True)


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
