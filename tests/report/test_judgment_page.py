"""The page of one judgment: all that was said, escaped, without control characters, and nothing fetched."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from pathlib import Path

import numpy as np
import pytest

from edit_r1.images import ImageError, decode_rgb, encode_png
from edit_r1.records import FEATURE_PRESERVATION, INSTRUCTION_FOLLOWING, Principle, Trace, Unparsed, Verdict
from edit_r1.report.judgment_page import GAIN, SCRIPT, compare, lines, write_judgment_page
from edit_r1.report.text import plain
from edit_r1.verifier.judgments import aggregate

NASTY = '<script>alert(1)</script> \x1b[31m\u202e\ud800 "quoted" {{ 7 * 7 }}'
PRINCIPLES = (Principle(f"Is it {NASTY}?", INSTRUCTION_FOLLOWING), Principle("Is it kept?", FEATURE_PRESERVATION))


def picture(width: int = 32, height: int = 24, level: int = 100) -> bytes:
    return encode_png(np.full((height, width, 3), level, np.uint8))


def page(tmp_path: Path, outcomes: list[Trace | Unparsed], sources: int = 1, edited: bytes | None = None) -> str:
    judgment = aggregate(outcomes, PRINCIPLES, f"model {NASTY}", 1.5)
    path = tmp_path / "page.html"
    write_judgment_page(path, judgment, [picture()] * sources, edited or picture(level=110), f"Make it {NASTY}")
    return path.read_text(encoding="utf-8")


TRACE = Trace(f"think {NASTY}\nsecond line", 8.0, (Verdict(1, f"seen {NASTY}"), Verdict(0, None)), None, 12)
OTHER = Trace("short", 7.0, (Verdict(0, None), Verdict(0, None)), None, 3)


def test_untrusted_text_is_shown_and_never_read(tmp_path: Path) -> None:
    text = page(tmp_path, [TRACE, OTHER, Unparsed(NASTY, f"because {NASTY}", 2)])
    assert text.count("<script>") == 1  # our own
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 6  # title, instruction, question, evidence, traces
    assert "{{ 7 * 7 }}" in html.unescape(text) and "49" not in re.sub(r"data:image[^\"]*", "", text)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", text)
    assert "second line" in text


def test_only_our_script_may_run_and_nothing_is_fetched(tmp_path: Path) -> None:
    text = page(tmp_path, [TRACE], sources=2)
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)
    assert script is not None and script[1] == SCRIPT
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html.unescape(text) and "default-src 'none'" in html.unescape(text)
    addresses = re.findall(r'(?:src|href|action)="([^"]{0,12})', text)
    assert len(addresses) == 4 and all(address.startswith("data:image") for address in addresses)
    assert "The difference is to the first source." in text


def test_scores_spread_and_marks(tmp_path: Path) -> None:
    text = page(tmp_path, [TRACE, OTHER, Unparsed("?", "no score", 1)])
    assert "7.5 <small>of 10</small>" in text
    assert "± 0.50 over 2 traces, 1 of 3 unparsed" in text
    assert 'aria-label="traces disagree"' in text and 'aria-label="not fulfilled"' in text
    assert "unparsed: no score" in text


def test_without_a_score_it_says_so(tmp_path: Path) -> None:
    text = page(tmp_path, [Unparsed("?", "no score", 1)])
    assert "no score</b>" in text and "1 trace, 1 of 1 unparsed" in text
    assert text.count('aria-label="no verdict"') == 2
    assert "<details open>" in text


def test_the_difference_is_amplified_and_measured() -> None:
    pixels = np.full((24, 32, 3), 100, np.uint8)
    edited = pixels.copy()
    edited[:12, :, 0] = 120
    compared = compare(encode_png(pixels), encode_png(edited))
    shown = decode_rgb(compared.difference)
    assert (shown[0, 0] == (20 * GAIN, 0, 0)).all() and (shown[-1, -1] == 0).all()
    assert compared.changed == 0.5 and compared.mean == pytest.approx(20 / 6)
    assert compared.note is None and compared.size == (32, 24)


def test_other_sizes_are_told_and_padding_is_no_difference() -> None:
    compared = compare(picture(32, 24), picture(24, 24))
    assert compared.note is not None
    assert "Source 32 × 24, edit 24 × 24" in compared.note and "Grey" in compared.note
    assert compared.mean == 0 and compared.changed == 0
    assert (decode_rgb(compared.difference)[0, 0] == 127).all()
    larger = compare(picture(32, 24), picture(64, 48))
    assert larger.note is not None and "resampled" in larger.note and "Grey" not in larger.note
    huge = compare(picture(2000, 1000), picture(2000, 1000))
    assert huge.size[0] * huge.size[1] <= 2**20 and huge.note is not None and "Their sizes differ" not in huge.note


def test_a_picture_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError):
        page(tmp_path, [TRACE], edited=b"no picture")
    assert not (tmp_path / "page.html").exists()


def test_plain_and_lines() -> None:
    assert plain("a\x00b\nc\u202ed\ud800") == "ab cd"
    assert lines("a\x1bb\n\tc") == "ab\n    c"
