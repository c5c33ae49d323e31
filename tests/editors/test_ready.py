"""Ready edits: each given once, in order; a missing one is told and never stands for another."""

from __future__ import annotations

import hashlib
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

    first, second = ReadyEdits(edits, "imgedit"), ReadyEdits(edits, "imgedit", number=2)
    assert (first.name, second.name, first.simulated) == ("imgedit", "imgedit-2", False)
    two = sample("two")
    made = first.edit([two, sample("none"), two, sample("lost")], [5, 6, 7, 8])
    assert [one.image for one in made] == [picture(1), None, None, None]
    assert made[1].error == "0 ready edits, number 1 is not there"
    assert made[2].error == "a ready edit is given once: ask for fewer candidates"
    assert made[3].error == "in none of the archives"
    assert [one.absent for one in made] == [False, True, True, True]
    assert second.edit([two], [9])[0].image == picture(2)
    with pytest.raises(ValueError, match="counted from 1"):
        ReadyEdits(edits, number=0)


def test_a_folder_of_edits(tmp_path: Path) -> None:
    folder = tmp_path / "edits"
    folder.mkdir()
    (folder / "a.png").write_bytes(picture(1))
    (folder / "a-2.webp").write_bytes(picture(2))
    (folder / "b.jpg").write_bytes(b"torn")
    (tmp_path / "secret.png").write_bytes(picture(9))
    editor, second = folder_edits(folder), folder_edits(folder, "brush", number=2)
    assert (editor.name, second.name) == ("edits", "brush-2")
    made = editor.edit([sample(name) for name in ("a", "b", "c", "../secret", "x\0y")], [0] * 5)
    assert [one.image for one in made] == [picture(1), *[None] * 4]
    assert "b.jpg" in str(made[1].error)
    assert all(one.error and "\n" not in one.error for one in made[1:])
    assert made[2].error == f"no 'c' (.png, .jpg, .jpeg or .webp) in {folder}: edits are named after row ids"
    assert "no 'b-2' (.png" in str(folder_edits(folder, number=2).edit([sample("b-2")], [0])[0].error)
    assert "no 'a-3' (.png" in str(folder_edits(folder, number=3).edit([sample("a")], [0])[0].error)
    assert all(one.absent for one in made[1:])
    assert [one.image for one in second.edit([sample("a"), sample("c")], [0, 0])] == [picture(2), None]
    with pytest.raises(ValueError, match="no such folder of edits"):
        folder_edits(tmp_path / "none")


def test_what_a_picture_holds_is_told_and_it_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reads, pictures = [], {"a": picture(1), "b": picture(2)}

    def edits(one: Sample) -> list[bytes]:
        reads.append(one.id)
        return [pictures[one.id]] if one.id in pictures else []

    editor = ReadyEdits(edits)
    a, b, none = sample("a"), sample("b"), sample("none")
    contents = [editor.content_of(one) for one in (a, b, none)]
    assert contents == [hashlib.sha256(pictures[name]).hexdigest()[:32] for name in "ab"] + [""]
    assert [one.image for one in editor.edit([a, b, none], [0] * 3)] == [picture(1), picture(2), None]
    assert reads == ["a", "b", "none", "none"]
    pictures["a"] = picture(3)
    assert editor.content_of(a) != contents[0] and editor.edit([a], [0])[0].image == picture(3)

    monkeypatch.setattr("edit_r1.editors.ready.AHEAD_BYTES", 3 * len(picture(3)))
    del reads[:]
    for _ in range(3):  # what was given is no longer held
        for one in (a, b):
            editor.content_of(one)
        editor.edit([a, b], [0, 0])
    assert reads == ["a", "b"] * 3

    monkeypatch.setattr("edit_r1.editors.ready.AHEAD_BYTES", len(picture(3)))
    del reads[:]
    for one in (a, b):
        editor.content_of(one)
    assert [one.image for one in editor.edit([a, b], [0, 0])] == [picture(3), picture(2)]
    assert reads == ["a", "b", "a"]  # no more is held than that
