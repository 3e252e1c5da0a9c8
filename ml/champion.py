"""The champion: which registered version is in use.

    python -m ml.champion list | promote VERSION | rollback

`models/champion.json` names it, with the champions before it. The file is written whole: a reader
sees the old champion or the new one. Models themselves never change.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from upath import UPath

from ml.artifacts import ArtifactError, write_whole
from ml.registry import Registry
from ml.settings import MLSettingError, MLSettings

POINTER_FILE = "champion.json"


@dataclass(frozen=True)
class Reign:
    """A version that was made champion: when (UTC, ISO 8601) and why."""

    version: str
    since: str
    why: str


class ChampionPointer:
    """The pointer under `root/models`: the line of champions, and those that were taken back."""

    def __init__(self, root: UPath) -> None:
        self._path = root / "models" / POINTER_FILE
        self._registry = Registry(root)

    def current(self) -> str | None:
        """Give the champion's version, None while there is none.

        Raises:
            ArtifactError: the pointer is damaged.
        """
        line, _ = self._read()
        return line[-1].version if line else None

    def promote(self, version: str, why: str) -> None:
        """Make a registered version the champion; what is champion already stays so.

        Raises:
            ArtifactError: there is no such version, its files were changed, or the pointer is
                damaged.
        """
        self._registry.load_model(version)
        line, taken_back = self._read()
        if not line or line[-1].version != version:
            self._write([*line, Reign(version, _now(), why)], taken_back)

    def rollback(self) -> str:
        """Take the champion back; give the one before it, which is champion again.

        Raises:
            ArtifactError: there is none before it, it cannot be loaded, or the pointer is damaged.
        """
        line, taken_back = self._read()
        if len(line) < 2:
            found = line[0].version if line else "no champion"
            raise ArtifactError(
                f"A rollback needs a champion before the present one, found {found} alone. "
                "Promote a version instead."
            )
        version = line[-2].version
        self._registry.load_model(version)
        self._write(line[:-1], [*taken_back, line[-1]])
        return version

    def _read(self) -> tuple[list[Reign], list[Reign]]:
        try:
            values = json.loads(self._path.read_bytes())
            return tuple([Reign(**one) for one in values[key]] for key in ("line", "taken_back"))  # type: ignore[return-value]
        except FileNotFoundError:
            return [], []
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                f"{self._path} must hold the line of champions, found {error!r}. "
                "Restore it; or delete it, and promote a version."
            ) from None

    def _write(self, line: Sequence[Reign], taken_back: Sequence[Reign]) -> None:
        values = {"line": line, "taken_back": taken_back}
        content = {key: [asdict(one) for one in reigns] for key, reigns in values.items()}
        write_whole(self._path, (json.dumps(content, indent=2) + "\n").encode())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; give its exit code."""
    parser = argparse.ArgumentParser(prog="python -m ml.champion", description=__doc__)
    commands = parser.add_subparsers(required=True, dest="command")
    commands.add_parser("list", help="show the registered versions; * is the champion")
    promote = commands.add_parser("promote", help="make a version the champion")
    promote.add_argument("version")
    commands.add_parser("rollback", help="go back to the champion before")
    given = parser.parse_args(arguments)
    try:
        root = UPath(MLSettings.from_env({"LANDING_DIR": ".", **os.environ}).ARTIFACTS_URL)
        sys.stdout.write(_run(given, root))
    except (ArtifactError, MLSettingError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _run(given: argparse.Namespace, root: UPath) -> str:
    pointer = ChampionPointer(root)
    if given.command == "list":
        return _list(Registry(root), pointer.current())
    if given.command == "promote":
        pointer.promote(given.version, "by hand")
        return f"champion: {given.version}\n"
    return f"champion: {pointer.rollback()}\n"


def _list(registry: Registry, champion: str | None) -> str:
    versions = registry.versions()
    if not versions:
        return "no registered version; train one: make train\n"
    header = f"  {'version':<26}{'candidate':<22}{'accuracy':>9}{'precision':>10}{'recall':>8}"
    return "\n".join([header, *(_line(registry, one, champion) for one in versions)]) + "\n"


def _line(registry: Registry, version: str, champion: str | None) -> str:
    manifest = registry.read_manifest(version)
    value: dict[str, Any] = {name: one["value"] for name, one in manifest.metrics.items()}
    mark = "*" if version == champion else " "
    return (
        f"{mark} {version:<26}{manifest.candidate:<22}"
        f"{value['accuracy']:>9.3f}{value['precision']:>10.3f}{value['recall']:>8.3f}"
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


if __name__ == "__main__":
    sys.exit(main())
