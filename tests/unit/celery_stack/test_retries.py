"""When a failed task is tried again, and which failures end it at once."""

from __future__ import annotations

import urllib.error
from datetime import timedelta
from email.message import Message
from types import SimpleNamespace
from typing import Any

import httpx
import psycopg
import pytest
import requests
import sqlalchemy.exc
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryDecision
from airflow.sdk.exceptions import AirflowException, AirflowTaskTimeout
from airflow.serialization.serialized_objects import DagSerialization
from hypothesis import assume, given
from hypothesis import strategies as st
from pandera.errors import SchemaErrors
from pydantic import BaseModel, ValidationError

from celery_stack.retries import StackRetryPolicy, factor_of, retry_delay, spread_of, why_hopeless
from celery_stack.settings import SettingError
from celery_stack.warehouse import (
    BadRowError,
    PoolError,
    StaleTryError,
    TargetError,
    WarehouseError,
)
from ml.schema import DatasetError
from ml.settings import MLSettingError

SECOND = timedelta(seconds=1)
seconds = st.floats(min_value=0.001, max_value=86_400).map(lambda s: timedelta(seconds=s))
factors = st.floats(min_value=1, max_value=10)
shares = st.floats(min_value=0, max_value=1)
spreads = st.floats(min_value=0, max_value=1, exclude_max=True)
retry_numbers = st.integers(min_value=1, max_value=1000)


@given(retry_numbers, seconds, factors, seconds, shares, spreads)
def test_delay_stays_between_backoff_and_cap(
    retry: int, base: timedelta, factor: float, cap: timedelta, jitter: float, spread: float
) -> None:
    """Never above the cap; at least base·factor^(retry-1), or the cap less the room for jitter."""
    delay = retry_delay(retry, base=base, factor=factor, cap=cap, jitter=jitter, spread=spread)
    least = min(base * min(factor ** min(retry - 1, 300), 1e6), cap / (1 + jitter))
    tick = timedelta(microseconds=1)
    assert least - tick <= delay <= cap + tick


@given(retry_numbers, seconds, factors, seconds, shares, spreads, spreads)
def test_delay_grows_whatever_the_jitter(
    retry: int,
    base: timedelta,
    factor: float,
    cap: timedelta,
    jitter: float,
    early: float,
    late: float,
) -> None:
    """Each is longer than the one before, until the cap, where the factor outweighs the jitter."""
    assume(factor >= 1 + jitter)
    first, then = (
        retry_delay(number, base=base, factor=factor, cap=cap, jitter=jitter, spread=spread)
        for number, spread in ((retry, late), (retry + 1, early))
    )
    capped = then >= cap / (1 + jitter) - timedelta(microseconds=1)
    assert capped or then >= first


def test_delay_without_jitter_is_the_plain_backoff() -> None:
    """1, 2, 4, then the cap."""
    delays = [
        retry_delay(n, base=SECOND, factor=2, cap=5 * SECOND, jitter=0, spread=0.7)
        for n in range(1, 6)
    ]
    assert delays == [SECOND, 2 * SECOND, 4 * SECOND, 5 * SECOND, 5 * SECOND]


@given(st.text(), st.text(), st.text(), st.integers(-1, 10_000), st.integers(1, 100))
def test_spread_is_a_share_and_always_the_same(
    dag: str, run: str, task: str, index: int, number: int
) -> None:
    """Whoever works it out again, for instance from the metadata, gets the same."""
    spread = spread_of(dag, run, task, index, number)
    assert 0 <= spread < 1
    assert spread == spread_of(dag, run, task, index, number)


def test_mapped_siblings_are_spread_evenly() -> None:
    """Of 200 no two coincide, and each tenth of the range gets its share."""
    spreads = [spread_of("dag", "run", "task", index, 1) for index in range(200)]
    assert len(set(spreads)) == 200
    tenths = [sum(int(s * 10) == tenth for s in spreads) for tenth in range(10)]
    assert min(tenths) >= 8, tenths


def test_tries_and_runs_are_spread_apart() -> None:
    """A sibling that was early once is not always early; the same task of another run neither."""
    tries = {spread_of("dag", "run", "task", 0, number) for number in range(1, 11)}
    runs = {spread_of("dag", f"run-{number}", "task", 0, 1) for number in range(10)}
    assert len(tries | runs) == 20


@pytest.mark.parametrize(
    ("given", "factor"), [(True, 2.0), (False, 1.0), (0, 1.0), (3, 3.0), (1.5, 1.5)]
)
def test_factor_means_what_airflow_means_by_it(given: float, factor: float) -> None:
    """True doubles, False and 0 keep the delay."""
    assert factor_of(given) == factor


def sql_error(state: str) -> psycopg.Error:
    return psycopg.errors.lookup(state)("said the database")


def http_error(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("GET", "http://example.org")
    return httpx.HTTPStatusError(
        "refused", request=request, response=httpx.Response(status, request=request)
    )


def requests_error(status: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError("refused", response=response)


def urllib_error(status: int) -> urllib.error.HTTPError:
    return urllib.error.HTTPError("http://example.org", status, "refused", Message(), None)


def schema_errors() -> SchemaErrors:
    import pandas as pd
    import pandera.pandas as pa

    with pytest.raises(SchemaErrors) as caught:
        pa.DataFrameSchema({"a": pa.Column(int)}).validate(pd.DataFrame({"b": [1]}), lazy=True)
    return caught.value


def validation_error() -> ValidationError:
    class Row(BaseModel):
        number: int

    with pytest.raises(ValidationError) as caught:
        Row.model_validate({"number": "x"})
    return caught.value


class RetryableValueError(ValueError):
    retryable = True


HOPELESS = [
    ValueError("bad"),
    TypeError("bad"),
    NotImplementedError(),
    DatasetError("bad"),
    MLSettingError("bad"),
    SettingError("bad"),
    WarehouseError("bad"),
    BadRowError(1, "a", "bad"),
    PoolError("bad"),
    TargetError("bad"),
    *map(sql_error, ("22003", "23505", "42P01", "42501")),
    sqlalchemy.exc.IntegrityError("INSERT", {}, sql_error("23505")),
    *map(http_error, (400, 401, 404, 422)),
    requests_error(404),
    urllib_error(403),
]
HEALING = [
    ConnectionError("gone"),
    TimeoutError("late"),
    OSError("disk"),
    AirflowTaskTimeout("late"),
    AirflowException("whatever"),
    SystemExit(1),
    KeyError("a response may lack it"),
    requests.JSONDecodeError("cut short", "", 0),
    RetryableValueError("the author knows"),
    StaleTryError("a newer try has begun"),
    psycopg.OperationalError("connection refused"),
    *map(sql_error, ("08006", "40001", "40P01", "53300", "55P03", "57014", "57P01")),
    sqlalchemy.exc.OperationalError("SELECT 1", {}, sql_error("40P01")),
    *map(http_error, (408, 429, 500, 502, 503)),
    requests.ConnectionError("gone"),
    requests_error(503),
    urllib_error(429),
]


@pytest.mark.parametrize("error", HOPELESS, ids=repr)
def test_error_about_the_input_fails_at_once(error: BaseException) -> None:
    """Bad input, a wrong statement, a refused request: the retries left are not used."""
    decision = evaluate(error)
    assert decision.action is RetryAction.FAIL
    assert decision.reason
    assert type(error).__name__ in decision.reason


def test_data_against_its_schema_fails_at_once() -> None:
    """As pandera and pydantic say it; known by name, so that neither must be imported."""
    assert why_hopeless(schema_errors())
    assert why_hopeless(validation_error())


@pytest.mark.parametrize("error", HEALING, ids=repr)
def test_error_that_may_heal_is_retried(error: BaseException) -> None:
    """Lost connections, deadlocks, 5xx, timeouts; and whatever nobody can judge."""
    assert evaluate(error).action is RetryAction.RETRY


def test_last_try_is_airflows_to_end() -> None:
    """No decision is logged that would promise a retry."""
    assert evaluate(OSError(), try_number=3) == RetryDecision.default()


def test_cleared_task_begins_its_backoff_anew() -> None:
    """After a clear Airflow counts tries and their maximum on: try 4 of 5 is the first again."""
    first = evaluate(OSError(), try_number=4, max_tries=5).retry_delay
    assert first is not None
    assert SECOND <= first < 1.5 * SECOND


@pytest.mark.parametrize(
    ("settings", "least_s"),
    [
        ({}, 2),
        ({"retry_exponential_backoff": False}, 1),
        ({"retry_exponential_backoff": 5}, 5),
        ({"retry_delay": timedelta(seconds=7)}, 14),
        ({"max_retry_delay": timedelta(seconds=1.5)}, 1),
        ({"max_retry_delay": None}, 2),
    ],
)
def test_task_has_its_own_say_about_the_delay(settings: dict[str, Any], least_s: float) -> None:
    """Delay, factor and cap are the task's; the second retry is looked at."""
    delay = evaluate(OSError(), try_number=2, **settings).retry_delay
    assert delay == timedelta(seconds=least_s * (1 + 0.5 * spread_of("dag", "run", "task", 3, 2)))


TASKS = [
    "BashOperator(task_id='step', bash_command='true'{})",
    "BashOperator.partial(task_id='step'{}).expand(bash_command=['true'])",
]


@pytest.mark.parametrize("body", TASKS)
def test_policies_give_every_task_the_retry_policy(dag_tasks: Any, body: str) -> None:
    """RETRY_JITTER is in it; the scheduler's copy of the DAG can be made and says that there is one."""
    task = dag_tasks(body.format(""))["step"]
    assert isinstance(task.retry_policy, StackRetryPolicy)
    assert task.retry_policy.jitter == 0.25
    stored = DagSerialization.from_dict(DagSerialization.to_dict(task.dag)).get_task("step")
    assert stored.has_retry_policy


@pytest.mark.parametrize("body", TASKS)
def test_retry_policy_of_the_author_stays(dag_tasks: Any, body: str) -> None:
    """A task decides for itself when it names a policy."""
    own = ", retry_policy=ExceptionRetryPolicy(rules=[])"
    assert isinstance(dag_tasks(body.format(own))["step"].retry_policy, ExceptionRetryPolicy)


@pytest.fixture
def dag_tasks(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give a function that parses a DAG of one task as a worker does, and gives its tasks."""
    monkeypatch.setenv("RETRY_JITTER", "0.25")

    def parse(body: str) -> dict[str, Any]:
        (tmp_path / "only.py").write_text(
            '"""Training."""\n'
            "from datetime import timedelta\n"
            "from airflow.providers.standard.operators.bash import BashOperator\n"
            "from airflow.sdk import DAG, ExceptionRetryPolicy\n"
            'OWNED = {"owner": "ml", "execution_timeout": timedelta(minutes=1)}\n'
            'with DAG("only", schedule=None, default_args=OWNED, doc_md=__doc__):\n'
            f"    {body}\n"
        )
        bag = BundleDagBag(tmp_path, bundle_path=tmp_path, bundle_name="dags-folder")
        assert bag.import_errors == {}
        return dict(bag.dags["only"].task_dict)

    return parse


def evaluate(
    error: BaseException, *, try_number: int = 1, max_tries: int = 2, **settings: Any
) -> RetryDecision:
    """Decide about a task with 2 retries, 1 s delay, factor 2 and a cap of a minute."""
    task = {"retries": 2, "retry_delay": SECOND, "retry_exponential_backoff": 2.0}
    task |= {"max_retry_delay": timedelta(minutes=1)} | settings
    instance = {"dag_id": "dag", "run_id": "run", "task_id": "task", "map_index": 3}
    context: Any = {"task": SimpleNamespace(**task), "ti": SimpleNamespace(**instance)}
    return StackRetryPolicy(0.5).evaluate(error, try_number, max_tries, context)
