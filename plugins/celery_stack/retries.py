"""Whether a failed task is tried again, and when.

The policies give `StackRetryPolicy` to every task that names no `retry_policy` of its own. Airflow
asks it in the worker, with the exception in hand, and sends the decision to the api-server; the
scheduler waits as long as it says. A task whose worker vanished has nobody to ask: for it the
scheduler falls back to Airflow's own backoff, with the same delay, factor and cap.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import RetryDecision, RetryPolicy

if TYPE_CHECKING:
    from airflow.sdk import Context

# Raised by code about what it was given. Only these types themselves: below ValueError there is
# much that heals, a response cut short (JSONDecodeError) or a certificate soon renewed.
ABOUT_THE_INPUT = (ValueError, TypeError, NameError, NotImplementedError)
# By name, so that nothing has to be imported: the data does not fit its schema.
SCHEMA_ERRORS = frozenset(
    {
        "jsonschema.exceptions.ValidationError",
        "pandera.errors.SchemaError",
        "pandera.errors.SchemaErrors",
        "pydantic_core._pydantic_core.ValidationError",
    }
)
# Classes of SQLSTATE: data, constraints, the statement itself. Source: PostgreSQL, Appendix A.
SQL_ABOUT_THE_INPUT = {
    "22": "the data does not fit",
    "23": "a constraint is broken",
    "42": "the statement is wrong or forbidden",
}
# Of the 4xx: timeout, conflict, locked, too early, too many requests.
HTTP_THAT_HEAL = frozenset({408, 409, 423, 425, 429})

# Where a task has no cap (policies fill one in, but not in exempt files), as in Airflow.
UNCAPPED = timedelta(days=1)


class StackRetryPolicy(RetryPolicy):
    """Fails at once what cannot heal; spreads the retries of what can, siblings apart.

    How long is the task's own say: `retry_delay`, `retry_exponential_backoff`, `max_retry_delay`.

    Args:
        jitter: share of a delay by which it is drawn out at most, 0 to 1; see `retry_delay`.
    """

    def __init__(self, jitter: float) -> None:
        self.jitter = jitter

    def evaluate(
        self,
        exception: BaseException,
        try_number: int,
        max_tries: int,
        context: Context | None = None,
    ) -> RetryDecision:
        """Decide about the try that ended with `exception`."""
        hopeless = why_hopeless(exception)
        if hopeless:
            return RetryDecision.fail(f"{type(exception).__name__} does not heal: {hopeless}")
        if context is None or try_number > max_tries:
            return RetryDecision.default()
        delay = self._plan(context, try_number, max_tries)
        return RetryDecision.retry(
            delay, f"{type(exception).__name__} may heal: again in {delay.total_seconds():.1f} s"
        )

    def _plan(self, context: Mapping[str, Any], try_number: int, max_tries: int) -> timedelta:
        task, instance = context["task"], context["ti"]
        name = (instance.dag_id, instance.run_id, instance.task_id, instance.map_index)
        return retry_delay(
            # A cleared task counts its tries on, and max_tries with them: its backoff begins anew.
            max(1, try_number - (max_tries - task.retries)),
            base=task.retry_delay,
            factor=factor_of(task.retry_exponential_backoff),
            cap=task.max_retry_delay or UNCAPPED,
            jitter=self.jitter,
            spread=spread_of(*name, try_number),
        )


def retry_delay(
    retry: int, *, base: timedelta, factor: float, cap: timedelta, jitter: float, spread: float
) -> timedelta:
    """Give the delay before a retry: `min(base·factor^(retry-1), cap/(1+jitter))·(1+jitter·spread)`.

    It is never below the backoff nor above the cap; the room for jitter is taken off the cap, so
    that siblings stay apart there too.

    Args:
        retry: its number; the first is 1.
        spread: where in the range from the backoff to (1 + jitter) times it, 0 <= spread < 1.
    """
    try:
        grown = base.total_seconds() * factor ** (retry - 1)
    except OverflowError:
        grown = math.inf
    backoff = min(grown, cap.total_seconds() / (1 + jitter))
    return timedelta(seconds=backoff * (1 + jitter * spread))


def spread_of(dag_id: str, run_id: str, task_id: str, map_index: int, try_number: int) -> float:
    """Give a number, 0 <= x < 1, that is always the same for one try and as good as random among them."""
    name = "\0".join([dag_id, run_id, task_id, str(map_index), str(try_number)])
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48


def factor_of(given: float) -> float:
    """Give the factor that a task's `retry_exponential_backoff` means: True is 2, False or 0 none."""
    return 2.0 if given is True else float(given) or 1.0


def why_hopeless(exception: BaseException) -> str | None:
    """Say why the same work would fail again; None where it may heal, and where nobody knows.

    The class's own word goes first: `retryable = False` or `True`. A needless retry costs minutes,
    a needless failure costs the run.
    """
    said = getattr(exception, "retryable", None)
    if isinstance(said, bool):
        return None if said else "it says so itself"
    if type(exception) in ABOUT_THE_INPUT or SCHEMA_ERRORS & _names_of(type(exception)):
        return "the same input fails again"
    return _sql_problem(exception) or _http_problem(exception)


def _names_of(kind: type) -> set[str]:
    return {f"{base.__module__}.{base.__qualname__}" for base in kind.__mro__}


def _sql_problem(exception: BaseException) -> str | None:
    cause = getattr(exception, "orig", None) or exception  # SQLAlchemy wraps the driver's error
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    problem = SQL_ABOUT_THE_INPUT.get(str(state)[:2])
    return problem and f"{problem} (SQLSTATE {state})"


def _http_problem(exception: BaseException) -> str | None:
    status = _http_status(exception)
    refused = isinstance(status, int) and 400 <= status < 500 and status not in HTTP_THAT_HEAL
    return f"the request is refused (HTTP {status})" if refused else None


def _http_status(exception: BaseException) -> Any:
    """Give the status as requests and httpx carry it, or as urllib, aiohttp and kubernetes do."""
    response = getattr(exception, "response", None)
    return getattr(response, "status_code", None) or getattr(exception, "status", None)
