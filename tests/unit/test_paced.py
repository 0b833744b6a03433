"""Bodies that together keep to a rate."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmirror._native.endpoint import Pace
from fastmirror.config import ServeSettings
from fastmirror.http.limits import Admission
from fastmirror.http.paced import LEAST_BURST, TIMER, Limit, Paced, PacedBody
from fastmirror.http.server import Server
from fastmirror.mirror.answers import refusal_reply
from fastmirror.mirror.app import Mirror
from fastmirror.mirror.filters import Filters
from fastmirror.mirror.local import Local
from fastmirror.oci.digest import Digest
from fastmirror.store.memory import MemoryStore
from tests.kit.content import blob
from tests.kit.invariants import assert_same
from tests.kit.waiting import NOISE
from tests.kit.wire import Address, ask, parse_address

MIB = 1 << 20
CONTENT = blob(2 * MIB, 5)


@given(st.integers(1, 10**9), st.lists(st.tuples(st.floats(0, 0.2), st.integers(1, 10**7)), max_size=50))
def test_what_is_granted_keeps_to_the_rate(rate: int, wishes: list[tuple[float, int]]) -> None:
    limit, now, granted = Limit(rate), 0.0, 0
    most = max(LEAST_BURST, rate // 20 + 1)
    for wait, wish in wishes:
        now += wait
        count = limit.grant(wish, now)
        assert count <= min(wish, most)
        granted += count
        assert granted <= rate * (now * 1.001 + TIMER) + most
        assert limit.paid_until - now <= most / rate + TIMER + 1e-6


class Body:
    """Bytes of which some are there."""

    def __init__(self, ready: int) -> None:
        self.ready = ready
        self.closed = 0
        self.waiting: Callable[[], None] | None = None

    def fileno(self) -> int:
        return 7

    def available(self, position: int) -> int:
        return self.ready - position

    def wait(self, position: int, wake: Callable[[], None]) -> None:
        self.waiting = wake

    def close(self) -> None:
        self.closed += 1


def test_a_timer_that_is_early_by_less_than_its_accuracy_is_in_time() -> None:
    limit = Limit(1000)
    assert limit.grant(100, 1.0) == 100
    assert limit.grant(100, 1.098) == 0
    assert limit.grant(100, 1.0995) == 100
    assert limit.paid_until == pytest.approx(1.2), "what was early is not lost"


async def test_bytes_that_the_socket_did_not_take_are_not_paid_for() -> None:
    limit, body = Limit(LEAST_BURST), Body(1000)
    paced = PacedBody(body, 0, limit)
    assert paced.fileno() == 7
    for _ in range(5):
        assert paced.available(0) == 1000
    assert paced.available(400) == 0, "there are more, and they are not granted yet"
    assert 0 < limit.paid_until - asyncio.get_running_loop().time() <= 400 / LEAST_BURST + 0.001
    woken = asyncio.Event()
    paced.wait(400, woken.set)
    await woken.wait()
    assert paced.available(400) == 600
    paced.close()
    assert body.closed == 1


async def test_a_body_that_still_grows_is_waited_for_as_usual() -> None:
    body = Body(10)
    paced = PacedBody(body, 0, Limit(1000))
    assert paced.available(10) == 0
    paced.wait(10, lambda: None)
    assert body.waiting is not None
    paced.close()


@pytest.fixture
async def address() -> AsyncIterator[Address]:
    store = MemoryStore()
    store.put(CONTENT)
    answer = Paced(Mirror(Local(store, Filters())), 4 * MIB)
    server = Server(ServeSettings(), answer, refusal_reply, pace=Pace(), admission=Admission(100, 100, frozenset()))
    server.listen("127.0.0.1:0", "peer_addr")
    yield parse_address(server.addresses[0])
    await server.close()


async def test_a_listener_keeps_to_its_rate_whoever_asks_and_answers_are_the_same(address: Address) -> None:
    target = f"/v2/a/b/blobs/{Digest.of(CONTENT)}"
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(asyncio.to_thread(ask, address, "GET", target)) for _ in range(2)]
        tasks.append(group.create_task(asyncio.to_thread(ask, address, "GET", target, Range="bytes=100-199")))
    seconds = time.monotonic() - began
    assert 0.9 < seconds < 1.5 * NOISE
    for task in tasks[:2]:
        assert_same(task.result().body, CONTENT)
    assert tasks[2].result().body == CONTENT[100:200]
    assert (await asyncio.to_thread(ask, address, "GET", "/v2/")).status == 200
