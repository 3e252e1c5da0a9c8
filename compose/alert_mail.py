"""Alertmanager's configuration: routes from the repository, mail server and recipients from the settings.

Alertmanager reads no environment. So `secrets` writes the whole file, at every start, beside the password.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from celery_stack.settings import Settings, setting_error
from compose.secret_files import smtp_connections, write_secret

# Alertmanager 0.28 speaks TLS from the first byte on this port, and on no other.
TLS_PORT = 465
PASSWORD_FILE = "/run/stack/alertmanager/smtp_password"  # noqa: S105 - where it is, not what it is


def write_alert_mail(folder: Path, routes: Path, settings: Settings) -> None:
    """Write the configuration of the group `alertmanager`, and the password if there is a login.

    Args:
        routes: `monitoring/alertmanager/alertmanager.yml`.

    Raises:
        SettingError: the mail server is one that Alertmanager cannot use.
    """
    own = folder / "alertmanager"
    mail = smtp_connections(folder, settings).get("smtp_default")
    content = yaml.safe_load(routes.read_text())
    if mail:
        content |= {"global": _server(mail, settings)}
        recipients = settings.ALERT_EMAIL_TO or settings.ADMIN_EMAIL
        for receiver in content["receivers"]:
            receiver["email_configs"] = [{"to": recipients, "send_resolved": True}]
    if mail and "password" in mail:
        write_secret(own / "smtp_password", mail["password"])
    else:
        (own / "smtp_password").unlink(missing_ok=True)
    write_secret(own / "alertmanager.json", json.dumps(content, indent=1))  # JSON is YAML


def _server(mail: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Say in Alertmanager's words what Airflow's connection says."""
    host, port = mail["host"], mail["port"]
    if settings.SMTP_SECURITY == "tls" and port != TLS_PORT:
        expected = (
            f"{TLS_PORT} where SMTP_SECURITY is tls, the one port on which Alertmanager does so"
        )
        raise setting_error("SMTP_PORT", expected, str(port))
    server = {
        "smtp_smarthost": f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
        "smtp_from": settings.SMTP_FROM,
        "smtp_require_tls": settings.SMTP_SECURITY == "starttls",
    }
    if "password" in mail:
        server |= {
            "smtp_auth_username": mail["login"],
            "smtp_auth_password_file": PASSWORD_FILE,
        }
    return server
