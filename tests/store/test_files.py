"""Writing by other libraries: what the disk refuses is one clear error, and nothing is left half-written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from edit_r1.store import StoreError, is_locked, locked, new_folder, writing

FULL = Path("/dev/full")


def _refuse_as_safetensors_does() -> None:
    """Its words and its class, seen on a full tmpfs; it renames, so writing to /dev/full would replace the device."""
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.skipif(not FULL.exists(), reason="a full device is Linux's")
@pytest.mark.parametrize(
    "write",
    [
        lambda: FULL.write_bytes(b"x"),
        lambda: torch.save({"a": torch.zeros(1000)}, FULL),
        _refuse_as_safetensors_does,
    ],
    ids=["python", "torch", "safetensors"],
)
def test_a_full_disk_is_one_error_whoever_writes(write: Callable[[], None]) -> None:
    message = r"^runs/x: cannot be written \((No space left on device.*|the disk may be full)\): free space there or "
    with pytest.raises(StoreError, match=message), writing("runs/x"):
        write()


def test_other_errors_pass_unchanged() -> None:
    with pytest.raises(RuntimeError, match="shapes do not match"), writing("runs/x"):
        raise RuntimeError("shapes do not match")
    with pytest.raises(FileNotFoundError), writing("runs/x"):
        Path("/nowhere/at/all").read_bytes()


def test_a_new_folder_replaces_the_old_one_whole_or_not_at_all(tmp_path: Path) -> None:
    place = tmp_path / "model"
    with new_folder(place) as folder:
        (folder / "weights").write_text("first")
    with pytest.raises(FileNotFoundError), new_folder(place) as folder:
        (folder / "weights" / "deep").write_text("second")
    assert [(path.name, path.read_text()) for path in place.iterdir()] == [("weights", "first")]
    with new_folder(place) as folder:
        (folder / "other").write_text("third")
    assert [path.name for path in place.iterdir()] == ["other"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_new_folder_is_on_the_disk_before_it_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a power cut may keep the rename and lose what was renamed."""
    place, real, flushed = tmp_path / "model", os.fsync, []

    def fsync(file: int) -> None:
        flushed.append((os.fstat(file).st_ino, place.exists()))
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    with new_folder(place) as folder:
        (folder / "sub").mkdir()
        for name in ("a.bin", "sub/b.bin"):
            (folder / name).write_bytes(b"x" * 1000)
    for path in (place, place / "a.bin", place / "sub", place / "sub/b.bin"):
        assert (path.stat().st_ino, False) in flushed
    assert (tmp_path.stat().st_ino, True) in flushed


def test_a_new_folder_where_none_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"), new_folder(tmp_path / "file" / "model"):
        pass


def test_who_looks_at_a_lock_sees_who_holds_it_and_refuses_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")
    path = tmp_path / "lock"
    assert not is_locked(path)
    with locked(path, "busy"):
        assert is_locked(path)
        with pytest.raises(StoreError, match="lock: busy"), locked(path, "busy"):
            pass
    assert not is_locked(path)
    looking = os.open(path, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    monkeypatch.setattr("edit_r1.store.files.time.sleep", lambda _: os.close(looking))  # the look ends meanwhile
    with locked(path, "busy"):
        assert is_locked(path)
