"""A wrong setting is one line; what Compose and the local run share is read the same way."""

from __future__ import annotations

from pathlib import Path

import pytest

from celery_stack.settings import SettingError, Settings, read_shared_settings
from celery_stack.sla.addresses import is_address


def test_unset_and_empty_variables_take_their_defaults():
    """Compose passes an unset variable on as an empty one."""
    assert Settings.from_env({"API_PORT": ""}) == Settings.from_env({}) == Settings()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("API_PORT", "abc", "a whole number from 1024 to 32767"),
        ("API_PORT", "40000", "a whole number from 1024 to 32767"),
        ("PARALLELISM", "32.0", "a whole number from 1 to 4096"),
        ("PARALLELISM", "3_2", "a whole number from 1 to 4096"),
        ("RETRY_BACKOFF", "0.5", "a number from 1 to 10"),
        ("LOG_LEVEL", "LOUD", "one of DEBUG, INFO, WARNING, ERROR"),
        ("ADMIN_EMAIL", "nobody", r"text matching ^[^@\s]+@[^@\s]+$"),
    ],
)
def test_wrong_value_is_one_line_that_names_it(name: str, value: str, expected: str):
    """Variable, expectation, value and remedy."""
    with pytest.raises(SettingError) as caught:
        Settings.from_env({name: value})
    assert str(caught.value) == f"{name} must be {expected}, got {value!r}. Set it in .env."


@pytest.mark.parametrize(
    "value",
    [
        "ops",
        "ops@example.org,",
        "ops@example.org; ml@example.org",
        "Ops <ops@example.org>",
        "ops@exämple.org",
        "ops@example.org.",
        "ops@-example.org",
        "(ops)@example.org",
        f"{'o' * 250}@example.org",
    ],
)
def test_people_to_tell_are_addresses_that_mails_can_be_sent_to(value: str):
    """What the sender would refuse is refused at the start."""
    with pytest.raises(SettingError, match="SLA_EMAIL_TO must be addresses such as"):
        Settings.from_env({"SLA_EMAIL_TO": value})


def test_every_address_that_is_accepted_can_be_sent_to():
    """Several of them, with and without spaces, up to the longest."""
    longest = f"{'o' * 64}@{'e' * 182}"
    value = f"ops@example.org, o'hara+ml@x ,{longest}"
    accepted = Settings.from_env({"SLA_EMAIL_TO": value}).SLA_EMAIL_TO
    assert all(is_address(one.strip()) for one in accepted.split(","))


def test_shared_settings_take_variables_or_their_defaults(tmp_path: Path):
    """`${NAME:-default}` works, also inside of JSON."""
    file = tmp_path / "airflow.env"
    file.write_text('# a comment\nA=${X:-1}\nB={"limit": ${Y:-2}, "on": true}\n\nC=plain\n')
    assert read_shared_settings(file, {"X": "9"}) == {
        "A": "9",
        "B": '{"limit": 2, "on": true}',
        "C": "plain",
    }
