"""The name under which a process of the stack appears in the UI and in the metadata."""

from __future__ import annotations

import os

from airflow.utils.net import getfqdn


def worker_name() -> str:
    """Give `WORKER_NAME`, so that workers of one host can be told apart.

    Unset or empty, it is the host's full name, as in stock Airflow. Airflow calls it as
    `[core] hostname_callable`.
    """
    return os.environ.get("WORKER_NAME") or str(getfqdn())
