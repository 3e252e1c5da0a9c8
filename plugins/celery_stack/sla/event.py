"""What an author's `on_miss` is called with, and how: in a process of its own.

The successor of `sla_miss_callback(dag, task_list, blocking_task_list, slas, blocking_tis)`:
`dag` is `event.dag_id`, `task_list` and `slas` are `event.misses`, `blocking_task_list` and `blocking_tis` are
each miss's `blocking`, which also say why.

`python -m celery_stack.sla.event PATH` reads an event as JSON from stdin and calls the function that PATH names.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib import import_module
from typing import Any

from celery_stack.sla.schema import Blocking, Miss


@dataclass(frozen=True)
class SlaEvent:
    """SLAs of one run that were missed, found in one look.

    Args:
        misses: those that name the callback; at least one.
        run_url: the run's page in the UI.
    """

    dag_id: str
    run_id: str
    misses: tuple[Miss, ...]
    run_url: str


def to_json(event: SlaEvent) -> str:
    """Give the event as text; moments in ISO form."""
    return json.dumps(asdict(event), default=datetime.isoformat)


def from_json(text: str) -> SlaEvent:
    """Give the event that `to_json` wrote."""
    given = json.loads(text)
    return SlaEvent(**given | {"misses": tuple(_miss(one) for one in given["misses"])})


def _miss(given: dict[str, Any]) -> Miss:
    moments = {
        name: datetime.fromisoformat(given[name])
        for name in ("due_from", "promised", "finished")
        if given[name]
    }
    blocking = tuple(Blocking(**one) for one in given["blocking"])
    return Miss(**given | moments | {"blocking": blocking})


def find_callback(path: str) -> Callable[[SlaEvent], Any]:
    """Import the function that a dotted path names."""
    module, _, name = path.rpartition(".")
    found: Callable[[SlaEvent], Any] = getattr(import_module(module), name)
    return found


if __name__ == "__main__":
    find_callback(sys.argv[1])(from_json(sys.stdin.read()))
