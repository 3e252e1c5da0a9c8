"""Read from Airflow's metadata what a task instance may wait for; nothing is written or locked."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.configuration import conf
from airflow.jobs.job import Job, JobState
from airflow.models import DagModel, DagRun, Pool, Trigger
from airflow.models.backfill import Backfill
from airflow.models.dagbag import DBDagBag
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskreschedule import TaskReschedule
from airflow.ti_deps.dep_context import DepContext
from airflow.ti_deps.dependencies_states import ACTIVE_STATES, EXECUTION_STATES, SCHEDULEABLE_STATES
from airflow.ti_deps.deps.prev_dagrun_dep import PrevDagrunDep
from airflow.ti_deps.deps.trigger_rule_dep import TriggerRuleDep
from airflow.utils.state import DagRunState, State, TaskInstanceState
from sqlalchemy import func, or_, select

from celery_stack.queues import load_declarations
from celery_stack.why import facts

if TYPE_CHECKING:
    from airflow.ti_deps.deps.base_ti_dep import BaseTIDep
    from sqlalchemy.orm import Session

TI = TaskInstance


class UnknownTaskError(LookupError):
    """There is no such task instance; the message says what there is."""


def latest_run(dag_id: str, session: Session) -> str:
    """Give the id of the run of `dag_id` that was created last.

    Raises:
        UnknownTaskError: the DAG is unknown or has no run.
    """
    newest = select(DagRun.run_id).where(DagRun.dag_id == dag_id).order_by(DagRun.id.desc())
    run_id = session.scalar(newest.limit(1))
    if run_id is None:
        raise UnknownTaskError(f"Expected a run of DAG {dag_id}, found none. Trigger one.")
    return run_id


def find_instance(
    dag_id: str, run_id: str, task_id: str, map_index: int, session: Session
) -> TaskInstance:
    """Give the task instance as it is now; for a mapped task that is not expanded yet, the whole.

    Raises:
        UnknownTaskError: there is none.
    """
    of_run = (TI.dag_id == dag_id, TI.run_id == run_id)
    query = select(TI).where(*of_run, TI.task_id == task_id).order_by(TI.map_index)
    found = session.scalars(query.execution_options(populate_existing=True)).all()
    for instance in found:
        if instance.map_index == map_index or instance.map_index < 0:
            return instance
    if found:
        raise UnknownTaskError(
            f"Expected one of {task_id}[0] to {task_id}[{found[-1].map_index}], which is mapped, "
            f"got {task_id if map_index < 0 else f'{task_id}[{map_index}]'}. Name one of them."
        )
    tasks = sorted(session.scalars(select(TI.task_id).where(*of_run).distinct()))
    raise UnknownTaskError(
        f"Expected a task of DAG {dag_id} in run {run_id}: {', '.join(tasks)}; got {task_id!r}."
        if tasks
        else f"Expected run {run_id!r} of DAG {dag_id}, found none. Leave RUN out for the latest."
    )


def read_facts(instance: TaskInstance, session: Session) -> facts.Facts:
    """Give what the metadata says of `instance`; what Redis says is not among it."""
    run, dag = instance.dag_run, _dag_model(instance.dag_id, session)
    declared = load_declarations(os.environ)
    queue = declared.queues.get(instance.queue or "")
    pool = declared.pools.get(instance.pool)
    state = instance.state and str(instance.state)
    return facts.Facts(
        now=datetime.now(UTC),
        dag_id=instance.dag_id,
        state=state,
        run=facts.Run(str(run.state), run.run_after, _active_runs(run, dag, session)),
        queue=instance.queue or "",
        worker_pool=queue.worker if queue else "",
        worker=instance.hostname or "",
        try_number=instance.try_number,
        retries=max(instance.max_tries, 0),
        started_at=instance.start_date,
        ended_at=instance.end_date,
        queued_at=instance.queued_dttm,
        paused=_paused(run, dag, session),
        is_stale=bool(dag.is_stale),
        trigger=_trigger(instance, session),
        pool_name=instance.pool,
        pool_variable=pool.variable if pool else "",
        scheduler_seen_at=_scheduler_seen_at(session),
        scheduler_patience_s=conf.getfloat("scheduler", "scheduler_health_check_threshold"),
        **_of_state(instance, dag, session),
    )


def _of_state(instance: TaskInstance, dag: DagModel, session: Session) -> dict[str, Any]:
    """Give the facts that cost more and matter in one state only."""
    if instance.state in SCHEDULEABLE_STATES:
        return _dependencies(instance, session)
    if instance.state == TaskInstanceState.SCHEDULED:
        return _limits(instance, dag, session)
    return {}


def _dag_model(dag_id: str, session: Session) -> DagModel:
    query = select(DagModel).where(DagModel.dag_id == dag_id)
    return session.scalars(query.execution_options(populate_existing=True)).one()


def _paused(run: DagRun, dag: DagModel, session: Session) -> str:
    if dag.is_paused:
        return f"DAG {dag.dag_id}"
    backfill = session.get(Backfill, run.backfill_id) if run.backfill_id else None
    return f"Backfill {backfill.id}" if backfill and backfill.is_paused else ""


def _active_runs(run: DagRun, dag: DagModel, session: Session) -> facts.Limit:
    """Give the running runs of the same DAG, those of a backfill apart."""
    backfill = session.get(Backfill, run.backfill_id) if run.backfill_id else None
    query = select(DagRun.run_id).where(
        DagRun.dag_id == run.dag_id,
        DagRun.state == DagRunState.RUNNING,
        DagRun.backfill_id.is_not_distinct_from(run.backfill_id),
    )
    active = session.scalars(query.order_by(DagRun.start_date)).all()
    holders = [facts.Holder(f"{run.dag_id} {run_id}", "running") for run_id in active]
    return facts.Limit((backfill or dag).max_active_runs or float("inf"), len(active), holders)


def _dependencies(instance: TaskInstance, session: Session) -> dict[str, Any]:
    """Ask those of Airflow's dependencies that only look; what the others find they also store."""
    serialized = DBDagBag().get_dag_for_run(instance.dag_run, session=session)
    if serialized is None or not serialized.has_task(instance.task_id):
        return {}  # its DAG is gone, which `is_stale` says
    instance.task = task = serialized.get_task(instance.task_id)
    by_rule = _unmet(TriggerRuleDep(), instance, session)
    return {
        "waits_for": _unfinished(instance, session) if by_rule else [],
        "trigger_rule": str(task.trigger_rule),
        "unmet": _unmet(PrevDagrunDep(), instance, session),
        "retry_at": _retry_at(instance),
        "reschedule_at": _reschedule_at(instance, session),
    }


def _unmet(dependency: BaseTIDep, instance: TaskInstance, session: Session) -> list[str]:
    """Give why the dependency is not met, in Airflow's words."""
    statuses = dependency.get_dep_statuses(instance, DepContext(), session=session)
    return [status.reason for status in statuses if not status.passed]


def _retry_at(instance: TaskInstance) -> datetime | None:
    if instance.state != TaskInstanceState.UP_FOR_RETRY:
        return None
    moment: datetime = instance.next_retry_datetime()  # type: ignore[no-untyped-call]
    return moment


def _unfinished(instance: TaskInstance, session: Session) -> list[facts.Holder]:
    """Give the upstream instances that are not done; in a mapped group, those of its own index."""
    task = instance.task
    assert task is not None, "the caller has set the task"  # noqa: S101
    group = task.get_closest_mapped_task_group()
    beside = {
        upstream.task_id
        for upstream in task.upstream_list
        if group and upstream.get_closest_mapped_task_group() == group
    }
    holders, _ = _holders(
        session,
        TI.dag_id == instance.dag_id,
        TI.run_id == instance.run_id,
        TI.task_id.in_(task.upstream_task_ids),
        or_(TI.state.is_(None), TI.state.not_in(State.finished)),
        or_(TI.task_id.not_in(beside), TI.map_index == instance.map_index),
    )
    return holders


def _reschedule_at(instance: TaskInstance, session: Session) -> datetime | None:
    if instance.state != TaskInstanceState.UP_FOR_RESCHEDULE:
        return None
    latest = TaskReschedule.stmt_for_task_instance(instance, descending=True)
    row = session.scalar(latest.with_only_columns(TaskReschedule.reschedule_date).limit(1))
    moment: datetime | None = row
    return moment


def _trigger(instance: TaskInstance, session: Session) -> facts.Trigger | None:
    trigger = session.get(Trigger, instance.trigger_id) if instance.trigger_id else None
    if trigger is None:
        return None
    return facts.Trigger(trigger.classpath, trigger.created_date, trigger.triggerer_id is not None)


def _limits(instance: TaskInstance, dag: DagModel, session: Session) -> dict[str, Any]:
    """Give what the scheduler counts before it queues a task, as it counts."""
    of_task = (TI.dag_id == instance.dag_id, TI.task_id == instance.task_id)
    of_run = (TI.dag_id == instance.dag_id, TI.run_id == instance.run_id)
    executing, active = TI.state.in_(EXECUTION_STATES), TI.state.in_(ACTIVE_STATES)
    per_dag, per_run = _own_limits(instance, session)
    return {
        "pool": _pool(instance, session),
        "max_active_tasks": _limit(dag.max_active_tasks, session, *of_run, executing),
        "per_dag": _limit(per_dag, session, *of_task, active),
        "per_run": _limit(per_run, session, *of_task, *of_run, active),
        "parallelism": _limit(_parallelism(session), session, executing),
    }


def _own_limits(instance: TaskInstance, session: Session) -> tuple[int | None, int | None]:
    serialized = DBDagBag().get_dag_for_run(instance.dag_run, session=session)
    if serialized is None or not serialized.has_task(instance.task_id):
        return None, None
    task = serialized.get_task(instance.task_id)
    return task.max_active_tis_per_dag, task.max_active_tis_per_dagrun


def _limit(size: int | None, session: Session, *where: Any) -> facts.Limit | None:
    if size is None:
        return None
    holders, _ = _holders(session, *where)
    return facts.Limit(size, len(holders), holders)


def _pool(instance: TaskInstance, session: Session) -> facts.Limit | None:
    query = select(Pool).where(Pool.pool == instance.pool)
    pool = session.scalar(query.execution_options(populate_existing=True))
    if pool is None:
        return None
    states = pool.get_occupied_states()
    holders, used = _holders(session, TI.pool == pool.pool, TI.state.in_(states))
    size = float("inf") if pool.slots < 0 else pool.slots
    return facts.Limit(size, used, holders, instance.pool_slots)


def _parallelism(session: Session) -> int:
    """Give how many task instances the schedulers that are alive may have queued or running."""
    schedulers = select(Job).where(Job.job_type == "SchedulerJob", Job.state == JobState.RUNNING)
    alive = sum(job.is_alive() for job in session.scalars(schedulers))
    return conf.getint("core", "parallelism") * max(alive, 1)


def _scheduler_seen_at(session: Session) -> datetime | None:
    latest = select(func.max(Job.latest_heartbeat))
    return session.scalar(
        latest.where(Job.job_type == "SchedulerJob", Job.state == JobState.RUNNING)
    )


def _holders(session: Session, *where: Any) -> tuple[list[facts.Holder], int]:
    """Give the task instances for which `where` holds, the oldest first, and their pool slots."""
    columns = (TI.dag_id, TI.run_id, TI.task_id, TI.map_index, TI.state, TI.hostname, TI.pool_slots)
    rows = session.execute(select(*columns).where(*where).order_by(TI.start_date, TI.id)).all()
    holders = [
        facts.Holder(
            facts.instance_name(row.dag_id, row.run_id, row.task_id, row.map_index),
            row.state or "not scheduled",
            row.hostname if row.state == TaskInstanceState.RUNNING else "",
        )
        for row in rows
    ]
    return holders, sum(row.pool_slots for row in rows)
