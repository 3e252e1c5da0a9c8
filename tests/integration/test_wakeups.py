"""The scheduler is woken by events, through the metadata database of the running stack."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
import pytest
from sqlalchemy.engine import make_url

from celery_stack import idle_sleep
from celery_stack.idle_sleep import Listener
from celery_stack.wakeups import CHANNEL
from compose.secret_files import read_secret
from compose.supervise import Supervisor
from tests.integration.conftest import RunningStack
from tests.waiting import wait_for

pytestmark = [pytest.mark.integration, pytest.mark.either_path]
LISTENING = "SELECT pid FROM pg_stat_activity WHERE query = 'LISTEN celery_stack_wakeups'"


@pytest.fixture
def connect(stack: RunningStack) -> Callable[[], Any]:
    """Give what opens a connection to the metadata database."""
    url = make_url(read_secret(stack.home.secrets / "control/sql_alchemy_conn"))
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    return lambda: psycopg2.connect(plain)


@pytest.fixture
def listeners(connect: Callable[[], Any]) -> Iterator[list[Listener]]:
    """Give the ears of two schedulers more, open."""
    pair = [Listener(connect), Listener(connect)]
    for listener in pair:
        listener.wait(0)
    yield pair
    for listener in pair:
        listener.close()


def all_hear(listeners: list[Listener]) -> None:
    """Wait until each has heard something."""
    for listener in listeners:
        wait_for(lambda: listener.wait(5), bool, deadline_s=60)  # noqa: B023 - called at once


def test_every_scheduler_is_woken_by_a_trigger_and_by_the_ends_of_tasks(
    stack: RunningStack, listeners: list[Listener]
):
    """A wake-up reaches whoever listens: when the run is made, and again for its tasks."""
    stack.client.wait_for_dag("frames", deadline_s=90)
    run_id = stack.client.trigger("frames")
    all_hear(listeners)
    stack.wait_for_end("frames", run_id)
    all_hear(listeners)
    assert stack.client.run_state("frames", run_id) == "success"


def test_scheduler_listens_again_after_it_lost_its_connection(stack: RunningStack):
    """It stays the same process, says so once, and opens another connection."""
    scheduler = program_id(stack, "scheduler")
    (lost,) = wait_for(lambda: listening(stack), bool, deadline_s=30)
    stack.metadata("SELECT pg_terminate_backend(%s)", lost)
    wait_for(lambda: listening(stack), lambda pids: pids and pids != [lost], deadline_s=60)
    assert program_id(stack, "scheduler") == scheduler
    log = (stack.home.program_logs / "scheduler.log").read_text()
    assert log.count("looks by its clock until it can be woken") == 1


def listening(stack: RunningStack) -> list[int]:
    return [row.pid for row in stack.metadata(LISTENING)]


def program_id(stack: RunningStack, name: str) -> int:
    (found,) = (p["pid"] for p in Supervisor(stack.home).processes() if p["name"] == name)
    return int(found)


def test_listener_wakes_again_when_the_database_is_back(
    connect: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
):
    """Refused at first, it hears what is published after it could connect."""
    monkeypatch.setattr(idle_sleep, "FIRST_RETRY_S", 0.01)
    doors = iter([lambda: psycopg2.connect(host="127.0.0.1", port=1), connect])
    listener = Listener(lambda: next(doors)())
    assert not listener.wait(0.1)
    assert not listener.wait(0)
    notify(connect())
    wait_for(lambda: listener.wait(5), bool, deadline_s=60)
    listener.close()


def notify(connection: Any) -> None:
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_notify(%s, '')", (CHANNEL,))
    connection.close()
