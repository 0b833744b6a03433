"""Peers that mean harm: memory stays bounded, the honest ones keep seeing each other, nothing forged is believed."""

from __future__ import annotations

import asyncio
import sys
import time

import pytest

from fastmirror.inventory.keys import fingerprint
from fastmirror.oci.digest import Digest
from fastmirror.routing import Peer
from tests.kit.proc import cpu_seconds, rss_kib
from tests.kit.waiting import pause
from tests.p2p.conftest import Cluster, until
from tests.p2p.test_process import DIGEST, holders, pair

MODES = [
    ("frames_too_large", "malformed", "rubbish"), ("many_keys", "claims_for_others", "streams"), ("wants", "views"),
    ("flood",), ("headers",), ("half_open",),
]  # fmt: skip
ENDED = {"frames_too_large", "streams"}


async def hostile(mode: str, cluster: Cluster, *arguments: str) -> str:
    """Let a hostile peer do its worst to node 0; what it says about it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.p2p.hostile", mode, cluster.hosts[0], "4400", *arguments,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()


@pytest.mark.parametrize("modes", MODES, ids="-".join)
async def test_a_hostile_peer_disturbs_nobody_and_costs_bounded_memory(cluster, modes):
    ours, theirs = await pair(cluster)
    expected = [Peer(cluster.hosts[1], 5001)]
    pid = ours.child.pid
    before, spent, began = rss_kib(pid), cpu_seconds(pid), time.monotonic()
    loop = asyncio.get_running_loop()
    tasks = {mode: loop.create_task(hostile(mode, cluster, cluster.hosts[5])) for mode in modes}
    while not all(task.done() for task in tasks.values()):
        assert await holders(ours) == expected
        await pause(0.02, "until the next look-up")
    outcome = {mode: task.result() for mode, task in tasks.items()}
    assert all("ended" in outcome[mode] for mode in ENDED & outcome.keys()), outcome
    assert ours.child.pid == pid, "the router process died"
    assert rss_kib(pid) - before < 32 * 1024, outcome
    assert cpu_seconds(pid) - spent < 0.5 * (time.monotonic() - began) + 0.3, "it has time for others"
    late = Digest.of(repr(modes).encode())
    theirs.advertise([late])
    for _ in range(500):
        if await holders(ours, late):
            break
        await pause(0.01, "until the next look-up")
    assert await holders(ours, late) == expected
    assert Peer(cluster.hosts[5], 5001) not in ours.peers()
    joined = cluster.start(2)
    await until(lambda: len(joined.peers()) == 2, "an honest newcomer is let in")


async def test_a_forged_address_is_never_offered(cluster):
    ours, _ = await pair(cluster)
    fake = Digest.of(b"what the forger says it has")
    key = f"{fingerprint(fake):x}"
    task = asyncio.get_running_loop().create_task(hostile("join", cluster, cluster.hosts[1], "", key))
    # "lost" if it has gone again before this is looked at
    await until(lambda: 1 in map(ours.counters().get, ("unmet", "lost")), "the forger is known but was not met")
    while not task.done():
        assert await holders(ours, fake) == []
        await pause(0.02, "until the next look-up")
    assert await holders(ours) == [Peer(cluster.hosts[1], 5001)]


async def test_a_hundred_invented_nodes_of_one_machine_count_as_eight_and_crowd_nobody_out(cluster):
    ours, _ = await pair(cluster)
    key = f"{fingerprint(DIGEST):x}"
    task = asyncio.get_running_loop().create_task(hostile("crowd", cluster, cluster.hosts[5], "", key))
    await until(lambda: ours.counters().get("refused_crowd", 0) >= 4, "most of the invented ones are refused")
    found = await holders(ours)
    assert Peer(cluster.hosts[1], 5001) in found
    assert len(found) <= 9
    joined = cluster.start(2)
    await until(lambda: {Peer(cluster.hosts[n], 5001) for n in (0, 1)} <= set(joined.peers()), "a newcomer is let in")
    assert "linked" in await task
    await until(
        lambda: ours.peers() == [Peer(cluster.hosts[1], 5001), Peer(cluster.hosts[2], 5001)], "only they are left"
    )


async def test_addresses_outside_the_realm_are_not_dialled(cluster):
    ours = cluster.start(0, peer_cidr=[f"{cluster.hosts[0]}/32", f"{cluster.hosts[1]}/32"])
    theirs = cluster.start(1)
    theirs.advertise([DIGEST])
    await until(lambda: ours.peers(), "the one inside is met")
    await until(lambda: ours.counters().get("live") == 1, "and counted")
    task = asyncio.get_running_loop().create_task(hostile("join", cluster, "169.254.169.254", "", "1"))
    await until(lambda: ours.counters().get("refused_address", 0) > 0, "the address is counted")
    await task
    assert ours.peers() == [Peer(cluster.hosts[1], 5001)]
