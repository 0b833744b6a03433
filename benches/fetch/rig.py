"""Holders in network namespaces whose links are limited with tc tbf, a node that has nothing, and its reader."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benches.serve import machine
from benches.serve.netns import CONGESTION_CONTROL
from tests.kit import proc
from tests.kit.layout import Layout, digest_of
from tests.kit.netns import Place, places
from tests.kit.process import Node, Setup, environment

MBIT = 300
UNLIMITED = -1
BURST = "256kb"
PORT = 5001
IDLE_SECONDS = 0.5


@dataclass(frozen=True)
class Sample:
    """One pull. ``foreign``: CPUs that others used just before it; ``cpu``: seconds of CPU that the node took for it;
    ``fetch``: what the node told of it afterwards.
    """

    complete: bool
    seconds: float
    first_byte: float
    gap: float
    foreign: float
    cpu: float = 0.0
    fetch: dict[str, Any] = field(default_factory=dict)


class Rig:
    """``holders`` have all of ``digests``; :meth:`asker` starts a fresh node that has nothing and knows them all."""

    def __init__(self, work: Path, spots: list[Place], holders: list[Node], sizes: dict[str, int]) -> None:
        self.spots = spots
        self.holders = holders
        self.sizes = sizes
        self._work = work
        self._count = 0

    @contextlib.contextmanager
    def asker(self, **more: object) -> Iterator[Node]:
        """A node that has nothing, and nothing learnt about its peers; it keeps nothing for a second reader. ``more``
        are flags.
        """
        self._count += 1
        store = self._work / f"asker{self._count}"
        Layout(store)
        peers = [f"{spot.host}:{PORT}" for spot in self.spots[:-1]]
        place = self.spots[-1]
        flags = {"grace": 0.05, "drain_timeout": 1, **more}
        with Node(Setup(store, host=place.host, peers=peers, before=place.prefix, flags=flags)) as node:
            yield node

    def pull(self, asker: Node, digest: str, mark: float = 0.0, act: Callable[[], object] | None = None) -> Sample:
        """Read one blob in the asker's place; ``act`` is done when that share of it has come."""
        foreign = _foreign()
        size = self.sizes[digest]
        where = f"{asker.registry[0]}:{asker.registry[1]}"
        command = [*self.spots[-1].prefix, sys.executable, "-m", "benches.fetch.reader"]
        command += [where, digest, str(size), str(int(size * mark))]
        before = proc.cpu_seconds(asker.pid)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as reader:
            assert reader.stdout is not None
            line = reader.stdout.readline()
            if line == "mark\n":
                if act is not None:
                    act()
                line = reader.stdout.readline()
        seen = json.loads(line)
        cpu = proc.cpu_seconds(asker.pid) - before
        fetch = next((one for one in self._told(asker) if one["digest"] == digest), {})
        return Sample(seen["complete"], seen["seconds"], seen["first_byte"], seen["gap"], foreign, cpu, fetch)

    def _told(self, asker: Node) -> list[dict[str, Any]]:
        url = f"http://{asker.admin[0]}:{asker.admin[1]}/fetches"
        code = f"import urllib.request as u; print(u.urlopen('{url}', timeout=10).read().decode())"
        found: list[dict[str, Any]] = json.loads(self.spots[-1].run(sys.executable, "-c", code).stdout)["fetches"]
        return found


def _foreign() -> float:
    """CPUs that are busy while nothing is measured."""
    before = machine.busy_seconds()
    time.sleep(IDLE_SECONDS)
    return (machine.busy_seconds() - before) / IDLE_SECONDS


@contextlib.contextmanager
def rig(
    work: Path, contents: Sequence[bytes], rates: Sequence[int], spoil: Callable[[int, bytes], bytes] | None = None
) -> Iterator[Rig]:
    """One holder per rate (Mbit/s, or UNLIMITED) with all contents; ``spoil`` changes what the first one has."""
    master = Layout(work / "master")
    digests = {master.add(content): len(content) for content in contents}
    with contextlib.ExitStack() as stack:
        spots = stack.enter_context(places(len(rates) + 1))
        holders = []
        for number, (spot, rate) in enumerate(zip(spots, [*rates, 0], strict=True)):
            _settle(spot)
            if not rate:
                continue
            if rate != UNLIMITED:
                _limit(spot, rate)
            store = work / f"holder{number}"
            layout = Layout(store)
            for index, content in enumerate(contents):
                path = layout.path(digest_of(content))
                if number == 0 and spoil is not None:
                    path.write_bytes(spoil(index, content))
                else:
                    os.link(master.path(digest_of(content)), path)
            setup = Setup(store, host=spot.host, peer_port=PORT, before=spot.prefix, flags={"drain_timeout": 1})
            holders.append(stack.enter_context(Node(setup)))
        yield Rig(work, spots, holders, digests)


def _settle(spot: Place) -> None:
    """The same congestion control everywhere, whatever the machine's is."""
    net = f"{spot.host.rpartition('.')[0]}.0/24"
    route = f"ip route change {net} dev eth0 proto kernel scope link src {spot.host}"
    spot.run(*route.split(), "congctl", CONGESTION_CONTROL)


def _limit(spot: Place, rate: int) -> None:
    spot.run(*f"tc qdisc add dev eth0 root tbf rate {rate}mbit burst {BURST} latency 50ms".split())
