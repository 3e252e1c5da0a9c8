"""What the stack adds to Airflow's UI: a link to Flower among the navigation's plugins."""

from __future__ import annotations

import os
from collections.abc import Mapping

from airflow.plugins_manager import AirflowPlugin


def flower_link(env: Mapping[str, str]) -> list[dict[str, str]]:
    """Give the link to `FLOWER_URL`; none where it is not set."""
    url = env.get("FLOWER_URL")
    return [{"name": "Flower", "href": url, "destination": "nav"}] if url else []


class StackPlugin(AirflowPlugin):
    """The stack's one plugin; its code lives in the package `celery_stack`."""

    name = "celery_stack"
    external_views = flower_link(os.environ)
