"""Connections after requests that were given up: none is stuck, and every place is free again."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from edit_r1.vlm.lanes import Lanes
from edit_r1.vlm.openai import OpenAIVLM
from edit_r1.vlm.paid import Call
from edit_r1.vlm.protocol import Request, Sampling

CALL = Call(Request(("Hello",)), Sampling(max_new_tokens=9, temperature=0.0))


def test_a_request_cancelled_at_any_step_leaves_no_connection_that_waits(fake_openai: Any) -> None:
    address = fake_openai(lambda body, number: "yes").url + "/chat/completions"

    async def ask(lanes: Lanes) -> int:
        async with lanes.one() as client, client.stream("POST", address, json={}) as response:
            return len(await response.aread())

    async def all_steps() -> None:
        for steps in range(40):
            lanes = Lanes({}, httpx.Timeout(30.0, pool=None), trust_env=False)
            tasks = [asyncio.create_task(ask(lanes)) for _ in range(3)]
            for _ in range(steps):
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for _ in range(2):  # at once, so that each that is left is used
                assert all(await asyncio.wait_for(asyncio.gather(*(ask(lanes) for _ in range(3))), 20))
            await lanes.close()

    asyncio.run(all_steps())


def test_what_is_given_up_gives_its_places_back(fake_openai: Any) -> None:
    vlm = OpenAIVLM(fake_openai(lambda body, number: "yes").url, "judge", concurrency=2, backoff_s=0.01)
    try:
        for _ in range(60):
            asking = vlm.answer_each([CALL] * 8)
            next(asking)
            asking.close()
        assert len(list(vlm.answer_each([CALL] * 8))) == 8
        server = vlm._server

        async def taken() -> tuple[int, int]:
            for _ in range(500):  # what was given up last may still be ending
                if server._pace.in_flight == 0 and server._open._value == 4:
                    break
                await asyncio.sleep(0.01)
            return server._pace.in_flight, server._open._value

        assert server.run(taken()) == (0, 4)
    finally:
        vlm.close()
