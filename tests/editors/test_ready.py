"""Ready edits: each given once, in order; a missing one is told and never stands for another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edit_r1.editors.ready import ReadyEdits, folder_edits
from edit_r1.images import encode_png
from edit_r1.records import Sample


def picture(level: int) -> bytes:
    return encode_png(np.full((8, 8, 3), level, np.uint8))


def sample(name: str) -> Sample:
    return Sample(name, picture(0), "Do it.", "")


def test_each_ready_edit_is_given_once() -> None:
    def edits(one: Sample) -> list[bytes]:
        if one.id == "lost":
            raise ValueError("in none of the archives")
        return [picture(1), picture(2)] if one.id == "two" else []

    editor = ReadyEdits(edits, "imgedit")
    assert (editor.name, editor.simulated) == ("imgedit", False)
    two = sample("two")
    made = editor.edit([two, sample("none"), two, sample("lost"), two], [5, 6, 7, 8, 9])
    assert [one.image for one in made] == [picture(1), None, picture(2), None, None]
    assert made[1].error == "0 ready edits of this sample, number 1 is asked for"
    assert made[3].error == "in none of the archives"
    assert made[4].error == "2 ready edits of this sample, number 3 is asked for"


def test_a_folder_of_edits(tmp_path: Path) -> None:
    folder = tmp_path / "edits"
    folder.mkdir()
    (folder / "a.png").write_bytes(picture(1))
    (folder / "a-2.webp").write_bytes(picture(2))
    (folder / "b.jpg").write_bytes(b"torn")
    (tmp_path / "secret.png").write_bytes(picture(9))
    editor = folder_edits(folder)
    assert editor.name == "edits"
    made = editor.edit([sample(name) for name in ("a", "a", "a", "b", "c", "../secret", "x\0y")], [0] * 7)
    assert [one.image for one in made] == [picture(1), picture(2), *[None] * 5]
    assert "b.jpg" in str(made[3].error)
    assert all(one.error and "\n" not in one.error for one in made[2:])
    with pytest.raises(ValueError, match="no such folder of edits"):
        folder_edits(tmp_path / "none")
