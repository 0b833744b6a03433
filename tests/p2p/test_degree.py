"""Three real processes that are all connected, and twelve of which each has four connections: the same must hold."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from fastmirror.oci.digest import Digest
from fastmirror.routing import Peer
from fastmirror.routing.inventory import InventoryRouter
from tests.kit.cluster import loopback_hosts
from tests.kit.waiting import NOISE, pause
from tests.p2p.conftest import Cluster, until

SIZES = [pytest.param(3, 64, id="3 at 64"), pytest.param(12, 4, id="12 at 4")]


async def knows(routers, digest: Digest, holders: set[Peer], seconds: float = 20.0) -> float:
    """The seconds until every router knows exactly these holders (none is its own)."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    for router, peer in routers:
        while {holder.peer async for holder in router.find(digest)} != holders - {peer}:
            assert loop.time() - began < seconds, f"{peer} does not see {holders}"
            await pause(0.002, "until the next look-up")
    return loop.time() - began


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("count", "degree"), SIZES)
async def test_all_know_all_whatever_the_degree(cluster: Cluster, count, degree):
    cluster.hosts[:] = loopback_hosts(count)
    routers: list[tuple[InventoryRouter, Peer]] = []
    common = Digest.of(b"all have this")
    for number in range(count):
        routers.append((cluster.start(number, degree=degree), Peer(cluster.hosts[number], 5001)))
        routers[-1][0].advertise([common, Digest.of(b"only %d" % number)])
    everybody = {peer for _, peer in routers}
    await knows(routers, common, everybody, 60)
    await until(lambda: all(router.counters().get("links", 99) <= degree + 8 for router, _ in routers), "few links")

    late = Digest.of(b"late")
    routers[-1][0].advertise([late])
    assert await knows(routers, late, {routers[-1][1]}) < 0.2 * NOISE
    routers[-1][0].withdraw([late])
    await knows(routers, late, set())

    gone, _ = routers.pop(1)
    task = cluster.tasks.pop(gone)
    os.kill(gone.child.pid, signal.SIGKILL)
    task.cancel()
    await asyncio.wait((task,))
    assert await knows(routers, Digest.of(b"only 1"), set()) < 0.4 * NOISE

    frozen, _ = routers.pop(1)
    os.kill(frozen.child.pid, signal.SIGSTOP)
    assert await knows(routers, Digest.of(b"only 2"), set()) < 4.0 + 0.4 * NOISE
    task = cluster.tasks.pop(frozen)
    task.cancel()
    await asyncio.wait((task,))

    if len(routers) > 2:
        leaver, _ = routers.pop(1)
        await leaver.leave()
        assert await knows(routers, Digest.of(b"only 3"), set()) < 0.4 * NOISE
        await cluster.stop(leaver)

    back = cluster.start(1, degree=degree)
    routers.append((back, Peer(cluster.hosts[1], 5001)))
    back.advertise([common])
    await knows(routers, common, {peer for _, peer in routers}, 60)
