"""Print why a task is not running: `python -m celery_stack.why DAG TASK [--run RUN] [--map INDEX]`.

TASK is a task id, for an instance of a mapped task `train[2]`. Without a run it is the latest one.
It runs where the metadata can be reached, in the environment of an Airflow component.
"""

from __future__ import annotations

import argparse
import re
import sys
import warnings

from airflow.configuration import conf
from airflow.utils.session import create_session

from celery_stack.live_workers import connect
from celery_stack.why import Reason, UnknownTaskError, explain, latest_run
from celery_stack.why.facts import instance_name

SHOWN_HOLDERS = 10


def main() -> int:
    """Print the answer; give 0, or 1 if there is no such task instance."""
    parser = argparse.ArgumentParser(prog="python -m celery_stack.why", description=__doc__)
    parser.add_argument("dag")
    parser.add_argument("task")
    parser.add_argument("--run")
    parser.add_argument("--map", type=int)
    options = parser.parse_args()
    if not options.dag or not options.task:
        sys.stderr.write("Expected a DAG and a task: make why DAG=wdbc_training TASK=load\n")
        return 1
    task_id, map_index = split_task(options.task)
    if options.map is not None:
        map_index = options.map
    warnings.simplefilter("ignore")  # Airflow's own, about its own code
    broker = connect(conf.get_mandatory_value("celery", "broker_url"))
    try:
        with create_session() as session:
            run_id = options.run or latest_run(options.dag, session)
            reason = explain(
                options.dag, run_id, task_id, map_index, session=session, broker=broker
            )
    except UnknownTaskError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    name = instance_name(options.dag, run_id, task_id, map_index)
    sys.stdout.write("\n".join([name, *lines_of(reason)]) + "\n")
    return 0


def split_task(text: str) -> tuple[str, int]:
    """Give task id and map index of `train[2]`; the index is -1 where none is named."""
    mapped = re.fullmatch(r"(.+)\[(\d+)\]", text)
    return (mapped[1], int(mapped[2])) if mapped else (text, -1)


def lines_of(reason: Reason) -> list[str]:
    """Give the answer as it is shown: the sentence, then at most ten holders."""
    shown = reason.holders[:SHOWN_HOLDERS]
    width = max((len(holder.name) for holder in shown), default=0)
    lines = [
        f"  {holder.name:{width}}  {holder.state}  {holder.worker}".rstrip() for holder in shown
    ]
    more = len(reason.holders) - len(shown)
    return [reason.text, *lines, *([f"  and {more} more"] if more else [])]


if __name__ == "__main__":
    sys.exit(main())
