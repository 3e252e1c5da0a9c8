"""Wake-ups for the scheduler: notifications of the metadata database, which it shares with the api-server.

Everything that makes work for the scheduler passes the api-server: requests of people, and what tasks
report when they end, defer or skip. Both processes are connected to the metadata database already, so
none of them needs a way to Redis, and two stacks on one server do not hear each other.

A wake-up says that something happened, not what. One that is lost costs the scheduler's idle sleep
of a second, never a task.
"""

from __future__ import annotations

import asyncio
import logging
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

CHANNEL = "celery_stack_wakeups"
PUBLISH_TIMEOUT_S = 2
# A commit of nothing but a notification need not wait for the disk.
NOTIFY = "SELECT pg_notify(:channel, ''), set_config('synchronous_commit', 'off', true)"
CHANGING_METHODS = {"DELETE", "PATCH", "POST", "PUT"}
# What people change, and how tasks end or start other runs; not their heartbeats, XComs and variables.
CHANGING_PATHS = re.compile(r"/(api/v2/|execution/(task-instances/[^/]+/state$|dag-runs/))")


class WakeUpMiddleware:
    """Wakes the scheduler after each request that may have made work for it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, then publish: by now its changes are committed."""
        if not may_change_something(scope):
            return await self._app(scope, receive, send)
        status = 500

        async def note_status(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        await self._app(scope, receive, note_status)
        if status < 400:
            await publish()
        return None


def may_change_something(scope: Scope) -> bool:
    """Tell whether the request of `scope` may change what the scheduler decides on."""
    changing = scope["type"] == "http" and scope["method"] in CHANGING_METHODS
    return changing and CHANGING_PATHS.search(scope["path"]) is not None


async def publish() -> None:
    """Wake every scheduler; where that fails they look by themselves within a second."""
    from airflow.utils.session import create_session_async  # not before Airflow is configured
    from sqlalchemy import text

    try:
        async with asyncio.timeout(PUBLISH_TIMEOUT_S), create_session_async() as session:
            await session.execute(text(NOTIFY), {"channel": CHANNEL})
    except Exception as error:
        log.debug("The scheduler was not woken: %s", error)
