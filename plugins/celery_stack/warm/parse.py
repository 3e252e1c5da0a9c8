"""The one parse of a DAG file that its tasks share, and what it was made from.

What cannot be shared by tasks makes the file unfit, and its tasks parse it themselves, as Airflow has it: a file
that failed to import, asked the supervisor for something (a Variable), looked at the parsing context,
started a thread, or was written while it was read.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib.machinery import BYTECODE_SUFFIXES
from importlib.util import source_from_cache
from typing import Any

from celery_stack.warm.sources import Signature, is_installed, take_signatures

# A file written this shortly before it was read may have been written again within the same tick.
SETTLED_S = 1.0
PARSING_CONTEXT = "_AIRFLOW_PARSING_CONTEXT"
MAX_FILES = 300
NOT_SOURCES = ("/proc/", "/sys/", "/dev/")
# Python's audit events, and which of their arguments is the path. That of an import is there for shared
# libraries alone, which no event tells to be opened.
LISTINGS = ("os.listdir", "os.scandir")
WATCHED_EVENTS = {"open": 0, "import": 1, **dict.fromkeys(LISTINGS, 0)}
BYTECODE = tuple(BYTECODE_SUFFIXES)


@dataclass
class Observed:
    """What a parse did that matters to whoever wants to share its result."""

    files: set[str]
    asked_supervisor: bool = False
    read_context: bool = False
    watching: bool = True


class NoSupervisor:
    """What stands in the place of the channel to a supervisor, which a template does not have."""

    def __init__(self, observed: Observed) -> None:
        self._observed = observed

    def __getattr__(self, name: str) -> Any:
        self._observed.asked_supervisor = True
        raise RuntimeError(f"There is no supervisor to ask ({name}) while a template is made.")


def parse_once(request: dict[str, Any]) -> dict[str, Any]:
    """Parse the file that `request` names, so that tasks forked from here find it parsed.

    Returns: `sources`, the files it was made from with their signatures; `unfit`, why it cannot be
    shared ("" if it can); `passing`, whether that will have passed soon.
    """
    from airflow.sdk.execution_time import task_runner

    began, threads = time.time(), _count_threads()
    observed = Observed(set())
    _observe(observed)
    _share_adapters(task_runner)
    task_runner.SUPERVISOR_COMMS = NoSupervisor(observed)  # type: ignore[assignment]
    try:
        problem = _parse(request, task_runner)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    finally:
        observed.watching = False
        del task_runner.SUPERVISOR_COMMS
    signatures = take_signatures(observed.files)
    problem = problem or _find_problem(observed, threads)
    young = "" if problem else _find_young(signatures, began)
    gc.collect()
    gc.freeze()
    return {"unfit": problem or young, "passing": bool(young), "sources": signatures}


def _parse(request: dict[str, Any], task_runner: Any) -> str:
    """Do what task_runner.parse does up to its DagBag, and leave the results for it to find."""
    from airflow.dag_processing import dagbag
    from airflow.dag_processing.bundles.local import LocalDagBundle
    from airflow.dag_processing.bundles.manager import DagBundlesManager

    manager = DagBundlesManager()  # type: ignore[no-untyped-call]
    bundle = manager.get_bundle(name=request["bundle"], version=request["version"])
    if request["version"] is None and not isinstance(bundle, LocalDagBundle):
        return f"bundle {bundle.name} has no version, and changes other than by its files"
    bundle.initialize()
    bag = dagbag.BundleDagBag(
        dag_folder=os.path.join(bundle.path, request["path"]),
        safe_mode=False,
        load_op_links=False,
        bundle_path=bundle.path,
        bundle_name=bundle.name,
    )
    if bag.import_errors:
        return f"it cannot be imported: {next(iter(bag.import_errors.values())).splitlines()[-1]}"
    if not bag.dags:
        return "it holds no DAG"
    task_runner.get_listener_manager()  # loads the plugins, which tasks else do one by one
    dagbag.BundleDagBag = lambda **_: bag  # type: ignore[assignment,misc]
    task_runner.DagBundlesManager = lambda: manager
    return ""


@cache
def build_adapters() -> Mapping[int, Any]:
    """Build once what Airflow has pydantic build for every task, ten milliseconds each time, by type.

    The types live as long as their modules: so do their ids.
    """
    from airflow.sdk.execution_time import comms
    from pydantic import JsonValue, TypeAdapter

    kinds: tuple[Any, ...] = (comms.ToTask, JsonValue)
    return {id(kind): TypeAdapter(kind) for kind in kinds}


def _share_adapters(task_runner: Any) -> None:
    """Have Airflow find those adapters built."""
    from airflow.sdk.execution_time import comms
    from pydantic import TypeAdapter

    adapters = build_adapters()

    def shared_adapter(kind: Any) -> Any:
        return adapters.get(id(kind)) or TypeAdapter(kind)

    comms.__dict__["TypeAdapter"] = task_runner.__dict__["TypeAdapter"] = shared_adapter


def _observe(observed: Observed) -> None:
    """Note, from now on, which files are read and whether the parsing context is."""
    sys.addaudithook(partial(_on_audit, observed))
    encode = os.environ.encodekey

    def note_and_encode(name: str) -> Any:
        if observed.watching and isinstance(name, str) and name.startswith(PARSING_CONTEXT):
            observed.read_context = True
        return encode(name)

    os.environ.encodekey = note_and_encode


def _on_audit(observed: Observed, event: str, arguments: tuple[Any, ...]) -> None:
    if not observed.watching or event not in WATCHED_EVENTS:
        return
    named = arguments[WATCHED_EVENTS[event]]
    path = os.fsdecode(named) if isinstance(named, str | bytes) else ""
    if event == "open" and (arguments[2] or 0) & os.O_ACCMODE != os.O_RDONLY:
        return
    if event in LISTINGS and sys._getframe(1).f_code.co_filename.startswith("<frozen importlib"):
        return  # the import system lists every folder of sys.path
    if path and not path.startswith(NOT_SOURCES):
        absolute = os.path.abspath(_source_of(path) if path.endswith(BYTECODE) else path)
        if not is_installed(absolute):
            observed.files.add(absolute)


def _source_of(path: str) -> str:
    """Give the source file of a compiled one: a module may be imported without reading its source."""
    try:
        return source_from_cache(path)
    except ValueError:  # it stands alone
        return path


def _find_problem(observed: Observed, threads: int) -> str:
    if len(observed.files) > MAX_FILES:
        return f"it reads more than {MAX_FILES} files while it is parsed"
    if observed.asked_supervisor:
        return "it asks for a Variable, a Connection or the like while it is parsed"
    if observed.read_context:
        return "it looks at the parsing context"
    if _count_threads() > threads:
        return "it starts threads while it is parsed"
    return ""


def _find_young(signatures: dict[str, Signature | None], began: float) -> str:
    newest = int((began - SETTLED_S) * 1e9)
    young = (path for path, found in signatures.items() if found and found[1] > newest)
    return next((f"{path} has just been written" for path in young), "")


def _count_threads() -> int:
    return len(os.listdir("/proc/self/task"))
