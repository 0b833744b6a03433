"""The router process dies, hangs, and comes back: no look-up notices."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from fastmirror.oci.digest import Digest
from fastmirror.oci.reference import Reference
from fastmirror.routing import Peer
from fastmirror.routing.inventory import InventoryRouter
from tests.kit.waiting import pause
from tests.p2p.conftest import Cluster, until

DIGEST = Digest.of(b"held")


async def holders(router: InventoryRouter, key=DIGEST) -> list[Peer]:
    return [holder.peer async for holder in router.find(key)]


async def pair(cluster: Cluster) -> tuple[InventoryRouter, InventoryRouter]:
    """Two joined routers, the second with content."""
    ours, theirs = cluster.start(0), cluster.start(1)
    theirs.advertise([DIGEST, Reference("reg.example", "a/b", "v1")])
    await until(lambda: ours.peers() and theirs.peers(), "both are joined")
    return ours, theirs


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["death", "hang"])
async def test_look_ups_go_on_without_the_router_process_and_a_new_one_learns_everything(cluster, number):
    ours, theirs = await pair(cluster)
    theirs_at = Peer(cluster.hosts[1], 5001)
    pid = ours.child.pid
    os.kill(pid, number)
    while ours.child.pid == pid:
        assert await holders(ours) == [theirs_at]
        await pause(0.01, "until the next look-up")
    theirs.advertise([Digest.of(b"while it was down")])
    for _ in range(2000):
        assert await holders(ours) == [theirs_at]
        if await holders(ours, Digest.of(b"while it was down")):
            break
        await pause(0.01, "until the next look-up")
    assert await holders(ours, Digest.of(b"while it was down")) == [theirs_at]
    assert await holders(ours, Reference("reg.example", "a/b", "v1")) == [theirs_at]
    ours.advertise([Digest.of(b"ours")])
    await until(lambda: theirs.peers(), "the other one sees the new process")
    for _ in range(2000):
        if await holders(theirs, Digest.of(b"ours")):
            break
        await pause(0.01, "until the next look-up")
    assert await holders(theirs, Digest.of(b"ours")) == [Peer(cluster.hosts[0], 5001)]


async def test_what_a_new_router_process_does_not_confirm_is_dropped(cluster, monkeypatch):
    monkeypatch.setattr("fastmirror.routing.inventory.CONFIRM_SECONDS", 2.0)
    ours, theirs = await pair(cluster)
    os.kill(theirs.child.pid, signal.SIGSTOP)  # it cannot say good-bye, and its connections stay
    os.kill(ours.child.pid, signal.SIGKILL)
    task = cluster.tasks[theirs]
    task.cancel()
    await asyncio.wait((task,))
    assert await holders(ours) == [Peer(cluster.hosts[1], 5001)]
    await until(lambda: not ours.peers(), "what nobody confirms is dropped", 30)
    assert await holders(ours) == []
    cluster.tasks.pop(theirs)


async def test_a_router_that_cannot_begin_is_tried_again_and_says_so(cluster, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("short\n")
    router = cluster.start(0, secret_file=str(secret))
    await until(lambda: router.child.restarts >= 2, "it was tried again")
    assert "ended with code 1" in router.why_not_ready()
    secret.write_text("long enough to be a secret\n")
    await until(lambda: router.child.problem is None, "it runs now")


async def test_a_router_process_ends_with_its_data_plane(cluster):
    ours, _ = await pair(cluster)
    pid = ours.child.pid
    await cluster.end(ours)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_data_plane_loads_neither_libp2p_nor_trio():
    code = (
        "import sys, fastmirror.daemon, fastmirror.routing.inventory\n"
        "bad = {name.partition('.')[0] for name in sys.modules} & {'libp2p', 'trio', 'noise', 'cryptography', 'nacl'}\n"
        "sys.exit(repr(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


async def test_the_router_process_loads_only_what_it_uses_of_libp2p():
    code = (
        "import sys, fastmirror.p2p.router\n"
        "bad = {name.partition('.')[0] for name in sys.modules} & "
        "{'requests', 'httpx', 'aioquic', 'zeroconf', 'prometheus_client', 'rich', 'dns'}\n"
        "mplex = [name for name in sys.modules if name.startswith(('libp2p.stream_muxer.mplex', 'libp2p.kad_dht'))]\n"
        "sys.exit(repr((bad, mplex)) if bad or mplex else 0)"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    assert await process.wait() == 0
