"""Run the monitor: `python -m celery_stack.sla [--heartbeat FILE]`.

It runs in the environment of an Airflow component whose database role is `sla`, and reads it without Airflow.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from celery_stack.options import read_option
from celery_stack.settings import SettingError, Settings
from celery_stack.sla import monitor
from celery_stack.sla.conversation import SmtpServer


def main() -> int:
    """Watch until a signal ends it; give 0, or 1 for a wrong setting."""
    parser = argparse.ArgumentParser(prog="python -m celery_stack.sla", description=__doc__)
    parser.add_argument("--heartbeat", type=Path, help="a file that is touched at each look")
    options = parser.parse_args()
    try:
        config = read_config(os.environ, heartbeat=options.heartbeat)
    except SettingError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", force=True
    )
    logging.getLogger("airflow").setLevel(logging.WARNING)
    stop = threading.Event()
    for name in ("SIGTERM", "SIGINT"):
        signal.signal(getattr(signal, name), lambda _number, _frame: stop.set())
    monitor.run(config, stop)
    return 0


def read_config(env: Mapping[str, str], *, heartbeat: Path | None) -> monitor.Config:
    """Give what the environment says.

    Raises:
        SettingError: a variable has a wrong value.
    """
    settings = Settings.from_env(env)
    database = urlsplit(read_option("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", env).strip())
    folder = Path(env["AIRFLOW__LOGGING__BASE_LOG_FOLDER"])
    return monitor.Config(
        database=database._replace(scheme="postgresql").geturl(),
        broker=read_option("AIRFLOW__CELERY__BROKER_URL", env).strip(),
        smtp=read_smtp(env),
        base_url=env.get("AIRFLOW__API__BASE_URL") or "http://localhost:8080",
        default_to=[one.strip() for one in settings.SLA_EMAIL_TO.split(",") if one.strip()],
        failure_emails=settings.FAILURE_EMAILS == "on",
        check_s=settings.SLA_CHECK_S,
        keep_days=settings.METADATA_RETENTION_DAYS,
        callback_env=callback_environment(env),
        log_folder=folder if folder.is_dir() else None,
        heartbeat=heartbeat,
    )


def read_smtp(env: Mapping[str, str]) -> SmtpServer | None:
    """Give the mail server of the connections file that Airflow's components use; None without one."""
    options = json.loads(env.get("AIRFLOW__SECRETS__BACKEND_KWARGS") or "{}")
    file = options.get("connections_file_path")
    return SmtpServer.from_connection_file(Path(file)) if file else None


def callback_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Give the environment of an author's callback: Airflow's settings, connections and Variables stay out.

    What lies in the plugins folder can be imported, as in Airflow's own processes.
    """
    own = {name: value for name, value in env.items() if not name.startswith("AIRFLOW_")}
    folders = [env["AIRFLOW__CORE__PLUGINS_FOLDER"], env.get("PYTHONPATH", "")]
    return own | {"PYTHONPATH": os.pathsep.join(folder for folder in folders if folder)}


if __name__ == "__main__":
    sys.exit(main())
