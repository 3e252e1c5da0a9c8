"""The template server and its templates: real processes, without a stack."""

from __future__ import annotations

import importlib.util
import logging
import os
import py_compile
import signal
import threading
from pathlib import Path

import pytest

from celery_stack.warm import guardian
from celery_stack.warm.channel import make_pair
from celery_stack.warm.supervisor import TemplateChild, ask_for_task
from tests.unit.celery_stack.warm.conftest import Worker, children_of, is_alive
from tests.waiting import wait_for


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def test_first_task_of_a_file_is_declined_and_later_ones_share_a_template(worker: Worker):
    """Nobody waits for a parse; once there is a template, tasks are forked from it side by side."""
    worker.write("plain")
    assert worker.ask("plain") is None
    one, two = worker.wait_for_task("plain"), worker.wait_for_task("plain")
    assert parent_of(one.process.pid) == parent_of(two.process.pid)
    assert parent_of(parent_of(one.process.pid)) == worker.find_server()
    assert os.getpgid(one.process.pid) == one.process.pid


def test_supervisor_learns_how_its_task_ended(worker: Worker):
    """An exit code, or the signal under the name that Airflow logs."""
    worker.write("plain")
    exited, killed = worker.wait_for_task("plain"), worker.wait_for_task("plain")
    with pytest.raises(TimeoutError):
        exited.process.wait(0)
    assert exited.end() == 1  # nobody told it what to do
    killed.process.send_signal(signal.SIGKILL)
    code = killed.process.wait(20)
    assert (code, code.name) == (-signal.SIGKILL, "SIGKILL")  # type: ignore[attr-defined]
    with pytest.raises(killed.process.ProcessNotFound):
        killed.process.send_signal(signal.SIGTERM)


def test_task_dies_with_its_supervisor(worker: Worker):
    """Whoever holds the other end of the channel is gone: so must the task be."""
    worker.write("plain")
    child = worker.wait_for_task("plain")
    child.process._template.close()
    wait_until_dead(child.process.pid)


def test_tasks_die_with_their_template(worker: Worker):
    """Nothing would report their end; the supervisor sees them as killed."""
    worker.write("plain")
    child = worker.wait_for_task("plain")
    os.kill(parent_of(child.process.pid), signal.SIGKILL)
    assert child.process.wait(20) == -signal.SIGKILL
    wait_until_dead(child.process.pid)
    worker.wait_for_task("plain").end()


def test_server_that_died_is_replaced_and_its_tasks_run_on(worker: Worker):
    """Again and again; the next tasks meet a template of the new server, the others end as they would."""
    worker.write("plain")
    for _ in range(2):
        former, child = worker.find_server(), worker.wait_for_task("plain")
        template = parent_of(child.process.pid)
        os.kill(former, signal.SIGKILL)
        wait_until_dead(former)
        other = worker.wait_for_task("plain")
        assert parent_of(parent_of(other.process.pid)) == worker.find_server() != former
        assert is_alive(child.process.pid)
        assert (child.end(), other.end()) == (1, 1)
        wait_until_dead(template)


def test_parse_dies_with_the_server(worker: Worker):
    """It does not hear that the server is gone: the kernel ends it."""
    worker.write("hangs", top=f"import time; open('{worker.folder}/begun', 'w'); time.sleep(600)")
    assert worker.ask("hangs") is None
    wait_for((worker.folder / "begun").exists, bool, deadline_s=20)
    server = worker.find_server()
    (template,) = children_of(server)
    os.kill(server, signal.SIGKILL)
    wait_until_dead(template)


def test_nobody_waits_for_a_server_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """After one that died young there is a rest, in which tasks are told at once to parse for themselves."""
    monkeypatch.setattr(guardian, "FIRST_REST_S", 600.0)
    monkeypatch.setattr(guardian, "LAST_REST_S", 600.0)
    ours, theirs = make_pair()
    servers = iter(["/bin/false", "/bin/true"])
    serving = threading.Thread(
        target=guardian.keep_serving,
        args=(theirs, lambda: os.posix_spawn(server := next(servers), [server], {})),
    )
    serving.start()
    with caplog.at_level(logging.DEBUG, "celery_stack.warm"):
        assert ask_for_task({"path": "plain.py"}, ours, []) is None
    assert "No template for plain.py: the template server has died" in caplog.text
    ours.close()
    serving.join(timeout=20)
    assert not serving.is_alive()
    assert list(servers) == []


def test_server_dies_with_the_guardian(worker: Worker):
    """Requests then fail at once; running tasks are left alone, and their template ends after them."""
    worker.write("plain")
    child, server = worker.wait_for_task("plain"), worker.find_server()
    template = parent_of(child.process.pid)
    os.kill(worker.guardian, signal.SIGKILL)
    wait_until_dead(server)
    assert worker.ask("plain") is None
    assert child.end() == 1
    wait_until_dead(template)


def wait_until_dead(pid: int) -> None:
    wait_for(lambda: is_alive(pid), lambda alive: not alive, deadline_s=20)


def test_changed_file_gets_a_new_template_while_tasks_of_the_old_run_on(worker: Worker):
    """The next task is forked from the new version; the running one is left alone."""
    worker.write("plain")
    old = worker.wait_for_task("plain")
    worker.write("plain", top="CHANGED = True")
    assert worker.ask("plain") is None
    new = worker.wait_for_task("plain")
    assert parent_of(new.process.pid) != parent_of(old.process.pid)
    assert is_alive(old.process.pid)
    assert old.end() == 1


@pytest.mark.parametrize(
    ("top", "source"),
    [
        ("import helper_of_changes", "helper_of_changes.py"),
        ("import pathlib; pathlib.Path(__file__).with_name('a.yaml').read_text()", "a.yaml"),
        ("import os; os.listdir(os.path.dirname(__file__) + '/many')", "many/new.yaml"),
    ],
)
def test_template_is_made_anew_when_what_it_read_changes(worker: Worker, top: str, source: str):
    """An imported helper, a file that the DAG file reads, a folder that it lists."""
    (worker.folder / "many").mkdir()
    if "/" not in source:
        (worker.folder / source).write_text("")
    worker.write("reads", top=top)
    former = parent_of(worker.wait_for_task("reads").process.pid)
    assert parent_of(worker.wait_for_task("reads").process.pid) == former
    (worker.folder / source).write_text("# changed")
    assert worker.ask("reads") is None
    assert parent_of(worker.wait_for_task("reads").process.pid) != former


COMPILED = "import helper_of_bytecode"
LIBRARY = """
import importlib.util, os
spec = importlib.util.spec_from_file_location("_lsprof", os.path.dirname(__file__) + "/library.so")
importlib.util.module_from_spec(spec)
"""


@pytest.mark.parametrize(
    ("top", "source"), [(COMPILED, "helper_of_bytecode.py"), (LIBRARY, "library.so")]
)
def test_template_is_made_anew_when_an_import_changes_whose_source_it_did_not_read(
    worker: Worker, top: str, source: str
):
    """A module that was compiled before, a shared library."""
    file = worker.folder / source
    if source.endswith(".so"):
        found = importlib.util.find_spec("_lsprof")
        assert found is not None
        file.write_bytes(Path(str(found.origin)).read_bytes())
    else:
        file.write_text("")
        py_compile.compile(str(file))
    worker.write("imports", top=top)
    former = parent_of(worker.wait_for_task("imports").process.pid)
    file.touch()
    assert worker.ask("imports") is None
    assert parent_of(worker.wait_for_task("imports").process.pid) != former


@pytest.mark.parametrize(
    "top",
    [
        "raise RuntimeError('broken')",
        "from airflow.sdk import Variable; Variable.get('x', default='y')",
        "from airflow.sdk import get_parsing_context; get_parsing_context()",
        "import threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
        "import os; os.kill(os.getpid(), 9)",
    ],
    ids=["import error", "asks the supervisor", "parsing context", "threads", "dies"],
)
def test_file_that_cannot_be_shared_is_left_to_its_tasks(worker: Worker, top: str):
    """It is tried once, not for every task."""
    worker.write("unfit", top=f"open('{worker.folder}/tries', 'a').write('x')\n{top}")
    assert worker.ask("unfit") is None
    wait_for((worker.folder / "tries").exists, bool, deadline_s=20)
    worker.write("other")
    worker.wait_for_task("other").end()
    assert worker.ask("unfit") is None
    assert (worker.folder / "tries").read_text() == "x"


def test_least_used_template_makes_room(worker: Worker):
    """No more templates than the setting says."""
    for name in ("one", "two", "three"):
        worker.write(name)
        worker.wait_for_task(name).end()
    server = worker.find_server()
    wait_for(lambda: children_of(server), lambda found: len(found) == 2, deadline_s=20)
    assert worker.ask("two")
    assert worker.ask("three")
    assert worker.ask("one") is None


def test_what_a_file_prints_and_logs_is_in_the_log_of_each_task(worker: Worker):
    """As if each had parsed the file itself; warnings of installed packages are left out."""
    top = (
        "import logging, warnings, pytest; print('said'); logging.getLogger('mine').error('logged')\n"
        "warnings.warn_explicit('of the file', UserWarning, __file__, 1)\n"
        "warnings.warn_explicit('of a package', UserWarning, pytest.__file__, 1)"
    )
    worker.write("talks", top=top)
    worker.wait_for_task("talks").end()
    child = worker.wait_for_task("talks")
    child.end()
    assert child.stdout.recv(1000) == b"said\n"
    logged = child.logs.recv(100_000)
    assert b'"event":"logged"' in logged
    assert b"of the file" in logged
    assert b"of a package" not in logged


def test_each_task_draws_random_numbers_of_its_own(worker: Worker):
    """numpy's global state is copied by a fork; a task reseeds it."""
    top = (
        "import numpy\nfrom airflow.sdk.execution_time import supervisor\n"
        "supervisor._subprocess_main = lambda: print(numpy.random.rand())"
    )
    worker.write("draws", top=top)
    drawn = []
    for _ in range(2):
        child = worker.wait_for_task("draws")
        child.end()
        drawn.append(child.stdout.recv(1000))
    assert len(set(drawn)) == len(drawn)


def test_process_that_nobody_reports_on_counts_as_killed():
    """A template that died took its tasks with it."""
    ours, theirs = make_pair()
    theirs.close()
    assert TemplateChild(1, ours).wait(1) == -signal.SIGKILL
