"""The outbox: a mail is written into it in the same transaction as what it tells of.

So there is a mail exactly where there is a record of its cause, whatever stops in between;
`sender` takes it from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

from celery_stack import metrics
from celery_stack.sla.mail import Rendered

if TYPE_CHECKING:
    from psycopg import Connection

NO_RECIPIENT = "No recipient: set SLA_EMAIL_TO, or name some with to=."

INSERT = """
insert into sla.mail (key, kind, dag_id, run_id, message_id, recipients, subject, body_text,
                      body_html, state, last_error)
values (%(key)s, %(kind)s, %(dag_id)s, %(run_id)s, %(message_id)s, %(recipients)s, %(subject)s,
        %(text)s, %(html)s, %(state)s, %(last_error)s)
on conflict (key) do nothing
returning id
"""
# Of the last days also DAGs without any: what a sender has told before it was started anew becomes 0.
UNDELIVERED = """
select dag_id, count(*) filter (where
  (state = 'pending' and attempts > 0)
  or ((state = 'refused' or cardinality(refused) > 0) and created_at > now() - interval '1 day'))
from sla.mail
where state = 'pending' or created_at > now() - interval '7 days'
group by dag_id
"""
TELLS_OF = "insert into sla.mail_record (mail_id, record_id) select %s, unnest(%s::bigint[])"


def enqueue(
    connection: Connection[Any],
    *,
    key: str,
    kind: Literal["sla", "failure"],
    dag_id: str,
    run_id: str,
    recipients: Sequence[str],
    rendered: Rendered,
    record_ids: Sequence[int] = (),
) -> bool:
    """Write a mail into the outbox, in the caller's transaction; tell whether it is new.

    Args:
        key: names the cause; a mail with this key that is there already is left alone.
        recipients: none: the mail is kept as undeliverable, to be seen on the page.
        record_ids: the rows of `sla.record` that it tells of.
    """
    to = list(dict.fromkeys(recipients))
    values = {
        "key": key,
        "kind": kind,
        "dag_id": dag_id,
        "run_id": run_id,
        # By chance, not from the key: two stacks with the same DAGs must not write the same one,
        # because mail servers drop what they believe to have seen. Every try sends what is stored.
        "message_id": f"<{uuid4().hex}@airflow.internal>",
        "recipients": to,
        "subject": rendered.subject,
        "text": rendered.text,
        "html": rendered.html,
        "state": "pending" if to else "refused",
        "last_error": "" if to else NO_RECIPIENT,
    }
    row = connection.execute(INSERT, values).fetchone()
    if row is None:
        return False
    connection.execute(TELLS_OF, (row[0], list(record_ids)))
    return True


class Undelivered:
    """Tells of each DAG how many mails wait after a failed try, or did not reach all; 0 once they are through."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def tell(self, connection: Connection[Any]) -> None:
        """Count them, and tell Prometheus."""
        found = dict(connection.execute(UNDELIVERED).fetchall())
        for dag_id in sorted({*found, *self._told}):
            metrics.gauge("sla.undelivered", found.get(dag_id, 0), dag_id=dag_id)
        self._told |= set(found)
