"""`.env.example` documents every variable, with the default that is in force."""

from __future__ import annotations

import re

import pytest

from celery_stack.queues import load_declarations
from celery_stack.settings import Settings
from compose.home import REPO
from ml.settings import MLSettings

LINE = re.compile(r"^# ([A-Z][A-Z0-9_]+)=(\S*)(?: +# .+)?$")
SHARED = re.compile(r"\$\{([A-Z0-9_]+):-([^}]*)\}")
COMPOSE_FILES = ("compose.yaml", *sorted(f"compose/{p.name}" for p in REPO.glob("compose/*.yaml")))
# What Compose takes for a path or a host when the variable is unset is no value that one would set.
PLACES = {
    "ARTIFACTS_URL",
    "BASE_URL",
    "CA_BUNDLE",
    "CODE_VERSION",
    "LANDING_DIR",
    "PIP_CONF",
    "SECRETS_DIR",
    "SMTP_HOST",
    "TASK_LOGS",
}


def documented() -> dict[str, str]:
    lines = (REPO / ".env.example").read_text().splitlines()
    found = [match.groups() for match in map(LINE.match, lines) if match]
    names = [name for name, _ in found]
    assert len(names) == len(set(names)), "a variable is documented twice"
    return dict(found)


def in_force() -> dict[str, str]:
    """Give each variable's default; one that is worked out at the start is empty."""
    defaults = compose_defaults() | {"STACK_HOME": "", "API_URL": ""}
    for model in (Settings, MLSettings):
        for name, field in model.model_fields.items():
            defaults[name] = "" if field.is_required() else str(field.default)
    return defaults | {k: v.default for k, v in load_declarations({}).variables().items()}


def compose_defaults() -> dict[str, str]:
    """Give the default of each variable in the Compose files, which must agree on it."""
    defaults: dict[str, str] = {}
    for file in COMPOSE_FILES:
        text = (REPO / file).read_text().replace("stack-workers}", "stack}")  # its own project
        for name, default in SHARED.findall(text):
            found = "" if name in PLACES else default
            assert defaults.setdefault(name, found) == found or name == "CODE_VERSION", (file, name)
    return defaults


def test_compose_files_and_settings_have_the_same_defaults():
    """A variable that both ways of running know has one default."""
    compose = compose_defaults()
    assert {n: d for n, d in compose.items() if in_force()[n] != d} == {}


def test_every_variable_is_documented_with_its_default():
    """No variable is missing, none is left over, and no default has drifted."""
    assert documented() == in_force()


def test_shared_airflow_settings_have_the_same_defaults():
    """What Compose takes when a variable is unset is what the settings say."""
    text = (REPO / "compose/airflow.env").read_text()
    used = dict(SHARED.findall(text))
    defaults = {name: in_force()[name] for name in used}
    assert used == defaults


@pytest.mark.parametrize("model", [Settings, MLSettings])
def test_every_variable_has_a_description(model):
    """The field says what it means and in which unit."""
    for name, field in model.model_fields.items():
        assert field.description, name
