"""What mails say, as text and as HTML, and that nothing in them can do harm."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import pytest

from celery_stack.sla.addresses import check_addresses, is_address
from celery_stack.sla.mail import (
    FailedTask,
    Rendered,
    one_line,
    render_failure_mail,
    render_sla_mail,
    spell_span,
    spell_time,
)
from celery_stack.sla.schema import Blocking, Miss

DUE = datetime(2026, 11, 23, 3, tzinfo=UTC)
RUN = "scheduled__2026-11-23T03:00:00+00:00"
RUN_URL = "http://localhost:8080/dags/wdbc_training/runs/scheduled__2026-11-23T03:00:00%2B00:00"
EVIL = "<script>alert(1)</script>\"'\r\nBcc: thief@example.org\r\n\r\n\u202e\x1b[31m"


def at(minutes: float) -> datetime:
    return DUE + timedelta(minutes=minutes)


def missed(**other: object) -> Miss:
    given = {"record_id": 1, "name": "train", "task_id": "train", "due_from": DUE}
    given |= {"promised": at(30), "finished": None, "state": "running"}
    return Miss(**{**given, **other})  # type: ignore[arg-type]


def sla_mail(*misses: Miss, now: datetime | None = None, **other: object) -> Rendered:
    given = {"dag_id": "wdbc_training", "run_id": RUN, "base_url": "http://localhost:8080/"}
    given |= {"log_tails": {}, "misses": misses or [missed()], "now": now or at(42)}
    return render_sla_mail(**{**given, **other})  # type: ignore[arg-type]


def failure_mail(*failed: FailedTask, **other: object) -> Rendered:
    given = {"dag_id": "wdbc_ingest", "run_id": RUN, "base_url": "http://localhost:8080"}
    given |= {"log_tails": {}, "failed": failed, "now": at(42)}
    return render_failure_mail(**{**given, **other})  # type: ignore[arg-type]


class Page(HTMLParser):
    """What a mail program makes of the HTML: the elements, their attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def links(self) -> list[str]:
        return [value for name, value in self.attributes if name == "href"]


def test_mail_says_what_is_late_and_how_it_stands():
    """DAG, run, task, promise, lateness and state, in both forms."""
    mail = sla_mail(missed(reason="It waits for a slot."))
    assert mail.subject == "[Airflow] SLA missed: wdbc_training / train, 12 min late"
    for shown in (mail.text, Page(mail.html).text):
        for expected in (
            "train is 12 min late",
            "wdbc_training",
            RUN,
            "2026-11-23 03:30 UTC",
            "within 30 min of 03:00 UTC",
            "running",
            "It waits for a slot.",
            "As of 2026-11-23 03:42 UTC",
        ):
            assert expected in shown


def test_mail_leads_to_the_task_the_run_and_the_runbook():
    """A plus sign in a run's id survives the way."""
    mail = sla_mail()
    for link in (f"{RUN_URL}/tasks/train", RUN_URL, "http://localhost:8080/dags/wdbc_training"):
        assert link in Page(mail.html).links
        assert link in mail.text


def test_task_that_finished_late_says_when():
    """Its lateness does not grow any more."""
    mail = sla_mail(missed(finished=at(41), state="success"), now=at(600))
    assert mail.subject.endswith("/ train, 11 min late")
    assert "train finished 11 min late" in mail.text
    assert "2026-11-23 03:41 UTC" in mail.text


def test_task_that_failed_is_not_only_late():
    """The first line says it."""
    assert "train failed and is 12 min late" in sla_mail(missed(state="failed")).text


def test_run_s_sla_names_no_task():
    """Neither in the subject nor among the links."""
    mail = sla_mail(missed(name="run", task_id=""))
    assert mail.subject == "[Airflow] SLA missed: wdbc_training, 12 min late"
    assert "The run is 12 min late" in mail.text
    assert "/tasks/" not in mail.html


def test_name_of_its_author_s_is_shown():
    """One that is more than the task's id."""
    assert "model is ready" in sla_mail(missed(name="model is ready")).text
    assert "SLA  " not in sla_mail().text


def test_several_misses_are_one_mail():
    """Each with its own promise; the subject names them."""
    mail = sla_mail(
        missed(),
        missed(task_id="register", name="register", promised=at(45), state="none"),
        missed(task_id="", name="run", promised=at(120)),
        now=at(185),
    )
    assert mail.subject == "[Airflow] 3 SLAs missed: wdbc_training / train, register, run"
    for lateness in ("2 h 35 min late", "2 h 20 min late", "1 h 5 min late"):
        assert lateness in mail.text
        assert lateness in mail.html
    assert "not started" in mail.text


def test_blocking_tasks_say_why_they_wait_each_once():
    """Also where several misses wait for the same one."""
    blocking = (
        Blocking("train[2]", "queued", "Queue cpu_train is full."),
        Blocking("load", "up_for_retry", ""),
    )
    mail = sla_mail(missed(blocking=blocking), missed(task_id="x", blocking=blocking))
    for shown in (mail.text, Page(mail.html).text):
        assert shown.count("Queue cpu_train is full.") == 1
        assert "waiting for its retry" in shown
    assert f"{RUN_URL}/tasks/train/mapped/2" in Page(mail.html).links
    assert "make why DAG=wdbc_training TASK='train[2]'" in mail.text


def test_mapped_task_leads_to_its_instances():
    """Airflow has no page of its own for the whole."""
    mail = sla_mail(missed(blocking=(Blocking("train[0]", "running", ""),)))
    assert f"{RUN_URL}/tasks/train/mapped" in Page(mail.html).links


def test_long_lists_are_cut_and_counted():
    """A run with a thousand blocking tasks makes a mail that is shown whole."""
    blocking = tuple(Blocking(f"train[{i}]", "queued", "w" * 300) for i in range(1000))
    misses = [missed(task_id=f"t{i}", name=f"t{i}", blocking=blocking) for i in range(50)]
    mail = sla_mail(*misses, log_tails={f"train[{i}]": "x" * 240 for i in range(3)})
    assert "and 30 more" in mail.text
    assert "and 990 more" in mail.text
    assert len(mail.html.encode()) < 102_000, "Gmail cuts off what is longer"
    assert len(mail.subject) <= 120


def test_log_lines_are_shown_as_they_are():
    """Indented, line by line."""
    mail = sla_mail(log_tails={"train": "first\n  second <b>"})
    assert "LAST LINES OF train\n  first\n    second <b>\n" in mail.text
    assert "first\n  second <b>" in Page(mail.html).text


def test_failed_run_says_which_tasks_failed_and_why():
    """The exception out of the log stands with the task."""
    mail = failure_mail(
        FailedTask("load", 3, 3, at(12)),
        FailedTask("store[1]", 1, 3, at(14)),
        not_run=3,
        log_tails={"load": "03:12:00 ERROR Task failed\n  ValueError: no number (schema.py:88)"},
    )
    assert mail.subject == "[Airflow] Run failed: wdbc_ingest / load, store[1]"
    for shown in (mail.text, Page(mail.html).text):
        assert "load, store[1] failed" in shown
        assert "3 tasks behind did not run." in shown
        assert "3 of 3" in shown
        assert shown.count("ValueError: no number (schema.py:88)") >= 2


def test_run_that_failed_without_a_failed_task_says_so():
    """It ran into its timeout, or somebody marked it."""
    mail = failure_mail()
    assert mail.subject == "[Airflow] Run failed: wdbc_ingest"
    assert "dagrun_timeout" in mail.text
    assert "/tasks/" not in mail.html


@pytest.mark.parametrize("kind", ["sla", "failure"])
def test_nothing_from_outside_becomes_markup_or_a_line(kind: str):
    """Ids, names, states, reasons and logs stay text, on their own line."""
    tails = {EVIL: EVIL}
    if kind == "sla":
        miss = Miss(1, EVIL, EVIL, DUE, at(30), None, EVIL, EVIL, (Blocking(EVIL, EVIL, EVIL),))
        mail = sla_mail(miss, dag_id=EVIL, run_id=EVIL, log_tails=tails)
        harmless = sla_mail(missed(name="x", reason="x", blocking=(Blocking("y", "y", "y"),)))
    else:
        mail = failure_mail(FailedTask(EVIL, 1, 1), dag_id=EVIL, run_id=EVIL, log_tails=tails)
        harmless = failure_mail(FailedTask("x", 1, 1), log_tails={"x": "x"})
    page = Page(mail.html)
    assert "script" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert {link.split("/")[2] for link in page.links} == {"localhost:8080"}
    assert not [link for link in page.links if re.search(r"[<>\"'\s]", link)]
    known = set(Page(harmless.html).tags) | {"pre"}
    assert set(page.tags) <= known
    assert mail.subject == one_line(mail.subject)
    assert "\u202e" not in mail.text + mail.html
    assert "\x1b" not in mail.text + mail.html
    begun = [line for line in mail.text.splitlines() if line.startswith("Bcc")]
    assert begun == []
    assert "make why" not in mail.text, "no command is made of strange ids"


def test_html_fetches_nothing_and_needs_no_head():
    """No image, no script, no style sheet; every visible element brings its style along."""
    mail = sla_mail(missed(blocking=(Blocking("load", "queued", "why"),)), log_tails={"x": "y"})
    page = Page(mail.html)
    assert not {"img", "script", "link", "iframe", "form"} & set(page.tags)
    assert "url(" not in mail.html
    assert {name for name, _ in page.attributes if name in ("src", "background")} == set()
    styled = re.findall(r"<(?:body|div|h1|pre|a|span|td|table)\b[^>]*>", mail.html)
    assert [tag for tag in styled if "style=" not in tag] == []


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-5, "under 1 min"),
        (0, "under 1 min"),
        (59.9, "under 1 min"),
        (60, "1 min"),
        (119, "1 min"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (86400, "1 d"),
        (86460, "1 d"),
        (273600, "3 d 4 h"),
    ],
)
def test_spans_are_two_units_at_most(seconds: float, expected: str):
    """Rounded down: nothing is called later than it is."""
    assert spell_span(timedelta(seconds=seconds)) == expected


def test_times_are_utc_whatever_they_came_in():
    """To the minute."""
    from zoneinfo import ZoneInfo

    assert spell_time(at(12).astimezone(ZoneInfo("Asia/Tokyo"))) == "2026-11-23 03:12 UTC"


@pytest.mark.parametrize("address", ["ml@example.org", "a.b+c@x", "o'neil@sub.example.org"])
def test_plain_addresses_pass(address: str):
    """With a tag, a quote, a host without a dot."""
    assert is_address(address)
    assert check_addresses([address, address]) == (address,)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "ml",
        "@x",
        "a@",
        "a b@x",
        "a@x,b@y",
        "A <a@x>",
        "a@x\n",
        "a@x\r\nBcc: b@y",
        "ü@x",
        "a@x.",
    ],
)
def test_what_is_more_or_less_than_an_address_is_refused(address: str):
    """The message names it and the remedy."""
    assert not is_address(address)
    with pytest.raises(ValueError, match="to must hold addresses such as ml@example.org, got"):
        check_addresses([address])


def test_text_for_a_list_of_addresses_is_refused():
    """It would be taken letter by letter."""
    with pytest.raises(ValueError, match=r"Write to=\['ml@example.org'\]"):
        check_addresses("ml@example.org")
