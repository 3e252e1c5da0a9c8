"""Mails of the whole stack when mail servers do what they do: refuse, put off, are down, want TLS and a login."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.mail_servers import PASSWORD, USER
from tests.sla.promised import TEAM, Promised
from tests.waiting import wait_for

pytestmark = pytest.mark.sla

DOWN = timedelta(seconds=60)


def undelivered(promised: Promised, dag_id: str) -> list[Any]:
    """Give the DAG's mails that the page shows as not delivered."""
    mails = promised.stack.client._send("GET", "/sla/summary.json")["undelivered_mails"]
    return [mail for mail in mails if mail["dag_id"] == dag_id]


def test_refused_recipient_is_shown_and_the_other_has_the_mail(promised: Promised):
    """Once: nobody gets it again because of somebody else."""
    promised.mail.refuses["gone@example.org"] = "550 5.1.1 No such user"
    promised.start("refused")
    mail = promised.wait_for_mail("refused")
    assert promised.receivers(mail) == [TEAM]
    [shown] = wait_for(lambda: undelivered(promised, "refused"), bool, deadline_s=30)
    assert shown["missing"] == ["gone@example.org"]
    assert "No such user" in shown["last_error"]


def test_mail_that_was_put_off_is_sent_again(promised: Promised):
    """Until then the page shows it, with the server's words."""
    promised.mail.greylists.add("greylisting@example.org")
    promised.start("greylisted")
    [shown] = wait_for(lambda: undelivered(promised, "greylisted"), bool, deadline_s=60)
    assert "Greylisted" in shown["last_error"]
    assert promised.receivers(promised.wait_for_mail("greylisted")) == ["greylisting@example.org"]
    wait_for(lambda: undelivered(promised, "greylisted"), lambda mails: not mails, deadline_s=30)


def test_server_that_is_down_for_a_minute_loses_nothing(promised: Promised):
    """The mail waits, is shown as undelivered, and comes once the server is back."""
    promised.servers.close()
    back = datetime.now(UTC) + DOWN
    promised.start("server_down")
    promised.wait_for_verdict("server_down", "run", "missed")
    [shown] = wait_for(lambda: undelivered(promised, "server_down"), bool, deadline_s=30)
    assert shown["state"] == "pending"
    wait_for(lambda: datetime.now(UTC), lambda now: now > back, deadline_s=90)
    assert undelivered(promised, "server_down")[0]["attempts"] > 1
    promised.serve_mail()
    promised.wait_for_mail("server_down", deadline_s=180)
    wait_for(lambda: undelivered(promised, "server_down"), lambda mails: not mails, deadline_s=30)


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_server_that_wants_encryption_and_a_login(promised: Promised, security: str):
    """Set as a person sets them: variables, and the password's file."""
    (promised.stack.home.secrets / "smtp/password").write_text(PASSWORD)
    promised.mail.logins.clear()
    promised.serve_mail(security)
    promised.restart_monitors(SMTP_SECURITY=security, SMTP_USER=USER)
    dag_id = f"over_{security}"
    promised.start(dag_id)
    promised.wait_for_mail(dag_id)
    assert promised.mail.logins, "nobody logged in"
    assert all(promised.mail.logins)
