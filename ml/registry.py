"""The registry: every registered model in an immutable folder of its own.

    models/<version>/model.joblib
    models/<version>/metrics.json
    models/<version>/cross_validation.csv
    models/<version>/calibration.json   turns the model's scores into probabilities
    models/<version>/held_out.csv       the rows held out: label, probability, what was predicted
    models/<version>/report.html, *.png the report, see `ml.report`
    models/<version>/manifest.json      written last: without it the version does not exist for
    readers

It works on whatever UPath reaches, a folder or an object store, and renames nothing there. The
hashes find damage and careless edits; they do not stop someone who may write to the store.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from importlib.metadata import version as library_version
from typing import Any, Self

from upath import UPath

from ml.artifacts import ArtifactError, load_model, read_checked, sha256_of, write_whole
from ml.evaluate import BARS, Comparison
from ml.train import Calibration

LIBRARIES = ("joblib", "numpy", "pandas", "scikit-learn", "scipy")
"""The libraries whose versions decide whether a model loads and what it predicts."""

MODEL_FILE = "model.joblib"
METRICS_FILE = "metrics.json"
CV_FILE = "cross_validation.csv"
CALIBRATION_FILE = "calibration.json"
HELD_OUT_FILE = "held_out.csv"
MANIFEST_FILE = "manifest.json"

# What makes a version what it is. Held-out rows and report are derived: a newer library may draw
# another picture of the same model.
_CORE_FILES = (MODEL_FILE, METRICS_FILE, CV_FILE, CALIBRATION_FILE)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything needed to trust and to reproduce a version.

    `created_at` is the run's date (UTC, ISO 8601), so that a retry writes the same; `metrics` are
    the held-out values with their intervals, `confusion` the counts behind them, `bars` the values
    to reach, `cv_metrics` means and standard deviations over the folds; `files` has the SHA-256 and
    the bytes of each file by name.
    """

    version: str
    created_at: str
    run_id: str
    data_sha256: str
    code_version: str
    python_version: str
    libraries: dict[str, str]
    candidate: str
    params: dict[str, Any]
    threshold: float
    metrics: dict[str, dict[str, float]]
    bars: dict[str, float]
    confusion: dict[str, int]
    cv_metrics: dict[str, dict[str, float]]
    files: dict[str, dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Rebuild what `to_dict` gave."""
        return cls(**{item.name: values[item.name] for item in fields(cls)})


class Registry:
    """The registered models under `root/models`."""

    def __init__(self, root: UPath) -> None:
        self._models = root / "models"

    def register(
        self,
        comparison: Comparison,
        *,
        run_id: str,
        run_date: datetime,
        data_sha256: str,
        code_version: str,
        derived: Mapping[str, bytes] | None = None,
    ) -> Manifest:
        """Store the best candidate as a version; the same run and content again change nothing.

        A folder that a killed task left without a manifest is completed.

        Args:
            comparison: the best candidate and its evaluation.
            run_id: of the pipeline's run.
            run_date: of the run, with a time zone; together with the model's SHA-256 it makes the
                version.
            data_sha256: content hash of the data, from `ml.load`.
            code_version: commit or release of the code.
            derived: further files by name, such as the report; a retry keeps those of the first
                time.

        Raises:
            ArtifactError: the candidate's file was changed, or the version exists with other
                content.
            ValueError: `run_date` has no time zone.
        """
        model_file = comparison.best.model_file
        contents = {
            MODEL_FILE: read_checked(UPath(model_file.path), model_file.sha256),
            METRICS_FILE: _metrics_json(comparison),
            CV_FILE: comparison.cv_table.to_csv(index=False, lineterminator="\n").encode(),
            CALIBRATION_FILE: _to_json(comparison.best.calibration.to_dict()),
            **(derived or {}),
        }
        manifest = _build_manifest(
            comparison,
            version=version_id(run_date, model_file.sha256),
            created_at=run_date.astimezone(UTC).isoformat(),
            run_id=run_id,
            data_sha256=data_sha256,
            code_version=code_version,
            files={name: {"sha256": sha256_of(d), "bytes": len(d)} for name, d in contents.items()},
        )
        folder = self._models / manifest.version
        if (folder / MANIFEST_FILE).exists():
            return _same_or_refuse(self.read_manifest(manifest.version), manifest)
        for name, data in contents.items():
            write_whole(folder / name, data)
        write_whole(folder / MANIFEST_FILE, _seal(manifest))
        return manifest

    def versions(self) -> list[str]:
        """Give the versions that have a manifest, oldest first."""
        if not self._models.exists():
            return []
        folders = [folder for folder in self._models.iterdir() if (folder / MANIFEST_FILE).exists()]
        return sorted(folder.name for folder in folders)

    def latest(self) -> Manifest | None:
        """Give the manifest of the newest version, or None while there is none."""
        versions = self.versions()
        return self.read_manifest(versions[-1]) if versions else None

    def read_manifest(self, version: str) -> Manifest:
        """Give a version's manifest.

        Raises:
            ArtifactError: there is no such version, or its manifest was changed.
        """
        path = self._models / version / MANIFEST_FILE
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            known = ", ".join(self.versions()[-3:]) or "none"
            raise ArtifactError(
                f"Version {version!r} must have {path}, found no file. "
                f"Use a registered version: {known}."
            ) from None
        return _unseal(path, data)

    def load_model(self, version: str) -> Any:
        """Give a version's model, after its SHA-256 has matched the manifest.

        Raises:
            ArtifactError: there is no such version, or manifest or model was changed.
        """
        manifest = self.read_manifest(version)
        path = self._models / version / MODEL_FILE
        return load_model(path, str(manifest.files[MODEL_FILE]["sha256"]))

    def load_calibration(self, version: str) -> Calibration:
        """Give what turns the scores of a version's model into probabilities.

        Raises:
            ArtifactError: the version has none, or the file was changed.
        """
        return Calibration(**json.loads(self.read_file(version, CALIBRATION_FILE)))

    def read_file(self, version: str, name: str) -> bytes:
        """Give a file of a version, after its SHA-256 has matched the manifest.

        Raises:
            ArtifactError: there is no such version or file, or manifest or file was changed.
        """
        listed = self.read_manifest(version).files
        if name not in listed:
            raise ArtifactError(
                f"Version {version} must have {name}, found {', '.join(listed)}. Train again."
            )
        return read_checked(self._models / version / name, str(listed[name]["sha256"]))


def summary_of(manifest: Manifest, verdict: Mapping[str, Any]) -> dict[str, Any]:
    """Give a version's row for a table of trained models: which run made it, and how."""
    return {
        "model_version": manifest.version,
        "run_id": manifest.run_id,
        "candidate": manifest.candidate,
        "trained_at": datetime.fromisoformat(manifest.created_at),
        "details": {
            "params": manifest.params,
            "threshold": manifest.threshold,
            "confusion": manifest.confusion,
            "data_sha256": manifest.data_sha256,
            "code_version": manifest.code_version,
            "champion": verdict["champion"],
            "objections": verdict["objections"],
        },
    }


def figures_of(manifest: Manifest) -> list[dict[str, Any]]:
    """Give a row per figure of merit: held out with its interval, and `cv_…` cross-validated."""
    held_out = [
        {"model_version": manifest.version, "metric": name, **estimate}
        for name, estimate in manifest.metrics.items()
    ]
    means = [
        {
            "model_version": manifest.version,
            "metric": f"cv_{name}",
            "value": scores["mean"],
            "low": None,
            "high": None,
        }
        for name, scores in manifest.cv_metrics.items()
    ]
    return held_out + means


def version_id(run_date: datetime, model_sha256: str) -> str:
    """Give the version of a run's model: `20261121T101500Z-1a2b3c4d`, which sorts by date.

    Raises:
        ValueError: `run_date` has no time zone.
    """
    if run_date.tzinfo is None:
        raise ValueError(
            f"The run's date must have a time zone, got {run_date.isoformat()!r}. "
            "Pass an aware datetime."
        )
    return f"{run_date.astimezone(UTC):%Y%m%dT%H%M%SZ}-{model_sha256[:8]}"


def _build_manifest(comparison: Comparison, **given: Any) -> Manifest:
    best = comparison.best
    return Manifest(
        **given,
        python_version=platform.python_version(),
        libraries={name: library_version(name) for name in LIBRARIES},
        candidate=best.name,
        params=best.params,
        threshold=best.threshold,
        metrics=comparison.evaluation.to_dict()["metrics"],
        bars=dict(BARS),
        confusion=comparison.evaluation.confusion,
        cv_metrics=best.cv_metrics,
    )


def _metrics_json(comparison: Comparison) -> bytes:
    best = comparison.best
    return _to_json(
        {
            "candidate": best.name,
            "cv_score": best.cv_score,
            "cv_score_std": best.cv_score_std,
            "cross_validation": best.cv_metrics,
            "test": comparison.evaluation.to_dict(),
            "missed_bars": comparison.missed_bars,
        }
    )


def _to_json(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, sort_keys=True) + "\n").encode()


def _seal(manifest: Manifest) -> bytes:
    """Give the manifest's file: its fields and the SHA-256 of them, so that an edit shows."""
    values = manifest.to_dict()
    return _to_json({**values, "manifest_sha256": sha256_of(_to_json(values))})


def _unseal(path: UPath, data: bytes) -> Manifest:
    try:
        values = json.loads(data)
        expected, found = values.pop("manifest_sha256"), sha256_of(_to_json(values))
        manifest = Manifest.from_dict(values)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{path} must be a manifest, found {error!r}. "
            "Restore it, or delete the folder and register again."
        ) from None
    if expected != found:
        raise ArtifactError(
            f"{path} must have SHA-256 {expected} over its fields, found {found}: it was changed. "
            "Restore it, or delete the folder and register again."
        )
    return manifest


def _same_or_refuse(existing: Manifest, new: Manifest) -> Manifest:
    """Give the existing version if its content is the new one's; code and libraries may differ."""
    differing = [
        name for name in ("run_id", "data_sha256") if getattr(existing, name) != getattr(new, name)
    ]
    if _core_files(existing) != _core_files(new):
        differing.append("files")
    if differing:
        raise ArtifactError(
            f"Version {new.version} must have the content registered before, found another "
            f"{', '.join(differing)}. A version never changes: start a new run."
        )
    return existing


def _core_files(manifest: Manifest) -> dict[str, Any]:
    return {name: manifest.files.get(name) for name in _CORE_FILES}
