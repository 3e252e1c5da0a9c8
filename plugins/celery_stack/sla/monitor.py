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

from celery_stack.sla import failures, metadata, on_miss, outbox, retention, sender
from celery_stack.sla.conversation import SmtpServer
from celery_stack.sla.judge import judge, story
from celery_stack.sla.log_tail import read_log_tails
from celery_stack.sla.mail import render_sla_mail
from celery_stack.sla.metadata import Unfinished, Watched
from celery_stack.sla.metrics import Metrics
from celery_stack.sla.reasons import Reasons
from celery_stack.sla.schema import Blocking, Miss

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
GIVEN_UP = "Its run was given up, and what had not run was skipped. Clear it to run it again."
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

# Of the last days also DAGs without any: what a monitor has told before it was started anew becomes 0.
UNDELIVERED = """
select dag_id, count(*) filter (where
  (state = 'pending' and attempts > 0)
  or ((state = 'refused' or cardinality(refused) > 0) and created_at > now() - interval '1 day'))
from sla.mail
where state = 'pending' or created_at > now() - interval '7 days'
group by dag_id
"""


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
    metrics: Metrics = field(default_factory=Metrics)


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
    misses = defaultdict(list)
    for one in metadata.watched(connection):
        if one.verdict == "missed":
            _follow_up(connection, one, config.metrics)
        elif _verdict(one, now) == "missed":
            misses[one.dag_id, one.run_id].append(one)
        elif _verdict(one, now) == "met" and metadata.judged(
            connection, one, verdict="met", finished=one.finished, state=one.state
        ):
            config.metrics.judged("met", one.dag_id, one.task_id)
    reasons = Reasons(config.database, config.broker) if misses else None
    for (dag_id, run_id), missed in misses.items():
        with _trying(f"Telling of {dag_id} {run_id}", connection):
            assert reasons is not None, "there are misses"  # noqa: S101
            _tell(connection, config, reasons, dag_id, run_id, missed, now=now)


def _verdict(one: Watched, now: datetime) -> str:
    silent = one.heard_of is not None and one.heard_of < one.promised
    return judge(
        promised=one.promised, finished=one.finished, now=now - (SILENT if silent else SETTLE)
    )


def _follow_up(connection: Connection[Any], one: Watched, metrics: Metrics) -> None:
    if one.finished is not None:
        late = metadata.has_finished(connection, one)
        if late is not None:
            metrics.late(one.dag_id, one.task_id, late)


def _tell(
    connection: Connection[Any],
    config: Config,
    reasons: Reasons,
    dag_id: str,
    run_id: str,
    missed: Sequence[Watched],
    *,
    now: datetime,
) -> None:
    """Judge the misses of a run and write its mail, both or neither."""
    unfinished = metadata.unfinished(connection, dag_id, run_id)
    found = [(one, _miss(one, reasons, unfinished)) for one in missed]
    with connection.transaction():
        own = [(one, miss) for one, miss in found if _judged(connection, one, miss)]
        for recipients, misses in _by_recipients(own).items():
            _enqueue(connection, config, dag_id, run_id, recipients, misses, now=now)
    for one, _ in own:
        logger.info("Missed: %s of %s %s, promised %s", one.name, dag_id, run_id, one.promised)
        config.metrics.judged("missed", dag_id, one.task_id)
        if one.finished is not None:
            config.metrics.late(dag_id, one.task_id, one.finished - one.promised)


def _miss(one: Watched, reasons: Reasons, unfinished: Sequence[Unfinished]) -> Miss:
    finished = one.finished
    blocking: Sequence[Blocking] = ()
    if finished is not None:
        reason = story(one.due_from, one.started, finished)
    else:
        blocking = reasons.blocking(one.dag_id, one.run_id, one.task_id, unfinished)
        reason = _reason(one, blocking)
    return Miss(
        record_id=one.id,
        name=one.name,
        task_id=one.task_id,
        due_from=one.due_from,
        promised=one.promised,
        finished=finished,
        state=one.state,
        reason=reason,
        blocking=tuple(blocking),
    )


def _reason(one: Watched, blocking: Sequence[Blocking]) -> str:
    """Give the reason of the task itself, in the state that speaks for it; of a run, of its first task."""
    own = [task for task in blocking if _task_id(task) == one.task_id] if one.task_id else blocking
    speaks = next((task for task in own if task.state == one.worst), None) or next(iter(own), None)
    if speaks is None and one.worst == "skipped":
        return GIVEN_UP
    if speaks is None or not speaks.why:
        return ""
    return " ".join((speaks.why if one.task_id else f"{speaks.task}: {speaks.why}").split())


def _task_id(task: Blocking) -> str:
    return task.task.partition("[")[0]


def _judged(connection: Connection[Any], one: Watched, miss: Miss) -> bool:
    return metadata.judged(
        connection,
        one,
        verdict="missed",
        finished=miss.finished,
        state=miss.state,
        reason=miss.reason,
        blocking=miss.blocking,
    )


def _by_recipients(
    found: Sequence[tuple[Watched, Miss]],
) -> dict[tuple[str, ...], list[Miss]]:
    """Give the misses of a run that each group of people is told of, in one mail."""
    groups: dict[tuple[str, ...], list[Miss]] = defaultdict(list)
    for one, miss in found:
        if not one.catches_up:
            groups[tuple(one.recipients)].append(miss)
    return groups


def _enqueue(
    connection: Connection[Any],
    config: Config,
    dag_id: str,
    run_id: str,
    recipients: Sequence[str],
    misses: Sequence[Miss],
    *,
    now: datetime,
) -> None:
    names = [task.task for miss in misses for task in miss.blocking]
    names += [miss.task_id for miss in misses if miss.task_id]
    tails = read_log_tails(
        config.log_folder, dag_id=dag_id, run_id=run_id, tasks=dict.fromkeys(names)
    )
    rendered = render_sla_mail(
        dag_id=dag_id,
        run_id=run_id,
        misses=misses,
        now=now,
        base_url=config.base_url,
        log_tails=tails,
    )
    outbox.enqueue(
        connection,
        key=f"sla:{dag_id}:{run_id}:{min(miss.record_id for miss in misses)}",
        kind="sla",
        dag_id=dag_id,
        run_id=run_id,
        recipients=recipients,
        rendered=rendered,
        record_ids=[miss.record_id for miss in misses],
    )


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
    with _beside(config, stop, _send_mails, _call_back) as news:
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


def _send_mails(connection: Connection[Any], config: Config, over: Event) -> None:
    with _trying("Sending mails", connection):
        sender.send_due(connection, config.smtp, now=datetime.now(UTC), stop=over)
    with _trying("Counting mails", connection):
        count_undelivered(connection, config.metrics)


def count_undelivered(connection: Connection[Any], metrics: Metrics) -> None:
    """Tell of each DAG how many mails did not get through."""
    metrics.undelivered(dict(connection.execute(UNDELIVERED).fetchall()))


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
