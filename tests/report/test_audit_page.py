"""The page of an audit, and its table at a terminal: everything escaped, nothing fetched, whatever was found."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from edit_r1.images import encode_png
from edit_r1.preferences.audit import audit, audit_json, example_rows, read_examples
from edit_r1.records import Candidate, Choice, Context, Preference, Rating, Sample
from edit_r1.report.audit_page import write_audit_page
from edit_r1.report.audit_terminal import audit_table
from edit_r1.store import PREFERENCES, write_dataset

NASTY = '<script>alert(1)</script> \x1b[31m\u202e "quoted" {{ 7 * 7 }} [bold]x[/bold]'


def row(first: int, second: int, choice: Choice, annotator: str = NASTY, editor: str = NASTY) -> Preference:
    def picture(seed: int) -> bytes:
        return encode_png(np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8))

    sample = Sample("s", picture(0), f"Make it {NASTY}", NASTY)
    edits = [Candidate(f"c{seed}", "s", picture(seed), f"{editor}{seed}", 0) for seed in (first, second)]
    rated = (Rating(NASTY, 1, 2),)
    return Preference(Context(sample, (), ""), edits[0], edits[1], choice, annotator, ratings=rated)


ROWS = [row(1, 2, "first"), row(2, 3, "first"), row(3, 1, "first"), row(1, 2, "second", "bob"), row(0, 3, "first"),
        row(4, 5, "same")]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_dataset(tmp_path, "pairs", ROWS, PREFERENCES)
    return tmp_path / "pairs"


def page(folder: Path, against: tuple[Path, ...] = ()) -> str:
    found = audit(folder, against)
    path = folder.with_name("page.html")
    write_audit_page(path, found, read_examples(folder, example_rows(found)))
    return path.read_text(encoding="utf-8")


def test_untrusted_text_is_shown_and_never_read(folder: Path) -> None:
    text = page(folder)
    assert "<script" not in text and text.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 6
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", text)
    addresses = re.findall(r'(?:src|href|action)="([^"]{0,12})', text)
    assert len(addresses) >= 6 and all(address.startswith("data:image") for address in addresses)
    assert "default-src 'none'" in text and "url(" not in text


def test_every_kind_of_example_is_shown(folder: Path) -> None:
    text = page(folder, (folder,))
    for heading in ("Answered both ways", "Nothing to choose", "Shared with pairs", "Ratings beside the choice"):
        assert f"<h2>{heading}" in text
    assert "the same pixels" in text and ", won" in text


def test_a_cycle_is_drawn(tmp_path: Path) -> None:
    write_dataset(tmp_path, "pairs", ROWS[:3], PREFERENCES)
    text = page(tmp_path / "pairs")
    assert "<h2>Cycles" in text and "beats 2" in text and "beats 1" in text


def test_without_findings_it_says_so(tmp_path: Path) -> None:
    write_dataset(tmp_path, "pairs", [row(n, n + 1, "same", editor="e") for n in (4, 6)], PREFERENCES)
    text = page(tmp_path / "pairs")
    assert "there is nothing to train on" in text and "<h2>Cycles" not in text and "?</b>" in text


def test_the_table_is_readable_at_80_columns_without_markup(folder: Path) -> None:
    document = audit_json(audit(folder, (folder,)))
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(audit_table(document))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text and "[bold]x[/bold]" in text and "overlap with pairs" in text
