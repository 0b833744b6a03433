"""What is measured, in order, and how it is told."""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import msgspec

from fastmirror import __version__
from fastmirror.bench.client import HOST, BenchFailed, Load, Sample, run
from fastmirror.bench.server import MIB, Item, Server, make_layout, serving

LARGE: Final = 256 * MIB
MEDIUM: Final = 8 * MIB
GIB: Final = 1 << 30
CLIENT_LIMIT: Final = 0.9  # share of its CPU from which the client may have been what was measured


@dataclass(frozen=True)
class Row:
    """One measurement. ``rate`` is in bytes or requests per second, ``cost`` in the server's CPU seconds per GiB or per
    request, latencies in seconds, ``client`` the share of a CPU that the client used."""

    what: str
    connections: int
    unit: str
    rate: float
    cost: float
    p50: float | None
    p99: float | None
    client: float

    def cells(self) -> tuple[str, ...]:
        """The row for a terminal."""
        bytes_ = self.unit == "bytes/s"
        rate = f"{self.rate / GIB:.2f} GiB/s" if bytes_ else f"{self.rate:,.0f}/s"
        cost = f"{self.cost:.3f} s/GiB" if bytes_ else f"{self.cost * 1e6:.1f} us/request"
        tails = ["" if value is None else f"{value * 1000:.2f} ms" for value in (self.p50, self.p99)]
        return self.what, str(self.connections), rate, cost, *tails, f"{self.client:.0%}"


HEADS: Final = ("WHAT", "CONNECTIONS", "RATE", "SERVER'S CPU", "P50", "P99", "CLIENT'S CPU")


@dataclass(frozen=True)
class Report:
    """All rows, and what they were measured on."""

    rows: list[Row]
    machine: dict[str, str | int]
    pss_mib: float | None
    pinned: bool

    def table(self) -> list[tuple[str, ...]]:
        """Rows for a terminal, heads first."""
        return [HEADS, *(row.cells() for row in self.rows)]

    def notes(self) -> list[str]:
        """What to know when reading the rows."""
        m = self.machine
        where = f"on {m['cpus']} x {m['cpu']}, Linux {m['kernel']}, {m['congestion_control']}"
        cpus = "each on a CPU of its own" if self.pinned else "on one CPU, which halves everything"
        lines = [
            f"fastmirror {m['fastmirror']}, Python {m['python']}, {where}",
            f"over loopback, from the page cache, server and client {cpus}",
        ]
        if self.pss_mib is not None:
            lines.append(f"memory of the server (PSS) after all that: {self.pss_mib:.1f} MiB")
        busy = [row.what for row in self.rows if row.client > CLIENT_LIMIT]
        if busy:
            lines.append(f"the client was the limit, the server can do more: {', '.join(dict.fromkeys(busy))}")
        return lines

    def to_json(self) -> str:
        """Everything, in SI units."""
        return msgspec.json.encode(asdict(self)).decode()


def measure(directory: str | None, seconds: float, say: Callable[[str], None]) -> Report:
    """Measure this machine, ``seconds`` for each row but the relay; 264 MiB in ``directory`` are written and removed.

    ``say`` is told what is being done. Raises BenchFailed, and StoreError when the disk is full.
    """
    with _directory(directory) as made, _own_cpu() as cpus:
        say("writing 264 MiB")
        (large, medium), manifest = make_layout(Path(made) / "layout", (LARGE, MEDIUM))
        rows: list[Row] = []
        with _on(cpus[0]), serving(Path(made) / "layout") as server, _on(cpus[1]):
            for what, item, connections in (
                ("256 MiB blob", large, 1),
                ("256 MiB blob", large, 8),
                ("8 MiB blob", medium, 8),
                ("8 MiB blob", medium, 64),
                ("2 KiB manifest", manifest, 1),
                ("2 KiB manifest", manifest, 64),
            ):
                say(f"{what}, {connections} connections")
                load = Load(item.path, item.size, connections, seconds)
                run(server.registry, Load(item.path, item.size, connections, min(0.2, seconds)))
                rows.append(_row(what, server, load))
            pss = server.pss_mib()
            say("256 MiB through a second node, verified")
            rows.append(_relay(Path(made), large, server, cpus))
    return Report(rows, _machine(), pss, pinned=cpus[0] != cpus[1])


def _directory(below: str | None) -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="fastmirror-bench-", dir=below)
    except OSError as error:
        raise BenchFailed(f"bench: cannot write: {error}; give another directory with --dir") from error


def _row(what: str, server: Server, load: Load) -> Row:
    before = server.cpu_seconds()
    sample = run(server.registry, load)
    return _as_row(what, load, sample, server.cpu_seconds() - before)


def _as_row(what: str, load: Load, sample: Sample, cpu: float) -> Row:
    small = load.size < MIB
    amount = sample.requests if small else sample.bytes
    return Row(
        what,
        load.connections,
        "requests/s" if small else "bytes/s",
        rate=amount / sample.seconds,
        cost=cpu / max(amount, 1) * (1 if small else GIB),
        p50=sample.latency(0.5),
        p99=sample.latency(0.99),
        client=sample.own_cpu / sample.seconds,
    )


def _relay(made: Path, item: Item, source: Server, cpus: tuple[int, int]) -> Row:
    """A fresh node that has nothing passes the blob on from the first one; its CPU alone counts."""
    with _on(cpus[0]), serving(made / "empty", f"{HOST}:{source.peer}") as node, _on(cpus[1]):
        return _row("256 MiB blob, from a peer, verified", node, Load(item.path, item.size, requests=1))


@contextlib.contextmanager
def _own_cpu() -> Iterator[tuple[int, int]]:
    """The server's CPU and the client's: two if there are two; this thread may use all of its own again afterwards."""
    usable = sorted(os.sched_getaffinity(0))
    try:
        yield usable[0], usable[min(1, len(usable) - 1)]
    finally:
        os.sched_setaffinity(0, usable)


@contextlib.contextmanager
def _on(cpu: int) -> Iterator[None]:
    """Run this thread, and what it starts, on one CPU from now on."""
    os.sched_setaffinity(0, {cpu})
    yield


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _machine() -> dict[str, str | int]:
    with (
        socket.create_server((HOST, 0)) as listener,
        socket.create_connection(listener.getsockname()) as probe,
    ):
        control = probe.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0").decode()
    return {
        "fastmirror": __version__,
        "python": platform.python_version(),
        "cpu": _cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "congestion_control": control,
    }
