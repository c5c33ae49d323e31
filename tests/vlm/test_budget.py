"""Spending over processes, and the bounds that it is kept in."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edit_r1.vlm import budget as module
from edit_r1.vlm.budget import Budget, BudgetError, Ledger, read_spent
from edit_r1.vlm.usage import Usage

ONE = Usage(requests=1, retries=2, prompt_tokens=10, completion_tokens=5, cost=0.5)


def spend(ledger: Ledger, model: str = "judge", usage: Usage = ONE) -> None:
    ledger.begin()
    ledger.end(model, usage, 7)


def test_sums_over_threads_and_processes(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)

    def work() -> None:
        for _ in range(40):
            spend(ledger)

    threads = [threading.Thread(target=work) for _ in range(3)]
    script = (
        "import sys\nfrom pathlib import Path\nfrom edit_r1.vlm.budget import Ledger\n"
        "from edit_r1.vlm.usage import Usage\nledger = Ledger(Path(sys.argv[1]))\n"
        "for _ in range(30):\n    ledger.begin()\n    ledger.end('judge', Usage(requests=1), 3)\n"
        "ledger.begin()\nledger.end('painter', Usage(requests=1, cost=2.0))\n"
    )
    other = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)])
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert other.wait() == 0
    spent = read_spent(tmp_path)
    assert spent["judge"].usage == Usage(
        requests=150, retries=240, prompt_tokens=1200, completion_tokens=600, cost=60.0
    )
    assert (spent["judge"].limit, spent["painter"].limit) == (10, None)
    assert read_spent(tmp_path, now=2e10)["judge"].limit is None  # nobody has asked for long
    assert read_spent(tmp_path / "none") == {}


def test_a_ledger_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST", 2000)
    ledger = Ledger(tmp_path)
    for _ in range(100):
        spend(ledger)
    [path] = tmp_path.iterdir()
    assert path.stat().st_size < 3000
    assert read_spent(tmp_path)["judge"].usage.requests == 100


@given(
    st.lists(st.sampled_from(["begin", "end", "lost"]), max_size=60),
    st.integers(0, 12),
    st.none() | st.integers(0, 8),
    st.none() | st.integers(0, 150),
)
def test_no_bound_is_passed(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str], requests: int, money: int | None, tokens: int | None
) -> None:
    """Requests of one size: what is spent and in flight stays in every bound, once the size is known."""
    bounds = Budget(money, requests, tokens)
    ledger = Ledger(tmp_path_factory.mktemp("spent"), bounds)
    counts: Counter[str] = Counter()
    for step in steps:
        if step == "begin":
            known = counts["ended"] > 0
            try:
                ledger.begin()
            except BudgetError:
                total = counts["ended"] + counts["flying"] + 1
                over_money = money is not None and total * 0.5 > money
                over_tokens = tokens is not None and total * 15 > tokens
                assert total > requests or over_money or over_tokens
                continue
            counts["flying"] += 1
            assert counts["ended"] + counts["flying"] <= requests
            if known:
                assert money is None or 0.5 * (counts["ended"] + counts["flying"]) <= money + 0.5 * counts["early"]
                assert tokens is None or 15 * (counts["ended"] + counts["flying"]) <= tokens + 15 * counts["early"]
            else:
                counts["early"] += 1  # begun before anything was known of their size
        elif counts["flying"]:
            counts["flying"] -= 1
            if step == "end":
                ledger.end("judge", ONE)
                counts["ended"] += 1
            else:
                ledger.give_up(1)


def test_others_count_and_a_higher_bound_goes_on(tmp_path: Path) -> None:
    first, second = Ledger(tmp_path, Budget(money=2.0)), Ledger(tmp_path, Budget(money=2.0))
    for _ in range(3):
        spend(first)
    spend(second)
    with pytest.raises(BudgetError) as caught:
        second.begin()
    assert str(pickle.loads(pickle.dumps(caught.value))) == (
        "the budget of 2 (money) is spent: 4 requests, 60 tokens, 2 of money so far; everything is stored: run again "
        "with a higher --budget to go on"
    )
    spend(Ledger(tmp_path, Budget(money=2.5)))
    with pytest.raises(BudgetError, match="run again with a higher --budget-tokens"):
        Ledger(tmp_path, Budget(tokens=80)).begin()
    with pytest.raises(BudgetError, match="2.5 of money"):
        Ledger(tmp_path, Budget(requests=5)).begin()
    with pytest.raises(
        BudgetError, match=r"2.5 of money so far \(what is left may not be enough for a further request\)"
    ):
        Ledger(tmp_path, Budget(money=2.6)).begin()


def test_no_bound_and_bounds_that_cannot_be(tmp_path: Path) -> None:
    assert not Budget().bounded and Budget(requests=0).bounded
    Ledger(tmp_path).begin()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(BudgetError):
        Ledger(tmp_path, Budget(money=0.0)).begin()
    bads: list[dict[str, Any]] = [{"money": -1.0}, {"money": float("nan")}, {"requests": -1}, {"tokens": -1}]
    bads.append({"money": float("inf")})
    for bad in bads:
        with pytest.raises(ValueError, match="give an amount of 0 or more"):
            Budget(**bad)
