"""Stored models: only unchanged bytes are loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from upath import UPath

from ml.artifacts import ArtifactError, ModelFile, load_model, save_model, write_whole


@pytest.fixture(params=["folder", "file_url", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> UPath:
    """Give a folder of the artifact store, by path, by URL and as an object store."""
    urls = {"folder": str(tmp_path / "m"), "file_url": (tmp_path / "m").as_uri()}
    return UPath(urls.get(request.param, f"memory://{tmp_path.name}/m"))


def test_a_saved_model_loads_again(folder: UPath) -> None:
    """Path and hash find the model; its size is that of the file."""
    file = save_model({"weights": [1.0]}, folder)
    assert load_model(file.path, file.sha256) == {"weights": [1.0]}
    assert len(UPath(file.path).read_bytes()) == file.bytes
    assert ModelFile.from_dict(file.to_dict()) == file


def test_saving_again_changes_nothing(folder: UPath) -> None:
    """A retry gives the same file and leaves no other."""
    assert save_model([1], folder) == save_model([1], folder)
    assert len(list(folder.iterdir())) == 1


def test_a_tampered_model_is_not_unpickled(folder: UPath) -> None:
    """The hash is checked before a byte is interpreted."""
    file = save_model([1], folder)
    UPath(file.path).write_bytes(b"not a pickle")
    with pytest.raises(ArtifactError, match=rf"must have SHA-256 {file.sha256}, found .*damaged"):
        load_model(file.path, file.sha256)


def test_a_missing_model_is_named(folder: UPath) -> None:
    """The message has the path and what to do."""
    with pytest.raises(ArtifactError, match=r"must exist .* found no file\. Restore it"):
        load_model(folder / "gone.joblib", "0" * 64)


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that breaks off touches nothing and leaves no temporary file."""
    path = UPath(tmp_path / "file")
    write_whole(path, b"old")

    def break_off(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", break_off)
    with pytest.raises(OSError, match="disk full"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1
