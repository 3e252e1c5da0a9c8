"""The SLA page as HTML: one document that loads nothing, readable in light, in dark and on a phone."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from dataclasses import dataclass
from datetime import date, datetime
from functools import cache
from importlib import resources
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from celery_stack.sla.page_data import SHARE_DAYS, WHOLE_RUN, Record, Records, Summary

# States from which a task or run does not come by itself.
ENDED = {"failed", "upstream_failed", "skipped", "removed", "success"}
MAPPED = re.compile(r"(?P<task>.+)\[(?P<index>\d+)\]")


@cache
def security_policy() -> str:
    """Give the policy of the page: it loads nothing, runs our script alone, and only Airflow frames it."""
    return "; ".join(
        [
            "default-src 'none'",
            f"style-src 'sha256-{_hash(_file('page.css'))}'",
            f"script-src 'sha256-{_hash(_file('page.js'))}'",
            "form-action 'self'",
            "base-uri 'none'",
            "frame-ancestors 'self'",
        ]
    )


@cache
def _file(name: str) -> str:
    return (resources.files("celery_stack.sla") / "web" / name).read_text()


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@dataclass(frozen=True)
class Asked:
    """The filters as they were asked for, to be shown again and carried from page to page."""

    dag_id: str | None = None
    task_id: str | None = None
    verdict: str | None = "missed"
    since: date | None = None
    until: date | None = None

    @property
    def narrows(self) -> bool:
        """Whether less is asked for than all misses."""
        return self != Asked()

    def link(self, offset: int = 0) -> str:
        """Give the query for the records from `offset` on."""
        asked = {name: "" if value is None else value for name, value in vars(self).items()}
        return "?" + urlencode(asked | ({"offset": offset} if offset else {}))


def render_page(
    *,
    records: Records,
    summary: Summary,
    names: tuple[list[str], list[str]],
    asked: Asked,
    now: datetime,
    base_path: str,
) -> str:
    """Give the page of `records`.

    Args:
        names: the DAGs and the tasks for the filters to propose.
        base_path: where Airflow's UI is, for the links to runs.
    """
    dag_ids, task_ids = names
    return (
        _environment()
        .get_template("page.html")
        .render(
            records=records,
            summary=summary,
            dag_ids=dag_ids,
            task_ids=[WHOLE_RUN, *task_ids],
            asked=asked,
            now=now,
            base=base_path,
            share_days=SHARE_DAYS,
        )
    )


def render_message(text: str) -> str:
    """Give a page that says nothing but `text`."""
    return _environment().get_template("message.html").render(text=text)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("celery_stack.sla", "web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        style=Markup(_file("page.css")),  # noqa: S704 – a file of this package
        script=Markup(_file("page.js")),  # noqa: S704 – likewise
        run_url=run_url,
        task_url=task_url,
        lateness=lateness,
    )
    environment.filters.update(duration=duration, moment=moment, percent=percent)
    return environment


def run_url(base: str, dag_id: str, run_id: str) -> str:
    """Give the address of a run in Airflow's UI."""
    return f"{base}/dags/{quote(dag_id, safe='')}/runs/{quote(run_id, safe='')}"


def task_url(base: str, dag_id: str, run_id: str, label: str) -> str:
    """Give the address of a task instance; `label` is a task id, or `train[2]` for a mapped one."""
    run = run_url(base, dag_id, run_id)
    mapped = MAPPED.fullmatch(label)
    if mapped:
        return f"{run}/tasks/{quote(mapped['task'], safe='')}/mapped/{mapped['index']}"
    return f"{run}/tasks/{quote(label, safe='')}"


def lateness(record: Record) -> str:
    """Say how late a miss was, or is."""
    if record.lateness_s is None:
        return ""
    if record.finished is not None:
        return duration(record.lateness_s)
    if record.state in ENDED:
        return "not finished"
    return f"{duration(record.lateness_s)} so far"


def duration(seconds: float) -> str:
    """Say a duration by its two largest units: `1 h 5 min`, `42 s`."""
    whole = math.floor(seconds)
    if whole < 1:
        return "under 1 s"
    parts = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        number, whole = divmod(whole, size)
        parts.append(f"{number} {unit}" if number else "")
    first = next(index for index, part in enumerate(parts) if part)
    return " ".join(part for part in parts[first : first + 2] if part)


def moment(when: datetime) -> Markup:
    """Give a time in UTC, to the second."""
    machine, shown = f"{when:%Y-%m-%dT%H:%M:%SZ}", f"{when:%Y-%m-%d %H:%M:%S}"
    return Markup('<time datetime="{}">{}</time>').format(machine, shown)


def percent(share: float) -> str:
    """Say a share in percent, never rounded up: only what was always kept is 100 %."""
    return f"{math.floor(share * 1000 + 1e-9) / 10:g} %"
