"""The page of a curation: all text escaped, nothing fetched, and its filters in a real browser where there is one."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from edit_r1.curate.findings import ContextFinding
from edit_r1.curate.look import Looked
from edit_r1.curate.select import Cause, Decision
from edit_r1.images import encode_png
from edit_r1.records import (
    FEATURE_PRESERVATION,
    INSTRUCTION_FOLLOWING,
    Candidate,
    Context,
    GoldVerdicts,
    PoolTrace,
    Principle,
    Sample,
    Trace,
    Unparsed,
    Verdict,
)
from edit_r1.report.curation_page import write_curation_page

NASTY = "</script><script>alert(1)</script> \x1b[31m\u202e\ud800 \"quoted\" ' onload='x' {{ 7 * 7 }}"
PRINCIPLES = (Principle(f"Is it {NASTY}?", INSTRUCTION_FOLLOWING), Principle("Is it kept?", FEATURE_PRESERVATION))
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def picture(level: int) -> bytes:
    return encode_png(np.full((24, 32, 3), level, np.uint8))


def looked(number: int, text: str = "", editor: str = "kontext", values: tuple[int, int] = (1, 1)) -> Looked:
    """Judge a says `values`, judge b nothing that can be read; gold is 1 and 0."""
    name = f"c{number}"
    sample = Sample(f"s{number} {text}", picture(50), f"Edit {number} {text}", f"style {text}".strip())
    verdicts = tuple(Verdict(1 if value else 0, f"seen {text}") for value in values)
    right = (int(values[0] == 1) + int(values[1] == 0)) / 2
    cause: Cause = "kept" if right == 1 else "less accurate"
    return Looked(
        Context(sample, PRINCIPLES, "d"),
        Candidate(name, sample.id, picture(90), f"{editor}{text}", 0),
        (
            PoolTrace(name, f"a{text}", 0, Trace(f"first {text}\nsecond line", 7.5, verdicts)),
            PoolTrace(name, f"b{text}", 1, Unparsed(f"wild {text}", "no score")),
        ),
        GoldVerdicts(name, (Verdict(1, f"reason {text}"), Verdict(0)), f"v{text}"),
        (GoldVerdicts(name, (Verdict(0), Verdict(0)), f"member {text}"),),
        (Decision(name, f"a{text}", 0, right, cause, f"because {text}"),
         Decision(name, f"b{text}", 1, None, "unparsed", "unparsed: no score")),
        (ContextFinding(sample.id, "uncovered", f"nothing takes up {text}", ()),),
    )  # fmt: skip


def page(tmp_path: Path, rows: list[Looked], which: str | None = None) -> str:
    return write_curation_page(tmp_path / "look.html", f"run {NASTY}", which, rows, None).read_text(encoding="utf-8")


def test_untrusted_text_is_shown_and_never_read(tmp_path: Path) -> None:
    text = page(tmp_path, [looked(0, NASTY)])
    assert text.count("<script>") == 1 and text.count("</script>") == 1  # our own
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 12
    bare = re.sub(r"data:image[^\"]*", "", text)
    assert "{{ 7 * 7 }}" in html.unescape(bare) and "49" not in re.sub(r"<style>.*?</style>", "", bare, flags=re.S)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e\ud800]", text)
    tags = re.findall(r"<[a-z][^>]*>", bare)
    assert not [tag for tag in tags if re.search(r"\son\w+\s*=", re.sub(r'"[^"]*"', '""', tag))]  # no inline handler
    assert "second line" in text


def test_only_our_script_may_run_and_nothing_is_fetched(tmp_path: Path) -> None:
    text = page(tmp_path, [looked(0), looked(1)])
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)
    assert script is not None and script[1] == files("edit_r1.report").joinpath("curation.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html.unescape(text) and "default-src 'none'" in html.unescape(text)
    addresses = re.findall(r'(?:src|href|action)="([^"]{0,12})', text)
    assert len(addresses) == 4 and all(address.startswith("data:image") for address in addresses)


def test_every_verdict_stands_beside_gold(tmp_path: Path) -> None:
    text = page(tmp_path, [looked(0)])
    rows = re.findall(r"<tr><td>.*?</tr>", text, re.DOTALL)
    marks = [re.findall(r'aria-label="([^"]*)"', row) for row in rows]
    assert marks == [["yes", "no, against gold", "yes"], ["no", "no", "yes, against gold"]]  # gold, member, trace
    assert "agreement 50 %" in text and "not kept: because" in text and "not kept: unparsed: no score" in text
    assert "uncovered: nothing takes up" in text and "reason" in text


def test_no_rows_and_no_gold(tmp_path: Path) -> None:
    assert "Nothing in this curation fits." in page(tmp_path, [], "failed")
    one = looked(0)
    text = page(tmp_path, [Looked(one.context, one.candidate, one.traces, None, (), one.decisions, ())])
    assert "The verifier gave no gold." in text


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_filters_filter(tmp_path: Path) -> None:
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    rows = [
        looked(0, editor="kontext"),
        looked(1, editor="kontext", values=(1, 0)),
        looked(2, editor="qwen", values=(0, 1)),
        looked(3, NASTY, "qwen"),
    ]
    page(tmp_path, rows)
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--no-first-run"])
        shown = browser.new_page(viewport={"width": 390, "height": 800})
        errors: list[str] = []
        shown.on("pageerror", lambda error: errors.append(str(error)))
        shown.on("dialog", lambda dialog: errors.append("a dialog") or dialog.dismiss())
        shown.goto((tmp_path / "look.html").as_uri())

        def visible() -> list[str]:
            return [text.split()[1] for text in shown.locator(".card:visible h2").all_inner_texts()]

        assert visible() == ["0", "1", "2", "3"]
        shown.select_option("#by-editor", "qwen")
        assert visible() == ["2"]
        shown.select_option("#by-editor", "")
        shown.select_option("#by-judge", "a")
        shown.select_option("#by-cause", "less accurate")
        assert visible() == ["0", "2"]
        shown.select_option("#by-cause", "unparsed")
        assert visible() == []  # b's trace is the unparsed one
        shown.locator("#filters button").click()
        api.expect(shown.locator(".card:visible")).to_have_count(4)
        shown.select_option("#by-order", "low")
        assert visible() == ["2", "0", "3", "1"]
        shown.locator("#by-low").fill("60")
        assert visible() == ["1"] and "1 of 4" in shown.inner_text("#told")
        assert shown.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        browser.close()
    assert errors == []


def test_what_a_card_tells_the_filters_is_json(tmp_path: Path) -> None:
    text = page(tmp_path, [looked(0, NASTY)])
    said = re.search(r'data-said="([^"]*)"', text)
    assert said is not None
    assert [cause for _, cause in json.loads(html.unescape(said[1]))] == ["less accurate", "unparsed"]
