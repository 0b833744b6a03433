"""The nodes: fastmirror processes on loopback addresses, each with its own store and its own way to the others."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path

from demo.link import Link

START_SECONDS = 20.0
STOP_SECONDS = 5.0
PATIENCE = "3s"
"""Of the nodes with each other: one busy machine is all of them, and its delays are not the network's. A node that is
killed refuses connections, so its death costs no deadline.
"""


class NodeFailed(Exception):
    """A node did not start; the text has the end of its log."""


class Node:
    """One fastmirror process; ``start`` and ``stop`` (or ``kill``) it any number of times.

    ``links`` are this node's ways to the others; ``reached_by`` are the others' ways to it.
    """

    def __init__(self, name: str, host: str, work: Path) -> None:
        self.name = name
        self.host = host
        self.store = work / f"node-{name}" / "store"
        self.log = work / f"node-{name}" / "log"
        self.links: dict[str, Link] = {}
        self.reached_by: list[Link] = []
        self.registry: tuple[str, int] = (host, 0)
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start the process and wait until it serves. Raises NodeFailed; cancelled: it is stopped by :meth:`stop`."""
        self.store.mkdir(parents=True, exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FASTMIRROR_")}
        silent = asyncio.subprocess.DEVNULL
        with self.log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command(), stdin=silent, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        bound = await self._serving()
        self.registry = _address(bound["registry"])
        for link in self.reached_by:
            await link.up(*_address(bound["peer"]))

    def _command(self) -> list[str]:
        line = [sys.executable, "-m", "fastmirror", "serve", "--store", f"oci:{self.store}"]
        for listener in ("registry", "peer", "admin"):
            line += [f"--{listener}-addr", f"{self.host}:0"]
        line += ["--resolve-tags", "true"]
        line += ["--peers", ",".join("{}:{}".format(*link.address) for link in self.links.values())]
        for deadline in ("lookup", "connect", "first-byte", "stall"):
            line += [f"--{deadline}-timeout", PATIENCE]
        setpriv = shutil.which("setpriv")  # so that not even a killed demo leaves a node behind, prctl(2)
        return [setpriv, "--pdeathsig", "KILL", *line] if setpriv else line

    async def _serving(self) -> dict[str, str]:
        """What the process says when it serves. Raises NodeFailed."""
        assert self._process is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_SECONDS):
                while self._process.returncode is None:
                    for line in self.log.read_text(errors="replace").splitlines():
                        if '"daemon.serving"' in line and line.endswith("}"):
                            return dict(json.loads(line))
                    await asyncio.sleep(0.02)
        tail = self.log.read_text(errors="replace")[-600:].strip()
        raise NodeFailed(f"node {self.name} did not start: {tail or 'it said nothing'}")

    def kill(self) -> None:
        """SIGKILL, now, and nobody can connect any more; :meth:`stop` then waits for its end."""
        self._signal(signal.SIGKILL)
        for link in self.reached_by:
            link.refuse()

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL after a while; idempotent. Cancelled: the process may still be there."""
        self._signal(signal.SIGTERM)
        process, self._process = self._process, None
        if process is not None:
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await process.wait()
            except TimeoutError:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        for link in self.reached_by:
            link.refuse()

    def _signal(self, number: signal.Signals) -> None:
        """To all processes of the node: it leads a session, and so a process group, of its own."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def empty(self) -> None:
        """Forget all content; only while stopped."""
        shutil.rmtree(self.store, ignore_errors=True)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


class Cluster:
    """Some nodes, each with a link to each other one.

    An async context manager that begins with empty nodes, and in the end stops and empties them; their logs stay.
    """

    def __init__(self, names: str, work: Path, rate: float) -> None:
        self.nodes = {name: Node(name, f"127.0.0.{11 + at}", work) for at, name in enumerate(names)}
        for node in self.nodes.values():
            for other in self.nodes.values():
                if other is not node:
                    node.links[other.name] = Link(rate)
                    other.reached_by.append(node.links[other.name])

    async def __aenter__(self) -> Cluster:
        try:
            async with asyncio.TaskGroup() as group:
                for node in self.nodes.values():
                    node.empty()
                    group.create_task(node.start())
        except BaseException as error:
            await self._stop()
            if isinstance(error, BaseExceptionGroup):
                raise error.exceptions[0] from None
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    async def _stop(self) -> None:
        async with asyncio.TaskGroup() as group:
            for node in self.nodes.values():
                group.create_task(node.stop())
        for node in self.nodes.values():
            node.empty()
            for link in node.links.values():
                await link.close()
