"""The story: five pulls, a death, and an origin that is switched off."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

from demo import report
from demo.client import Client, Host, PlainClient, Progress, PullFailed
from demo.cluster import Cluster, Node
from demo.images import MIB, Image, blob_file, file_digest
from demo.origin import Origin
from demo.report import Row, Screen

ORIGIN = "origin"
NAMES = "ABC"
KILL_AT = 0.4  # of the largest layer, as the links count it


@dataclass(frozen=True)
class Settings:
    """What a run of the demo may vary. Rates in MiB per second."""

    work: Path
    source: str = "debian"
    mebibytes: int = 96
    origin_rate: float = 40.0
    link_rate: float = 60.0
    wrong_byte: bool = False


class WrongContent(Exception):
    """A blob on a node's disk does not have its digest, or is missing."""


class Story:
    """One run: the parts that are there while it lasts, and the rows it has written so far."""

    def __init__(self, image: Image, origin: Origin, cluster: Cluster, screen: Screen) -> None:
        self.image = image
        self.origin = origin
        self.cluster = cluster
        self.screen = screen
        self.client: Client = PlainClient()
        self.rows: list[Row] = []
        self.holders: set[str] = set()

    async def tell(self) -> None:
        """All steps in order. Raises PullFailed at the first that fails; its row says why."""
        nodes = self.cluster.nodes
        await self.pull(nodes["A"], "A pulls; no node has the image")
        await self.pull(nodes["B"], "B pulls", from_nodes=True)
        await self.pull(nodes["C"], "C pulls", from_nodes=True)
        await self.restart_empty(nodes["C"])
        await self.pull(nodes["C"], "C pulls again; its source is killed", from_nodes=True, deadly=True)
        victim = nodes[self.rows[-1].killed]
        await self.origin.turn_off()
        self.screen.say("the origin is off from now on")
        await self.restart_empty(victim)
        await self.pull(victim, f"{victim.name} pulls again; the origin is off", from_nodes=True)

    async def restart_empty(self, node: Node) -> None:
        """Let a node forget everything. Raises NodeFailed."""
        await node.stop()
        node.empty()
        self.holders.discard(node.name)
        await node.start()
        self.screen.say(f"node {node.name} is started again, its store is empty")

    async def pull(self, node: Node, what: str, *, from_nodes: bool = False, deadly: bool = False) -> None:
        """One pull on one node, and its row. ``deadly``: the node that serves it is killed in mid-layer.

        Raises PullFailed, also if bytes came from the origin that need not (``from_nodes``), and if the pull was over
        before a node could be killed.
        """
        row = Row(what, node.name)
        self.rows.append(row)
        self.screen.say(f"step {len(self.rows)}: {what}")
        self.screen.begin()
        before, began, progress = self._counts(node), time.monotonic(), Progress()
        moved = self._moved(node)

        def changed() -> None:
            self.screen.progress(sum(progress.by_digest.values()), self.image.size, self._since(node, before))

        def moving() -> None:
            if deadly and not row.killed:
                row.killed = self._kill_in_mid_layer(node, moved)

        progress.changed = changed
        for link in node.links.values():
            link.changed = moving  # not when the client has it: the mirror is ahead of that
        hosts = [Host("mirror", node.registry, True), Host(ORIGIN, self.origin.address, False)]
        try:
            await self.client.pull(self.image, node.store, hosts, progress)
            if from_nodes and self._since(node, before)[ORIGIN]:
                raise PullFailed("bytes came from the origin although nodes have the image")
            if deadly and not row.killed:
                raise PullFailed("the pull was over before a node could be killed")
        except PullFailed as error:
            row.error = str(error)
            raise
        finally:
            row.seconds = time.monotonic() - began
            row.sources = self._since(node, before)
            row.gap = progress.longest_gap
        self.holders.add(node.name)
        self.screen.say(f"    done in {row.seconds:.2f} s")

    def _counts(self, node: Node) -> dict[str, int]:
        return {ORIGIN: self.origin.served, **{name: link.passed for name, link in node.links.items()}}

    def _since(self, node: Node, before: dict[str, int]) -> dict[str, int]:
        return {name: count - before[name] for name, count in self._counts(node).items()}

    def _moved(self, node: Node) -> dict[str, int]:
        """How much of the largest layer has come to ``node`` from each other one, in all pulls."""
        return {name: link.moved[self.image.largest.digest] for name, link in node.links.items()}

    def _kill_in_mid_layer(self, node: Node, before: dict[str, int]) -> str:
        """Kill the node that gives ``node`` most of the largest layer, if enough of it has come; its name or ""."""
        layer = self.image.largest
        moved = {name: count - before[name] for name, count in self._moved(node).items()}
        if sum(moved.values()) < KILL_AT * layer.size:
            return ""
        victim = self.cluster.nodes[max(moved, key=lambda name: moved[name])]
        victim.kill()
        self.holders.discard(victim.name)
        given = report.mebibytes(moved[victim.name])
        self.screen.say(
            f"    node {victim.name} is killed: it gave {given} of a layer of {report.mebibytes(layer.size)}"
        )
        return victim.name

    def check(self) -> int:
        """Read all content of all nodes that pulled again; returns how many blobs. Raises WrongContent."""
        checked = 0
        for name in sorted(self.holders):
            for descriptor in self.image.descriptors:
                file = blob_file(self.cluster.nodes[name].store, descriptor.digest)
                if not file.exists() or file_digest(file) != descriptor.digest:
                    raise WrongContent(f"node {name}: {descriptor.digest} is missing or wrong on its disk")
                checked += 1
        return checked


async def run(settings: Settings, image: Image, screen: Screen) -> bool:
    """Run the whole demo and print its table; True if everything was as promised. Cancelled: nothing is left running.

    Raises NodeFailed if a node does not start.
    """
    origin = Origin(image, settings.origin_rate * MIB, wrong_byte=settings.wrong_byte)
    await origin.turn_on()
    try:
        async with Cluster(NAMES, settings.work, settings.link_rate * MIB) as cluster:
            story = Story(image, origin, cluster, screen)
            lines = []
            try:
                await story.tell()
                checked = await asyncio.to_thread(story.check)
                lines = report.summary(story.rows, image, origin.served, checked)
            except (PullFailed, WrongContent) as error:
                lines = [f"FAILED: {error}"]
            good = not lines[0].startswith("FAILED")
            for line in ["", *report.table(story.rows, [ORIGIN, *NAMES]), "", *lines]:
                screen.say(line)
            return good
    finally:
        await origin.turn_off()
