"""How fast do real routers know each other, and what does that cost?

``python -m benches.routing.bench_cluster [--nodes 10] [--keys 2000] [--changes 100]``: that many routers, each with its
router process, on loopback addresses of this machine. Seconds from all listening to all known; milliseconds until a
change is visible everywhere; until the keys of a killed router are gone everywhere; resident memory and idle CPU of a
router process; microseconds of a look-up. All routers share the machine's CPUs: real clusters have one each.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator

import uvloop

from fastmirror.inventory.bridge import Start
from fastmirror.oci.digest import Digest
from fastmirror.routing.inventory import InventoryRouter
from tests.kit.cluster import loopback_hosts
from tests.kit.proc import cpu_seconds, rss_kib

IDLE_SECONDS = 20.0


def percentiles(samples: list[float]) -> str:
    ordered = sorted(samples)
    return (
        f"p50 {statistics.median(ordered):.2f}, p99 {ordered[int(len(ordered) * 0.99) - 1]:.2f}, max {ordered[-1]:.2f}"
    )


def routers(count: int, degree: int) -> Iterator[InventoryRouter]:
    hosts = loopback_hosts(count)
    for number, host in enumerate(hosts):

        def start(epoch: int, host: str = host, number: int = number) -> Start:
            return Start(
                listen_host=host, listen_port=4400, peer_host=host, peer_port=5001, bootstrap=[f"{hosts[0]}:4400"],
                peer_cidr=[], data_dir="", secret_file="", allowed_ids=[], degree=degree, name=f"n{number}", zone="",
                epoch=epoch, log_level="warning",
            )  # fmt: skip

        yield InventoryRouter(start)


async def until(condition: Callable[[], object]) -> float:
    began = time.monotonic()
    while not condition():  # noqa: ASYNC110 - other processes
        await asyncio.sleep(0.001)
    return time.monotonic() - began


def pid_of(router: InventoryRouter) -> int:
    assert router.child.pid is not None
    return router.child.pid


async def holders(router: InventoryRouter, digest: Digest) -> int:
    return len([holder async for holder in router.find(digest)])


async def measure_look_ups(router: InventoryRouter, nodes: int, keys: int) -> None:
    times = []
    for key in range(2000):
        digest = Digest.of(b"%d %d" % (1 + key % (nodes - 1), key % keys))
        began = time.perf_counter_ns()
        async for _ in router.find(digest):
            pass
        times.append((time.perf_counter_ns() - began) / 1000)
    counters = router.counters()
    print(
        f"  a look-up, us: {percentiles(times)}; {counters['index_bytes'] / counters['index_entries']:.1f} B per entry"
    )


async def measure(nodes: int, keys: int, changes: int, degree: int) -> None:
    made = list(routers(nodes, degree))
    for number, router in enumerate(made):
        router.advertise([Digest.of(b"%d %d" % (number, key)) for key in range(keys)])
    tasks = {router: asyncio.get_running_loop().create_task(router.run()) for router in made}
    await until(lambda: all(router.peer_id for router in made))
    wanted = (nodes - 1) * keys
    known = await until(lambda: all(router.counters()["index_entries"] >= wanted for router in made))
    print(f"{nodes} nodes x {keys} keys, degree {degree}: from all listening to all known {known:.2f} s")
    used = [cpu_seconds(pid_of(router)) for router in made]
    print(f"  CPU of a router process until then, imports included: {statistics.mean(used):.2f} s")
    await until(lambda: all(router.counters().get("live") == nodes - 1 for router in made))

    visible = []
    for number in range(changes):
        digest = Digest.of(b"change %d" % number)
        source = made[number % nodes]
        others = [router for router in made if router is not source]
        began = time.monotonic()
        source.advertise([digest])
        for router in others:
            while not await holders(router, digest):  # noqa: ASYNC110 - other processes
                await asyncio.sleep(0.0005)
        visible.append((time.monotonic() - began) * 1000)
        await asyncio.sleep(0.03)
    print(f"  a new key is visible everywhere, ms: {percentiles(visible)}")

    await measure_look_ups(made[0], nodes, keys)

    before = [cpu_seconds(pid_of(router)) for router in made]
    ours = time.process_time()
    await asyncio.sleep(IDLE_SECONDS)
    spent = [(cpu_seconds(pid_of(r)) - b) / IDLE_SECONDS * 100 for r, b in zip(made, before, strict=True)]
    plane = (time.process_time() - ours) / IDLE_SECONDS * 100 / nodes
    sizes = [rss_kib(pid_of(router)) / 1024 for router in made]
    print(f"  idle, of one core: router process {statistics.mean(spent):.2f} %, data plane's part {plane:.2f} %")
    print(f"  router process, MiB resident: {statistics.mean(sizes):.1f}, most {max(sizes):.1f}")

    gone = []
    while len(made) > max(3, nodes - 5):
        victim = made.pop(1)
        os.kill(pid_of(victim), signal.SIGKILL)
        began = time.monotonic()
        tasks[victim].cancel()
        await until(lambda: all(len(router.peers()) == len(made) - 1 for router in made))
        gone.append((time.monotonic() - began) * 1000)
    print(f"  kill -9 until its keys are gone everywhere, ms: {percentiles(gone)}")

    for router in made:
        await router.close()
    for task in tasks.values():
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=10)
    parser.add_argument("--keys", type=int, default=2000)
    parser.add_argument("--changes", type=int, default=100)
    parser.add_argument("--degree", type=int, default=64)
    given = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(measure(given.nodes, given.keys, given.changes, given.degree))


if __name__ == "__main__":
    main()
