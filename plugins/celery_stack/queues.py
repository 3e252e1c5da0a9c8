"""The stack's queues, pools and worker pools, declared in `queues.toml`; the environment overrides.

One rule gives an override its name, what is declared and which value of it:

- `<POOL>_SLOTS`: for pool `pg_io` it is `PG_IO_SLOTS`;
- `<WORKER>_CONCURRENCY` and `<WORKER>_QUEUES`: for worker pool `worker` they start with `WORKER`,
  for `worker-cpu-train` with `CPU_TRAIN`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic_core import ErrorDetails

from celery_stack.settings import SettingError, is_whole_number, setting_error

DECLARATION_FILE = Path(__file__).with_name("queues.toml")
CHECKOUT = Path(__file__).resolve().parents[2]
DEFAULT_QUEUE = "default"
DEFAULT_POOL = "default_pool"
MAX_CONCURRENCY = 256
MAX_SLOTS = 4096

_Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
_WorkerName = Annotated[str, StringConstraints(pattern=r"^worker(-[a-z0-9]+)*$")]
_Sentence = Annotated[str, StringConstraints(min_length=1)]
_Declared = TypeVar("_Declared")


@dataclass(frozen=True)
class Queue:
    """A Celery queue; a task of a queue that names a pool must use that pool."""

    name: str
    purpose: str
    worker: str
    pool: str | None = None


@dataclass(frozen=True)
class Pool:
    """An Airflow pool of `slots` task instances at once."""

    name: str
    slots: int
    why: str

    @property
    def variable(self) -> str:
        """The variable that overrides its slots."""
        return _slots_variable(self.name)


@dataclass(frozen=True)
class Worker:
    """A worker pool: processes that consume `queues`, each running `concurrency` tasks at once."""

    name: str
    queues: tuple[str, ...]
    concurrency: int

    @property
    def prefix(self) -> str:
        """What its variables start with: `CPU_TRAIN` for `worker-cpu-train`."""
        return self.name.removeprefix("worker-").upper().replace("-", "_")


@dataclass(frozen=True)
class Variable:
    """An environment variable that overrides a declaration."""

    default: str
    meaning: str


@dataclass(frozen=True)
class Declarations:
    """Every queue, pool and worker pool by name, in the order of the file."""

    queues: Mapping[str, Queue]
    pools: Mapping[str, Pool]
    workers: Mapping[str, Worker]

    def pools_json(self) -> dict[str, dict[str, Any]]:
        """Give the pools in the format of `airflow pools import`."""
        return {
            pool.name: {"slots": pool.slots, "description": pool.why, "include_deferred": False}
            for pool in self.pools.values()
        }

    def variables(self) -> dict[str, Variable]:
        """Give the overriding variables by name; their defaults are the values declared here."""
        found: dict[str, Variable] = {}
        for worker in self.workers.values():
            found |= _worker_variables(worker)
        for pool in self.pools.values():
            meaning = f"Slots of pool {pool.name}, 1 to {MAX_SLOTS}. {pool.why}"
            found[pool.variable] = Variable(str(pool.slots), meaning)
        return found


def load_declarations(env: Mapping[str, str]) -> Declarations:
    """Read the declarations and what `env` overrides; an empty variable counts as unset.

    Raises:
        SettingError: the first mistake in the file or in `env`, in one line.
    """
    path = _declaration_path(env)
    document = _validate(path, _read_toml(path))
    _check_references(path, document)
    _check_concurrency(path, document)
    workers = {
        worker.name: _override_worker(worker, document, env) for worker in _workers(document)
    }
    _check_consumed(path, document, workers)
    return Declarations(
        queues={name: _queue(name, entry) for name, entry in document.queues.items()},
        pools={name: _pool(name, entry, env) for name, entry in document.pools.items()},
        workers=workers,
    )


class _QueueEntry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    purpose: _Sentence
    worker: _WorkerName
    concurrency: int = Field(ge=1, le=MAX_CONCURRENCY)
    pool: str | None = None


class _PoolEntry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    slots: int = Field(ge=1, le=MAX_SLOTS)
    why: _Sentence


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    queues: dict[_Name, _QueueEntry]
    pools: dict[_Name, _PoolEntry]


def _declaration_path(env: Mapping[str, str]) -> Path:
    """Give `QUEUES_FILE`, a relative path starting at the checkout; else the package's own file."""
    named = env.get("QUEUES_FILE")
    return CHECKOUT / named if named else DECLARATION_FILE


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise setting_error("QUEUES_FILE", f"a readable file ({reason})", str(path)) from None
    except ValueError as error:  # not TOML, or not UTF-8
        raise SettingError(f"{path} must be TOML: {error}. Correct it there.") from None


def _validate(path: Path, content: dict[str, Any]) -> _Document:
    try:
        return _Document.model_validate(content)
    except ValidationError as error:
        raise _file_error(path, error.errors()[0]) from None


def _file_error(path: Path, detail: ErrorDetails) -> SettingError:
    key = ".".join(str(part) for part in detail["loc"])
    expected = detail["msg"][0].lower() + detail["msg"][1:]
    found = "" if detail["type"] == "missing" else f", got {detail['input']!r}"
    return SettingError(f"{path}, {key}: {expected}{found}. Correct it there.")


def _check_references(path: Path, document: _Document) -> None:
    for name, entry in document.queues.items():
        if entry.pool is not None:
            _check_declared(path, f"queues.{name}.pool", entry.pool, document.pools)
    for kind, name in (("queues", DEFAULT_QUEUE), ("pools", DEFAULT_POOL)):
        if name not in getattr(document, kind):
            raise SettingError(
                f"{path}, {kind}: {name!r} must be declared, it is Airflow's default. Add it there."
            )


def _check_concurrency(path: Path, document: _Document) -> None:
    """Hold queues that share a worker pool to one concurrency: its processes have only one."""
    first: dict[str, int] = {}
    for name, entry in document.queues.items():
        expected = first.setdefault(entry.worker, entry.concurrency)
        if entry.concurrency != expected:
            raise SettingError(
                f"{path}, queues.{name}.concurrency must be {expected}, as for the other queues of "
                f"{entry.worker}, got {entry.concurrency}. Correct it there."
            )


def _check_declared(path: Path, key: str, name: str, declared: Mapping[str, Any]) -> None:
    if name not in declared:
        raise SettingError(
            f"{path}, {key} must be one of {', '.join(declared)}, got {name!r}. Correct it there."
        )


def _workers(document: _Document) -> list[Worker]:
    """Give the worker pools that the queues name, with the queues that name them."""
    names = dict.fromkeys(entry.worker for entry in document.queues.values())
    return [_worker(name, document) for name in names]


def _worker(name: str, document: _Document) -> Worker:
    served = {queue: entry for queue, entry in document.queues.items() if entry.worker == name}
    return Worker(name, tuple(served), next(iter(served.values())).concurrency)


def _override_worker(worker: Worker, document: _Document, env: Mapping[str, str]) -> Worker:
    concurrency, queues = f"{worker.prefix}_CONCURRENCY", f"{worker.prefix}_QUEUES"
    return Worker(
        worker.name,
        _read_queues(env, queues, worker.queues, document.queues),
        _read_number(env, concurrency, worker.concurrency, MAX_CONCURRENCY),
    )


def _read_queues(
    env: Mapping[str, str], name: str, default: tuple[str, ...], declared: Mapping[str, _Declared]
) -> tuple[str, ...]:
    text = env.get(name)
    if not text:
        return default
    queues = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    if not set(queues) <= set(declared):
        raise setting_error(name, f"a comma-separated list out of {', '.join(declared)}", text)
    return queues


def _read_number(env: Mapping[str, str], name: str, default: int, largest: int) -> int:
    text = env.get(name)
    if not text:
        return default
    if not (is_whole_number(text) and 1 <= int(text) <= largest):
        raise setting_error(name, f"a whole number from 1 to {largest}", text)
    return int(text)


def _check_consumed(path: Path, document: _Document, workers: Mapping[str, Worker]) -> None:
    consumed = {queue for worker in workers.values() for queue in worker.queues}
    for name, entry in document.queues.items():
        if name not in consumed:
            variable = f"{workers[entry.worker].prefix}_QUEUES"
            raise SettingError(
                f"Queue '{name}' of {path} has no worker: its tasks would wait for ever. "
                f"Add it to {variable}."
            )


def _queue(name: str, entry: _QueueEntry) -> Queue:
    return Queue(name, entry.purpose, entry.worker, entry.pool)


def _pool(name: str, entry: _PoolEntry, env: Mapping[str, str]) -> Pool:
    slots = _read_number(env, _slots_variable(name), entry.slots, MAX_SLOTS)
    return Pool(name, slots, entry.why)


def _slots_variable(pool: str) -> str:
    return f"{pool.upper()}_SLOTS"


def _worker_variables(worker: Worker) -> dict[str, Variable]:
    return {
        f"{worker.prefix}_CONCURRENCY": Variable(
            str(worker.concurrency),
            f"Tasks at once in each process of {worker.name}, 1 to {MAX_CONCURRENCY}.",
        ),
        f"{worker.prefix}_QUEUES": Variable(
            ",".join(worker.queues), f"Queues that {worker.name} consumes, comma-separated."
        ),
    }
