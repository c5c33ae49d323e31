"""The OpenAPI page in a real browser, on a machine that it takes for one without a net."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest

from tests.chromium import PATIENCE_MS, launched  # isort: skip - skips where there is no browser
from playwright.sync_api import Browser, Page, expect

from edit_r1.verifier.scoring import Verifier

ELSEWHERE = "judge.example"
"""A name of the server that is none of this machine's: Swagger UI asks a site of its own about such."""
TOKEN = "a-token-of-a-test-0123456789"
ENDPOINTS = ["/v1/judge", "/compute", "/score", "/rewards", "/v1/chat/completions", "/health", "/metrics"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched(f"--host-resolver-rules=MAP {ELSEWHERE} 127.0.0.1") as opened:
        yield opened


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that may ask the server and nobody else, and whose scripts have no error."""
    context = browser.new_context()
    context.set_default_timeout(PATIENCE_MS)
    opened = context.new_page()
    errors: list[str] = []
    asked: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    yield opened
    context.close()
    assert errors == []
    hosts = {urlsplit(url).hostname for url in asked if not url.startswith(("data:", "blob:"))}
    assert hosts and hosts <= {"127.0.0.1", ELSEWHERE}


def shows_all(page: Page) -> None:
    expect(page.locator(".opblock")).to_have_count(len(ENDPOINTS), timeout=PATIENCE_MS)
    shown = page.locator(".opblock-summary-path").evaluate_all("all => all.map((one) => one.dataset.path)")
    assert sorted(shown) == sorted(ENDPOINTS)


def test_every_endpoint_is_shown_and_nothing_is_fetched_from_elsewhere(page: Page, kit: SimpleNamespace) -> None:
    with kit.live(Verifier(kit.FakeVLM(), variant="compact"), max_wait_ms=0) as url:
        page.goto(f"http://{ELSEWHERE}:{urlsplit(url).port}/docs")
        shows_all(page)
        page.wait_for_load_state("networkidle")


def test_an_example_can_be_tried(page: Page, kit: SimpleNamespace) -> None:
    with kit.live(Verifier(kit.FakeVLM(), variant="compact"), max_wait_ms=0) as url:
        page.goto(f"{url}/docs")
        block = page.locator(".opblock", has=page.locator('[data-path="/v1/judge"]'))
        block.locator(".opblock-summary").click()
        block.locator(".try-out__btn").click()
        block.locator(".execute").click()
        answer = block.locator(".live-responses-table .response-col_description code").first
        expect(answer).to_contain_text('"judgments"', timeout=PATIENCE_MS)
        assert block.locator(".live-responses-table .response-col_status").last.inner_text().startswith("200")


@pytest.mark.parametrize("how", ["address", "dialogue"])
def test_a_token_is_the_password(browser: Browser, kit: SimpleNamespace, how: str) -> None:
    with kit.live(Verifier(kit.FakeVLM(), variant="compact"), tokens=[TOKEN], max_wait_ms=0) as url:
        known = {"username": "any", "password": TOKEN} if how == "dialogue" else None
        context = browser.new_context(http_credentials=known)
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        page.goto(f"{url.replace('//', f'//any:{TOKEN}@') if known is None else url}/docs")
        shows_all(page)
        context.close()
