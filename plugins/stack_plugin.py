"""What the stack adds to Airflow: SLAs and a link to Flower in the menu Browse, the runbook, wake-ups for the scheduler, a metric of tasks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from airflow.plugins_manager import AirflowPlugin

from celery_stack import start_overhead
from celery_stack.settings import Settings
from celery_stack.sla.declare import Promise
from celery_stack.wakeups import WakeUpMiddleware

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

# Without a slash in front: the UI resolves it against the path below which Airflow is reached.
SLA_PAGE = {
    "name": "SLAs",
    "href": "sla/",
    "url_route": "sla",
    "destination": "nav",
    "category": "browse",
}


class LateApp:
    """The application that `create_app` of a module gives, imported at its first request.

    Every process of Airflow loads the plugin, and only the api-server has a web framework loaded:
    elsewhere the import would cost a second and 100 MB.
    """

    def __init__(self, module: str) -> None:
        self._module = module
        self._app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if self._app is None:
            self._app = import_module(self._module).create_app()
        await self._app(scope, receive, send)


def views(env: Mapping[str, str]) -> list[dict[str, str]]:
    """Give what the menu Browse shows: SLAs within the UI, and the link to `FLOWER_URL` if it is set.

    In a menu: outside of one Airflow 3.3 renders a button for the link, which opens nothing.
    """
    url = env.get("FLOWER_URL")
    link = {"name": "Flower", "href": url or "", "destination": "nav", "category": "browse"}
    return [SLA_PAGE, link] if url else [SLA_PAGE]


def apps() -> list[dict[str, Any]]:
    """Give the applications that the api-server mounts."""
    return [
        {"name": "SLAs", "app": LateApp("celery_stack.sla.page"), "url_prefix": "/sla"},
        {"name": "Runbook", "app": LateApp("celery_stack.runbook"), "url_prefix": "/runbook"},
    ]


def middlewares(env: Mapping[str, str]) -> list[dict[str, Any]]:
    """Give the middleware of the api-server that wakes the scheduler; none if `WAKE_SCHEDULER` is off."""
    woken = Settings.from_env(env).WAKE_SCHEDULER == "on"
    return [{"name": "wake scheduler", "middleware": WakeUpMiddleware}] if woken else []


class StackPlugin(AirflowPlugin):
    """The stack's one plugin; its code lives in the package `celery_stack`."""

    name = "celery_stack"
    external_views = views(os.environ)
    fastapi_apps = apps()
    fastapi_root_middlewares = middlewares(os.environ)
    listeners = [start_overhead]  # noqa: RUF012 – as AirflowPlugin declares it
    deadline_references = [Promise]  # noqa: RUF012 – as AirflowPlugin declares it
