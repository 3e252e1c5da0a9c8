"""Train on a running stack: trigger the pipeline, follow it, show what came of it."""

from __future__ import annotations

from rich.console import Console

from compose.client import DONE, AirflowClient
from compose.follow import follow_run, metrics_table
from compose.home import shown

TRAINING = "wdbc_training"
RUN_DEADLINE_S = 1800


def train_and_show(client: AirflowClient, console: Console, artifacts: str) -> int:
    """Run the training pipeline to its end; give 0 if its model reaches the bar, else 1.

    Args:
        artifacts: where models go, as it is shown.
    """
    client.wait_for_dag(TRAINING, deadline_s=60)
    run_id = client.trigger(TRAINING)
    console.print(f"\nRun {run_id} of {TRAINING}")
    state = follow_run(client, console, TRAINING, run_id, deadline_s=RUN_DEADLINE_S)
    if state == "success":
        return _show_model(client, console, run_id, artifacts)
    _show_failures(client, console, run_id)
    return 1


def _show_model(client: AirflowClient, console: Console, run_id: str, artifacts: str) -> int:
    """Print what was registered; give 1 if it is below the bar, else 0."""
    manifest, verdict = (
        client.result(TRAINING, run_id, step) for step in ("register", "challenge")
    )
    console.print(metrics_table(manifest))
    counts = manifest["confusion"]
    console.print(
        f"Held out: {sum(counts.values())} rows, {counts['false_negative']} malignant missed, "
        f"{counts['false_positive']} false alarms."
    )
    folder = shown(f"{artifacts}/models/{manifest['version']}")
    console.print(f"Model {manifest['version']} ({manifest['candidate']}) is in:")
    console.print(f"  {folder}", markup=False, soft_wrap=True)
    if not verdict["takes_over"]:
        stays = f", {verdict['champion']} stays" if verdict["champion"] else ""
        console.print(f"It does not become the champion{stays}:")
        for objection in verdict["objections"]:
            console.print(f"  {objection}", markup=False, soft_wrap=True)
    by_worker: dict[str, list[str]] = {}
    for task in client.tasks(TRAINING, run_id):
        by_worker.setdefault(task.worker, []).append(task.label)
    for worker, tasks in sorted(by_worker.items()):
        console.print(f"{worker} ran {', '.join(tasks)}", markup=False, soft_wrap=True)

    missed = [
        name for name, bar in manifest["bars"].items() if manifest["cv_metrics"][name]["mean"] < bar
    ]
    if missed:
        console.print(f"[bold red]The model is below its bar:[/] {', '.join(missed)}")
    return 1 if missed else 0


def _show_failures(client: AirflowClient, console: Console, run_id: str) -> None:
    for task in client.tasks(TRAINING, run_id):
        if task.state == "failed":
            console.print(f"\n{task.label} failed on {task.worker}. End of its log:", markup=False)
            console.print(client.log_tail(TRAINING, run_id, task), markup=False, soft_wrap=True)
        elif task.state not in DONE:
            console.print(f"{task.label} is {task.state}", markup=False)
