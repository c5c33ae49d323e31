"""Answers that are stored as they come and looked up afterwards."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edit_r1.store.journal import Journal, read_journal
from edit_r1.vlm.budget import Budget, BudgetError, Ledger, read_spent
from edit_r1.vlm.kept import PIECE, KeptVLM, _read, call_key, request_digest
from edit_r1.vlm.openai import OpenAIVLM, Prices
from edit_r1.vlm.paid import Call, PaidVLM
from edit_r1.vlm.protocol import Completion, Request, Sampling, TokenChoices
from edit_r1.vlm.usage import Usage

WARM = Sampling(9, seed=40)
GREEDY = Sampling(9, temperature=0.0)
ASK = [Request((f"question {number}",)) for number in range(5)]


class Local:
    """A model of this machine; fails where told to."""

    name, simulated = "local", False

    def __init__(self, fails: Sequence[str] = (), breaks_after: int | None = None) -> None:
        self.fails, self.breaks_after, self.calls = fails, breaks_after, 0
        self.asked: list[int] = []

    def generate(self, requests: Sequence[Request], sampling: Sampling, n: int = 1) -> list[list[Completion]]:
        if self.calls == self.breaks_after:
            raise KeyboardInterrupt
        self.calls += 1
        self.asked.append(len(requests))
        return [[self._one(request, place, n) for n in range(n)] for place, request in enumerate(requests)]

    def _one(self, request: Request, place: int, n: int) -> Completion:
        if request.text in self.fails:
            return Completion("", 0, "error", "out of memory")
        choices = (TokenChoices("a", (("a", -0.1), ("b", -2.5))),)
        return Completion(f"{request.text} at {place}: {n}", 3, "length", choices=choices)


def texts(rows: list[list[Completion]]) -> list[list[str]]:
    return [[one.text for one in row] for row in rows]


@pytest.fixture
def server(fake_openai: Any) -> Any:
    return fake_openai(lambda body, number: f"{body['messages'][-1]['content'][0]['text']}, seed {body['seed']}")


@pytest.fixture
def connect() -> Iterator[Any]:
    made: list[OpenAIVLM] = []

    def make(url: str, **settings: Any) -> OpenAIVLM:
        made.append(OpenAIVLM(url, "judge", **{"backoff_s": 0.01, "max_retries": 0, **settings}))
        return made[-1]

    yield make
    for vlm in made:
        vlm.close()


def test_an_openai_model_is_paid_and_a_local_one_is_not(connect: Any) -> None:
    assert isinstance(connect("http://127.0.0.1:9"), PaidVLM)
    assert not isinstance(Local(), PaidVLM)


def test_what_was_answered_is_not_asked_again(server: Any, connect: Any, tmp_path: Path) -> None:
    kept = KeptVLM(connect(server.url), tmp_path)
    first = kept.generate(ASK[:3], WARM, 2)
    assert texts(first)[1] == ["question 1, seed 40", "question 1, seed 41"] and len(server.bodies) == 6
    kept.close()
    again = KeptVLM(connect(server.url), tmp_path)
    assert again.generate(ASK[:3], WARM, 2) == first and len(server.bodies) == 6
    # One draw more is one call more each, greedy copies are one, and all else that shapes an answer is asked for.
    assert texts(again.generate(ASK[:3], WARM, 3))[0][2] == "question 0, seed 42" and len(server.bodies) == 9
    assert len(again.generate(ASK[:1], GREEDY, 4)[0]) == 4 and len(server.bodies) == 10
    again.generate([Request(("question 0",), system="Be strict")], WARM)
    KeptVLM(connect(server.url, extra={"min_p": 0.1}), tmp_path).generate(ASK[:1], WARM)
    assert len(server.bodies) == 12
    assert KeptVLM(connect(server.url), tmp_path / "other").generate(ASK[:1], WARM)[0] == first[0][:1]
    assert len(server.bodies) == 13
    assert (again.name, again.simulated) == ("judge", False)


def test_equal_calls_are_paid_once(server: Any, connect: Any, tmp_path: Path) -> None:
    rows = KeptVLM(connect(server.url), tmp_path).generate([ASK[0], ASK[1], Request(ASK[0].parts)], WARM)
    assert rows[0] == rows[2] and len(server.bodies) == 2


def test_a_failed_call_is_asked_again(fake_openai: Any, connect: Any, reply: Any, tmp_path: Path) -> None:
    broken = [True]
    server = fake_openai(
        lambda body, n: reply({"error": "no"}, 400) if broken[0] and "3" in str(body["messages"]) else "fine"
    )
    ledger = Ledger(tmp_path / "spent")
    kept = KeptVLM(connect(server.url, prices=Prices(1.0, 1.0)), tmp_path / "kept", ledger)
    rows = kept.generate(ASK, GREEDY)
    assert [row[0].finish for row in rows] == ["stop", "stop", "stop", "error", "stop"]
    assert kept.used == Usage(requests=5, failures=1, prompt_tokens=40, completion_tokens=16, cost=56e-6)
    broken[0] = False
    assert {row[0].text for row in kept.generate(ASK, GREEDY)} == {"fine"} and len(server.bodies) == 6
    spent = read_spent(tmp_path / "spent")["judge"]
    assert spent.usage.requests == 6 and spent.usage.failures == 1 and spent.usage.cost == pytest.approx(70e-6)
    assert spent.limit == 16


def test_each_answer_is_on_the_disk_before_the_last_has_come(fake_openai: Any, connect: Any, tmp_path: Path) -> None:
    seen: list[int] = []
    lock = threading.Lock()

    def answer(body: dict[str, Any], number: int) -> str:
        with lock:
            seen.append(len(list(read_journal(tmp_path))))
        return "fine"

    kept = KeptVLM(connect(fake_openai(answer).url, concurrency=1), tmp_path)
    kept.generate([Request((str(number),)) for number in range(12)], GREEDY)
    assert all(count >= place - 2 for place, count in enumerate(seen)) and len(list(read_journal(tmp_path))) == 12


def test_a_torn_answer_is_asked_for_again(server: Any, connect: Any, tmp_path: Path) -> None:
    kept = KeptVLM(connect(server.url), tmp_path)
    first = kept.generate(ASK, GREEDY)
    kept.close()
    [path] = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-20])
    assert KeptVLM(connect(server.url), tmp_path).generate(ASK, GREEDY) == first
    assert len(server.bodies) == 6


def test_a_budget_ends_the_asking_and_what_is_under_way_is_stored(server: Any, connect: Any, tmp_path: Path) -> None:
    for bound, asked in ((3, 3), (3, 3), (4, 4)):
        ledger = Ledger(tmp_path / "spent", Budget(requests=bound))
        with pytest.raises(BudgetError, match="budget of [34] .requests. is spent"):
            KeptVLM(connect(server.url), tmp_path / "kept", ledger).generate(ASK, GREEDY)
        assert len(server.bodies) == asked == len(list(read_journal(tmp_path / "kept")))
    KeptVLM(connect(server.url), tmp_path / "kept", Ledger(tmp_path / "spent", Budget(requests=5))).generate(
        ASK, GREEDY
    )
    assert len(server.bodies) == 5


def test_a_local_models_answers_are_those_of_a_run_that_was_not_killed(tmp_path: Path) -> None:
    """They depend on what is decoded beside them: a piece that is not whole is asked again as a whole."""
    requests = [Request((f"question {number}",)) for number in range(2 * PIECE + 5)]
    whole = KeptVLM(Local(), tmp_path / "whole").generate(requests, WARM, 2)
    with pytest.raises(KeyboardInterrupt):
        KeptVLM(Local(breaks_after=1), tmp_path / "killed").generate(requests, WARM, 2)
    [path] = (tmp_path / "killed").iterdir()
    assert len(list(read_journal(tmp_path / "killed"))) == PIECE
    rest = Local()
    assert KeptVLM(rest, tmp_path / "killed").generate(requests, WARM, 2) == whole
    assert rest.asked == [PIECE, 5]
    path.write_bytes(path.read_bytes()[:-5])
    torn = Local()
    assert KeptVLM(torn, tmp_path / "killed").generate(requests, WARM, 2) == whole
    assert torn.asked == [PIECE]
    failing = Local(fails=["question 1"])
    rows = KeptVLM(failing, tmp_path / "failing").generate(requests[:3], WARM)
    assert [row[0].finish for row in rows] == ["length", "error", "length"]
    assert len(list(read_journal(tmp_path / "failing"))) == 2


COMPLETIONS = st.builds(
    Completion,
    st.text(),
    st.integers(0, 10**6),
    st.sampled_from(["stop", "length"]),
    st.none(),
    st.none()
    | st.lists(
        st.builds(
            TokenChoices,
            st.text(),
            st.lists(st.tuples(st.text(), st.floats(-100, 0)), max_size=3).map(tuple),
        ),
        max_size=3,
    ).map(tuple),
)


@given(st.lists(COMPLETIONS, min_size=1, max_size=3))
def test_an_answer_is_read_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, rows: list[Completion]) -> None:
    folder = tmp_path_factory.mktemp("kept")
    kept = KeptVLM(Local(), folder)
    kept._kept = {}
    usage = Usage(1, 2, 0, 0, 30, 4, 0.25)
    kept._store("key", tuple(rows), usage)
    assert [_read(line) for line in read_journal(folder)] == [("key", tuple(rows), usage)]


PARTS = st.lists(st.text(max_size=5) | st.binary(max_size=5), max_size=4).map(tuple)


@given(PARTS, st.none() | st.text(max_size=3), PARTS, st.none() | st.text(max_size=3))
def test_keys_differ_for_whatever_differs(a: Any, system_a: Any, b: Any, system_b: Any) -> None:
    one, two = Request(a, system_a), Request(b, system_b)
    assert (request_digest(one) == request_digest(two)) == (one == two)


def test_keys_name_model_settings_sampling_and_number() -> None:
    call, digest = Call(ASK[0], WARM), request_digest(ASK[0])
    ways = [
        call_key("judge", "", digest, call),
        call_key("other", "", digest, call),
        call_key("judge", '{"min_p": 0.1}', digest, call),
        call_key("judge", "", digest, Call(ASK[0], GREEDY)),
        call_key("judge", "", digest, Call(ASK[0], WARM, 2)),
        call_key("judge", "", request_digest(ASK[1]), Call(ASK[1], WARM)),
    ]
    assert len(set(ways)) == len(ways) and all(len(way) == 32 for way in ways)


def test_a_refused_write_ends_the_asking(
    server: Any, connect: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Journal, value: object) -> None:
        raise ValueError("no space left")

    monkeypatch.setattr(Journal, "append", full)
    vlm = connect(server.url)
    with pytest.raises(ValueError, match="no space left"):
        KeptVLM(vlm, tmp_path).generate(ASK, GREEDY)
    assert texts(vlm.generate(ASK[:1], GREEDY)) == [["question 0, seed 0"]]  # the connection lives
