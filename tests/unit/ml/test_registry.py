"""The registry: immutable versions that a retry completes and nobody changes."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from pandas import read_csv
from pandas.testing import assert_frame_equal
from upath import UPath

from ml.artifacts import ArtifactError, sha256_of
from ml.evaluate import Comparison
from ml.preprocess import Split, features_of
from ml.registry import Manifest, Registry, version_id

RUN_DATE = datetime(2026, 11, 21, 10, 15, tzinfo=UTC)


@pytest.fixture(params=["folder", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> UPath:
    """Give an empty registry's root, once a folder and once an object store."""
    if request.param == "folder":
        return UPath(tmp_path / "registry")
    return UPath(f"memory://{tmp_path.name}")


def register(
    root: UPath, comparison: Comparison, *, run_id: str = "run-1", run_date: datetime = RUN_DATE
) -> Manifest:
    """Register the comparison's best candidate."""
    return Registry(root).register(
        comparison, run_id=run_id, run_date=run_date, data_sha256="d" * 64, code_version="abc"
    )


def contents(root: UPath, version: str) -> dict[str, bytes]:
    """Give the bytes of a version's files."""
    return {path.name: path.read_bytes() for path in (root / "models" / version).iterdir()}


def test_a_registered_model_is_the_latest_and_loads(
    root: UPath, comparison: Comparison, split: Split
) -> None:
    """The manifest reads back as written, and the model predicts."""
    manifest = register(root, comparison)
    registry = Registry(root)
    assert registry.versions() == [manifest.version]
    assert registry.latest() == registry.read_manifest(manifest.version) == manifest
    predicted = registry.load_model(manifest.version).predict(features_of(split.test))
    assert len(predicted) == 114


def test_the_manifest_tells_where_the_model_comes_from(root: UPath, comparison: Comparison) -> None:
    """Run, data, code, libraries, parameters, metrics, and hash and size of each file."""
    manifest = register(root, comparison)
    assert manifest.version.startswith("20261121T101500Z-")
    assert manifest.created_at == "2026-11-21T10:15:00+00:00"
    assert (manifest.run_id, manifest.data_sha256, manifest.code_version) == (
        "run-1",
        "d" * 64,
        "abc",
    )
    assert "scikit-learn" in manifest.libraries
    assert manifest.metrics == comparison.evaluation.to_dict()["metrics"]
    assert manifest.threshold == comparison.best.threshold
    files = contents(root, manifest.version)
    files.pop("manifest.json")
    assert manifest.files == {
        name: {"sha256": sha256_of(data), "bytes": len(data)} for name, data in files.items()
    }
    assert json.loads(files["metrics.json"])["test"] == comparison.evaluation.to_dict()
    folds = read_csv(io.BytesIO(files["cross_validation.csv"]))
    assert_frame_equal(folds, comparison.cv_table)


def test_registering_again_changes_nothing(
    root: UPath, comparison: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A retry, even with newer libraries, gives the version that exists."""
    first = register(root, comparison)
    before = contents(root, first.version)
    monkeypatch.setattr("ml.registry.library_version", lambda name: "99")
    assert register(root, comparison) == first
    assert contents(root, first.version) == before


def test_another_run_adds_a_version(root: UPath, comparison: Comparison) -> None:
    """Versions sort by the run's date, whatever its time zone."""
    second = register(root, comparison, run_id="run-2", run_date=RUN_DATE + timedelta(hours=1))
    first = register(root, comparison, run_date=RUN_DATE.astimezone(timezone(timedelta(hours=5))))
    assert Registry(root).versions() == [first.version, second.version]
    assert Registry(root).latest() == second


def test_other_content_under_the_same_version_is_refused(
    root: UPath, comparison: Comparison
) -> None:
    """A version never changes; the message says what differs."""
    first = register(root, comparison)
    before = contents(root, first.version)
    changed = replace(comparison, cv_table=comparison.cv_table.head(1))
    with pytest.raises(
        ArtifactError, match=r"found another run_id, files\. A version never changes"
    ):
        register(root, changed, run_id="run-2")
    assert contents(root, first.version) == before


def test_a_half_written_folder_does_not_exist_and_is_completed(
    root: UPath, comparison: Comparison
) -> None:
    """Without a manifest readers see nothing; a retry writes what is missing or torn."""
    whole = register(root, comparison)
    files = contents(root, whole.version)
    folder = root / "models" / whole.version
    (folder / "manifest.json").unlink()
    (folder / "metrics.json").unlink()
    (folder / "model.joblib").write_bytes(b"torn")
    assert Registry(root).versions() == []
    with pytest.raises(ArtifactError, match=r"found no file\. Use a registered version: none"):
        Registry(root).load_model(whole.version)
    assert register(root, comparison) == whole
    assert contents(root, whole.version) == files


def test_a_tampered_model_is_not_loaded(root: UPath, comparison: Comparison) -> None:
    """The model's hash must be the manifest's."""
    version = register(root, comparison).version
    (root / "models" / version / "model.joblib").write_bytes(b"evil")
    with pytest.raises(ArtifactError, match=r"model\.joblib must have SHA-256 .* was changed"):
        Registry(root).load_model(version)


def test_a_tampered_manifest_is_refused(root: UPath, comparison: Comparison) -> None:
    """An edited field shows."""
    version = register(root, comparison).version
    path = root / "models" / version / "manifest.json"
    path.write_text(path.read_text().replace('"run-1"', '"run-9"'))
    with pytest.raises(ArtifactError, match=r"must have SHA-256 .* it was changed"):
        Registry(root).latest()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"manifest_sha256": "x"}'])
def test_a_manifest_that_is_none_is_refused(
    root: UPath, comparison: Comparison, content: str
) -> None:
    """Damage is told with a remedy."""
    version = register(root, comparison).version
    (root / "models" / version / "manifest.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"must be a manifest, found .*delete the folder"):
        Registry(root).read_manifest(version)


def test_an_empty_registry_has_no_latest(root: UPath) -> None:
    """A first run finds nothing, without error."""
    assert Registry(root).versions() == []
    assert Registry(root).latest() is None


def test_a_changed_candidate_is_not_registered(root: UPath, comparison: Comparison) -> None:
    """The candidate's file is checked on the way in, and nothing is written."""
    file = replace(comparison.best.model_file, sha256="0" * 64)
    with pytest.raises(ArtifactError, match="must have SHA-256 0000"):
        register(root, replace(comparison, best=replace(comparison.best, model_file=file)))
    assert Registry(root).versions() == []


def test_a_run_date_needs_a_time_zone() -> None:
    """A date without a zone would name two versions."""
    with pytest.raises(ValueError, match="must have a time zone, got '2026-11-21T10:15:00'"):
        version_id(datetime(2026, 11, 21, 10, 15), "a" * 64)
