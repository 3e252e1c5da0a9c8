"""The champion's pointer: whole or unchanged, with a way back."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from upath import UPath

from ml.artifacts import ArtifactError
from ml.champion import ChampionPointer, main
from ml.evaluate import Comparison
from ml.registry import Registry


@pytest.fixture
def root(tmp_path: Path) -> UPath:
    """Give an empty artifact store."""
    return UPath(tmp_path)


@pytest.fixture
def versions(root: UPath, comparison: Comparison) -> list[str]:
    """Register three versions, oldest first."""
    return [
        Registry(root)
        .register(
            comparison,
            run_id=f"run-{day}",
            run_date=datetime(2026, 11, day, tzinfo=UTC),
            data_sha256="d" * 64,
            code_version="abc",
        )
        .version
        for day in (1, 2, 3)
    ]


def pointer_file(root: UPath) -> UPath:
    return root / "models" / "champion.json"


def test_there_is_none_before_the_first(root: UPath, versions: list[str]) -> None:
    """Registering makes no champion."""
    assert ChampionPointer(root).current() is None


def test_rollback_goes_back_one_champion_at_a_time(root: UPath, versions: list[str]) -> None:
    """Twice goes back two; who was taken back, when and why, stays on record."""
    pointer = ChampionPointer(root)
    for version in versions:
        pointer.promote(version, "test")
    assert pointer.current() == versions[2]
    assert [pointer.rollback(), pointer.rollback()] == [versions[1], versions[0]]
    assert pointer.current() == versions[0]
    taken_back = json.loads(pointer_file(root).read_text())["taken_back"]
    assert [one["version"] for one in taken_back] == [versions[2], versions[1]]
    with pytest.raises(ArtifactError, match=f"found {versions[0]} alone"):
        pointer.rollback()


def test_promoting_the_champion_again_changes_nothing(root: UPath, versions: list[str]) -> None:
    """A retried task leaves no second entry."""
    pointer = ChampionPointer(root)
    pointer.promote(versions[0], "test")
    before = pointer_file(root).read_bytes()
    pointer.promote(versions[0], "again")
    assert pointer_file(root).read_bytes() == before


def test_what_cannot_be_loaded_becomes_no_champion(root: UPath, versions: list[str]) -> None:
    """Neither an unknown version nor one whose model was changed."""
    pointer = ChampionPointer(root)
    (root / "models" / versions[1] / "model.joblib").write_bytes(b"evil")
    for version in ("20200101T000000Z-00000000", versions[1]):
        with pytest.raises(ArtifactError):
            pointer.promote(version, "test")
    assert pointer.current() is None


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"line": [{}], "taken_back": []}'])
def test_a_damaged_pointer_is_named_and_never_overwritten(
    root: UPath, versions: list[str], content: str
) -> None:
    """Whoever asks or writes is told the remedy."""
    pointer_file(root).write_text(content)
    pointer = ChampionPointer(root)
    for use in (pointer.current, pointer.rollback, lambda: pointer.promote(versions[0], "test")):
        with pytest.raises(ArtifactError, match=r"must hold the line of champions, .*Restore it"):
            use()
    assert pointer_file(root).read_text() == content


def test_the_pointer_is_no_version(root: UPath, versions: list[str]) -> None:
    """The file beside the versions' folders does not disturb the registry."""
    ChampionPointer(root).promote(versions[0], "test")
    assert Registry(root).versions() == versions


def test_the_command_lists_promotes_and_goes_back(
    root: UPath,
    versions: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`make models`: the champion is marked, and a mistake is one line."""
    monkeypatch.setenv("ARTIFACTS_URL", str(root))
    assert [main(["promote", version]) for version in versions[:2]] == [0, 0]
    assert main(["rollback"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"champion: {versions[0]}"
    assert main(["list"]) == 0
    marks = [line[:2] for line in capsys.readouterr().out.splitlines()]
    assert marks == ["  ", "* ", "  ", "  "]
    assert main(["promote", "nonsense"]) == 1
    assert capsys.readouterr().err.startswith("error: Version 'nonsense' must have ")


def test_an_empty_registry_says_how_to_fill_it(
    root: UPath, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The list of a fresh stack is no error."""
    monkeypatch.setenv("ARTIFACTS_URL", str(root))
    assert main(["list"]) == 0
    assert "make train" in capsys.readouterr().out


def test_a_version_without_calibration_says_to_train_again(
    root: UPath, comparison: Comparison, versions: list[str]
) -> None:
    """What an older release registered lacks the file."""
    registry = Registry(root)
    assert registry.load_calibration(versions[0]) == comparison.best.calibration
    manifest = registry.read_manifest(versions[0])
    older = replace(manifest, files={"model.joblib": manifest.files["model.joblib"]})
    from ml.registry import _seal

    (root / "models" / versions[0] / "manifest.json").write_bytes(_seal(older))
    with pytest.raises(ArtifactError, match=r"must have calibration\.json, found model\.joblib"):
        registry.load_calibration(versions[0])
