"""The story with real containerds: pulls by ctr, a node killed on the way, the origin off from the second pull on."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

from demo import network, nodes, report
from demo.client import PullFailed
from demo.images import MIB, Image, file_digest
from demo.nodes import ContainerdNode, Fetched
from demo.origin import Origin
from demo.report import Row, Screen
from demo.steps import KILL_AT, NAMES, ORIGIN, Settings, WrongContent
from fastmirror.oci.digest import Digest

LOOK_SECONDS = 0.03  # between two questions how far a pull is
TRIES = 3  # a pull may be over before a busy machine finds the time to kill somebody


class RealStory:
    """One run: the nodes and the rows so far."""

    def __init__(self, image: Image, origin: Origin, made: dict[str, ContainerdNode], screen: Screen) -> None:
        self.image = image
        self.origin = origin
        self.nodes = made
        self.screen = screen
        self.rows: list[Row] = []

    async def tell(self) -> None:
        """All steps in order. Raises PullFailed, WrongContent, NodeFailed."""
        first, second, third = self.nodes.values()
        await self.pull(first, f"{first.name} pulls; no node has the image")
        await self.origin.turn_off()
        self.screen.say("the origin is off from now on")
        await self.pull(second, f"{second.name} pulls")
        await self.pull(third, f"{third.name} pulls")
        for number in range(TRIES):
            await self.restart(third, empty=True)
            await self.pull(third, f"{third.name} pulls again; its source is killed", deadly=True)
            if self.rows[-1].killed:
                break
            self.rows.pop()
            self.screen.say(f"    the pull was over before a node could be killed (try {number + 1} of {TRIES})")
        else:
            raise PullFailed("each pull was over before a node could be killed")
        await self.restart(self.nodes[self.rows[-1].killed])

    async def restart(self, node: ContainerdNode, *, empty: bool = False) -> None:
        """Start a node again, with what it has or with nothing. Raises NodeFailed."""
        await node.stop()
        if empty:
            node.empty()
        await node.start()
        what = "has forgotten everything" if empty else "still has what it had"
        self.screen.say(f"node {node.name} is started again and {what}")

    async def pull(self, node: ContainerdNode, what: str, *, deadly: bool = False) -> None:
        """One pull by ctr, and its row. ``deadly``: the node that gives most is killed in the middle of a layer.

        Raises PullFailed.
        """
        row = Row(what, node.name)
        self.rows.append(row)
        self.screen.say(f"step {len(self.rows)}: {what}")
        self.screen.begin()
        served, began = self.origin.served, time.monotonic()
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(self._watch(node, row if deadly else None))
            code, said = await node.pull(str(self.image.reference))
            row.seconds = time.monotonic() - began
            watch.cancel()
        fetched = await node.fetched()
        row.sources = self._by_name(fetched) | {ORIGIN: self.origin.served - served}
        row.layer_seconds = fetched.get(self.image.largest.digest, Fetched()).seconds
        if code:
            row.error = said
            raise PullFailed(f"node {node.name}: {said}")
        await node.offer(self.image.reference)
        self.screen.say(f"    done in {row.seconds:.2f} s")

    async def _watch(self, node: ContainerdNode, deadly: Row | None) -> None:
        """Show how far the pull is, until cancelled; kill who gives most of the largest layer, once enough has come."""
        served, largest = self.origin.served, self.image.largest
        while True:
            fetched = await node.fetched()
            sources = self._by_name(fetched) | {ORIGIN: self.origin.served - served}
            self.screen.progress(min(sum(sources.values()), self.image.size), self.image.size, sources)
            given = fetched.get(largest.digest, Fetched()).by_host
            if deadly is not None and not deadly.killed and KILL_AT <= sum(given.values()) / largest.size < 1:
                victim = max(self.nodes.values(), key=lambda other: given[other.place.host])
                victim.kill()
                deadly.killed = victim.name
                part = report.mebibytes(given[victim.place.host])
                whole = report.mebibytes(largest.size)
                self.screen.say(f"    node {victim.name} is killed: it gave {part} of a layer of {whole}")
            await asyncio.sleep(LOOK_SECONDS)

    def _by_name(self, fetched: dict[Digest, Fetched]) -> dict[str, int]:
        hosts = {name: node.place.host for name, node in self.nodes.items()}
        return {name: sum(taken.by_host[host] for taken in fetched.values()) for name, host in hosts.items()}

    def check(self) -> int:
        """Read all content of all nodes; returns how many blobs. Raises WrongContent."""
        checked = 0
        for name, node in self.nodes.items():
            for descriptor in self.image.descriptors:
                file = node.has(descriptor.digest)
                if not file.exists() or file_digest(file) != descriptor.digest:
                    raise WrongContent(f"node {name}: {descriptor.digest} is missing or wrong on its disk")
                checked += 1
        return checked


@contextlib.asynccontextmanager
async def _cluster(settings: Settings, programs: Path, origin: Origin) -> AsyncIterator[dict[str, ContainerdNode]]:
    made = {name: ContainerdNode(name, at, settings.work, programs) for at, name in enumerate(NAMES, 1)}
    snapshotter = "overlayfs" if network.overlays(settings.work) else "native"
    try:
        for node in made.values():
            node.peers = [other.place.host for other in made.values() if other is not node]
            node.rate, node.snapshotter = settings.link_rate * MIB, snapshotter
            node.origin = "http://{}:{}".format(*origin.address)
            node.empty()
            await node.place.settle()
        async with asyncio.TaskGroup() as group:
            for node in made.values():
                group.create_task(node.start())
        yield made
    finally:
        async with asyncio.TaskGroup() as group:
            for node in made.values():
                group.create_task(node.stop())
        for node in made.values():
            await node.place.leave()
            node.empty()


async def run(settings: Settings, image: Image, screen: Screen) -> bool:
    """Run it and print the table; True if everything was as promised. Cancelled: nothing is left running.

    Raises NodeFailed if a node does not start. To be called in the namespaces that ``network`` makes.
    """
    found = nodes.newest()
    assert found is not None, "asked before the namespaces were made"
    screen.say(f"three nodes with containerd {found[0]}, each in a network of its own")
    network.prepare()
    origin = Origin(image, settings.origin_rate * MIB, wrong_byte=settings.wrong_byte, host=network.HUB)
    await origin.turn_on()
    try:
        async with _cluster(settings, found[1], origin) as made:
            story = RealStory(image, origin, made, screen)
            try:
                await story.tell()
                lines = report.summary(story.rows, image, origin.served, await asyncio.to_thread(story.check))
            except (PullFailed, WrongContent) as error:
                lines = [f"FAILED: {error}"]
            for line in ["", *report.table(story.rows, [ORIGIN, *NAMES]), "", *lines]:
                screen.say(line)
            return not lines[0].startswith("FAILED")
    finally:
        await origin.turn_off()
