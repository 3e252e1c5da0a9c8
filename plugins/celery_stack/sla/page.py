"""The page of SLA misses in Airflow's UI, and the same as JSON.

The api-server mounts an application of a plugin bare: nothing stands before it. So every route here
depends on `readable_dags`, which wants Airflow's login and the right to read task instances, and gives
the DAGs that the user may read. There is no route that writes.

    GET /sla/               the page; logged out, a redirect to the login
    GET /sla/records.json   records: dag_id, task_id, verdict, since, until, limit, offset
    GET /sla/summary.json   the share of kept SLAs in 30 days, and e-mails that were not delivered
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from typing import Annotated, Any
from urllib.parse import urlencode, urlsplit

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import GetUserDep
from airflow.configuration import conf
from airflow.utils.session import create_session
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response, status
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from pydantic import BaseModel, BeforeValidator, StringConstraints
from sqlalchemy.exc import ProgrammingError, SQLAlchemyError
from sqlalchemy.orm import Session
from starlette.exceptions import HTTPException as AnyHTTPException

from celery_stack.sla.page_data import (
    Filter,
    Records,
    Summary,
    Verdict,
    read_names,
    read_records,
    read_summary,
)
from celery_stack.sla.page_html import Asked, render_message, render_page, security_policy

log = logging.getLogger(__name__)

PREFIX = "/sla"
PAGE_SIZE = 50
NOT_THERE_YET = (
    "Expected the tables of the schema sla in the metadata database, found none that Airflow may read. "
    "The stack's initialisation makes them: start the stack again, with `make local` or `docker compose up`."
)
NO_DATABASE = "The metadata database did not answer. Try again; the log of the api-server says why."
NOT_ALLOWED = (
    "You may not read task instances, so no SLA can be shown. Ask an administrator for a role "
    "that can read DAG Runs and Task Instances."
)
# What Postgres says of a table, a schema or a right that is missing.
MISSING = {"42P01", "3F000", "42501"}


def headers() -> dict[str, str]:
    """Give the headers of every answer: kept by no cache, framed by Airflow's own UI alone."""
    return {
        "Cache-Control": "private, no-store",
        "Content-Security-Policy": security_policy(),
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
    }


class MayNotReadError(HTTPException):
    """The user is known, and may not read what SLAs are about."""

    def __init__(self) -> None:
        super().__init__(status.HTTP_403_FORBIDDEN, NOT_ALLOWED)


def _empty_as_none(value: Any) -> Any:
    """Read a field that a form sent empty as one that was not sent."""
    return None if value == "" else value


AnyId = Annotated[str, StringConstraints(max_length=250, pattern=r"^[^\x00]*$")]
OneId = Annotated[AnyId | None, BeforeValidator(_empty_as_none)]
OneVerdict = Annotated[Verdict | None, BeforeValidator(_empty_as_none)]
OneTime = Annotated[datetime | None, BeforeValidator(_empty_as_none)]
OneDay = Annotated[date | None, BeforeValidator(_empty_as_none)]
Offset = Annotated[int, Query(ge=0, le=10_000_000)]


class RecordsQuery(BaseModel):
    """What is asked of `records.json`; times without a zone are UTC, `until` is exclusive."""

    dag_id: OneId = None
    task_id: OneId = None
    verdict: OneVerdict = None
    since: OneTime = None
    until: OneTime = None
    limit: Annotated[int, Query(ge=1, le=1000)] = 100
    offset: Offset = 0

    def filter(self) -> Filter:
        return Filter(
            self.dag_id, self.task_id, self.verdict, _in_utc(self.since), _in_utc(self.until)
        )


class PageQuery(BaseModel):
    """What the page's own form asks; without it, misses are shown. Days are UTC, both inclusive."""

    dag_id: OneId = None
    task_id: OneId = None
    verdict: OneVerdict = "missed"
    since: OneDay = None
    until: OneDay = None
    offset: Offset = 0

    def filter(self) -> Filter:
        since = None if self.since is None else datetime.combine(self.since, time.min, UTC)
        until = None if self.until is None else datetime.combine(self.until, time.max, UTC)
        return Filter(self.dag_id, self.task_id, self.verdict, since, until)


def _in_utc(moment: datetime | None) -> datetime | None:
    if moment is None or moment.tzinfo is not None:
        return moment
    return moment.replace(tzinfo=UTC)


def readable_dags(user: GetUserDep) -> set[str]:
    """Give the DAGs that the user of this request may read.

    Raises:
        HTTPException: 401 without a login (`GetUserDep`).
        MayNotReadError: no right to read task instances at all.
    """
    manager = get_auth_manager()
    entity = DagAccessEntity.TASK_INSTANCE
    if not manager.is_authorized_dag(method="GET", access_entity=entity, user=user):
        raise MayNotReadError
    return manager.get_authorized_dag_ids(user=user, method="GET")


def metadata_session() -> Iterator[Session]:
    """Give a session of Airflow's own, as the role `airflow`, which may read the tables of `sla`."""
    with create_session(scoped=False) as session:
        yield session


def utc_now() -> datetime:
    """Give the time by which what is not finished is late."""
    return datetime.now(UTC)


Readable = Annotated[set[str], Depends(readable_dags)]
Metadata = Annotated[Session, Depends(metadata_session)]
Now = Annotated[datetime, Depends(utc_now)]


def create_app() -> FastAPI:
    """Give the application for the api-server to mount below `PREFIX`; it describes itself to nobody."""
    app = FastAPI(title="SLAs", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_api_route("/", show_page, response_class=HTMLResponse)
    app.add_api_route("/records.json", give_records)
    app.add_api_route("/summary.json", give_summary)
    app.exception_handler(AnyHTTPException)(on_refusal)
    app.exception_handler(RequestValidationError)(on_wrong_question)
    app.exception_handler(SQLAlchemyError)(on_database_error)
    return app


def give_records(
    readable: Readable,
    session: Metadata,
    now: Now,
    query: Annotated[RecordsQuery, Query()],
    response: Response,
) -> Records:
    """Give records of the DAGs that the user may read, the latest promise first."""
    response.headers.update(headers())
    return read_records(
        session, readable, query.filter(), now=now, limit=query.limit, offset=query.offset
    )


def give_summary(readable: Readable, session: Metadata, now: Now, response: Response) -> Summary:
    """Give the share of kept SLAs by DAG and SLA, and e-mails that were not delivered."""
    response.headers.update(headers())
    return read_summary(session, readable, now=now)


def show_page(
    readable: Readable, session: Metadata, now: Now, query: Annotated[PageQuery, Query()]
) -> HTMLResponse:
    """Show the SLAs of the DAGs that the user may read."""
    html = render_page(
        records=read_records(
            session, readable, query.filter(), now=now, limit=PAGE_SIZE, offset=query.offset
        ),
        summary=read_summary(session, readable, now=now),
        names=read_names(session, readable),
        asked=Asked(**query.model_dump(exclude={"offset"})),
        now=now,
        base_path=base_path(),
    )
    return HTMLResponse(html, headers=headers())


def base_path() -> str:
    """Give the path below which Airflow is reached, without the slash at its end: mostly nothing."""
    return urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/")


def login_url(request: Request) -> str:
    """Give the way through Airflow's login back to what was asked for."""
    question = f"?{request.url.query}" if request.url.query else ""
    query = urlencode({"next": f"{base_path()}{PREFIX}/{question}"})
    return f"{base_path()}/api/v2/auth/login?{query}"


def on_refusal(request: Request, error: AnyHTTPException) -> Response:
    """Answer who is not logged in, may not read, or asks for something else."""
    if not _wants_page(request):
        return _say(request, error.status_code, error.detail)
    if isinstance(error, MayNotReadError) or error.status_code not in (401, 403):
        return _say(request, error.status_code, error.detail)
    return RedirectResponse(login_url(request), headers=headers())


def on_wrong_question(request: Request, error: RequestValidationError) -> Response:
    """Name the parameters that were not understood."""
    wrong = [f"{one['loc'][-1]}: {one['msg']}, got {one['input']!r}" for one in error.errors()]
    return _say(request, status.HTTP_422_UNPROCESSABLE_CONTENT, ". ".join(wrong))


def on_database_error(request: Request, error: SQLAlchemyError) -> Response:
    """Say what is missing, without a traceback; the log has it."""
    code = getattr(getattr(error, "orig", None), "pgcode", None)
    if isinstance(error, ProgrammingError) and code in MISSING:
        log.warning(NOT_THERE_YET)
        return _say(request, status.HTTP_503_SERVICE_UNAVAILABLE, NOT_THERE_YET)
    log.error("SLAs could not be read.", exc_info=error)
    return _say(request, status.HTTP_503_SERVICE_UNAVAILABLE, NO_DATABASE)


def _say(request: Request, code: int, text: str) -> Response:
    if _wants_page(request):
        return HTMLResponse(render_message(text), status_code=code, headers=headers())
    return JSONResponse({"detail": text}, status_code=code, headers=headers())


def _wants_page(request: Request) -> bool:
    return request.url.path.endswith("/")
