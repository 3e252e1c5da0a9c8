"""The monitor: looks every few seconds at what is promised, judges, and sees to it that people are told.

Two may run, on one host or two: one leads by an advisory lock of Postgres, the other waits for it. Should
both judge for a moment, the row that one of them turns from pending, and the key of the mail, keep the
other from telling it again. Mails have a thread of their own, and so do callbacks: a slow mail server keeps nobody
from being judged or called.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any

import psycopg
from psycopg import Connection

from celery_stack import metrics
from celery_stack.sla import failures, metadata, misses, on_miss, outbox, retention, sender
from celery_stack.sla.conversation import SmtpServer
from celery_stack.sla.judge import judge
from celery_stack.sla.metadata import Watched
from celery_stack.sla.reasons import Reasons

logger = logging.getLogger(__name__)

LOCK = 0x51A
"""Key of the advisory lock that the leading monitor holds as long as its session lives."""
SETTLE = timedelta(seconds=2)
"""A miss is judged this much later: what ended in the last moment has to reach the metadata."""
SILENT = timedelta(seconds=90)
"""A running task that nobody has heard of since it was promised may have ended in time, and its worker may not
have been able to say so: that long it is waited for. Workers send a heartbeat every five seconds."""
RUN_IS_CREATED_WITHIN = timedelta(minutes=10)
"""Runs are committed out of the order of their ids, but not by more than this."""
RETRY_S = 5
"""Between two attempts to deliver or to call back while nothing new is found."""
PRUNED_EVERY = timedelta(hours=1)
LAST_WORDS_S = 15
"""A monitor that stops lets the mail under way be finished, up to this: nobody gets it twice."""
# Both ends notice within about a minute that the other is gone; the server then frees the lock of the lead.
SESSION: dict[str, Any] = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60000,
    "application_name": "sla",
    "options": "-c statement_timeout=60s -c timezone=utc"
    " -c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3",
}


@dataclass(frozen=True)
class Config:
    """What the monitor needs to know of the stack; passwords stay out of its repr.

    Args:
        database: psycopg's address of the metadata, as the role `sla`.
        smtp: None where no mail server is set: mails wait.
        default_to: SLA_EMAIL_TO.
        keep_days: METADATA_RETENTION_DAYS.
        callback_env: the environment of the processes that authors' callbacks get to themselves.
        log_folder: Airflow's base log folder; None where it cannot be read.
        heartbeat: touched at each look; None for no such file.
    """

    database: str = field(repr=False)
    broker: str = field(repr=False)
    smtp: SmtpServer | None
    base_url: str
    default_to: Sequence[str]
    failure_emails: bool
    check_s: float
    keep_days: int = 90
    callback_env: Mapping[str, str] = field(repr=False, default_factory=dict)
    log_folder: Path | None = None
    heartbeat: Path | None = None


Errand = Callable[[Connection[Any], Config, Event], None]
"""Something to be done beside the looks, until the event is set."""


class Floor:
    """The smallest id that a run without records can have, so that a look reads few runs."""

    def __init__(self) -> None:
        self._seen: list[tuple[datetime, int]] = []

    def at(self, now: datetime) -> int:
        """Give the floor of a look at `now`: 0 until what was looked at is old enough."""
        old = [run for at, run in self._seen if now - at > RUN_IS_CREATED_WITHIN]
        return old[-1] if old else 0

    def looked(self, newest: int, now: datetime) -> None:
        """Note a look at `now` that left nothing out, when `newest` was the newest run."""
        old = [seen for seen in self._seen if now - seen[0] > RUN_IS_CREATED_WITHIN]
        self._seen = [*old[-1:], *self._seen[len(old) :], (now, newest)]


def run(config: Config, stop: Event) -> None:
    """Watch until `stop` is set; a database that is away is waited for."""
    while not stop.is_set():
        try:
            with _session(config) as connection:
                _wait_for_lead(connection, config, stop)
                _lead(connection, config, stop)
        except psycopg.Error as error:
            logger.warning("The metadata does not answer, trying again: %s", _one_line(error))
            stop.wait(config.check_s)


def look(connection: Connection[Any], config: Config, floor: Floor, *, now: datetime) -> None:
    """Record what is new, judge what can be judged, and put what people are told of into the outbox."""
    newest = metadata.newest_run(connection)
    with connection.transaction():
        metadata.add_records(connection, floor=floor.at(now), default_to=config.default_to)
    floor.looked(newest, now)
    missed = defaultdict(list)
    for one in metadata.watched(connection):
        if one.verdict == "missed":
            _follow_up(connection, one)
        elif _verdict(one, now) == "missed":
            missed[one.dag_id, one.run_id].append(one)
        elif _verdict(one, now) == "met" and metadata.judged(
            connection, one, verdict="met", finished=one.finished, state=one.state
        ):
            metrics.count("sla.met", dag_id=one.dag_id, task_id=one.task_id or misses.RUN_AS_TASK)
    reasons = Reasons(config.database, config.broker) if missed else None
    for (dag_id, run_id), found in missed.items():
        with _trying(f"Telling of {dag_id} {run_id}", connection):
            assert reasons is not None, "there are misses"  # noqa: S101
            misses.tell(connection, config, reasons, dag_id, run_id, found, now=now)


def _verdict(one: Watched, now: datetime) -> str:
    silent = one.heard_of is not None and one.heard_of < one.promised
    return judge(
        promised=one.promised, finished=one.finished, now=now - (SILENT if silent else SETTLE)
    )


def _follow_up(connection: Connection[Any], one: Watched) -> None:
    if one.finished is not None:
        late = metadata.has_finished(connection, one)
        if late is not None:
            misses.measure_lateness(one, late)


def _wait_for_lead(connection: Connection[Any], config: Config, stop: Event) -> None:
    while not stop.is_set():
        row = connection.execute("select pg_try_advisory_lock(%s)", (LOCK,)).fetchone()
        if row and row[0]:
            logger.info("This monitor leads")
            return
        _beat(config)
        stop.wait(config.check_s)


def _lead(connection: Connection[Any], config: Config, stop: Event) -> None:
    """Look again and again; mails and callbacks go out beside it, until this ends."""
    floor, failed_since, prune_at = Floor(), failures.Since(), datetime.now(UTC)
    with _beside(config, stop, _Mails(), _call_back) as news:
        while not stop.is_set():
            now = datetime.now(UTC)
            with _trying("Looking at what is promised", connection):
                look(connection, config, floor, now=now)
            if config.failure_emails:
                with _trying("Looking for failed runs", connection):
                    failures.look(connection, config, failed_since, now=now)
            if now >= prune_at:
                prune_at = now + PRUNED_EVERY
                with _trying("Deleting what is old", connection):
                    retention.prune(connection, days=config.keep_days)
            for one in news:
                one.set()
            _beat(config)
            stop.wait(config.check_s)


@contextmanager
def _beside(config: Config, stop: Event, *errands: Errand) -> Iterator[list[Event]]:
    """Run each errand in a thread, again and again; give what tells each that there is news.

    A lead that was lost waits for none of them: what they have claimed stays claimed.
    """
    over = Event()
    news = [Event() for _ in errands]
    threads = [
        threading.Thread(target=_repeat, args=[errand, config, over, new], daemon=True)
        for errand, new in zip(errands, news, strict=True)
    ]
    for thread in threads:
        thread.start()
    try:
        yield news
    finally:
        over.set()
        for new in news:
            new.set()
        end = time.monotonic() + (LAST_WORDS_S if stop.is_set() else 0)
        for thread in threads:
            thread.join(max(0, end - time.monotonic()))


def _repeat(errand: Errand, config: Config, over: Event, news: Event) -> None:
    """Do it after each look and every few seconds, in a session of its own, until the lead is over."""
    while not over.is_set():
        try:
            with _session(config) as connection:
                while not over.is_set():
                    errand(connection, config, over)
                    news.wait(RETRY_S)
                    news.clear()
        except psycopg.Error as error:
            logger.warning("The metadata does not answer, trying again: %s", _one_line(error))
            over.wait(config.check_s)


class _Mails:
    """Sends what is due, and tells how much of it did not get through."""

    def __init__(self) -> None:
        self._undelivered = outbox.Undelivered()

    def __call__(self, connection: Connection[Any], config: Config, over: Event) -> None:
        with _trying("Sending mails", connection):
            sender.send_due(connection, config.smtp, now=datetime.now(UTC), stop=over)
        with _trying("Counting mails", connection):
            self._undelivered.tell(connection)


def _call_back(connection: Connection[Any], config: Config, over: Event) -> None:
    with _trying("Calling back", connection):
        on_miss.call_back(connection, config.callback_env, config.base_url, over)


@contextmanager
def _session(config: Config) -> Iterator[Connection[Any]]:
    connection = psycopg.connect(config.database, autocommit=True, **SESSION)
    with connection:
        yield connection


@contextmanager
def _trying(doing: str, connection: Connection[Any]) -> Iterator[None]:
    """Log what fails and go on: the next look tries it again. A lost connection is not held back."""
    try:
        yield
    except Exception as error:
        # Others of its kind are a deadlock, or a statement that took too long.
        if isinstance(error, psycopg.OperationalError) and connection.closed:
            raise
        logger.exception("%s failed, the next look tries again", doing)


def _beat(config: Config) -> None:
    if config.heartbeat is not None:
        config.heartbeat.touch()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
