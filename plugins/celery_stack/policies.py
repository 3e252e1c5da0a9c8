"""Cluster policies: what Airflow checks and fills in whenever it parses a DAG file.

Refused is what could only wait for ever, run without bound or leave nobody to ask; every mistake
of a DAG is reported at once, one line each. Filled in are the retry policy (`celery_stack.retries`),
the backoff and its cap, where the author named none. `python -m celery_stack.check_dags FOLDER` runs the same checks without a
stack.

Policies run in workers too, so they see files and environment only. `POLICY_EXEMPT_PATHS` names the
DAG files they leave alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pluggy

from celery_stack.queues import Declarations, Queue, load_declarations
from celery_stack.settings import Settings
from celery_stack.warehouse.fence import CONNECTION as WAREHOUSE_CONNECTION
from celery_stack.warehouse.fence import POOL as WAREHOUSE_POOL

if TYPE_CHECKING:
    from airflow.sdk import DAG, BaseOperator
    from airflow.sdk.definitions.mappedoperator import MappedOperator

    # Both answer to the same names; a mapped task does so with what its instances have in common.
    Task: TypeAlias = BaseOperator | MappedOperator

# Airflow's own hookimpl, made here: Airflow imports this module while it is being imported itself.
# Were this module the one to import it first, Airflow would find the policies half loaded and take
# none of them, without a word; see test_policies_are_registered_whoever_is_imported_first.
hookimpl = pluggy.HookimplMarker("airflow.policy")

# The settings that policies read: no other variable of the process may stop a DAG.
SETTINGS = ("POLICY_EXEMPT_PATHS", "RETRY_BACKOFF", "MAX_RETRY_DELAY_S", "RETRY_JITTER")
STOCK_OWNER = "airflow"
NAMES_RETRIES = re.compile(r"\bretr(y|ies|ied|ying)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Rules:
    """What the policies know of the environment."""

    declarations: Declarations
    exempt_paths: tuple[str, ...]
    retry_backoff: float
    max_retry_delay: timedelta
    retry_jitter: float


@cache
def read_rules() -> Rules:
    """Read the rules from the environment, once per process.

    Raises:
        SettingError: a variable or the queues file is wrong; Airflow shows it as each DAG's error.
    """
    settings = Settings.from_env({k: os.environ[k] for k in SETTINGS if k in os.environ})
    paths = (path.strip() for path in settings.POLICY_EXEMPT_PATHS.split(","))
    return Rules(
        declarations=load_declarations(os.environ),
        exempt_paths=tuple(path for path in paths if path),
        retry_backoff=settings.RETRY_BACKOFF,
        max_retry_delay=timedelta(seconds=settings.MAX_RETRY_DELAY_S),
        retry_jitter=settings.RETRY_JITTER,
    )


# Last among the installed policies, so that it judges what they have made of the DAG. It checks the
# tasks as well: a violation in task_policy would end the parse at the first bad task.
@hookimpl(trylast=True)
def dag_policy(dag: DAG) -> None:
    """Refuse a DAG that breaks a policy.

    Raises:
        AirflowClusterPolicyViolation: one line per violation.
    """
    from airflow.exceptions import AirflowClusterPolicyViolation  # not above, see hookimpl

    rules = read_rules()
    if dag.on_failure_callback:
        from celery_stack.sla.callbacks import store_failure_mail

        store_failure_mail(dag)
    violations = [] if is_exempt(dag, rules) else find_violations(dag, rules)
    if violations:
        raise AirflowClusterPolicyViolation("\n".join(violations))


@hookimpl(trylast=True)
def task_policy(task: Task) -> None:
    """Fill in the retry policy, the backoff and its cap, where the author named none."""
    from celery_stack.retries import StackRetryPolicy  # not above, see hookimpl

    rules = read_rules()
    if task.dag is not None and is_exempt(task.dag, rules):
        return
    # False is the author's "no backoff"; Airflow's default is 0.
    if task.retry_exponential_backoff == 0 and not _switched_off(task):
        task.retry_exponential_backoff = rules.retry_backoff
    if task.max_retry_delay is None:
        # An author's longer delay stays whole, with room for its jitter.
        delay = (task.retry_delay or rules.max_retry_delay) * (1 + rules.retry_jitter)
        task.max_retry_delay = max(rules.max_retry_delay, delay)
    if task.retry_policy is None:
        task.retry_policy = StackRetryPolicy(rules.retry_jitter)


def is_exempt(dag: DAG, rules: Rules) -> bool:
    """Say whether `POLICY_EXEMPT_PATHS` covers the DAG's file, by name, folder or glob."""
    paths = _paths_of(dag)
    return any(_covers(pattern, path) for pattern in rules.exempt_paths for path in paths)


def find_violations(dag: DAG, rules: Rules) -> list[str]:
    """Give a line per violation: DAG, task, what was expected and found, and the remedy."""
    lines = [f"DAG {dag.dag_id}: {problem}" for problem in _dag_problems(dag)]
    for task in dag.tasks:
        lines += [
            f"DAG {dag.dag_id}, task {task.task_id}: {problem}"
            for problem in _task_problems(task, rules.declarations)
        ]
    return lines


def _switched_off(task: Task) -> bool:
    # MappedOperator's property turns False into 0.0.
    given = getattr(task, "partial_kwargs", {}).get("retry_exponential_backoff")
    return given is False or task.retry_exponential_backoff is False


def _paths_of(dag: DAG) -> list[str]:
    """Give the DAG's file as written in its bundle (relative to the DAG folder) and in full."""
    return [Path(path).as_posix() for path in (dag.relative_fileloc, dag.fileloc) if path]


def _covers(pattern: str, path: str) -> bool:
    folder = pattern.rstrip("/")
    return path == folder or path.startswith(f"{folder}/") or fnmatchcase(path, pattern)


def _dag_problems(dag: DAG) -> Iterator[str]:
    if not (dag.doc_md or "").strip():
        yield (
            "doc_md is missing, the DAG's page in the UI would be empty. "
            "Write the file's docstring and pass doc_md=__doc__."
        )
    if dag.deadline:
        from celery_stack.sla.declare import find_problems  # not above, see hookimpl

        yield from find_problems(dag)
    if any(task.has_on_failure_callback for task in dag.tasks):
        from celery_stack.sla.callbacks import find_misplaced

        yield from find_misplaced(dag)


def _task_problems(task: Task, declared: Declarations) -> Iterator[str]:
    yield from _owner_problems(task)
    if _reaches_a_worker(task):
        for find_problems in TASK_CHECKS:
            yield from find_problems(task, declared)


def _reaches_a_worker(task: Task) -> bool:
    """Say whether the scheduler hands the task to a worker; a bare EmptyOperator it marks as done.

    Source: airflow.models.taskinstance.TaskInstance.is_task_schedulable.
    """
    return bool(
        not task.inherits_from_empty_operator
        or task.has_on_execute_callback
        or task.has_on_success_callback
        or task.outlets
        or task.inlets
    )


def _owner_problems(task: Task) -> Iterator[str]:
    if (task.owner or "").strip() in ("", STOCK_OWNER):
        yield (
            f"owner is missing, found {task.owner!r}. "
            "Set owner to the person or team to ask, for all tasks in default_args."
        )


def _queue_problems(task: Task, declared: Declarations) -> Iterator[str]:
    if task.queue not in declared.queues:
        yield (
            f"queue {task.queue!r} is not declared. "
            f"Use one of: {', '.join(declared.queues)}; or declare it in queues.toml."
        )


def _pool_problems(task: Task, declared: Declarations) -> Iterator[str]:
    pool = declared.pools.get(task.pool)
    if pool is None:
        yield (
            f"pool {task.pool!r} is not declared. "
            f"Use one of: {', '.join(declared.pools)}; or declare it in queues.toml."
        )
    elif task.pool_slots > pool.slots:
        yield (
            f"pool_slots is {task.pool_slots}, but pool {pool.name!r} has {pool.slots}: "
            f"the task would wait for ever. Use at most {pool.slots}, or raise {pool.variable}."
        )


def _pairing_problems(task: Task, declared: Declarations) -> Iterator[str]:
    """Hold a queue that names a pool and that pool to each other."""
    queue, pool = declared.queues.get(task.queue), declared.pools.get(task.pool)
    if queue is None or pool is None:
        return
    if queue.pool is not None and queue.pool != pool.name:
        yield (
            f"queue {queue.name!r} needs pool {queue.pool!r}, found {pool.name!r}. "
            f"Set pool={queue.pool!r}."
        )
    elif queue.pool is None and (owners := _queues_of(pool.name, declared)):
        yield (
            f"pool {pool.name!r} belongs to queue {_names(owners)}, found queue {queue.name!r}. "
            f"Set queue={owners[0].name!r}, or another pool."
        )


def _queues_of(pool: str, declared: Declarations) -> list[Queue]:
    return [queue for queue in declared.queues.values() if queue.pool == pool]


def _names(queues: list[Queue]) -> str:
    return " or ".join(repr(queue.name) for queue in queues)


def _timeout_problems(task: Task, declared: Declarations) -> Iterator[str]:
    if task.execution_timeout is None:
        yield (
            "execution_timeout is missing, the task could hold its slot for ever. "
            "Set it to a timedelta that the longest healthy run stays below."
        )


def _retry_problems(task: Task, declared: Declarations) -> Iterator[str]:
    """Refuse `retries=0` unless the task's doc_md speaks of retries.

    The stack's default is above 0 (`TASK_RETRIES`), so that 0 is always an author's choice.
    """
    if not task.retries and not NAMES_RETRIES.search(_doc_of(task)):
        yield (
            "retries is 0 without a reason. Leave retries out, or say in the task's doc_md "
            "why it must not be retried."
        )


def _connection_problems(task: Task, declared: Declarations) -> Iterator[str]:
    """Hold tasks that name the warehouse's connection to its pool; `write_rows` sees the others."""
    if task.pool == WAREHOUSE_POOL:
        return
    for name, value in _arguments_of(task).items():
        values = value if isinstance(value, list | tuple) else [value]
        if name.endswith("conn_id") and WAREHOUSE_CONNECTION in values:
            yield (
                f"{name} is {WAREHOUSE_CONNECTION!r}, which needs pool {WAREHOUSE_POOL!r}, found "
                f"{task.pool!r}. Set {_arguments_for(WAREHOUSE_POOL, declared)}."
            )


def _arguments_for(pool: str, declared: Declarations) -> str:
    """Give what a task has to set to be in the pool: the queue too, where the pool belongs to one."""
    owners = _queues_of(pool, declared)
    return (f"queue={owners[0].name!r} and " if owners else "") + f"pool={pool!r}"


def _arguments_of(task: Task) -> dict[str, Any]:
    """Give the operator's arguments and its function's by name; lists where they are mapped."""
    given = {**vars(task), **getattr(task, "partial_kwargs", {})}
    expanded = getattr(getattr(task, "expand_input", None), "value", None)
    for more in (expanded, given.get("op_kwargs")):
        if isinstance(more, dict):
            given |= more
    return given


def _doc_of(task: Task) -> str:
    """Give doc_md, else the function's docstring, which Airflow forgets when a task is mapped."""
    function = getattr(task, "python_callable", None)
    return task.doc_md or (function and function.__doc__) or ""


TASK_CHECKS: tuple[Callable[[Task, Declarations], Iterator[str]], ...] = (
    _queue_problems,
    _pool_problems,
    _pairing_problems,
    _timeout_problems,
    _retry_problems,
    _connection_problems,
)
