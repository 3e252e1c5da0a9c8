"""What tasks need, imported once in Celery's main process, before anything is forked from it."""

from __future__ import annotations

import gc
import importlib
import logging
import sys
import threading
from collections.abc import Iterable

from celery_stack.warm.sources import Signature, first_party_files, take_signatures

# What the supervisor and the task runner of every task import by and by.
AIRFLOW_MODULES = (
    "airflow.sdk.execution_time.supervisor",
    "airflow.sdk.execution_time.task_runner",
    "airflow.dag_processing.dagbag",
    "airflow.dag_processing.bundles.local",
    "airflow.providers.standard.operators.bash",
    "airflow.providers.standard.operators.python",
    "airflow.providers.common.io.xcom.backend",
    "airflow.sdk.definitions.asset.metadata",
    "celery_stack.hostname",
    "celery_stack.retries",
    "celery_stack.warm.coordinator",
    "celery_stack.warm.guardian",
)

log = logging.getLogger(__name__)


def import_all(names: Iterable[str]) -> list[str]:
    """Import the modules; give those that fail, after a warning each: tasks will say why they do."""
    return [name for name in names if not _try_import(name)]


def make_shared() -> None:
    """Make what every process forked from here would else make for itself, and keep."""
    from airflow import settings
    from airflow.sdk.api import client

    from celery_stack.warm.parse import build_adapters

    build_adapters()
    # Workers have no metadata database, but a pool of connections to it, which each fork would make anew: two MiB.
    settings.dispose_orm(do_log=False)
    # Where it is loaded, Celery has each process of its pool parse a declaration in C; the parser stays, six MiB.
    if cffi := sys.modules.get("cffi"):
        cffi.FFI().cdef("int prctl(int, ...);")
    # Certificates of the world: eight MiB in each supervisor, even where the api-server has no TLS.
    client.Client._get_ssl_context_cached(client.API_SSL_CA_FILE_PATH, client.API_SSL_CERT_PATH)


def freeze() -> None:
    """Keep the collector away from what is there, so that its pages stay shared after a fork."""
    gc.collect()
    gc.freeze()


def freeze_again() -> None:
    """Do so without a look at all that is there: the look itself would write to it."""
    gc.collect(1)
    gc.freeze()


def preloaded_sources() -> dict[str, Signature | None]:
    """Give the first-party files that every process forked from here has loaded already."""
    return take_signatures(first_party_files())


def _try_import(name: str) -> bool:
    threads = threading.active_count()
    try:
        importlib.import_module(name)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        log.warning(
            "WARM_IMPORTS: expected a module that can be imported, got %r (%s)", name, reason
        )
        return False
    if threading.active_count() > threads:
        log.warning(
            "WARM_IMPORTS: %s starts threads, which tasks will not have; leave it out", name
        )
    return True
