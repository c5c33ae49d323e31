"""The pages in a real browser: Chromium driven by Playwright, against a real server that is killed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.chromium import PATIENCE_MS, launched  # isort: skip - skips where there is no browser
from playwright.sync_api import Browser, Page, expect

KEYS = {"ArrowLeft": "left", "ArrowRight": "right", "ArrowDown": "same", "ArrowUp": "skip"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as opened:
        yield opened


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Any]:
    """Pages with a time limit, in a context of their own; an error of a script fails the test."""
    contexts, errors = [], []

    def start(context: Any = None, **options: Any) -> Page:
        if context is None:
            context = browser.new_context(**options)
            context.set_default_timeout(PATIENCE_MS)
            contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        return page

    yield start
    for context in contexts:
        context.close()
    assert errors == []


def join(page: Page, url: str, name: str) -> None:
    page.goto(url)
    page.fill("#name", name)
    page.press("#name", "Enter")
    shown(page)


def shown(page: Page) -> str:
    """The instruction of a pair whose pictures are visible."""
    page.wait_for_function(
        "() => { const all = [...document.querySelectorAll('.view img.edit')];"
        " return all.length === 3 && all.every((one) => one.complete && one.naturalWidth) }",
        timeout=PATIENCE_MS,
    )
    return page.inner_text("#instruction")


def press(page: Page, key: str) -> str:
    """Answers the pair in view and returns its instruction."""
    asked = shown(page)
    page.keyboard.press(key)
    page.wait_for_function(
        "(asked) => document.getElementById('instruction').textContent !== asked"
        " || !document.getElementById('pause').hidden",
        arg=asked,
        timeout=PATIENCE_MS,
    )
    return asked


def loaded(page: Page, pairs: int) -> None:
    """Waits until the pictures of so many pairs have arrived."""
    page.wait_for_function(
        "(count) => new Set(performance.getEntriesByType('resource')"
        ".filter((one) => one.name.includes('/pictures/') && one.responseStatus === 200)"
        ".map((one) => one.name)).size >= count",
        arg=3 * pairs,
        timeout=PATIENCE_MS,
    )


def settled(page: Page) -> None:
    """Waits until every answer is acknowledged."""
    page.wait_for_function(
        "() => !Object.keys(localStorage).some((key) => /^edit-r1:[0-9a-f]+:/.test(key))", timeout=PATIENCE_MS
    )


def answers(folder: Path) -> dict[tuple[str, str], str]:
    """(annotator, instruction) to what was chosen, as it was shown."""
    with sqlite3.connect(folder / "answers.sqlite") as connection:
        rows = connection.execute(
            "SELECT n.name, json_extract(p.record, '$.context_instruction'), a.choice, s.turned FROM answers a "
            "JOIN annotators n ON n.number = a.annotator JOIN pairs p ON p.number = a.pair "
            "JOIN showings s ON s.annotator = a.annotator AND s.pair = a.pair WHERE a.undone IS NULL"
        ).fetchall()
    connection.close()
    found = {}
    for name, instruction, choice, turned in rows:
        assert (name, instruction) not in found
        side = choice if choice in ("same", "skip") else "left" if (choice == "first") != bool(turned) else "right"
        found[name, instruction] = side
    return found


def test_answers_survive_a_killed_server_and_a_closed_page(
    tmp_path: Path, kit: SimpleNamespace, serve: Any, open_page: Any
) -> None:
    server = serve(kit.write_task(tmp_path, 30), "--gold-every", "0")
    page = open_page()
    join(page, server.url, "Ann")
    keys = list(KEYS)
    pressed = {}
    for number in range(8):
        pressed["Ann", press(page, keys[number % 4])] = KEYS[keys[number % 4]]
    loaded(page, 8 + 3 + 1)  # those that follow, and what is in view after them
    server.stop()
    for number in range(3):
        pressed["Ann", press(page, keys[number])] = KEYS[keys[number]]
    expect(page.locator("#state")).to_contain_text("wait", timeout=PATIENCE_MS)
    page.close()  # with three answers that nobody has acknowledged
    server.start()
    again = open_page(page.context)
    again.goto(server.url)
    settled(again)
    assert answers(tmp_path) == pressed and len(pressed) == 11
    for number in range(9):
        pressed["Ann", press(again, keys[number % 4])] = KEYS[keys[number % 4]]
    settled(again)
    assert answers(tmp_path) == pressed and len(pressed) == 20
    measured = again.evaluate("performance.getEntriesByName('edit-r1:next').map((one) => one.duration)")
    assert len(measured) >= 8 and all(value > 0 for value in measured)


def test_two_people_at_once_an_undo_and_the_end(
    tmp_path: Path, kit: SimpleNamespace, serve: Any, open_page: Any
) -> None:
    server = serve(kit.write_task(tmp_path, 3), "--gold-every", "0")
    ann, bob = open_page(), open_page()
    join(ann, server.url, "Ann")
    join(bob, server.url, "Bob")
    taken_back = press(ann, "ArrowLeft")
    ann.keyboard.press("u")
    expect(ann.locator("#instruction")).to_have_text(taken_back)
    for page, name, key in ((ann, "Ann", "ArrowRight"), (bob, "Bob", "1")):
        for _ in range(3):
            press(page, key)
        expect(page.locator("#pause-title")).to_have_text("Done, thank you", timeout=PATIENCE_MS)
        settled(page)
        page.goto(f"{server.url}/progress")
        expect(page.locator("#annotators")).to_contain_text(name)
    wanted = {("Ann", f"Make it number {n}."): "right" for n in range(3)}
    wanted |= {("Bob", f"Make it number {n}."): "left" for n in range(3)}
    assert answers(tmp_path) == wanted
    expect(bob.locator("#tiles")).to_contain_text("3 of 3", timeout=PATIENCE_MS)
    expect(bob.locator("#annotators")).to_contain_text("100 % [100 %, 100 %]")
    expect(bob.locator("#annotators .warn")).to_have_count(0)  # three answers to one side are no preference for it


def test_views_move_together_and_the_checklist_is_kept(
    tmp_path: Path, kit: SimpleNamespace, serve: Any, open_page: Any
) -> None:
    server = serve(kit.write_task(tmp_path, 4, principles=2), "--gold-every", "0")
    page = open_page(viewport={"width": 1280, "height": 800})
    join(page, server.url, "Ann")

    def places() -> list[list[float]]:
        """Of each pane's layer: scale, and offsets as shares of the pane."""
        found: list[list[float]] = page.evaluate(
            "[...document.querySelectorAll('.layer')].map((one) => { const a = one.getBoundingClientRect(),"
            " b = one.parentElement.getBoundingClientRect(); return [a.width / b.width, (a.left - b.left) / b.width,"
            " (a.top - b.top) / b.height] })"
        )
        return found

    assert places() == [[1, 0, 0]] * 3
    page.mouse.move(*middle(page, "left", 0.25))
    page.mouse.wheel(0, -400)
    page.wait_for_function("document.getElementById('panes').classList.contains('zoomed')")
    wheeled = places()
    assert wheeled[0][0] > 1.5 and all(place == pytest.approx(wheeled[0], abs=0.01) for place in wheeled)
    page.keyboard.press("Shift+ArrowLeft")
    moved = places()
    assert moved[0][1] > wheeled[0][1] and all(place == pytest.approx(moved[0], abs=0.01) for place in moved)
    page.keyboard.press("f")
    assert places() == [[1, 0, 0]] * 3

    def visible(kind: str) -> list[bool]:
        found: list[bool] = page.evaluate(
            "(kind) => [...document.querySelectorAll(`.view ${kind}`)].map("
            "(one) => getComputedStyle(one).visibility === 'visible')",
            kind,
        )
        return found

    assert visible("img.edit") == [True] * 3 and visible("img.instead") == [False] * 2
    page.keyboard.down("b")
    assert visible("img.instead") == [True] * 2 and visible("img.edit") == [True, False, False]
    page.keyboard.up("b")
    assert visible("img.instead") == [False] * 2
    page.keyboard.press("x")
    brightest = page.evaluate(
        "[...document.querySelectorAll('.view canvas')].map((one) =>"
        " Math.max(...one.getContext('2d').getImageData(12, 12, 1, 1).data.slice(0, 3)))"
    )
    # Sources have green 0, edits 80 and 160; four times as much, cut at 255.
    assert brightest == [255, 255] and visible("img.edit") == [True, False, False]
    page.keyboard.press("x")
    assert visible("img.edit") == [True] * 3

    page.keyboard.press("c")
    page.click("#checklist .line:nth-child(1) [aria-label='Left: yes']")
    page.click("#checklist .line:nth-child(2) [aria-label='Right: no']")
    turned = page.evaluate("document.querySelectorAll('#checklist [aria-pressed=true]').length")
    assert turned == 2
    page.focus("#checklist .line:nth-child(2) [aria-label='Right: no']")
    press(page, "ArrowDown")
    assert page.evaluate("document.querySelectorAll('#checklist [aria-pressed=true]').length") == 0
    assert page.evaluate("document.activeElement.closest('#checklist') !== null")
    settled(page)
    with sqlite3.connect(tmp_path / "answers.sqlite") as connection:
        verdicts, side = connection.execute(
            "SELECT a.verdicts, s.turned FROM answers a JOIN showings s ON s.pair = a.pair"
        ).fetchone()
    connection.close()
    left, right = ("second", "first") if side else ("first", "second")
    assert f'"{left}": [1, null]' in verdicts and f'"{right}": [null, 0]' in verdicts


def test_panes_of_other_shapes_show_the_same_part(
    tmp_path: Path, kit: SimpleNamespace, serve: Any, open_page: Any
) -> None:
    """On a phone the source's pane is wide and the edits' are tall."""
    server = serve(kit.write_task(tmp_path, 2), "--gold-every", "0")
    page = open_page(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    join(page, server.url, "Ann")

    def seen(x: float = 0.5, y: float = 0.5) -> list[list[float]]:
        """Of each pane: the point of the square picture, as shares of it, under the pane's point (x, y)."""
        found: list[list[float]] = page.evaluate(
            "([x, y]) => [...document.querySelectorAll('.layer')].map((one) => {"
            " const a = one.getBoundingClientRect(), b = one.parentElement.getBoundingClientRect();"
            " const side = Math.min(a.width, a.height);"
            " return [0.5 + (b.left + x * b.width - a.left - a.width / 2) / side,"
            " 0.5 + (b.top + y * b.height - a.top - a.height / 2) / side] })",
            [x, y],
        )
        return found

    boxes = [page.locator(f".pane[data-side={side}] .view").bounding_box() for side in ("source", "left")]
    assert boxes[0]["width"] > boxes[0]["height"] and boxes[1]["width"] < boxes[1]["height"]
    assert all(point == pytest.approx([0.5, 0.5], abs=1e-3) for point in seen())
    held = seen(0.3, 0.4)[1]
    page.mouse.move(boxes[1]["x"] + 0.3 * boxes[1]["width"], boxes[1]["y"] + 0.4 * boxes[1]["height"])
    page.mouse.wheel(0, -400)
    expect(page.locator("#panes.zoomed")).to_be_visible(timeout=PATIENCE_MS)
    zoomed = seen()
    assert zoomed[0] != pytest.approx([0.5, 0.5], abs=0.01)
    assert all(point == pytest.approx(zoomed[0], abs=1e-3) for point in zoomed)
    assert seen(0.3, 0.4)[1] == pytest.approx(held, abs=5e-3), "the point under the pointer stays"
    page.locator("#zoom-in").click()
    moved = seen()
    assert all(point == pytest.approx(moved[0], abs=1e-3) for point in moved)


def middle(page: Page, side: str, share: float) -> tuple[float, float]:
    box = page.locator(f".pane[data-side={side}] .view").bounding_box()
    assert box is not None
    return box["x"] + share * box["width"], box["y"] + share * box["height"]


def test_a_token_is_asked_for_as_a_password(tmp_path: Path, kit: SimpleNamespace, serve: Any, open_page: Any) -> None:
    token = tmp_path / "token"
    token.write_text("a-token-of-sixteen-or-more\n")
    server = serve(kit.write_task(tmp_path / "task", 2), "--gold-every", "0", "--token-file", str(token))
    credentials = {"username": "anybody", "password": token.read_text().strip()}
    page = open_page(http_credentials=credentials)
    join(page, server.url, "Ann")
    asked = press(page, "ArrowLeft")
    settled(page)
    assert answers(tmp_path / "task") == {("Ann", asked): "left"}


def test_a_phone_needs_no_keys(tmp_path: Path, kit: SimpleNamespace, serve: Any, open_page: Any) -> None:
    server = serve(kit.write_task(tmp_path, 4), "--gold-every", "0")
    page = open_page(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page.goto(server.url)
    page.fill("#name", "Ann")
    page.tap("#join button")
    asked = shown(page)
    for selector in ("#choices button", ".view", "#tools button:visible", "#instruction"):
        for one in page.locator(selector).all():
            box = one.bounding_box()
            assert (
                box is not None and box["x"] >= 0 and box["x"] + box["width"] <= 390 and box["y"] + box["height"] <= 844
            )
            assert selector == "#instruction" or min(box["width"], box["height"]) >= 32  # room for a finger
    page.tap("[data-choice=right]")
    page.wait_for_function("(asked) => document.getElementById('instruction').textContent !== asked", arg=asked)
    page.tap("[data-choice=undo]")
    expect(page.locator("#instruction")).to_have_text(asked)
    page.tap("[data-choice=same]")
    settled(page)
    assert answers(tmp_path) == {("Ann", asked): "same"}


def test_a_phone_on_its_side_shows_three_pictures_in_a_row(
    tmp_path: Path, kit: SimpleNamespace, serve: Any, open_page: Any
) -> None:
    server = serve(kit.write_task(tmp_path, 2, principles=3), "--gold-every", "0")
    page = open_page(viewport={"width": 667, "height": 375}, has_touch=True, is_mobile=True)
    join(page, server.url, "Ann")
    boxes = [one.bounding_box() for one in page.locator(".view").all()]
    assert len({box["y"] for box in boxes}) == 1 and all(box["height"] >= 140 for box in boxes), boxes
    for one in page.locator("#choices button, #tools button:visible").all():
        box = one.bounding_box()
        assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= 667
        assert box["y"] + box["height"] <= 375 and min(box["width"], box["height"]) >= 32


def test_a_key_held_on_a_button_is_one_answer(tmp_path: Path, kit: SimpleNamespace, serve: Any, open_page: Any) -> None:
    server = serve(kit.write_task(tmp_path, 8), "--gold-every", "0")
    page = open_page()
    join(page, server.url, "Ann")
    loaded(page, 7)
    asked = shown(page)
    page.focus("[data-choice=left]")
    for _ in range(4):
        page.keyboard.down("Enter")
    page.keyboard.up("Enter")
    expect(page.locator("#instruction")).not_to_have_text(asked)
    settled(page)
    assert answers(tmp_path) == {("Ann", asked): "left"}


def test_pictures_that_do_not_come_are_told_and_the_pair_can_be_skipped(
    tmp_path: Path, kit: SimpleNamespace, serve: Any, open_page: Any
) -> None:
    server = serve(kit.write_task(tmp_path, 2), "--gold-every", "0")
    for kept in (tmp_path / "pictures").rglob("*"):
        if kept.is_file():
            kept.unlink()
    page = open_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(server.url)
    page.fill("#name", "Ann")
    page.press("#name", "Enter")
    expect(page.locator("#state")).to_contain_text("do not come: wait, or skip it", timeout=PATIENCE_MS)
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#answered").startswith("0")
    page.keyboard.press("ArrowUp")
    expect(page.locator("#state")).to_have_text("skipped")
    page.keyboard.press("ArrowUp")
    expect(page.locator("#pause-title")).to_have_text("Done, thank you", timeout=PATIENCE_MS)
    settled(page)
    assert list(answers(tmp_path).values()) == ["skip", "skip"]
    page.wait_for_timeout(1500)  # what was tried every second is given up within one
    asked.clear()
    page.wait_for_timeout(1500)
    assert not any("/pictures/" in url for url in asked)


def test_answers_taken_back_while_no_server_runs_are_asked_for_once(
    tmp_path: Path, kit: SimpleNamespace, serve: Any, open_page: Any
) -> None:
    server = serve(kit.write_task(tmp_path, 9), "--gold-every", "0")
    page = open_page()
    join(page, server.url, "Ann")
    loaded(page, 7)
    server.stop()
    asked = shown(page)
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("u")
    with page.expect_request("**/api/next") as request:
        page.keyboard.press("ArrowRight")
    having = request.value.post_data_json["having"]
    assert len(set(having)) == len(having) == 7, "the pairs that it holds, each once"
    server.start()
    settled(page)
    assert answers(tmp_path) == {("Ann", asked): "right"}


def test_answers_of_somebody_unknown_keep_nobody_else_from_working(
    tmp_path: Path, kit: SimpleNamespace, serve: Any, open_page: Any
) -> None:
    """Bob's answer waits in a browser that Ann uses, and the server was restored from a copy older than Bob."""
    server = serve(kit.write_task(tmp_path, 3), "--gold-every", "0")
    page = open_page()
    join(page, server.url, "Ann")
    page.evaluate(
        "async () => { const { task } = await (await fetch('/health')).json();"
        " const event = { kind: 'answer', id: 'bobs-answer-1', pair: 1, choice: 'left' };"
        " localStorage.setItem(`edit-r1:${task}:000000000000001-000000-1`, JSON.stringify({ name: 'Bob', event })) }"
    )
    page.reload()
    asked = press(page, "ArrowRight")
    page.wait_for_function(
        "() => Object.keys(localStorage).filter((key) => /^edit-r1:[0-9a-f]+:/.test(key)).length === 1",
        timeout=PATIENCE_MS,
    )
    expect(page.locator("#state")).to_contain_text("1 answer waits: no annotator 'Bob'", timeout=PATIENCE_MS)
    assert answers(tmp_path) == {("Ann", asked): "right"}
