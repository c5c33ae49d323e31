"""Parts that wait for other machines run at one time; whatever happens, all of them have ended afterwards."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from edit_r1.curate.together import together


def unused() -> None:
    raise AssertionError("nobody was interrupted")


def test_those_that_wait_run_at_one_time_and_the_others_here_in_turn() -> None:
    meet, here, order = threading.Barrier(3, timeout=20), threading.get_ident(), []

    def apart(name: str) -> str:
        assert threading.get_ident() != here
        meet.wait()  # broken, if they ran one after the other
        return name

    def own(name: str) -> str:
        assert threading.get_ident() == here
        if not order:
            meet.wait()
        order.append(name)
        return name

    parts: list[tuple[bool, Callable[[], str]]] = [
        (True, lambda: apart("a")), (False, lambda: own("b")), (True, lambda: apart("c")), (False, lambda: own("d")),
    ]  # fmt: skip
    assert together(parts, unused) == ["a", "b", "c", "d"] and order == ["b", "d"]
    assert together([], unused) == []


@pytest.mark.parametrize("waits", [[True], [False, False]])
def test_without_company_nothing_leaves_this_thread(waits: list[bool]) -> None:
    assert set(together([(one, threading.get_ident) for one in waits], unused)) == {threading.get_ident()}


def test_the_first_error_is_told_when_the_others_have_ended() -> None:
    told, ended = threading.Event(), []

    def fail(name: str) -> None:
        told.set()
        raise ValueError(name)

    def slow() -> None:
        told.wait(20)
        ended.append("slow")

    parts = [(False, lambda: None), (True, lambda: fail("second")), (True, slow), (True, lambda: fail("last"))]
    with pytest.raises(ValueError, match="second"):
        together(parts, unused)
    assert ended == ["slow"]
    with pytest.raises(ValueError, match="here"):
        together([(True, slow), (False, lambda: fail("here")), (False, lambda: ended.append("begun"))], unused)
    assert ended == ["slow", "slow"]


def test_an_interrupt_ends_the_others() -> None:
    given_up = threading.Event()

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        together([(True, lambda: given_up.wait(20)), (False, interrupted)], given_up.set)
    assert given_up.is_set()
