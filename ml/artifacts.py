"""Files in the artifact store (folder or object store): written whole, read only if unchanged."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import joblib
from upath import UPath


class ArtifactError(ValueError):
    """A stored file is missing, damaged or in conflict; says what was expected and what to do."""


@dataclass(frozen=True)
class ModelFile:
    """Where a saved model lies and what its bytes must hash to."""

    path: str
    sha256: str
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Rebuild what `to_dict` gave."""
        return cls(**fields)


def sha256_of(data: bytes) -> str:
    """Give the SHA-256 of `data` in hex."""
    return hashlib.sha256(data).hexdigest()


def write_whole(path: UPath, data: bytes) -> None:
    """Write `data` so that a reader sees all of it or none.

    An object store puts whole objects by itself; in a local folder a temporary file takes the name
    once it is complete, so a task killed halfway leaves no torn file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.protocol not in ("", "file", "local"):
        path.write_bytes(data)
        return
    target = Path(path.path)
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)  # mkstemp gives 0600; other services read the store too
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_checked(path: UPath, sha256: str) -> bytes:
    """Give the bytes of a file whose SHA-256 is `sha256`.

    Raises:
        ArtifactError: the file is missing or its bytes are others.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ArtifactError(
            f"{path} must exist (SHA-256 {sha256}), found no file. "
            "Restore it or run the pipeline again."
        ) from None
    if (found := sha256_of(data)) != sha256:
        raise ArtifactError(
            f"{path} must have SHA-256 {sha256}, found {found}: it was changed or damaged. "
            "Restore it or run the pipeline again; do not load it."
        )
    return data


def save_model(model: object, folder: UPath) -> ModelFile:
    """Store the model as `<sha256>.joblib` in `folder`; storing it again changes nothing."""
    buffer = io.BytesIO()
    joblib.dump(model, buffer)
    data = buffer.getvalue()
    sha256 = sha256_of(data)
    path = folder / f"{sha256}.joblib"
    write_whole(path, data)
    return ModelFile(path=str(path), sha256=sha256, bytes=len(data))


def load_model(path: UPath | str, sha256: str) -> Any:
    """Give the model, unpickled only after its SHA-256 has been checked: a pickle can run code.

    Raises:
        ArtifactError: the file is missing or its bytes are others.
    """
    return joblib.load(io.BytesIO(read_checked(UPath(path), sha256)))
