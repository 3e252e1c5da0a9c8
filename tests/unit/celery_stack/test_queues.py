"""Queues and pools are declared once; the environment overrides; every mistake is one line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from celery_stack.queues import Pool, Queue, Worker, load_declarations
from celery_stack.settings import SettingError

MINIMAL = """
[queues.default]
purpose = "Everything."
worker = "worker"
concurrency = 2

[pools.default_pool]
slots = 8
why = "Everything."
"""


def error_of(env: Mapping[str, str]) -> str:
    with pytest.raises(SettingError) as caught:
        load_declarations(env)
    return str(caught.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(MINIMAL)
    return path


def test_stock_file_declares_training_and_writers_apart_from_the_rest() -> None:
    """Training has a queue, a worker pool and a pool of its own, writers a queue and a pool."""
    declared = load_declarations({})
    assert declared.queues["cpu_train"] == Queue(
        "cpu_train",
        "Model training: few tasks at once, so that each has a core to itself.",
        "worker-cpu-train",
        "cpu_train",
    )
    assert declared.workers == {
        "worker": Worker("worker", ("default", "pg_io"), 4),
        "worker-cpu-train": Worker("worker-cpu-train", ("cpu_train",), 2),
    }
    assert declared.queues["pg_io"].pool == "pg_io"
    assert set(declared.pools) == {"default_pool", "cpu_train", "pg_io"}


def test_pools_are_exported_in_the_format_of_airflow_pools_import() -> None:
    """Each pool becomes slots, description and include_deferred under its name."""
    assert load_declarations({}).pools_json()["pg_io"] == {
        "slots": 4,
        "description": "Writes to the warehouse: as many connections at once as it is given.",
        "include_deferred": False,
    }


@pytest.mark.parametrize(
    ("env", "name", "worker"),
    [
        ({"WORKER_CONCURRENCY": "16"}, "worker", Worker("worker", ("default", "pg_io"), 16)),
        (
            {"CPU_TRAIN_CONCURRENCY": "2", "CPU_TRAIN_QUEUES": "cpu_train, default"},
            "worker-cpu-train",
            Worker("worker-cpu-train", ("cpu_train", "default"), 2),
        ),
        ({"WORKER_QUEUES": ""}, "worker", Worker("worker", ("default", "pg_io"), 4)),
    ],
)
def test_worker_variables_override_the_file(env: dict[str, str], name: str, worker: Worker) -> None:
    """A worker pool's variables start with its name; an empty one counts as unset."""
    assert load_declarations(env).workers[name] == worker


def test_pool_variable_overrides_the_slots() -> None:
    """PG_IO_SLOTS replaces the slots of pg_io and nothing else."""
    pools = load_declarations({"PG_IO_SLOTS": "9"}).pools
    assert pools["pg_io"].slots == 9
    assert pools["default_pool"].slots == 128


@pytest.mark.parametrize("value", ["0", "-1", "4097", "1.5", "four", " 4", "1_0", "٤", "9" * 5000])
def test_wrong_number_is_refused_by_variable(value: str) -> None:
    """Only a plain decimal number within the bounds is taken."""
    assert error_of({"PG_IO_SLOTS": value}) == (
        f"PG_IO_SLOTS must be a whole number from 1 to 4096, got {value!r}. Set it in .env."
    )


@pytest.mark.parametrize("value", ["default,gpu", "default,", ","])
def test_override_naming_an_undeclared_queue_is_refused(value: str) -> None:
    """A worker pool can consume declared queues only."""
    assert error_of({"WORKER_QUEUES": value}) == (
        "WORKER_QUEUES must be a comma-separated list out of default, pg_io, cpu_train, "
        f"got {value!r}. Set it in .env."
    )


def test_queue_that_no_worker_consumes_is_refused(file: Path) -> None:
    """The message says which variable lost the queue."""
    file.write_text(
        MINIMAL + '[queues.slow]\npurpose = "x"\nworker = "worker-slow"\nconcurrency = 1\n'
    )
    assert error_of({"QUEUES_FILE": str(file), "SLOW_QUEUES": "default"}) == (
        f"Queue 'slow' of {file} has no worker: its tasks would wait for ever. "
        "Add it to SLOW_QUEUES."
    )


def test_another_file_replaces_the_stock_declarations(file: Path) -> None:
    """QUEUES_FILE names the file that counts, and its names give the variables."""
    declared = load_declarations({"QUEUES_FILE": str(file), "DEFAULT_POOL_SLOTS": "3"})
    assert list(declared.queues) == ["default"]
    assert declared.pools == {"default_pool": Pool("default_pool", 3, "Everything.")}


def test_relative_queues_file_starts_at_the_checkout() -> None:
    """The same .env works from any directory."""
    named = load_declarations({"QUEUES_FILE": "plugins/celery_stack/queues.toml"})
    assert named == load_declarations({})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("worker = ", "pool = 'gpu'\nworker = "),
            "queues.default.pool must be one of default_pool, got 'gpu'.",
        ),
        (
            ("worker = ", "colour = 'red'\nworker = "),
            "queues.default.colour: extra inputs are not permitted, got 'red'.",
        ),
        (("slots = 8\n", ""), "pools.default_pool.slots: field required."),
        (
            ("slots = 8", "slots = 'many'"),
            "pools.default_pool.slots: input should be a valid integer, got 'many'.",
        ),
        (
            ("slots = 8", "slots = 0"),
            "pools.default_pool.slots: input should be greater than or equal to 1, got 0.",
        ),
        (
            ('"worker"', '"gpu box"'),
            "queues.default.worker: string should match pattern '^worker(-[a-z0-9]+)*$', "
            "got 'gpu box'.",
        ),
        (
            ("[pools.default_pool]", "[queues.b]\npurpose='x'\nworker='worker'\nconcurrency=3\n"
             "[pools.default_pool]"),
            "queues.b.concurrency must be 2, as for the other queues of worker, got 3.",
        ),
    ],
)  # fmt: skip
def test_mistake_in_the_file_is_named_by_key(
    file: Path, change: tuple[str, str], message: str
) -> None:
    """File, key, what was expected and found, and where to correct it."""
    file.write_text(MINIMAL.replace(*change))
    error = error_of({"QUEUES_FILE": str(file)})
    assert error == f"{file}, {message} Correct it there."


@pytest.mark.parametrize(
    ("old", "kind", "name"),
    [("queues.default", "queues", "default"), ("pools.default_pool", "pools", "default_pool")],
)
def test_airflows_own_defaults_must_be_declared(file: Path, old: str, kind: str, name: str) -> None:
    """A task that names no queue or pool gets these."""
    file.write_text(MINIMAL.replace(old, f"{kind}.other"))
    assert error_of({"QUEUES_FILE": str(file)}) == (
        f"{file}, {kind}: '{name}' must be declared, it is Airflow's default. Add it there."
    )


def test_missing_file_is_named(tmp_path: Path) -> None:
    """The variable and the file are in the message."""
    path = tmp_path / "none.toml"
    assert error_of({"QUEUES_FILE": str(path)}) == (
        "QUEUES_FILE must be a readable file (No such file or directory), "
        f"got '{path}'. Set it in .env."
    )


def test_file_that_is_not_toml_is_named(file: Path) -> None:
    """The parser's line and column are in the message."""
    file.write_text("queues = [")
    assert error_of({"QUEUES_FILE": str(file)}).startswith(f"{file} must be TOML: ")


def test_every_override_variable_is_listed_with_its_default() -> None:
    """What .env.example documents can be held against this list."""
    variables = load_declarations({}).variables()
    assert {name: variable.default for name, variable in variables.items()} == {
        "WORKER_CONCURRENCY": "4",
        "WORKER_QUEUES": "default,pg_io",
        "CPU_TRAIN_CONCURRENCY": "2",
        "CPU_TRAIN_QUEUES": "cpu_train",
        "DEFAULT_POOL_SLOTS": "128",
        "CPU_TRAIN_SLOTS": "4",
        "PG_IO_SLOTS": "4",
    }
    assert variables["CPU_TRAIN_CONCURRENCY"].meaning == (
        "Tasks at once in each process of worker-cpu-train, 1 to 256."
    )


def test_listed_defaults_change_nothing_when_set() -> None:
    """Setting every variable to its default gives the same declarations."""
    defaults = {k: v.default for k, v in load_declarations({}).variables().items()}
    assert load_declarations(defaults) == load_declarations({})
