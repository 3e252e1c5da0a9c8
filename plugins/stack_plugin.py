"""What the stack adds to the api-server: a link to Flower in the menu Browse, and wake-ups for the scheduler."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from airflow.plugins_manager import AirflowPlugin

from celery_stack.settings import Settings
from celery_stack.wakeups import WakeUpMiddleware


def flower_link(env: Mapping[str, str]) -> list[dict[str, str]]:
    """Give the link to `FLOWER_URL`; none where it is not set.

    In a menu: outside of one Airflow 3.3 renders a button, which opens nothing.
    """
    url = env.get("FLOWER_URL")
    link = {"name": "Flower", "href": url or "", "destination": "nav", "category": "browse"}
    return [link] if url else []


def middlewares(env: Mapping[str, str]) -> list[dict[str, Any]]:
    """Give the middleware of the api-server that wakes the scheduler; none if `WAKE_SCHEDULER` is off."""
    woken = Settings.from_env(env).WAKE_SCHEDULER == "on"
    return [{"name": "wake scheduler", "middleware": WakeUpMiddleware}] if woken else []


class StackPlugin(AirflowPlugin):
    """The stack's one plugin; its code lives in the package `celery_stack`."""

    name = "celery_stack"
    external_views = flower_link(os.environ)
    fastapi_root_middlewares = middlewares(os.environ)
