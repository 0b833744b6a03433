"""How fast do real routers know each other, and what does that cost?

``python -m benches.routing.bench_cluster [--nodes 10] [--keys 2000] [--write]``: that many routers, each with its
router process, on loopback addresses of this machine; then the requests of a client while 30 others join
(``joins``). All routers share the machine's CPUs: real clusters have one each. With ``--write`` also the paper figures
and 1,000 nodes in virtual time (``bench_sim``, some minutes); all of it is kept in ``benches/results/routing.json`` and
shown in ``docs/routing-benchmark.md``. ``--render`` only writes that page again.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import uvloop

from benches.routing import bench_sim, joins, page, primitives
from benches.serve import machine
from fastmirror.inventory.bridge import NodeUp, Start
from fastmirror.inventory.keys import fingerprint, pack
from fastmirror.oci.digest import Digest
from fastmirror.routing.inventory import InventoryRouter
from tests.kit.cluster import loopback_hosts
from tests.kit.proc import cpu_seconds, rss_kib

IDLE_SECONDS = 20.0
JOINING = 30
RESULTS = Path(__file__).parents[1] / "results" / "routing.json"


@dataclass(frozen=True)
class Measured:
    """One cluster of real processes: seconds to know all, CPU seconds of a router process for it; milliseconds for each
    change, microseconds for each look-up, percent of a core, MiB, milliseconds for each death.
    """

    nodes: int
    keys: int
    degree: int
    known: float
    join_cpu: float
    visible: list[float]
    look_ups: list[float]
    entry_bytes: float
    idle_router: float
    idle_plane: float
    rss: float
    gone: list[float]


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


async def time_look_ups(router: InventoryRouter, nodes: int, keys: int) -> list[float]:
    times = []
    for key in range(5000):
        digest = Digest.of(b"%d %d" % (1 + key % (nodes - 1), key % keys))
        began = time.perf_counter_ns()
        async for _ in router.find(digest):
            pass
        times.append((time.perf_counter_ns() - began) / 1000)
    return times


async def time_changes(made: list[InventoryRouter], changes: int) -> list[float]:
    visible = []
    for number in range(changes):
        digest = Digest.of(b"change %d" % number)
        source = made[number % len(made)]
        others = [router for router in made if router is not source]
        began = time.monotonic()
        source.advertise([digest])
        for router in others:
            while not await holders(router, digest):  # noqa: ASYNC110 - other processes
                await asyncio.sleep(0.0005)
        visible.append((time.monotonic() - began) * 1000)
        await asyncio.sleep(0.03)
    return visible


async def idle(made: list[InventoryRouter]) -> tuple[float, float]:
    """Percent of a core: of a router process, and of a data plane for it."""
    before, ours = [cpu_seconds(pid_of(router)) for router in made], time.process_time()
    await asyncio.sleep(IDLE_SECONDS)
    spent = [(cpu_seconds(pid_of(r)) - b) / IDLE_SECONDS * 100 for r, b in zip(made, before, strict=True)]
    return statistics.mean(spent), (time.process_time() - ours) / IDLE_SECONDS * 100 / len(made)


async def measure(nodes: int, keys: int, changes: int, degree: int) -> Measured:
    made = list(routers(nodes, degree))
    for number, router in enumerate(made):
        router.advertise([Digest.of(b"%d %d" % (number, key)) for key in range(keys)])
    tasks = {router: asyncio.get_running_loop().create_task(router.run()) for router in made}
    await until(lambda: all(router.peer_id for router in made))
    wanted = (nodes - 1) * keys
    known = await until(lambda: all(router.counters()["index_entries"] >= wanted for router in made))
    used = statistics.mean(cpu_seconds(pid_of(router)) for router in made)
    await until(lambda: all(router.counters().get("live") == nodes - 1 for router in made))
    visible = await time_changes(made, changes)
    look_ups = await time_look_ups(made[0], nodes, keys)
    counters = made[0].counters()
    spent = await idle(made)
    rss = max(rss_kib(pid_of(router)) / 1024 for router in made)

    gone = []
    while len(made) > max(3, nodes - 5):
        victim = made.pop(1)
        os.kill(pid_of(victim), signal.SIGKILL)
        began = time.monotonic()
        tasks[victim].cancel()
        await until(lambda: all(len(router.peers()) == len(made) - 1 for router in made))
        gone.append((time.monotonic() - began) * 1000)
    for router in made:
        await router.close()
    for task in tasks.values():
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    each = counters["index_bytes"] / counters["index_entries"]
    return Measured(nodes, keys, degree, known, used, visible, look_ups, each, *spent, rss, gone)


async def time_many_look_ups(nodes: int = 50, keys: int = 2000) -> tuple[list[float], float]:
    """Microseconds of look-ups with so many nodes known, and bytes of memory of each entry of the index."""
    (router,) = routers(1, 64)
    for number in range(nodes):
        packed = pack(fingerprint(Digest.of(b"%d %d" % (number, key))) for key in range(keys))
        router._hear(NodeUp(b"%d" % number, "", "", f"10.0.0.{number}", 5001, b"", packed))
    counters = router.counters()
    return await time_look_ups(router, nodes, keys), counters["index_bytes"] / counters["index_entries"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=10)
    parser.add_argument("--keys", type=int, default=2000)
    parser.add_argument("--changes", type=int, default=100)
    parser.add_argument("--degree", type=int, default=64)
    parser.add_argument("--simulated", type=int, default=1000, help="nodes in virtual time, with --write")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name} and the page")
    parser.add_argument("--render", action="store_true", help="only write the page again from the results")
    given = parser.parse_args()
    if given.render:
        page.write(json.loads(RESULTS.read_text()))
        return
    costs = primitives.measure()
    found: dict[str, object] = {
        "machine": machine.describe(), "costs": asdict(costs),
        "paper": [asdict(bench_sim.paper(costs, given.degree, nodes)) for nodes in bench_sim.SIZES],
    }  # fmt: skip
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found["many"] = runner.run(time_many_look_ups())
        found["cluster"] = asdict(runner.run(measure(given.nodes, given.keys, given.changes, given.degree)))
        found["joins"] = runner.run(joins.measure(JOINING))
    if given.write:
        found["simulated"] = asdict(bench_sim.simulate(given.simulated, 20, given.degree))
        RESULTS.write_text(json.dumps(found) + "\n")
        page.write(found)
    print(page.render(found))


if __name__ == "__main__":
    main()
