"""What the monitor takes from its environment."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from shlex import quote

import pytest

from celery_stack.settings import SettingError, Settings
from celery_stack.sla.__main__ import callback_environment, read_config, read_smtp
from compose.secret_files import smtp_connections

SECRET = "postgresql+psycopg2://sla:hidden@db:5432/airflow"


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    given = {
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": SECRET,
        "AIRFLOW__CELERY__BROKER_URL": "redis://:hidden@redis:6379/0",
        "AIRFLOW__API__BASE_URL": "http://airflow.example.org",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(tmp_path / "none"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": "/opt/plugins",
        "SLA_EMAIL_TO": "a@example.org, b@example.org",
        "SLA_CHECK_S": "3",
        "FAILURE_EMAILS": "off",
        "METADATA_RETENTION_DAYS": "7",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    return given


def test_configuration_is_read_once(env: dict[str, str]):
    """Addresses, people and times; without a mail server mails wait."""
    config = read_config(env, heartbeat=None)
    assert config.database == "postgresql://sla:hidden@db:5432/airflow"
    assert config.broker == "redis://:hidden@redis:6379/0"
    assert config.base_url == "http://airflow.example.org"
    assert list(config.default_to) == ["a@example.org", "b@example.org"]
    assert (config.check_s, config.failure_emails, config.smtp) == (3, False, None)
    assert config.keep_days == 7
    assert config.log_folder is None
    assert "hidden" not in repr(config)


def test_secrets_come_from_the_files_that_their_commands_print(env: dict[str, str], tmp_path: Path):
    """As both ways of running set them: the environment says where they are, and holds none."""
    del env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"], env["AIRFLOW__CELERY__BROKER_URL"]
    for option, secret in (
        ("DATABASE__SQL_ALCHEMY_CONN", SECRET),
        ("CELERY__BROKER_URL", "redis://:x@r"),
    ):
        file = tmp_path / option
        file.write_text(f"{secret}\n")
        env[f"AIRFLOW__{option}_CMD"] = f"cat {quote(str(file))}"
    config = read_config(env, heartbeat=None)
    assert config.database == "postgresql://sla:hidden@db:5432/airflow"
    assert config.broker == "redis://:x@r"


def test_airflow_is_not_imported_before_something_is_missed():
    """It takes more than the monitor itself, two times over."""
    ask = "import sys, celery_stack.sla.__main__; sys.exit('airflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", ask], check=False).returncode == 0


def test_wrong_setting_is_one_line(env: dict[str, str]):
    """As everywhere: variable, expected, found, remedy."""
    with pytest.raises(SettingError, match="SLA_CHECK_S must be a whole number from 1 to 600"):
        read_config(env | {"SLA_CHECK_S": "0"}, heartbeat=None)


def test_mail_server_is_that_of_the_connection(tmp_path: Path):
    """The file that other components read too; it may hold none."""
    file = tmp_path / "connections.json"
    settings = Settings.from_env({"SMTP_HOST": "mail.example.org", "SMTP_PORT": "25"})
    variable = {
        "AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps({"connections_file_path": str(file)})
    }
    file.write_text(json.dumps(smtp_connections(tmp_path, settings)))
    server = read_smtp(variable)
    assert server is not None
    assert (server.host, server.port) == ("mail.example.org", 25)
    file.write_text("{}")
    assert read_smtp(variable) is None
    assert read_smtp({}) is None


def test_callbacks_see_no_setting_of_airflow(env: dict[str, str]):
    """No secret, no command that prints one; the plugins folder can be imported from."""
    names = ("AIRFLOW_CONN_WAREHOUSE", "AIRFLOW_VAR_TOKEN", "AIRFLOW_CONFIG", "AIRFLOW_HOME")
    given = callback_environment(env | dict.fromkeys(names, "hidden") | {"PYTHONPATH": "/mine"})
    assert not [name for name in given if name.startswith("AIRFLOW_")]
    assert given["PYTHONPATH"] == "/opt/plugins:/mine"
