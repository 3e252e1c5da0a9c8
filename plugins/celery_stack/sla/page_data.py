"""What the SLA page and its JSON show: records, the share of kept promises, e-mails that did not arrive.

Everything is read through Airflow's own session, and only for the DAGs that the caller names as
readable: there is no query here without them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel
from sqlalchemy import (
    ColumnElement,
    Select,
    TableClause,
    and_,
    case,
    column,
    func,
    or_,
    select,
    table,
    true,
)
from sqlalchemy.orm import Session

Verdict = Literal["pending", "met", "missed"]
Moment = Annotated[datetime, AfterValidator(lambda moment: moment.astimezone(UTC))]
"""A time as the database has it, in UTC whatever the zone of the session is."""
MailState = Literal["none", "no recipient", "waiting", "sent", "undelivered"]

WHOLE_RUN = "(run)"
"""Stands for the SLAs of whole runs where a task is asked for; no task can have this id."""
SHARE_DAYS = 30
MAX_LISTED = 200
"""How many undelivered e-mails are listed, and names proposed; more of them are only counted."""
SENDING_PATIENCE = timedelta(minutes=2)
"""An e-mail that nobody tried to send for so long counts as undelivered: the sender may be down."""


def _table(name: str, columns: str) -> TableClause:
    return table(name, *map(column, columns.split()), schema="sla")


RECORD = _table(
    "record",
    "id dag_id run_id task_id name due_from promised finished verdict state reason blocking recipients",
)
MAIL = _table(
    "mail",
    "id kind dag_id run_id recipients subject state attempts next_try_at last_error delivered refused "
    "created_at sent_at",
)
MAIL_RECORD = _table("mail_record", "mail_id record_id")
MAIL_COLUMNS = (
    "recipients",
    "state",
    "sent_at",
    "attempts",
    "next_try_at",
    "refused",
    "last_error",
    "created_at",
)


class Blocking(BaseModel):
    """A task that a late run or task waited for."""

    task: str
    state: str
    why: str = ""


class RecordMail(BaseModel):
    """The e-mail about a miss.

    Args:
        state: `none` where nothing is to be sent; `undelivered` if it was tried in vain, is tried
            too late, or a recipient was refused for good; `no recipient` if nobody was named.
        refused: recipients that the server refused for good, or twice did not answer about.
        last_error: what the server said at the last try.
    """

    state: MailState
    sent_at: Moment | None = None
    attempts: int = 0
    next_try_at: Moment | None = None
    refused: list[str] = []
    last_error: str = ""


class Record(BaseModel):
    """One SLA of one run.

    Args:
        task_id: empty for the whole run.
        lateness_s: of a miss, until it finished or else until now; None for everything else.
    """

    dag_id: str
    run_id: str
    task_id: str
    name: str
    due_from: Moment
    promised: Moment
    finished: Moment | None
    verdict: Verdict
    state: str
    lateness_s: float | None
    reason: str
    blocking: list[Blocking]
    recipients: list[str]
    mail: RecordMail


class Records(BaseModel):
    """A page of records, the latest promise first, and how many there are in all."""

    records: list[Record]
    total: int
    limit: int
    offset: int


class Share(BaseModel):
    """How often an SLA was kept; `share` is None where nothing was judged yet."""

    dag_id: str
    task_id: str
    name: str
    met: int
    missed: int
    share: float | None


class UndeliveredMail(BaseModel):
    """An e-mail that has not reached all of its recipients; `missing` are those who have none."""

    kind: Literal["sla", "failure"]
    dag_id: str
    run_id: str
    subject: str
    recipients: list[str]
    missing: list[str]
    refused: list[str]
    state: str
    attempts: int
    next_try_at: Moment
    last_error: str
    created_at: Moment


class Summary(BaseModel):
    """What was kept since `since`, by DAG and SLA, and the e-mails that did not arrive.

    Args:
        undelivered_mails: the latest of them, at most `MAX_LISTED`.
        without_recipient: e-mails that nobody was named for, since `since`.
    """

    since: Moment
    met: int
    missed: int
    share: float | None
    slas: list[Share]
    undelivered: int
    undelivered_mails: list[UndeliveredMail]
    without_recipient: int


@dataclass(frozen=True)
class Filter:
    """Which records are asked for; None does not narrow.

    Args:
        task_id: `WHOLE_RUN` for the SLAs of whole runs.
        since, until: bounds of the promised time, the second one exclusive.
    """

    dag_id: str | None = None
    task_id: str | None = None
    verdict: Verdict | None = None
    since: datetime | None = None
    until: datetime | None = None

    def condition(self, readable: Collection[str]) -> ColumnElement[bool]:
        """Give the condition on `sla.record`, which never leaves the readable DAGs."""
        parts = [_in_dags(RECORD, readable)]
        if self.dag_id is not None:
            parts.append(RECORD.c.dag_id == self.dag_id)
        if self.task_id is not None:
            parts.append(RECORD.c.task_id == ("" if self.task_id == WHOLE_RUN else self.task_id))
        if self.verdict is not None:
            parts.append(RECORD.c.verdict == self.verdict)
        if self.since is not None:
            parts.append(RECORD.c.promised >= self.since)
        if self.until is not None:
            parts.append(RECORD.c.promised < self.until)
        return and_(*parts)


def read_records(
    session: Session,
    readable: Collection[str],
    wanted: Filter,
    *,
    now: datetime,
    limit: int,
    offset: int = 0,
) -> Records:
    """Read the records of `readable` DAGs that `wanted` names."""
    condition = wanted.condition(readable)
    total = session.scalar(select(func.count()).select_from(RECORD).where(condition)) or 0
    rows = session.execute(_records_with_mail(condition).limit(limit).offset(offset)).mappings()
    records = [_record(dict(row), now) for row in rows]
    return Records(records=records, total=total, limit=limit, offset=offset)


def read_summary(session: Session, readable: Collection[str], *, now: datetime) -> Summary:
    """Read the share of kept SLAs in the last `SHARE_DAYS` days, and what was not delivered."""
    since = now - timedelta(days=SHARE_DAYS)
    slas = _read_shares(session, readable, since)
    met, missed = sum(one.met for one in slas), sum(one.missed for one in slas)
    undelivered = (_in_dags(MAIL, readable), _undelivered(since, now))
    nobody = (_in_dags(MAIL, readable), ~_has_recipient(), MAIL.c.created_at >= since)
    return Summary(
        since=since,
        met=met,
        missed=missed,
        share=_share(met, missed),
        slas=slas,
        undelivered=_count_mails(session, *undelivered),
        undelivered_mails=_list_mails(session, *undelivered),
        without_recipient=_count_mails(session, *nobody),
    )


def read_names(session: Session, readable: Collection[str]) -> tuple[list[str], list[str]]:
    """Read which DAGs and tasks have records, for the filters to propose."""
    return _distinct(session, readable, "dag_id"), _distinct(session, readable, "task_id")


def _distinct(session: Session, readable: Collection[str], name: str) -> list[str]:
    one = RECORD.c[name]
    query = select(one).distinct().where(_in_dags(RECORD, readable), one != "").order_by(one)
    return list(session.scalars(query.limit(MAX_LISTED)))


def _in_dags(of: TableClause, readable: Collection[str]) -> ColumnElement[bool]:
    condition: ColumnElement[bool] = of.c.dag_id.in_(sorted(readable))
    return condition


def _records_with_mail(condition: ColumnElement[bool]) -> Select[Any]:
    """Give the query for records, each with the latest of its e-mails, if there is any."""
    latest = (
        select(*(MAIL.c[name].label(f"mail_{name}") for name in MAIL_COLUMNS))
        .join_from(MAIL_RECORD, MAIL, MAIL.c.id == MAIL_RECORD.c.mail_id)
        .where(MAIL_RECORD.c.record_id == RECORD.c.id)
        .order_by(MAIL.c.id.desc())
        .limit(1)
        .lateral()
    )
    return (
        select(RECORD, latest)
        .outerjoin_from(RECORD, latest, true())
        .where(condition)
        .order_by(RECORD.c.promised.desc(), RECORD.c.id.desc())
    )


def _record(row: Mapping[str, Any], now: datetime) -> Record:
    lateness = None
    if row["verdict"] == "missed":
        lateness = max(0.0, ((row["finished"] or now) - row["promised"]).total_seconds())
    mail = _mail_of_record(row, now)
    return Record.model_validate({**row, "lateness_s": lateness, "mail": mail})


def _mail_of_record(row: Mapping[str, Any], now: datetime) -> RecordMail:
    if row["mail_state"] is None:
        return RecordMail(state=_state_without_mail(row))
    told = {name: row[f"mail_{name}"] for name in MAIL_COLUMNS}
    return RecordMail.model_validate({**told, "state": _delivery(told, now)})


def _state_without_mail(row: Mapping[str, Any]) -> MailState:
    """Tell why there is no e-mail: it is written with the verdict, so none is to be waited for.

    Nobody is told of a run that was created long after it was promised.
    """
    return "no recipient" if row["verdict"] == "missed" and not row["recipients"] else "none"


def _delivery(mail: Mapping[str, Any], now: datetime) -> MailState:
    """Tell how far an e-mail came; `_undelivered` says the same in SQL."""
    if not mail["recipients"]:
        return "no recipient"
    if mail["state"] == "refused" or mail["refused"]:
        return "undelivered"
    if mail["state"] == "sent":
        return "sent"
    overdue = mail["created_at"] < now - SENDING_PATIENCE
    return "undelivered" if mail["attempts"] > 0 or overdue else "waiting"


def _undelivered(since: datetime, now: datetime) -> ColumnElement[bool]:
    """Give the condition for e-mails that are overdue, or were refused after `since`."""
    tried_in_vain = or_(MAIL.c.attempts > 0, MAIL.c.created_at < now - SENDING_PATIENCE)
    refused = or_(MAIL.c.state == "refused", func.cardinality(MAIL.c.refused) > 0)
    return or_(
        and_(MAIL.c.state == "pending", tried_in_vain),
        and_(refused, _has_recipient(), MAIL.c.created_at >= since),
    )


def _has_recipient() -> ColumnElement[bool]:
    return func.cardinality(MAIL.c.recipients) > 0


def _count_mails(session: Session, *conditions: ColumnElement[bool]) -> int:
    return session.scalar(select(func.count()).select_from(MAIL).where(*conditions)) or 0


def _list_mails(session: Session, *conditions: ColumnElement[bool]) -> list[UndeliveredMail]:
    query = select(MAIL).where(*conditions).order_by(MAIL.c.id.desc()).limit(MAX_LISTED)
    return [_undelivered_mail(dict(row)) for row in session.execute(query).mappings()]


def _undelivered_mail(row: dict[str, Any]) -> UndeliveredMail:
    missing = [one for one in row["recipients"] if one not in row["delivered"]]
    if row["state"] == "sent":
        missing = row["refused"]
    return UndeliveredMail.model_validate({**row, "missing": missing})


def _read_shares(session: Session, readable: Collection[str], since: datetime) -> list[Share]:
    """Read the share of each SLA, the least kept first."""
    sla = (RECORD.c.dag_id, RECORD.c.task_id, RECORD.c.name)
    query = (
        select(*sla, _count("met").label("met"), _count("missed").label("missed"))
        .where(_in_dags(RECORD, readable), RECORD.c.promised >= since)
        .where(RECORD.c.verdict != "pending")
        .group_by(*sla)
        .order_by(*sla)
    )
    shares = [_share_of(dict(row)) for row in session.execute(query).mappings()]
    return sorted(shares, key=lambda one: one.share or 0.0)


def _count(verdict: Verdict) -> ColumnElement[int]:
    return func.count(case((RECORD.c.verdict == verdict, 1)))


def _share_of(row: Mapping[str, Any]) -> Share:
    return Share.model_validate({**row, "share": _share(row["met"], row["missed"])})


def _share(met: int, missed: int) -> float | None:
    return met / (met + missed) if met + missed else None
