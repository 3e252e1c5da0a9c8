"""Fill the secrets volumes of the Compose stack, one for each group of readers.

Runs as root with what it takes to give each volume to its readers, and ends. Files of one's own in
the folder that SECRETS_DIR names, laid out as in `compose.secret_files`, take the place of made-up ones.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from celery_stack.settings import SettingError, Settings
from compose.alert_mail import write_alert_mail
from compose.entrypoint import secrets_folder
from compose.secret_files import (
    Addresses,
    derive_secrets,
    make_secrets,
    read_secret,
    write_secret,
)

OWN_SECRETS = Path("/run/own-secrets")
ALERT_ROUTES = Path("/run/alertmanager.yml")
COMPOSE_ADDRESSES = Addresses("postgres", 5432, "redis", 6379)
AIRFLOW_UID, SERVER_UID, EXPORTER_UID, GRAFANA_UID, NOBODY_UID = 50000, 999, 59000, 472, 65534
# The group is the one that `init` has, which makes the roles and the first user.
OWNERS = {
    "admin": (AIRFLOW_UID, 0),
    "alertmanager": (NOBODY_UID, 0),
    "control": (AIRFLOW_UID, 0),
    "flower": (AIRFLOW_UID, 0),
    "grafana": (GRAFANA_UID, 0),
    "monitoring": (EXPORTER_UID, 0),
    "postgres": (SERVER_UID, 0),
    "postgres-exporter": (NOBODY_UID, 0),
    "redis": (SERVER_UID, 0),
    "sla": (AIRFLOW_UID, 0),
    "smtp": (AIRFLOW_UID, 0),
    "worker": (AIRFLOW_UID, 0),
}


def fill_volumes(folder: Path, own: Path, settings: Settings) -> None:
    """Take over one's own secrets, generate what is missing, derive the rest.

    Raises:
        SettingError: the mail server's password would travel unencrypted.
    """
    take_over(own, folder)
    make_secrets(folder)
    derive_secrets(folder, COMPOSE_ADDRESSES, settings)
    password = read_secret(folder / "redis/password")
    write_secret(folder / "redis/redis.conf", redis_configuration(password))
    write_secret(folder / "grafana/password", read_secret(folder / "admin/password"))
    write_secret(folder / "monitoring/redis.json", json.dumps({"redis://redis:6379": password}))
    write_secret(folder / "postgres-exporter/password", read_secret(folder / "postgres/monitoring"))


def take_over(own: Path, folder: Path) -> None:
    """Copy the files in `own` whose group the stack knows into `folder`."""
    for path in sorted(own.glob("*/*")) if own.is_dir() else []:
        if path.is_file() and path.parent.name in OWNERS:
            write_secret(folder / path.parent.name / path.name, read_secret(path))


def redis_configuration(password: str) -> str:
    """Give Redis's settings: password, append-only file, never evict."""
    quoted = password.replace("\\", "\\\\").replace('"', '\\"')
    return (
        f'requirepass "{quoted}"\ndir /data\nappendonly yes\nmaxmemory-policy noeviction\n'
        # The append-only file has it all; a snapshot on top would double the writes.
        'save ""\n'
    )


def give_to_readers(folder: Path) -> None:
    """Make each group's volume readable to its readers, and to nobody else."""
    for group, (uid, gid) in OWNERS.items():
        for path in (folder / group).iterdir():
            os.chown(path, uid, gid)
            path.chmod(0o440)
        os.chown(folder / group, uid, gid)
        (folder / group).chmod(0o550)


def main() -> None:
    """Fill the volumes and give them to their readers."""
    try:
        settings = Settings.from_env(os.environ)
        fill_volumes(secrets_folder(), OWN_SECRETS, settings)
        write_alert_mail(secrets_folder(), ALERT_ROUTES, settings)
    except SettingError as error:
        sys.exit(f"error: {error}")
    give_to_readers(secrets_folder())


if __name__ == "__main__":
    main()
