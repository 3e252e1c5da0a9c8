"""Where the run without Docker keeps its things: one folder, `.stack` in the checkout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dotenv import dotenv_values

REPO = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class StackHome:
    """The folders of one stack; two homes are two stacks that know nothing of each other."""

    root: Path

    @property
    def run(self) -> Path:
        """Supervisor's and the launcher's files; safe to delete while nothing runs."""
        return self.root / "run"

    @property
    def program_logs(self) -> Path:
        return self.root / "logs" / "programs"

    @property
    def task_logs(self) -> Path:
        return self.root / "logs" / "tasks"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def postgres(self) -> Path:
        return self.root / "postgres"

    @property
    def redis(self) -> Path:
        return self.root / "redis"

    @property
    def airflow(self) -> Path:
        return self.root / "airflow"

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def landing(self) -> Path:
        return self.root / "landing"

    @property
    def ports_file(self) -> Path:
        return self.root / "ports.json"

    @property
    def supervisor_conf(self) -> Path:
        return self.run / "supervisord.conf"

    @property
    def programs_file(self) -> Path:
        return self.run / "programs.json"

    def make_folders(self) -> None:
        """Create what is missing; secrets, logs and running state are closed to others."""
        for folder in (
            self.run,
            self.program_logs,
            self.task_logs,
            self.secrets,
            self.airflow,
            self.artifacts,
            self.landing,
        ):
            folder.mkdir(parents=True, exist_ok=True)
        for folder in (self.secrets, self.run, self.root / "logs"):
            folder.chmod(0o700)


def read_environment(environ: Mapping[str, str], repo: Path = REPO) -> dict[str, str]:
    """Give the variables that drive the stack: `.env`, overridden by the shell; empty is unset."""
    values = {**dotenv_values(repo / ".env"), **environ}
    return {name: value for name, value in values.items() if value}


def artifacts_url(home: StackHome, env: Mapping[str, str]) -> str:
    """Give where models, data snapshots and large XComs go: `ARTIFACTS_URL`, else the home.

    A folder becomes a `file://` URL, its spaces as they are: its readers decode nothing.
    """
    wanted = env.get("ARTIFACTS_URL", str(home.artifacts))
    return wanted.rstrip("/") if "://" in wanted else f"file://{as_folder(wanted)}"


def shown(path: Path | str) -> str:
    """Give a path or `file://` URL as it is shown: from the checkout on, where it lies in it."""
    text = str(path).removeprefix("file://")
    return text.removeprefix(f"{REPO}/")


def landing_folder(home: StackHome, env: Mapping[str, str]) -> Path:
    """Give where new data files arrive: `LANDING_DIR`, else the home."""
    return as_folder(env.get("LANDING_DIR", str(home.landing)))


def as_folder(text: str, repo: Path = REPO) -> Path:
    """Give a folder as people write it: `~` is their own, a relative one starts at the checkout."""
    return (repo / Path(text).expanduser()).resolve()


def find_home(env: Mapping[str, str], repo: Path = REPO) -> StackHome:
    """Give the home that `STACK_HOME` names, else `.stack` in the checkout."""
    return StackHome(as_folder(env.get("STACK_HOME", ".stack"), repo))
