"""What the drivers ask of peers for a plan, and what they do not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from fastmirror.config import FetchSettings
from fastmirror.fetch.claims import Claim, PlanSettings
from fastmirror.fetch.drivers import Drivers
from fastmirror.fetch.outcome import PeerOutcome
from fastmirror.fetch.peerbook import PeerBook
from fastmirror.fetch.plan import ChunkPlan
from fastmirror.fetch.spool import Spool, SpoolRoom
from fastmirror.http.body import Received
from fastmirror.http.response import Ask
from fastmirror.oci.span import Span
from fastmirror.routing import Peer
from tests.kit.fetching import until

MIB = 1 << 20
A, B = Peer("a", 1), Peer("b", 1)


class SilentClient:
    """A client whose peers answer nothing; all requests end so when ``outcome`` is set."""

    def __init__(self) -> None:
        self.asked: list[tuple[Peer, Ask]] = []
        self.outcome: asyncio.Future[PeerOutcome] = asyncio.get_running_loop().create_future()
        self.cancelled = 0

    async def open(self, peer: Peer, ask: Ask) -> PeerOutcome:
        self.asked.append((peer, ask))
        try:
            return await asyncio.shield(self.outcome)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


class Crew:
    """Keeps what it hears; ``act`` is done after each step."""

    def __init__(self) -> None:
        self.over: list[tuple[Peer, PeerOutcome]] = []
        self.act = lambda: None
        self.stays = True

    def arrived(self, peer: Peer, span: Span) -> None:
        raise AssertionError("nobody sends anything here")

    def ended(self, claim: Claim, received: Received) -> bool:
        self.over.append((claim.peer, received.outcome))
        return self.stays

    def stepped(self) -> None:
        self.act()


class Rig:
    def __init__(self, spool: Spool, hedge_after: float) -> None:
        settings = msgspec.structs.replace(PlanSettings(), hedge_after=hedge_after, answer_timeout=0.3)
        self.plan = ChunkPlan(spool.size, settings)
        self.client = SilentClient()
        self.book = PeerBook()
        self.crew = Crew()
        parts = SimpleNamespace(book=self.book, client=self.client, settings=FetchSettings())
        self.drivers = Drivers(self.plan, spool, "/target", parts, self.crew)  # type: ignore[arg-type]


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    spool = await SpoolRoom(str(tmp_path), 1 << 30).open(MIB, 0)
    made = Rig(spool, 0.02)
    yield made
    await made.drivers.close()
    await made.drivers.abandon()
    spool.release()


async def test_all_of_it_is_asked_for_without_a_range_and_a_part_with_one(rig: Rig) -> None:
    rig.plan.join(A)
    rig.drivers.wake()
    await until(lambda: rig.client.asked, "it is asked for")
    assert rig.client.asked == [(A, Ask("/target", None, MIB))]
    await rig.drivers.close()
    assert rig.client.cancelled == 1
    assert rig.crew.over == [], "nobody hears of the end after the end"


async def test_one_that_was_beaten_before_it_could_ask_asks_for_nothing(rig: Rig) -> None:
    def answer() -> None:
        first, *others = rig.plan.claims
        if others and not first.flowing:
            assert rig.plan.flows(first, asyncio.get_running_loop().time())

    rig.plan.join(A)
    rig.drivers.wake()
    await until(lambda: rig.client.asked, "the first one is asked")
    rig.crew.act = answer
    rig.plan.join(B)
    await until(lambda: (B, PeerOutcome.LEFT) in rig.crew.over, "the second one is told that it need not")
    assert not any(peer == B and ask.span is not None and not len(ask.span) for peer, ask in rig.client.asked)
    assert not rig.book.doubted(B)


async def test_one_that_was_beaten_goes_on_until_it_is_known_whether_it_answers(rig: Rig) -> None:
    rig.plan.join(A)
    rig.drivers.wake()
    await until(lambda: rig.client.asked, "the first one is asked")
    rig.plan.join(B)
    await until(lambda: any(peer == B for peer, _ in rig.client.asked), "so is the second one")
    (rival,) = (claim for claim in rig.plan.claims if claim.peer == B)
    assert rig.plan.flows(rival, asyncio.get_running_loop().time())
    rig.drivers.wake()
    await until(lambda: rig.book.doubted(A), "the first one should have answered")
    await rig.drivers.close()
    assert (A, PeerOutcome.LEFT) not in rig.crew.over
    lingering = asyncio.get_running_loop().create_task(rig.drivers.linger())
    rig.client.outcome.set_result(PeerOutcome.STALLED)
    await lingering
    assert rig.book.outcomes[PeerOutcome.STALLED] == 1
    assert not rig.book.doubted(A)
    assert not rig.book.live(A, asyncio.get_running_loop().time())


async def test_a_peer_that_does_not_answer_in_time_has_stalled_and_one_that_leaves_is_asked_no_more(rig: Rig) -> None:
    rig.plan.join(A)
    rig.crew.stays = False
    rig.drivers.wake()
    await until(lambda: rig.crew.over, "its time is over")
    assert rig.crew.over == [(A, PeerOutcome.STALLED)]
    assert rig.plan.starved
    assert len(rig.client.asked) == 1
    assert rig.client.cancelled == 1
