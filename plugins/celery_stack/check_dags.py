"""Check a folder of DAG files against the stack's policies, without a stack.

    python -m celery_stack.check_dags FOLDER

Parses every DAG file as the dag-processor does and prints a block for each file that has an import
error or breaks a policy. Exit code 0: nothing found; 1: something found; 2: nothing to check.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dotenv import dotenv_values
from dotenv.variables import parse_variables

CHECKOUT = Path(__file__).resolve().parents[2]
# What would send Airflow to the user's own home, settings, database or logs.
USER_PREFIXES = ("AIRFLOW__", "_AIRFLOW", "AIRFLOW_HOME", "AIRFLOW_CONFIG")
BUNDLE = "dags-folder"


class FolderError(ValueError):
    """There is nothing to check; the message is one line with the remedy."""


@dataclass(frozen=True)
class Report:
    """What a check found: by file, in order of name, the lines to show."""

    dags: int
    files: int
    findings: Mapping[str, Sequence[str]]

    def __str__(self) -> str:
        if not self.findings:
            return f"{_count(self.dags, 'DAG')} in {_count(self.files, 'file')}: no violations"
        return "\n\n".join("\n".join([file, *lines]) for file, lines in self.findings.items())


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the folder named on the command line, print what was found and give the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m celery_stack.check_dags",
        description="Check DAG files against the stack's policies, without a stack.",
    )
    parser.add_argument("folder", type=Path, help="folder of DAG files")
    folder = parser.parse_args(arguments).folder
    try:
        require_dag_files(folder)
        with private_airflow(os.environ):
            report = check_folder(folder)
    except FolderError as error:
        _print(str(error), sys.stderr)
        return 2
    _print(str(report), sys.stdout)
    return 1 if report.findings else 0
