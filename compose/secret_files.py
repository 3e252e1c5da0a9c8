"""The stack's secrets: made once, a folder per group of readers, files closed to others.

    postgres/  superuser, airflow, monitoring, sla, warehouse   passwords of the roles
    redis/     password
    control/   what api-server, scheduler, dag-processor and triggerer read
    worker/    what workers read; nothing here opens the metadata database
    flower/    what Flower reads
    sla/       what the monitor of SLAs reads
    smtp/      password at the mail server, never made up; what dag-processor and triggerer read
    admin/     password of the first user

Made-up values are kept as they are; a file put there by hand takes their place. Addresses with
passwords in them (`…_conn`, `…_url`, `connections.json`) are derived again at every start.
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cryptography.fernet import Fernet

from celery_stack.settings import SettingError, Settings


@dataclass(frozen=True)
class Addresses:
    """Where the servers answer, as the readers of the secrets see it."""

    postgres_host: str
    postgres_port: int
    redis_host: str
    redis_port: int


def make_secrets(folder: Path) -> None:
    """Generate every secret that is not there yet."""
    for name in (
        "postgres/superuser",
        "postgres/airflow",
        "postgres/monitoring",
        "postgres/sla",
        "postgres/warehouse",
        "redis/password",
        "control/jwt_secret",
        "control/api_secret_key",
        "admin/password",
    ):
        if not (folder / name).exists():
            # 64 bytes: the least that RFC 7518 asks of a key that signs with SHA-512.
            write_secret(folder / name, secrets.token_urlsafe(64 if "jwt" in name else 32))
    if not (folder / "control/fernet_key").exists():
        write_secret(folder / "control/fernet_key", Fernet.generate_key().decode())


def derive_secrets(folder: Path, addresses: Addresses, settings: Settings) -> None:
    """Write, for each group of readers, the addresses that carry passwords.

    Raises:
        SettingError: the mail server's password would travel unencrypted.
    """
    metadata = postgres_url(folder, addresses, "airflow")
    judged = postgres_url(folder, addresses, "sla", database="airflow")
    warehouse = postgres_url(folder, addresses, "warehouse")
    redis = (
        f"redis://:{quote(read_secret(folder / 'redis/password'), safe='')}"
        f"@{addresses.redis_host}:{addresses.redis_port}"
    )
    smtp = smtp_connections(folder, settings)
    flower_login = f"{settings.ADMIN_USER}:{read_secret(folder / 'admin/password')}"
    derived = {
        "control/sql_alchemy_conn": _for_sqlalchemy(metadata),
        "control/broker_url": f"{redis}/0",
        "control/result_backend": f"{redis}/1",
        "worker/broker_url": f"{redis}/0",
        "worker/result_backend": f"{redis}/1",
        # Signs the api-server's requests for logs; the workers verify them.
        "worker/api_secret_key": read_secret(folder / "control/api_secret_key"),
        "worker/connections.json": json.dumps({"warehouse": warehouse} | smtp),
        # DAG callbacks and triggers send mail; they have no business with the warehouse.
        "smtp/connections.json": json.dumps(smtp),
        "sla/sql_alchemy_conn": _for_sqlalchemy(judged),
        "sla/broker_url": f"{redis}/0",
        "flower/broker_url": f"{redis}/0",
        "flower/result_backend": f"{redis}/1",
        "flower/basic_auth": flower_login,
    }
    for name, value in derived.items():
        write_secret(folder / name, value)


def smtp_connections(folder: Path, settings: Settings) -> dict[str, Any]:
    """Give Airflow's connection to the mail server under its id; nothing where there is no server.

    It logs in where there is a user and the secret `smtp/password`.

    Raises:
        SettingError: the password would travel unencrypted.
    """
    if not settings.SMTP_HOST:
        return {}
    connection = {
        "conn_type": "smtp",
        "host": settings.SMTP_HOST,
        "port": settings.SMTP_PORT,
        # Booleans: in an address they would be text, and "false" true.
        "extra": {
            "disable_ssl": settings.SMTP_SECURITY != "tls",
            "disable_tls": settings.SMTP_SECURITY != "starttls",
            "from_email": settings.SMTP_FROM,
        },
    }
    file = folder / "smtp/password"
    if settings.SMTP_USER and file.exists():
        if settings.SMTP_SECURITY == "none":
            raise SettingError(
                "SMTP_SECURITY must be starttls or tls where SMTP_USER logs in, got 'none'. "
                "Set it in .env."
            )
        connection |= {"login": settings.SMTP_USER, "password": read_secret(file)}
    return {"smtp_default": connection}


def read_secret(path: Path) -> str:
    """Give the secret in `path`.

    Raises:
        FileNotFoundError: it was never made; start the stack once.
    """
    return path.read_text().strip()


def write_secret(path: Path, value: str) -> None:
    """Put `value` into `path`, whole or not at all, readable by its owner alone.

    A file that holds it already is left alone, with the owner it was given.
    """
    if path.exists() and path.read_text() == value:
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(value)  # no newline: Airflow takes what a `…_CMD` prints as it is
    draft.replace(path)


def postgres_url(folder: Path, addresses: Addresses, role: str, *, database: str = "") -> str:
    """Give the address of a database as `role` enters it, password included; unset, its own database."""
    password = quote(read_secret(folder / "postgres" / role), safe="")
    place = f"{addresses.postgres_host}:{addresses.postgres_port}"
    return f"postgresql://{role}:{password}@{place}/{database or role}"


def _for_sqlalchemy(url: str) -> str:
    return url.replace("postgresql:", "postgresql+psycopg2:", 1)
