"""Should gRPC run in the data plane's loop, in a thread of it, or in a process? Measured, not believed.

Small answers from a uvloop server in a process of its own, 16 connections kept busy, while a real containerd with 2,000
blobs is listed as fast as the watcher allows. Prints requests/s, p50, p99 and worst latency for each place, and PSS.

    python -m benches.containerd.helper_place [SECONDS]      as root, from the top of the checkout
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import socket
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from benches.containerd import page
from fastmirror.containerd.frames import Frame
from tests.kit.cluster import free_port
from tests.kit.containerd import containerd, generations
from tests.kit.images import make_image
from tests.kit.proc import pss_kib
from tests.kit.waiting import eventually

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2048\r\n\r\n" + bytes(2048)
REQUEST = b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n"
CONNECTIONS = 16
BLOBS = 2000
PLACES = ("none", "process", "thread", "loop")


class Server(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(ANSWER)  # type: ignore[attr-defined]


async def watch(path: str) -> None:
    """The helper's work, told after each list that something has changed."""
    from fastmirror.containerd.client import Client
    from fastmirror.containerd.watch import Watch

    def heard(_: Frame) -> None:
        asyncio.get_running_loop().call_later(0.05, watcher._dirty.set)

    watcher = Watch(lambda: Client(path, "k8s.io"), heard)
    await watcher.run()


def serve(port: int, place: str, path: str) -> None:
    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", port)
        if place == "thread":
            threading.Thread(target=lambda: asyncio.run(watch(path)), daemon=True).start()
        if place == "loop":
            watching = asyncio.create_task(watch(path))
            watching.add_done_callback(lambda _: os._exit(1))
        await server.serve_forever()

    uvloop.run(main())


async def load(port: int, seconds: float) -> list[float]:
    taken: list[float] = []
    end = time.monotonic() + seconds

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.monotonic() < end:
            began = time.perf_counter()
            writer.write(REQUEST)
            await reader.readexactly(len(ANSWER))
            taken.append(time.perf_counter() - began)
        writer.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(client())
    return sorted(taken)


def measure(place: str, path: str, seconds: float) -> dict[str, Any]:
    """Requests per second, latencies in seconds, MiB of each process."""
    port = free_port("127.0.0.1")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=serve, args=(port, place, path), daemon=True)]
    if place == "process":
        processes.append(context.Process(target=_watch_process, args=(path,), daemon=True))
    for process in processes:
        process.start()
    eventually(partial(_answers, port), "the server answers", 30)
    taken = uvloop.run(load(port, seconds))
    pss = [pss_kib(process.pid) // 1024 for process in processes if process.pid]
    for process in processes:
        process.kill()
        process.join()
    at = {"p50": taken[len(taken) // 2], "p99": taken[len(taken) * 99 // 100], "max": taken[-1]}
    return {"place": place, "rate": len(taken) / seconds, **at, "pss": pss}


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _watch_process(path: str) -> None:
    asyncio.run(watch(path))


def compare(seconds: float) -> list[dict[str, Any]]:
    """Each place twice, in turn."""
    with containerd(generations()[-1]) as node, tempfile.TemporaryDirectory() as directory:
        for number in range(4):
            image = make_image(f"registry.test/bench/{number}:1", [16] * (BLOBS // 4), seed=number)
            node.load(image.write_archive(Path(directory) / "image.tar"))
        return [measure(place, str(node.socket), seconds) for _ in range(2) for place in PLACES]


if __name__ == "__main__":
    print(page.places(compare(float(sys.argv[1]) if len(sys.argv) > 1 else 5.0)))
