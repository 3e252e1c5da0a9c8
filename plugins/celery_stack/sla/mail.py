"""What a mail says: subject, plain text and HTML, of missed SLAs and of failed runs.

Both kinds are the same letter, filled differently: `templates/letter.txt` and `templates/letter.html`
show a `Letter` and know nothing else. All text that comes from DAGs, runs and logs is made harmless
on its way into the letter: one line where one line is expected, escaped in the HTML.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

if TYPE_CHECKING:
    from celery_stack.sla.schema import Blocking, Miss

# What a mail shows at most: mail programs cut off long ones (Gmail at 102 kB).
ITEMS = 20
WAITING = 10
SUBJECT_LENGTH = 120

# What may stand in a command that somebody half asleep pastes into a shell.
PASTEABLE = re.compile(r"[A-Za-z0-9_.:+~@-]+(\[\d+\])?")
# A line of a log's tail as `log_tail` writes exceptions: `  ValueError: …`.
EXCEPTION = re.compile(r"^  ([A-Za-z_][\w.]*: .*)$", re.MULTILINE)
ENDED_BADLY = frozenset({"failed", "upstream_failed", "removed"})
IN_WORDS = {
    "": "not started",
    "none": "not started",
    "up_for_retry": "waiting for its retry",
    "up_for_reschedule": "waiting for its next look",
    "upstream_failed": "not run: a task before it failed",
    "deferred": "waiting for a trigger",
}


@dataclass(frozen=True)
class Rendered:
    """A mail without its envelope."""

    subject: str
    text: str
    html: str


@dataclass(frozen=True)
class FailedTask:
    """A task instance that failed for good: its name as `train[2]`, its tries, and when it ended."""

    task: str
    try_number: int
    tries: int
    ended: datetime | None = None


@dataclass(frozen=True)
class Item:
    """A missed SLA or a failed task: what, how bad, its facts, why, and where to look."""

    title: str
    badge: str
    facts: Sequence[tuple[str, str]]
    why: str
    url: str
    link: str


@dataclass(frozen=True)
class Waiting:
    """A task that holds something up, its state, and why it waits itself."""

    task: str
    state: str
    why: str
    url: str


@dataclass(frozen=True)
class Letter:
    """All that the templates show, in the order in which they show it."""

    subject: str
    headline: str
    note: str
    summary: str
    items: Sequence[Item]
    more_items: int
    waiting: Sequence[Waiting]
    more_waiting: int
    dag_id: str
    run_id: str
    run_url: str
    dag_url: str
    command: str
    logs: Sequence[tuple[str, str]]
    seen: str
    reason_for_mail: str


def render_sla_mail(
    *,
    dag_id: str,
    run_id: str,
    misses: Sequence[Miss],
    now: datetime,
    base_url: str,
    log_tails: Mapping[str, str],
) -> Rendered:
    """Give the mail that tells of all SLAs that a run has missed.

    Args:
        misses: one or more; the most important first.
        base_url: where people reach Airflow's UI.
        log_tails: last lines of logs by the name of the task, as `train[2]`.
    """
    ui = _Ui(base_url, dag_id, run_id)
    items = [_missed(miss, now, ui) for miss in misses[:ITEMS]]
    waiting = _waiting(misses, ui)
    asked = next((w.task for w in waiting), "") or next((m.task_id for m in misses), "")
    return _render(
        Letter(
            subject=_sla_subject(dag_id, misses, now),
            headline=_sla_headline(misses, now),
            note="",
            summary=_summary(items, waiting),
            items=items,
            more_items=len(misses) - len(items),
            waiting=waiting[:WAITING],
            more_waiting=max(0, len(waiting) - WAITING),
            command=_why_command(dag_id, run_id, asked),
            reason_for_mail=f"DAG {one_line(dag_id)} declares "
            f"{'this SLA' if len(misses) == 1 else 'these SLAs'}.",
            **_common(ui, now, log_tails),
        )
    )


def render_failure_mail(
    *,
    dag_id: str,
    run_id: str,
    failed: Sequence[FailedTask],
    now: datetime,
    base_url: str,
    log_tails: Mapping[str, str],
    not_run: int = 0,
) -> Rendered:
    """Give the mail that tells of a failed run.

    Args:
        failed: tasks without a retry left; none where the run itself was ended.
        not_run: how many tasks did not run because one before them failed.
    """
    ui = _Ui(base_url, dag_id, run_id)
    items = [_failed(task, log_tails.get(task.task, ""), ui) for task in failed[:ITEMS]]
    items = items or [_ended(ui)]
    names = _names([task.task for task in failed])
    subject = f"[Airflow] Run failed: {one_line(dag_id)}" + (f" / {names}" if names else "")
    return _render(
        Letter(
            subject=_shorten(subject),
            headline=f"{_shorten(names, 60)} failed" if names else "The run failed",
            note=f"{_count(not_run, 'task')} behind did not run." if not_run else "",
            summary=_summary(items, []),
            items=items,
            more_items=max(0, len(failed) - len(items)),
            waiting=[],
            more_waiting=0,
            command="",
            reason_for_mail=f"a run of DAG {one_line(dag_id)} failed and nothing retries it.",
            **_common(ui, now, log_tails),
        )
    )


def one_line(text: str) -> str:
    """Give `text` without line breaks, control characters and marks that reverse the direction."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def spell_time(moment: datetime) -> str:
    """Give a moment to the minute, in UTC: `2026-11-25 03:12 UTC`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def spell_span(span: timedelta) -> str:
    """Give a span in its two largest units, rounded down: `12 min`, `2 h 5 min`, `3 d 4 h`."""
    minutes = max(0, int(span.total_seconds() // 60))
    if not minutes:
        return "under 1 min"
    days, hours, minutes = minutes // 1440, minutes // 60 % 24, minutes % 60
    units = [(days, "d"), (hours, "h"), (minutes, "min")]
    largest = next(i for i, (number, _) in enumerate(units) if number)
    return " ".join(f"{number} {unit}" for number, unit in units[largest : largest + 2] if number)


@dataclass(frozen=True)
class _Ui:
    """Addresses of Airflow's UI for one run."""

    base_url: str
    dag_id: str
    run_id: str

    @property
    def dag(self) -> str:
        return f"{self.base_url.rstrip('/')}/dags/{_part(self.dag_id)}"

    @property
    def run(self) -> str:
        return f"{self.dag}/runs/{_part(self.run_id)}"

    def tasks(self, task_id: str) -> str:
        """Give the page with all instances of a mapped task."""
        return f"{self.run}/tasks/{_part(task_id)}/mapped"

    def task(self, name: str) -> str:
        """Give the page of a task instance with its log, by its name as `train[2]`."""
        if not name:
            return self.run
        task_id, bracket, index = name.removesuffix("]").rpartition("[")
        if not (bracket and index.isdecimal() and name.endswith("]")):
            return f"{self.run}/tasks/{_part(name)}"
        return f"{self.run}/tasks/{_part(task_id)}/mapped/{index}"


def _part(text: str) -> str:
    return quote(text, safe=":", errors="replace")  # a "+" would be read as a space


def _late(miss: Miss, now: datetime) -> str:
    return f"{spell_span((miss.finished or now) - miss.promised)} late"


def _missed(miss: Miss, now: datetime, ui: _Ui) -> Item:
    span = spell_span(miss.promised - miss.due_from)
    facts = [
        ("Due", spell_time(miss.promised)),
        ("Promised", f"within {span} of {_near(miss.due_from, miss.promised)}"),
        ("State now", _in_words(miss.state)),
    ]
    if miss.finished:
        facts.insert(2, ("Finished", spell_time(miss.finished)))
    if miss.name not in ("run", miss.task_id):
        facts.insert(0, ("SLA", one_line(miss.name)))
    return Item(
        title=one_line(miss.task_id) or "The whole run",
        badge=_late(miss, now),
        facts=facts,
        why=one_line(miss.reason),
        url=ui.tasks(miss.task_id) if _is_mapped(miss) else ui.task(miss.task_id),
        link="Task and its log" if miss.task_id else "Its tasks",
    )


def _is_mapped(miss: Miss) -> bool:
    return any(blocking.task.startswith(f"{miss.task_id}[") for blocking in miss.blocking)


def _near(moment: datetime, other: datetime) -> str:
    """Give a moment without its date where that is the other's."""
    same = moment.astimezone(UTC).date() == other.astimezone(UTC).date()
    return spell_time(moment)[11:] if same else spell_time(moment)


def _failed(task: FailedTask, tail: str, ui: _Ui) -> Item:
    errors = EXCEPTION.findall(tail)
    why = one_line(errors[-1]) if errors else ""  # the last one is what ended the task
    facts = [("Try", f"{task.try_number} of {task.tries}")]
    if task.ended:
        facts.append(("Failed", spell_time(task.ended)))
    return Item(one_line(task.task), "failed", facts, why, ui.task(task.task), "Task and its log")


def _ended(ui: _Ui) -> Item:
    why = "No task of it failed: it ran into its dagrun_timeout, or somebody marked it as failed."
    return Item("The run itself", "failed", [], why, ui.run, "Its tasks")


def _waiting(misses: Sequence[Miss], ui: _Ui) -> list[Waiting]:
    """Give what blocks any of the misses, each task once."""
    blocking: dict[str, Blocking] = {}
    for miss in misses:
        for one in miss.blocking:
            blocking.setdefault(one.task, one)
    return [
        Waiting(one_line(b.task), _in_words(b.state), one_line(b.why), ui.task(b.task))
        for b in blocking.values()
    ]


def _sla_subject(dag_id: str, misses: Sequence[Miss], now: datetime) -> str:
    names = _names([miss.task_id or "run" for miss in misses])
    if len(misses) > 1:
        return _shorten(f"[Airflow] {len(misses)} SLAs missed: {one_line(dag_id)} / {names}")
    [miss] = misses
    task = f" / {one_line(miss.task_id)}" if miss.task_id else ""
    late = f", {_late(miss, now)}"
    return _shorten(f"[Airflow] SLA missed: {one_line(dag_id)}{task}", SUBJECT_LENGTH, late)


def _sla_headline(misses: Sequence[Miss], now: datetime) -> str:
    if len(misses) > 1:
        return f"{len(misses)} SLAs missed"
    [miss] = misses
    verb = "failed and is" if miss.state in ENDED_BADLY else "is"
    verb = "finished" if miss.finished else verb
    return f"{_shorten(miss.task_id, 60) or 'The run'} {verb} {_late(miss, now)}"


def _summary(items: Sequence[Item], waiting: Sequence[Waiting]) -> str:
    """Give what a phone shows of the mail before it is opened."""
    first = items[0].why or ", ".join(f"{name.lower()} {value}" for name, value in items[0].facts)
    blocked = f" Waiting for {waiting[0].task} ({waiting[0].state})." if waiting else ""
    return f"{first.rstrip('.')}.{blocked}"


def _names(names: Iterable[str]) -> str:
    shown = [one_line(name) for name in names]
    more = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
    return ", ".join(shown[:3]) + more


def _common(ui: _Ui, now: datetime, log_tails: Mapping[str, str]) -> dict[str, Any]:
    """Give the part of a letter that both kinds share."""
    return {
        "dag_id": one_line(ui.dag_id),
        "run_id": one_line(ui.run_id),
        "run_url": ui.run,
        "dag_url": ui.dag,
        "logs": [(one_line(task), _lines(tail)) for task, tail in log_tails.items()],
        "seen": spell_time(now),
    }


def _lines(text: str) -> str:
    return "\n".join("".join(c if c.isprintable() else " " for c in x) for x in text.splitlines())


def _in_words(state: str) -> str:
    return IN_WORDS.get(state, one_line(state))


def _why_command(dag_id: str, run_id: str, task: str) -> str:
    """Give the command that asks again why the task waits; nothing where an id looks strange."""
    values = {"DAG": dag_id, "TASK": task, "RUN": run_id}
    if not all(PASTEABLE.fullmatch(value) for value in values.values()):
        return ""
    return "make why " + " ".join(f"{name}={shlex.quote(v)}" for name, v in values.items())


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _shorten(text: str, length: int = SUBJECT_LENGTH, end: str = "") -> str:
    """Give one line of at most `length`, `end` kept whole."""
    text = one_line(text)
    room = length - len(end)
    return (text if len(text) <= room else text[: room - 1] + "…") + end


def _render(letter: Letter) -> Rendered:
    text, html = (_templates().get_template(f"letter.{kind}") for kind in ("txt", "html"))
    return Rendered(letter.subject, text.render(letter=letter), html.render(letter=letter))


@cache
def _templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=select_autoescape(enabled_extensions=["html"], default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
