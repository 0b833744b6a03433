"""Routers in the test's own process, each with a router process of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import pytest

from fastmirror.inventory.bridge import Start
from fastmirror.routing.inventory import InventoryRouter
from tests.kit.cluster import loopback_hosts
from tests.kit.waiting import pause


class LeftOut(pytest.Module):
    """A module of tests on a machine without py-libp2p (tools/venv.sh): skipped as a whole, by name."""

    def collect(self) -> Iterator[pytest.Item]:
        raise pytest.skip.Exception("needs py-libp2p: install libgmp-dev, then make build", allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    return LeftOut.from_parent(parent, path=module_path) if find_spec("libp2p") is None else None


@dataclass
class Cluster:
    """Some routers. ``stop`` ends one in good order; what still runs at the end of the test is stopped then."""

    root: Path
    hosts: list[str]
    routers: list[InventoryRouter] = field(default_factory=list)
    tasks: dict[InventoryRouter, asyncio.Task[None]] = field(default_factory=dict)

    def start_of(self, number: int, **other: object) -> Start:
        given: dict[str, object] = {
            "listen_host": self.hosts[number], "listen_port": 4400, "peer_host": "0.0.0.0", "peer_port": 5001,
            "bootstrap": [f"{self.hosts[0]}:4400"], "peer_cidr": [], "data_dir": "", "secret_file": "",
            "allowed_ids": [], "degree": 64, "name": f"n{number}", "zone": "", "epoch": 0, "log_level": "info",
        }  # fmt: skip
        return Start(**{**given, **other})  # type: ignore[arg-type]

    def start(self, number: int, **other: object) -> InventoryRouter:
        def start(epoch: int) -> Start:
            return self.start_of(number, **{"epoch": epoch, **other})

        router = InventoryRouter(start)
        self.routers.append(router)
        self.tasks[router] = asyncio.get_running_loop().create_task(router.run())
        return router

    async def stop(self, router: InventoryRouter) -> None:
        await router.close()
        await self.end(router)

    async def end(self, router: InventoryRouter) -> None:
        task = self.tasks.pop(router, None)
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def until(condition, what: str, seconds: float = 20.0) -> float:
    """The seconds until the condition held."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not condition():
        assert loop.time() - began < seconds, f"not within {seconds} s: {what}"
        await pause(0.005, "until the next look")
    return loop.time() - began


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    made = Cluster(tmp_path, loopback_hosts(6))
    yield made
    for router in list(made.tasks):
        await made.stop(router)
