"""The cache of principles: what it is keyed by, that it is never wrong, and where it lies."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest

from edit_r1.records import FEATURE_PRESERVATION, INSTRUCTION_FOLLOWING, Principle
from edit_r1.verifier.examples import draw_examples
from edit_r1.verifier.principles_cache import PrinciplesCache, checkpoint_identity, default_cache
from edit_r1.verifier.prompts import decompose_request
from edit_r1.vlm.protocol import Sampling

PRINCIPLES = (Principle("Is it blue? “sí”", INSTRUCTION_FOLLOWING), Principle("Same hat?", FEATURE_PRESERVATION))
GREEDY = Sampling(100, temperature=0.0)
BASE = {"sources": [b"s"], "instruction": "Make it blue", "examples": draw_examples(0), "variant": "full"}


def key(
    cache: PrinciplesCache, prompts: str = "full-2", model: str = "m", sampling: Sampling = GREEDY, **change
) -> str:
    return cache.key(decompose_request(**{**BASE, **change}), prompts, model, sampling)


def test_there_and_back(tmp_path: Path) -> None:
    cache = PrinciplesCache(tmp_path)
    assert cache.get(key(cache)) is None
    cache.put(key(cache), PRINCIPLES, {"model": "m"})
    assert cache.get(key(cache)) == PRINCIPLES
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".json"]


def test_the_key_holds_everything_that_shapes_the_answer(tmp_path: Path) -> None:
    cache = PrinciplesCache(tmp_path)
    keys = [
        key(cache),
        key(cache, sources=[b"t"]),
        key(cache, sources=[b"s", b"s"]),
        key(cache, instruction="Make it red"),
        key(cache, examples=draw_examples(1)),
        key(cache, variant="compact"),
        key(cache, prompts="full-3"),
        key(cache, model="n"),
        key(cache, sampling=replace(GREEDY, max_new_tokens=99)),
        key(cache, sampling=replace(GREEDY, temperature=1.0)),
        key(cache, sampling=replace(GREEDY, seed=1)),
        key(PrinciplesCache(tmp_path, "another checkpoint")),
    ]
    assert len(set(keys)) == len(keys)
    assert key(cache) == key(PrinciplesCache(tmp_path / "elsewhere"))


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"[" * 100_000,
        b'{"key": "other", "principles": []}',
        b'{"key": KEY}',
        b'{"key": KEY, "principles": []}',
        b'{"key": KEY, "principles": [7]}',
        b'{"key": KEY, "principles": [{"question": null, "category": "Image Quality"}]}',
        b'{"key": KEY, "principles": [{"question": "Is it?", "category": "Taste"}]}',
        b'{"key": KEY, "principles": [{"question": " ", "category": "Image Quality"}]}',
    ],
)
def test_a_damaged_entry_is_none_and_is_written_anew(tmp_path: Path, damage: bytes) -> None:
    cache = PrinciplesCache(tmp_path)
    entry = key(cache)
    cache.put(entry, PRINCIPLES, {})
    (file,) = (path for path in tmp_path.rglob("*") if path.is_file())
    file.write_bytes(damage.replace(b"KEY", json.dumps(entry).encode()))
    assert cache.get(entry) is None
    cache.put(entry, PRINCIPLES, {})
    assert cache.get(entry) == PRINCIPLES


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = PrinciplesCache(tmp_path / "file")
    with pytest.warns(UserWarning, match="principles are not kept: .*EDIT_R1_CACHE=off"):
        cache.put(key(cache), PRINCIPLES, {})
    assert cache.get(key(cache)) is None


def _write_often(folder: Path, entry: str, rounds: int) -> None:
    for _ in range(rounds):
        PrinciplesCache(folder).put(entry, PRINCIPLES, {})


def test_several_processes_may_share_a_folder(tmp_path: Path) -> None:
    cache = PrinciplesCache(tmp_path)
    entry = key(cache)
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_often, args=(tmp_path, entry, 30)) for _ in range(3)]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        seen.add(cache.get(entry))
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert seen <= {None, PRINCIPLES}
    assert cache.get(entry) == PRINCIPLES
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


def test_where_the_default_cache_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    places = [("", None, tmp_path / ".cache/edit-r1/principles"), ("", "/xdg", Path("/xdg/edit-r1/principles"))]
    places += [("", "relative", tmp_path / ".cache/edit-r1/principles"), ("/own", "/xdg", Path("/own/principles"))]
    for named, base, folder in places:
        monkeypatch.setenv("EDIT_R1_CACHE", named)
        if base is not None:
            monkeypatch.setenv("XDG_CACHE_HOME", base)
        assert default_cache() == PrinciplesCache(folder)
    for off in ("off", " OFF "):
        monkeypatch.setenv("EDIT_R1_CACHE", off)
        assert default_cache() is None


def test_another_checkpoint_in_a_folder_of_the_same_name_is_another_one(tmp_path: Path) -> None:
    first, second = tmp_path / "a" / "final", tmp_path / "b" / "final"
    for folder in (first, second):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    before = checkpoint_identity(first)
    assert before == checkpoint_identity(first) != checkpoint_identity(second)
    assert checkpoint_identity(first, adapter=second) != before
    (first / "config.json").write_text('{"trained": "more"}')
    assert checkpoint_identity(first) != before
    assert (
        checkpoint_identity("owner/model") == checkpoint_identity("owner/model") != checkpoint_identity("owner/other")
    )
