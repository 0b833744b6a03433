"""What every Router does, whatever it is made of. A test module derives from :class:`RouterConformance` and gives it
a ``rig``.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import pytest

from fastmirror.oci.digest import Digest
from fastmirror.oci.reference import Reference
from fastmirror.routing import Holder, Key, Peer, Router

CONTENT = [b"content %d" % n for n in range(3)]
LOOKUP_SECONDS = 0.2


class Rig(Protocol):
    """One node's router and two other nodes that gain and lose content."""

    router: Router
    others: list[Peer]

    async def gain(self, other: int, content: bytes) -> Digest:
        """Another node has this now, and has told who must be told; returns once that has arrived."""

    async def lose(self, other: int, digest: Digest) -> None:
        """Another node does not have this any more."""

    async def leave(self, other: int) -> None:
        """Another node ends."""


async def found(router: Router, key: Key) -> list[Holder]:
    """All holders, within a generous bound."""
    async with asyncio.timeout(10 * LOOKUP_SECONDS):
        return [holder async for holder in router.find(key)]


class RouterConformance:
    """The suite."""

    async def test_holders_are_found_each_once(self, rig: Rig) -> None:
        digest = await rig.gain(0, CONTENT[0])
        await rig.gain(1, CONTENT[0])
        await rig.gain(1, CONTENT[0])
        assert sorted(holder.peer for holder in await found(rig.router, digest)) == sorted(rig.others)

    async def test_a_holder_tells_the_right_size_or_none(self, rig: Rig) -> None:
        digest = await rig.gain(0, CONTENT[0])
        assert [holder.size for holder in await found(rig.router, digest)] in ([None], [len(CONTENT[0])])

    async def test_only_those_who_hold_it_are_found(self, rig: Rig) -> None:
        first, second = await rig.gain(0, CONTENT[0]), await rig.gain(1, CONTENT[1])
        assert [holder.peer for holder in await found(rig.router, first)] == [rig.others[0]]
        assert [holder.peer for holder in await found(rig.router, second)] == [rig.others[1]]

    async def test_a_look_up_of_what_nobody_has_ends_without_a_holder(self, rig: Rig) -> None:
        assert await found(rig.router, Digest.of(b"nobody has this")) == []

    async def test_what_was_lost_is_not_found(self, rig: Rig) -> None:
        digest = await rig.gain(0, CONTENT[0])
        await rig.lose(0, digest)
        assert await found(rig.router, digest) == []

    async def test_this_node_is_not_its_own_holder(self, rig: Rig) -> None:
        digest = await rig.gain(0, CONTENT[0])
        rig.router.advertise([digest])
        assert [holder.peer for holder in await found(rig.router, digest)] == [rig.others[0]]
        rig.router.withdraw([digest])

    async def test_withdrawing_what_was_never_advertised_is_ignored(self, rig: Rig) -> None:
        digest = await rig.gain(0, CONTENT[0])
        rig.router.withdraw([digest, Digest.of(b"unknown"), Reference("reg.example", "a/b", "v1")])
        assert len(await found(rig.router, digest)) == 1

    async def test_the_other_nodes_are_known(self, rig: Rig) -> None:
        assert sorted(rig.router.peers()) == sorted(rig.others)

    async def test_a_node_that_left_does_not_hide_the_others(self, rig: Rig) -> None:
        digest = await rig.gain(0, CONTENT[0])
        await rig.gain(1, CONTENT[0])
        await rig.leave(0)
        assert [holder.peer for holder in await found(rig.router, digest)] == [rig.others[1]]

    async def test_look_ups_at_the_same_time_do_not_disturb_each_other(self, rig: Rig) -> None:
        digests = [await rig.gain(n % 2, content) for n, content in enumerate(CONTENT)]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(found(rig.router, digest)) for digest in digests * 8]
        for n, task in enumerate(tasks):
            assert [holder.peer for holder in task.result()] == [rig.others[n % len(digests) % 2]]

    async def test_closing_a_look_up_ends_it(self, rig: Rig) -> None:
        digest = await rig.gain(0, CONTENT[0])
        await rig.gain(1, CONTENT[0])
        before = asyncio.all_tasks()
        lookup = rig.router.find(digest)
        await anext(lookup)
        await lookup.aclose()
        await lookup.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(lookup)
        assert asyncio.all_tasks() <= before

    async def test_running_ends_when_it_is_cancelled(self, rig: Rig) -> None:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(rig.router.run())
            await asyncio.sleep(0)
            task.cancel()
        assert task.cancelled()

    async def test_closing_twice_is_allowed(self, rig: Rig) -> None:
        await rig.router.close()
        await rig.router.close()
