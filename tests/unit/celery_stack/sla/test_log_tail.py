"""The last lines of task logs, out of folders and files as Airflow writes them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from airflow.configuration import conf
from structlog.tracebacks import ExceptionDictTransformer

from celery_stack.sla.log_tail import LINE_LENGTH, LINES, LOGS, READ_BYTES, read_log_tails

RUN = "scheduled__2026-11-23T03:00:00+00:00"


def entry(event: str, level: str = "info", **other: object) -> str:
    given = {"timestamp": "2026-11-23T03:12:07.379925Z", "level": level, "event": event}
    return json.dumps({**given, "logger": "task", **other}) + "\n"


def write_log(
    folder: Path, text: str, *, task: str = "load", index: int = -1, try_: int = 1
) -> Path:
    file = folder / f"dag_id=dag/run_id={RUN}/task_id={task}"
    file = (file / f"map_index={index}" if index >= 0 else file) / f"attempt={try_}.log"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def tail(folder: Path, task: str = "load") -> str:
    return read_log_tails(folder, dag_id="dag", run_id=RUN, tasks=[task]).get(task, "")


def test_files_lie_where_airflow_puts_them(tmp_path: Path):
    """The template is the one that the folders here are made by."""
    template = conf.get("logging", "log_filename_template")
    for part in ("dag_id={{ ti.dag_id }}/run_id={{ ti.run_id }}/task_id={{ ti.task_id }}/",):
        assert part in template
    assert "map_index={{ ti.map_index }}/" in template
    assert template.endswith("attempt={{ try_number|default(ti.try_number) }}.log")


def test_shows_time_and_event_and_the_level_where_it_matters(tmp_path: Path):
    """Marks of the viewer's groups are left out."""
    lines = entry("::group::Pre Execute") + entry("reading") + entry("odd", "warning")
    write_log(tmp_path, lines + entry("::endgroup::"))
    assert tail(tmp_path) == "03:12:07 reading\n03:12:07 WARNING odd"


def test_exceptions_are_a_line_each_with_their_place(tmp_path: Path):
    """The cause first, the one that ended the task last."""
    try:
        try:
            raise ValueError("expected\na number")
        except ValueError as error:
            raise RuntimeError("outer") from error
    except RuntimeError:
        detail = ExceptionDictTransformer(use_rich=False, show_locals=False)(sys.exc_info())  # type: ignore[arg-type]
    write_log(tmp_path, entry("Task failed with exception", "error", error_detail=detail))
    first, cause, outer = tail(tmp_path).splitlines()
    assert first == "03:12:07 ERROR Task failed with exception"
    assert cause.startswith("  ValueError: expected a number (test_log_tail.py:")
    assert outer.startswith("  RuntimeError: outer (test_log_tail.py:")


def test_latest_try_and_the_named_instance_are_read(tmp_path: Path):
    """The tenth comes after the ninth."""
    for number in (1, 9, 10):
        write_log(tmp_path, entry(f"try {number}"), index=2, try_=number)
    write_log(tmp_path, entry("other"), index=3)
    assert tail(tmp_path, "load[2]") == "03:12:07 try 10"


def test_only_the_end_of_a_long_log_is_read(tmp_path: Path):
    """Lines that are cut at the beginning are left out, long ones are shortened."""
    write_log(tmp_path, entry("x" * 1000) * (READ_BYTES // 500) + entry("last"))
    lines = tail(tmp_path).splitlines()
    assert len(lines) == LINES
    assert lines[-1] == "03:12:07 last"
    assert {len(line) for line in lines[:-1]} == {LINE_LENGTH}


def test_text_that_is_no_entry_is_shown_as_it_is(tmp_path: Path):
    """What a crashing process wrote."""
    write_log(tmp_path, "Fatal Python error\n[1, 2]\n\n" + entry("a\nb"))
    assert tail(tmp_path) == "Fatal Python error\n[1, 2]\n03:12:07 a\nb"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\0\xff",
        entry("x", error_detail=[7]),
        entry("x", error_detail="text"),
        entry("x", error_detail=[{"frames": [{}]}, {"frames": [{"filename": None}]}]),
    ],
)
def test_odd_logs_stop_no_mail(tmp_path: Path, text: str):
    """Whatever is in them."""
    write_log(tmp_path, text)
    assert isinstance(tail(tmp_path), str)


def test_logs_that_are_not_there_are_left_out(tmp_path: Path):
    """No folder, no file, one that may not be opened."""
    assert read_log_tails(None, dag_id="dag", run_id=RUN, tasks=["load"]) == {}
    assert tail(tmp_path) == ""
    (tmp_path / f"dag_id=dag/run_id={RUN}/task_id=load").mkdir(parents=True)
    assert tail(tmp_path) == ""
    (tmp_path / f"dag_id=dag/run_id={RUN}/task_id=load/attempt=1.log").mkdir()
    assert tail(tmp_path) == ""


@pytest.mark.parametrize(
    "task", ["../../../../secret", "..", "", "load\0", "../task_id=load", "x/../load"]
)
def test_names_lead_out_of_no_folder(tmp_path: Path, task: str):
    """Nor do links."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "attempt=1.log").write_text("secret")
    logs = tmp_path / "logs"
    write_log(logs, entry("x"))
    assert read_log_tails(logs, dag_id="dag", run_id=RUN, tasks=[task]) == {}
    os.symlink(secret / "attempt=1.log", write_log(logs, "").with_name("attempt=2.log"))
    assert "secret" not in tail(logs)


def test_a_few_logs_are_enough(tmp_path: Path):
    """The first that can be read, in the order in which they are asked for."""
    names = [f"task{i}" for i in range(9)]
    for name in names[2:]:
        write_log(tmp_path, entry(name), task=name)
    found = read_log_tails(tmp_path, dag_id="dag", run_id=RUN, tasks=names)
    assert list(found) == names[2 : 2 + LOGS]
