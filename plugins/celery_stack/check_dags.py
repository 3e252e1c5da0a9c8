"""Check a folder of DAG files against the stack's policies, without a stack.

    python -m celery_stack.check_dags FOLDER

Parses every DAG file as the dag-processor does and prints a block for each file that has an import
error or breaks a policy. Exit code 0: nothing found; 1: something found; 2: no DAG to check.

Settings come from the stack (`compose/airflow.env`, `.env`) and from the shell, where `AIRFLOW__…`
is left out: it belongs to another Airflow.
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
from typing import TYPE_CHECKING

from dotenv import dotenv_values

from celery_stack.settings import read_shared_settings

if TYPE_CHECKING:
    from airflow.sdk import DAG

# In the checkout, and where the packages are installed side by side.
ROOTS = (Path(__file__).resolve().parents[2], Path(__file__).resolve().parents[1])
FOREIGN_SETTINGS = ("AIRFLOW__", "_AIRFLOW", "AIRFLOW_HOME", "AIRFLOW_CONFIG")
VIOLATION = "AirflowClusterPolicyViolation"


class FolderError(ValueError):
    """There is nothing to check; the message is one line with the remedy."""


@dataclass(frozen=True)
class Report:
    """What a check found: the lines to show, by file."""

    dags: int
    files: int
    findings: Mapping[str, Sequence[str]]

    def __str__(self) -> str:
        if self.findings:
            return "\n\n".join("\n".join([file, *lines]) for file, lines in self.findings.items())
        return f"{_count(self.dags, 'DAG')} in {_count(self.files, 'file')}: no violations"


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the folder named on the command line, print what was found and give the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m celery_stack.check_dags",
        description="Check DAG files against the stack's policies, without a stack.",
    )
    parser.add_argument("folder", type=Path, help="folder of DAG files")
    folder = parser.parse_args(arguments).folder
    try:
        with private_airflow(os.environ):
            report = check_folder(folder)
    except FolderError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{report}\n")
    return 1 if report.findings else 0


def check_folder(folder: Path) -> Report:
    """Parse the DAG files of `folder` and give what is wrong with them; nothing is written there.

    Airflow must not have been imported with other settings; see `private_airflow`.

    Raises:
        FolderError: the folder is missing or holds no DAG.
    """
    if not folder.is_dir():
        raise FolderError(f"FOLDER must be a folder of DAG files, got '{folder}'. Name one.")
    with _no_bytecode():
        report = _parse(folder)
    if not report.dags and not report.findings:
        raise FolderError(
            f"FOLDER must hold at least one DAG, found none in '{folder}'. "
            "Name another, or see its .airflowignore."
        )
    return report


@contextmanager
def private_airflow(environ: MutableMapping[str, str]) -> Iterator[None]:
    """Give Airflow a home and settings of its own in `environ`, for the time of the context.

    Airflow reads them when it is first imported.
    """
    before = dict(environ)
    with tempfile.TemporaryDirectory(prefix="check-dags-") as home:
        _replace(environ, airflow_environment(before, Path(home)))
        try:
            yield
        finally:
            _replace(environ, before)


def airflow_environment(
    environ: Mapping[str, str], home: Path, roots: Sequence[Path] = ROOTS
) -> dict[str, str]:
    """Give `environ` with the stack's settings for Airflow in place of the user's.

    Args:
        home: folder for what Airflow writes when it is imported.
        roots: where `.env` and `compose/airflow.env` are looked for.
    """
    own, shared = _find(roots, ".env"), _find(roots, "compose/airflow.env")
    given = {**(dotenv_values(own) if own else {}), **environ}
    env = {k: v for k, v in given.items() if v and not k.startswith(FOREIGN_SETTINGS)}
    return {
        **env,
        **(read_shared_settings(shared, env) if shared else {}),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "CRITICAL",  # the report says it all
    }


def _find(roots: Sequence[Path], name: str) -> Path | None:
    return next((root / name for root in roots if (root / name).is_file()), None)


def _parse(folder: Path) -> Report:
    from airflow.dag_processing.dagbag import BundleDagBag
    from airflow.exceptions import AirflowClusterPolicyViolation

    refused: dict[str, dict[str, list[str]]] = {}  # by file and DAG

    class RecordingDagBag(BundleDagBag):
        """Remembers the violations of every DAG; Airflow keeps one error per file."""

        def bag_dag(self, dag: DAG) -> None:
            try:
                super().bag_dag(dag)
            except AirflowClusterPolicyViolation as violation:
                lines = str(violation).splitlines()
                refused.setdefault(str(dag.relative_fileloc), {})[dag.dag_id] = lines
                raise

    root = folder.resolve()
    bag = RecordingDagBag(root, bundle_path=root, bundle_name="dags-folder")
    findings = {
        str(folder / file): _lines_of(error, refused.get(file, {}))
        for file, error in sorted(bag.import_errors.items())
    }
    return Report(len(bag.dags), len(bag.dagbag_stats), findings)


def _lines_of(error: str, refused: Mapping[str, Sequence[str]]) -> list[str]:
    lines = [line for _, lines in sorted(refused.items()) for line in lines]
    return lines if error.startswith(VIOLATION) else lines + error.splitlines()


@contextmanager
def _no_bytecode() -> Iterator[None]:
    """Keep Python from leaving __pycache__ in the folder."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def _replace(target: MutableMapping[str, str], content: Mapping[str, str]) -> None:
    for name in set(target) - set(content):
        del target[name]
    target.update(content)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


if __name__ == "__main__":
    sys.exit(main())
