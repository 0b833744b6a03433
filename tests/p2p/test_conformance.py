"""The libp2p router does what every Router does."""

from __future__ import annotations

import pytest

from fastmirror.oci.digest import Digest
from fastmirror.routing import Peer
from tests.kit.router_conformance import RouterConformance, found
from tests.kit.waiting import pause
from tests.p2p.conftest import Cluster, until


class _Rig:
    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.router = cluster.start(0)
        self._theirs = [cluster.start(1), cluster.start(2)]
        self.others = [Peer(host, 5001) for host in cluster.hosts[1:3]]

    async def gain(self, other: int, content: bytes) -> Digest:
        digest = Digest.of(content)
        self._theirs[other].advertise([digest])
        await self._until(digest, self.others[other], True)
        return digest

    async def lose(self, other: int, digest: Digest) -> None:
        self._theirs[other].withdraw([digest])
        await self._until(digest, self.others[other], False)

    async def leave(self, other: int) -> None:
        await self.cluster.stop(self._theirs[other])
        await until(lambda: self.others[other] not in self.router.peers(), "the node left")

    async def _until(self, digest: Digest, peer: Peer, held: bool) -> None:
        while True:
            holders = [holder.peer for holder in await found(self.router, digest)]
            if (peer in holders) is held:
                return
            await pause(0.002, "until the next look-up")


class TestInventoryRouter(RouterConformance):
    """See the suite."""

    @pytest.fixture
    async def rig(self, cluster: Cluster) -> _Rig:
        rig = _Rig(cluster)
        await until(lambda: all(len(router.peers()) == 2 for router in cluster.routers), "all are joined")
        return rig
