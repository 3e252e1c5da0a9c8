"""What the schema `sla` keeps no longer than METADATA_RETENTION_DAYS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psycopg import Connection

# While its run is there, a record stays: without it the run would be judged, and told of, again.
OLD_RECORDS = """
delete from sla.record k
where verdict <> 'pending' and judged_at < now() - make_interval(days => %(days)s)
  and not exists (select from dag_run r where r.dag_id = k.dag_id and r.run_id = k.run_id)
"""
OLD_MAILS = """
delete from sla.mail where state <> 'pending' and created_at < now() - make_interval(days => %(days)s)
"""
INTERVALS_OF_NO_RUN = """
delete from sla.interval i
where not exists (select from dag_run r where r.dag_id = i.dag_id and r.run_id = i.run_id)
"""


def prune(connection: Connection[Any], *, days: int) -> int:
    """Delete what is older, and what belongs to no run; give how many rows."""
    statements = (OLD_MAILS, OLD_RECORDS, INTERVALS_OF_NO_RUN)
    return sum(connection.execute(one, {"days": days}).rowcount for one in statements)
