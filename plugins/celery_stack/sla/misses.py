"""What becomes of a miss: a record with the reason, and the mail that tells of it, both or neither."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from psycopg import Connection

from celery_stack import metrics
from celery_stack.sla import metadata, outbox
from celery_stack.sla.judge import story
from celery_stack.sla.log_tail import read_log_tails
from celery_stack.sla.mail import render_sla_mail
from celery_stack.sla.metadata import Unfinished, Watched
from celery_stack.sla.reasons import Reasons
from celery_stack.sla.schema import Blocking, Miss

if TYPE_CHECKING:
    from celery_stack.sla.monitor import Config

logger = logging.getLogger(__name__)

GIVEN_UP = "Its run was given up, and what had not run was skipped. Clear it to run it again."
RUN_AS_TASK = "run"
"""What metrics call the task of a promise for the whole run."""


def tell(
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
        metrics.count("sla.missed", dag_id=dag_id, task_id=one.task_id or RUN_AS_TASK)
        if one.finished is not None:
            measure_lateness(one, one.finished - one.promised)


def measure_lateness(one: Watched, lateness: timedelta) -> None:
    """Tell Prometheus how long after it was promised something finished."""
    seconds, task_id = lateness.total_seconds(), one.task_id or RUN_AS_TASK
    metrics.timing("sla.lateness", seconds, dag_id=one.dag_id, task_id=task_id)


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
