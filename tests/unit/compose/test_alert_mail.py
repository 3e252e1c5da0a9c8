"""Alertmanager sends its mails as the rest of the stack does: same server, same login, same sender."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from celery_stack.settings import SettingError, Settings
from compose.alert_mail import PASSWORD_FILE, write_alert_mail
from compose.home import REPO
from compose.secret_files import write_secret

ROUTES = REPO / "monitoring/alertmanager/alertmanager.yml"
PASSWORD = "p@ss: w/rd%"
LOGIN = {"SMTP_HOST": "mx.example.org", "SMTP_USER": "me"}


def configuration(folder: Path, **env: str) -> dict[str, Any]:
    write_alert_mail(folder, ROUTES, Settings.from_env(env))
    content: dict[str, Any] = json.loads((folder / "alertmanager/alertmanager.json").read_text())
    return content


def test_mail_catcher_needs_neither_login_nor_encryption(tmp_path: Path):
    """The defaults of the stack with Docker; routes are those of the repository."""
    content = configuration(tmp_path, SMTP_HOST="mail")
    assert content["global"] == {
        "smtp_smarthost": "mail:1025",
        "smtp_from": "airflow@example.org",
        "smtp_require_tls": False,
    }
    assert content["route"]["group_by"] == ["alertname"]
    [receiver] = content["receivers"]
    assert receiver["email_configs"] == [{"to": "admin@example.org", "send_resolved": True}]


@pytest.mark.parametrize(
    ("security", "port", "require_tls"), [("starttls", "587", True), ("tls", "465", False)]
)
def test_login_is_encrypted_and_its_password_stays_in_a_file(
    tmp_path: Path, security: str, port: str, require_tls: bool
):
    """After STARTTLS, or inside TLS."""
    write_secret(tmp_path / "smtp/password", PASSWORD)
    content = configuration(tmp_path, SMTP_SECURITY=security, SMTP_PORT=port, **LOGIN)
    assert content["global"]["smtp_smarthost"] == f"mx.example.org:{port}"
    assert content["global"]["smtp_require_tls"] is require_tls
    assert content["global"]["smtp_auth_username"] == "me"
    assert content["global"]["smtp_auth_password_file"] == PASSWORD_FILE
    assert (tmp_path / "alertmanager" / Path(PASSWORD_FILE).name).read_text() == PASSWORD
    assert PASSWORD not in json.dumps(content)


def test_password_of_a_login_that_is_gone_is_deleted(tmp_path: Path):
    """Nobody reads what nobody needs."""
    write_secret(tmp_path / "smtp/password", PASSWORD)
    configuration(tmp_path, SMTP_SECURITY="starttls", **LOGIN)
    assert "smtp_auth_username" not in configuration(tmp_path, SMTP_HOST="mail")["global"]
    assert not (tmp_path / "alertmanager/smtp_password").exists()


def test_alerts_go_to_their_own_recipients_before_the_first_user(tmp_path: Path):
    """ALERT_EMAIL_TO, else ADMIN_EMAIL."""
    env = {"SMTP_HOST": "mail", "ADMIN_EMAIL": "boss@example.org"}
    [receiver] = configuration(tmp_path, **env)["receivers"]
    assert receiver["email_configs"][0]["to"] == "boss@example.org"
    env["ALERT_EMAIL_TO"] = "a@example.org, b@example.org"
    [receiver] = configuration(tmp_path, **env)["receivers"]
    assert receiver["email_configs"][0]["to"] == "a@example.org, b@example.org"


def test_v6_address_is_told_from_its_port(tmp_path: Path):
    """As Go reads it."""
    content = configuration(tmp_path, SMTP_HOST="2001:db8::25")
    assert content["global"]["smtp_smarthost"] == "[2001:db8::25]:1025"


def test_without_a_mail_server_nobody_is_told(tmp_path: Path):
    """And Alertmanager starts all the same."""
    content = configuration(tmp_path)
    assert "global" not in content
    assert content["receivers"] == [{"name": "mail"}]


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (
            {"SMTP_SECURITY": "tls", "SMTP_PORT": "2465"},
            "SMTP_PORT must be 465 where SMTP_SECURITY",
        ),
        ({"ALERT_EMAIL_TO": "nobody"}, "ALERT_EMAIL_TO must be addresses such as"),
    ],
)
def test_what_alertmanager_cannot_use_is_refused_with_one_line(
    tmp_path: Path, env: dict[str, str], message: str
):
    """Else the first mail would be the one that tells, to nobody."""
    with pytest.raises(SettingError, match=message):
        configuration(tmp_path, SMTP_HOST="mx", **env)


@pytest.mark.skipif(not shutil.which("amtool"), reason="no amtool; the e2e tests have it")
@pytest.mark.parametrize("env", [{}, {"SMTP_HOST": "mail"}])
def test_configuration_is_one_of_alertmanagers(tmp_path: Path, env: dict[str, str]):
    """As it reads it itself."""
    configuration(tmp_path, **env)
    command = ["amtool", "check-config", str(tmp_path / "alertmanager/alertmanager.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
