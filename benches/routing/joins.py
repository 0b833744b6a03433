"""What a client of one node notices while 30 others join: the node's data plane and the client on one CPU, the others
on the other one; the node's router process goes where the kernel puts it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fastmirror.inventory.bridge import Start
from fastmirror.oci.digest import Digest
from fastmirror.routing.inventory import InventoryRouter
from fastmirror.store.layout import open_layout
from tests.kit.cluster import loopback_hosts
from tests.kit.process import Node, Setup
from tests.p2p.swarm import router_pid

SECONDS = 15.0


async def measure(peers: int) -> dict[str, list[float]]:
    """Microseconds of requests: while nobody starts, while so many routers start that know nobody, and while so many
    start and join.
    """
    cpus = sorted(os.sched_getaffinity(0))
    ours, theirs = {cpus[0]}, set(cpus[1:]) or {cpus[0]}
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="fm-joins-") as work, contextlib.ExitStack() as stack:
        digest = _put(Path(work))
        hosts = loopback_hosts(peers + 1)
        flags = {"router": "libp2p", "router_addr": f"{hosts[0]}:4400"}
        pinned = ["taskset", "-c", str(cpus[0])]
        node = stack.enter_context(Node(Setup(Path(work), host=hosts[0], peer_port=5001, flags=flags, before=pinned)))
        node.log.wait("p2p.listening")
        os.sched_setaffinity(router_pid(node), set(cpus))
        client = stack.enter_context(_client(node, digest, ours))
        os.sched_setaffinity(0, theirs)
        stack.callback(os.sched_setaffinity, 0, set(cpus))
        for what, bootstrap in (("quiet", None), ("start", ""), ("join", f"{hosts[0]}:4400")):
            _samples(client)
            tasks = [] if bootstrap is None else _start(hosts[1:], bootstrap)
            await asyncio.sleep(SECONDS if tasks else SECONDS / 3)
            found[what] = _samples(client)
            await _end(tasks)
    return found


def _put(directory: Path) -> Digest:
    content = b"asked for"
    digest = Digest.of(content)
    with contextlib.closing(open_layout(directory, create=True)) as store:
        ingest = store.ingest(digest, len(content))
        ingest.write(content)
        ingest.commit()
    return digest


@contextlib.contextmanager
def _client(node: Node, digest: Digest, cpus: set[int]) -> Iterator[subprocess.Popen[bytes]]:
    host, port = node.registry
    command = [sys.executable, "-m", "benches.routing.client", host, str(port), f"/v2/a/blobs/{digest}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        os.sched_setaffinity(process.pid, cpus)
        try:
            yield process
        finally:
            process.kill()


def _samples(client: subprocess.Popen[bytes]) -> list[float]:
    assert client.stdin is not None
    assert client.stdout is not None
    client.stdin.write(b"\n")
    client.stdin.flush()
    return list(json.loads(client.stdout.readline()))


def _start(hosts: list[str], bootstrap: str) -> list[asyncio.Task[None]]:
    tasks = []
    for number, host in enumerate(hosts):

        def start(epoch: int, host: str = host, number: int = number) -> Start:
            return Start(
                listen_host=host, listen_port=4400, peer_host=host, peer_port=5001,
                bootstrap=[bootstrap] if bootstrap else [], peer_cidr=[], data_dir="", secret_file="", allowed_ids=[],
                degree=64, name=f"j{number}", zone="", epoch=epoch, log_level="error",
            )  # fmt: skip

        tasks.append(asyncio.get_running_loop().create_task(InventoryRouter(start).run()))
    return tasks


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
