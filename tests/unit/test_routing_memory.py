"""The router of tests passes what all routers pass."""

from __future__ import annotations

import pytest

from fastmirror.oci.digest import Digest
from fastmirror.routing import Peer
from fastmirror.routing.memory import Directory, MemoryRouter
from tests.kit.router_conformance import CONTENT, RouterConformance, found


class MemoryRig:
    def __init__(self) -> None:
        directory = Directory()
        self.router = MemoryRouter(Peer("198.18.0.9", 1), directory)
        self.others = [Peer("198.18.0.1", 1), Peer("198.18.0.2", 1)]
        self._routers = [MemoryRouter(peer, directory) for peer in self.others]

    async def gain(self, other: int, content: bytes) -> Digest:
        digest = Digest.of(content)
        self._routers[other].advertise([digest])
        return digest

    async def lose(self, other: int, digest: Digest) -> None:
        self._routers[other].withdraw([digest])

    async def leave(self, other: int) -> None:
        await self._routers[other].close()


class TestMemoryRouter(RouterConformance):
    @pytest.fixture
    def rig(self) -> MemoryRig:
        return MemoryRig()


async def test_a_router_that_was_closed_holds_nothing_and_is_no_peer():
    rig = MemoryRig()
    digest = await rig.gain(0, CONTENT[0])
    await rig.leave(0)
    assert await found(rig.router, digest) == []
    assert rig.router.peers() == [rig.others[1]]
