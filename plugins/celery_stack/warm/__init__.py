"""Warm workers: tasks that start in milliseconds.

A Celery worker is a tree of processes, forked from one that has already imported what tasks need:

    celery main ─┬─ pool child ×concurrency   supervises one task at a time; runs no user code
                 └─ guardian                  starts the template server again if it dies
                      └─ template server      one per worker
                           └─ template ×DAG file   has parsed one version of one file
                                └─ task ×running   forked from the template

| module | does |
|---|---|
| `worker` | connects the rest to Celery's signals |
| `preload` | imports `WARM_IMPORTS` before anything is forked |
| `renewal` | forks pool processes anew that have run tasks, so that they share memory again |
| `supervisor` | a task's supervisor that wakes when the task's process ends; asks for a template |
| `coordinator` | where Airflow takes that supervisor from |
| `guardian`, `server`, `template` | the processes above that go by these names |
| `parse`, `output` | a template's parse of its file, and what that printed |
| `sources` | which files a parse came from, and whether they have changed |
| `channel` | messages and file descriptors between them |
| `lifelines` | what ends with what |
| `internals` | what of Airflow this relies upon, and whether it is still so |

Every piece has a setting that switches it off; where Airflow's internals differ, Airflow's own way is
taken and a log line says so.
"""
