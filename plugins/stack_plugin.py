"""What the stack adds to Airflow's UI: a link to Flower in the menu Browse."""

from __future__ import annotations

import os
from collections.abc import Mapping

from airflow.plugins_manager import AirflowPlugin


def flower_link(env: Mapping[str, str]) -> list[dict[str, str]]:
    """Give the link to `FLOWER_URL`; none where it is not set.

    In a menu: outside of one Airflow 3.3 renders a button, which opens nothing.
    """
    url = env.get("FLOWER_URL")
    link = {"name": "Flower", "href": url or "", "destination": "nav", "category": "browse"}
    return [link] if url else []


class StackPlugin(AirflowPlugin):
    """The stack's one plugin; its code lives in the package `celery_stack`."""

    name = "celery_stack"
    external_views = flower_link(os.environ)
