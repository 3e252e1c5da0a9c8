"""What of Airflow's internals the warm workers rely upon; tests hold it to the pinned version."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Iterator
from functools import cache
from operator import attrgetter

SUPERVISOR = "airflow.sdk.execution_time.supervisor"
TASK_RUNNER = "airflow.sdk.execution_time.task_runner"
# Module, name in it, and the parameters that are passed to it.
CALLS: tuple[tuple[str, str, frozenset[str]], ...] = (
    (
        SUPERVISOR,
        "WatchedSubprocess.start",
        frozenset({"target", "logger", "new_process_group", "constructor_kwargs"}),
    ),
    (
        SUPERVISOR,
        "ActivitySubprocess.start",
        frozenset({"what", "dag_rel_path", "bundle_info", "client", "target", "logger"}),
    ),
    (
        SUPERVISOR,
        "ActivitySubprocess._on_child_started",
        frozenset({"ti", "dag_rel_path", "bundle_info", "sentry_integration"}),
    ),
    (
        SUPERVISOR,
        "ActivitySubprocess._register_pipe_readers",
        frozenset({"stdout", "stderr", "requests", "logs", "data"}),
    ),
    (SUPERVISOR, "ActivitySubprocess._on_socket_closed", frozenset({"sock"})),
    (SUPERVISOR, "ActivitySubprocess.wait", frozenset()),
    (
        SUPERVISOR,
        "_fork_main",
        frozenset({"requests", "child_stdout", "child_stderr", "log_fd", "target"}),
    ),
    (SUPERVISOR, "_subprocess_main", frozenset()),
    (SUPERVISOR, "_child_exec_main", frozenset()),
    (SUPERVISOR, "_configure_logs_over_json_channel", frozenset({"log_fd"})),
    (SUPERVISOR, "_make_process_nondumpable", frozenset()),
    (TASK_RUNNER, "parse", frozenset({"what", "log"})),
    (TASK_RUNNER, "get_listener_manager", frozenset()),
    (
        "airflow.sdk.api.client",
        "Client._get_ssl_context_cached",
        frozenset({"ca_file", "ca_path"}),
    ),
    (
        "airflow.dag_processing.dagbag",
        "DagBag.__init__",
        frozenset({"dag_folder", "safe_mode", "load_op_links", "bundle_path", "bundle_name"}),
    ),
    (
        "airflow.dag_processing.bundles.manager",
        "DagBundlesManager.get_bundle",
        frozenset({"name", "version"}),
    ),
)
FIELDS = frozenset({"pid", "stdin", "selector", "_process", "_last_heartbeat_attempt"})
# parse() takes the class from there when it is called; a template puts its own answer in that place.
PARSE_IMPORTS = "from airflow.dag_processing.dagbag import BundleDagBag"


@cache
def find_differences() -> tuple[str, ...]:
    """Give what is not as expected in this Airflow, on this platform; empty if all is well."""
    return tuple(_differences())


def _differences() -> Iterator[str]:
    if not (sys.platform == "linux" and hasattr(os, "pidfd_open")):
        yield f"platform {sys.platform} without pidfd_open"
        return
    for module, name, parameters in CALLS:
        yield from _call_differences(module, name, parameters)
    try:
        fields = importlib.import_module(SUPERVISOR).ActivitySubprocess.__attrs_attrs__
        if missing := FIELDS - {field.name for field in fields}:
            yield f"ActivitySubprocess has no {', '.join(sorted(missing))}"
        if PARSE_IMPORTS not in inspect.getsource(importlib.import_module(TASK_RUNNER).parse):
            yield "task_runner.parse reads DAG files another way"
    except Exception as error:
        yield f"{type(error).__name__}: {error}"


def _call_differences(module: str, name: str, parameters: frozenset[str]) -> Iterator[str]:
    try:
        found = inspect.signature(attrgetter(name)(importlib.import_module(module))).parameters
    except Exception as error:
        yield f"{module}.{name}: {type(error).__name__}: {error}"
        return
    if missing := parameters - set(found):
        yield f"{module}.{name} takes no {', '.join(sorted(missing))}"
