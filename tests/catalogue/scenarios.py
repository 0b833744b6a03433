"""The cases that take time or many connections. Each returns what was wrong, in words."""

from __future__ import annotations

import contextlib
import resource
import select
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from tests.catalogue.cases import Case
from tests.catalogue.fixture import Fixture
from tests.kit import proc
from tests.kit.waiting import NOISE
from tests.kit.wire import Address, End, NoAnswer, Wire, build_request

SLOWLORIS_CONNECTIONS: Final = 200
FLOOD_CONNECTIONS: Final = 5000
RESETS: Final = 2000
SLOW_READ_SECONDS: Final = 8.0
_GRACE: Final = 2.5  # seconds that a timer of the server may be late: its tick, and a busy machine
_TICKING: Final = 2.0  # seconds between two bytes of a slow header
_MEMORY_KIB: Final = 8 * 1024


@dataclass(frozen=True)
class Server:
    """The server under test, as far as the scenarios need to know it. ``pid`` is None if it is not on this machine."""

    address: Address
    pid: int | None
    header_timeout: float
    idle_timeout: float


Scenario = Callable[[Case, Server, Fixture], list[str]]


def _good_client(server: Server, seconds: float) -> tuple[list[float], list[str]]:
    """New connections with one good request each, for some time: their latencies, and what failed."""
    latencies, failures = [], []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.monotonic()
        try:
            with Wire(server.address) as wire:
                status = wire.ask("GET", "/v2/").status
            if status != 200:
                failures.append(f"a good client got {status}")
        except (OSError, AssertionError) as error:
            failures.append(f"a good client failed: {error!r}")
        latencies.append(time.monotonic() - began)
        time.sleep(0.05)
    return latencies, failures


def _slower_than(latencies: list[float], milliseconds: float) -> list[str]:
    middle = statistics.median(latencies) * 1000
    return [f"a good client waited {middle:.0f} ms"] if middle > milliseconds * NOISE else []


def _target(fixture: Fixture, digest: str) -> str:
    return fixture.fill("/v2/{NAME}/blobs/" + digest + "?ns={NS}")


def unfinished(case: Case, server: Server, fixture: Fixture) -> list[str]:
    """A request whose end never comes: an answer or none, and a FIN within the header timeout."""
    began = time.monotonic()
    with Wire(server.address, timeout=server.header_timeout + _GRACE) as wire:
        wire.send(case.payload(fixture))
        status = 0
        with contextlib.suppress(NoAnswer):
            status = wire.answer().status
        wire.rest()
        took = time.monotonic() - began
        problems = [] if wire.end is End.FIN else ["the connection ended by RST"]
    if status not in case.status or status == 408:
        problems.append(f"status {status}, allowed are {case.status}")
    if took > server.header_timeout + _GRACE:
        problems.append(f"ended after {took:.1f} s, the header timeout is {server.header_timeout:g} s")
    return problems


def slowloris(case: Case, server: Server, fixture: Fixture) -> list[str]:
    """Many connections whose header comes a byte at a time: each ends within the header timeout, in total."""
    text = build_request("GET", "/v2/", X_Slow="a" * 200)
    began = time.monotonic()
    latencies: list[float] = []
    problems: list[str] = []
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(Wire(server.address)) for _ in range(SLOWLORIS_CONNECTIONS)]
        poller = select.poll()
        by_fd = {wire.sock.fileno(): wire for wire in wires}
        for wire in wires:
            poller.register(wire.sock, select.POLLIN)
        sent = 0
        while by_fd and time.monotonic() - began < server.header_timeout + _GRACE:
            if time.monotonic() - began >= sent * _TICKING:
                for wire in by_fd.values():
                    wire.send(text[sent : sent + 1])
                sent += 1
            fresh, failed = _good_client(server, 0.1)
            latencies += fresh
            problems += failed
            for fd, _ in poller.poll(100):
                wire = by_fd.pop(fd)
                poller.unregister(fd)
                if wire.rest() or wire.end is not End.FIN:
                    problems.append(f"a slow connection got an answer, or {wire.end.value}")
    if by_fd:
        problems.append(f"{len(by_fd)} connections outlived the header timeout of {server.header_timeout:g} s")
    return problems + _slower_than(latencies, 50)


def slow_read(case: Case, server: Server, fixture: Fixture) -> list[str]:
    """A large blob read at a byte a second: memory stays, others are served, the transfer is kept or ended by FIN."""
    rss = proc.rss_kib(server.pid) if server.pid else 0
    problems: list[str] = []
    latencies: list[float] = []
    with Wire(server.address, receive_buffer=4096) as wire:
        wire.send(build_request("GET", _target(fixture, fixture.big)))
        status, _ = wire.head()
        if status not in case.status:
            problems.append(f"status {status}")
        until = time.monotonic() + SLOW_READ_SECONDS
        while time.monotonic() < until:
            wire.sock.recv(1)
            fresh, failed = _good_client(server, 1.0)
            latencies += fresh
            problems += failed
        if server.pid and (growth := proc.rss_kib(server.pid) - rss) > _MEMORY_KIB:
            problems.append(f"memory grew by {growth} KiB for one slow reader")
        if wire.end is End.RST:
            problems.append("the slow reader got a RST")
    return problems + _slower_than(latencies, 50)


def idle(case: Case, server: Server, fixture: Fixture) -> list[str]:
    """A kept connection without requests ends by FIN after the idle timeout, not before."""
    with Wire(server.address, timeout=server.idle_timeout + 2 * _GRACE) as wire:
        status = wire.ask("GET", "/v2/").status
        began = time.monotonic()
        rest = wire.rest()
        waited = time.monotonic() - began
        problems = [] if status in case.status else [f"status {status}"]
        if rest or wire.end is not End.FIN:
            problems.append(f"{wire.end.value}, after {rest[:40]!r}")
        if not server.idle_timeout - _GRACE <= waited <= server.idle_timeout + _GRACE:
            problems.append(f"ended after {waited:.1f} s, the idle timeout is {server.idle_timeout:g} s")
    return problems


def flood(case: Case, server: Server, fixture: Fixture) -> list[str]:
    """Thousands of silent connections: what is too many is closed, no CPU is burnt, a new client is served."""
    problems: list[str] = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(_many_descriptors())
        for _ in range(FLOOD_CONNECTIONS):
            sock = stack.enter_context(socket.socket())
            sock.settimeout(10)
            try:
                sock.connect(server.address)
            except OSError as error:
                problems.append(f"a connection was not taken: {error!r}")
                break
        latencies, failed = _good_client(server, 1.5)
        problems += failed
        if server.pid:
            before = proc.cpu_seconds(server.pid)
            time.sleep(1.0)
            burnt = proc.cpu_seconds(server.pid) - before
            if burnt > 0.5:
                problems.append(f"{burnt:.2f} s of CPU in 1 s without a request")
    return problems + _slower_than(latencies, 100)


@contextlib.contextmanager
def _many_descriptors() -> Iterator[None]:
    """Let this process have all the descriptors that it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def reset_mid_body(case: Case, server: Server, fixture: Fixture) -> list[str]:
    """Clients that read a little of a large blob and reset, as containerd does: nothing is left behind."""
    fds = proc.fd_count(server.pid) if server.pid else 0
    rss = proc.rss_kib(server.pid) if server.pid else 0
    request = build_request("GET", _target(fixture, fixture.big))
    problems: list[str] = []
    for _ in range(RESETS):
        with Wire(server.address) as wire:
            wire.send(request)
            status, _ = wire.head()
            wire.fill(100)
            wire.reset()
            if status not in case.status:
                problems.append(f"status {status}")
    if server.pid:
        problems += _leftovers(server.pid, fds, rss)
    return problems


def _leftovers(pid: int, fds: int, rss: int) -> list[str]:
    deadline = time.monotonic() + 2 * NOISE
    while proc.fd_count(pid) > fds + 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    problems = []
    if proc.fd_count(pid) > fds + 2:
        problems.append(f"{proc.fd_count(pid)} descriptors, {fds} before")
    if proc.rss_kib(pid) > rss + _MEMORY_KIB:
        problems.append(f"memory grew from {rss} to {proc.rss_kib(pid)} KiB")
    return problems


SCENARIOS: Final[dict[str, Scenario]] = {
    "unfinished": unfinished,
    "slowloris": slowloris,
    "slow_read": slow_read,
    "idle": idle,
    "flood": flood,
    "reset_mid_body": reset_mid_body,
}
WAITING: Final = frozenset({"unfinished", "idle"})
"""Scenarios that only wait: they disturb nothing and may run beside anything."""


def at_once(cases: list[Case]) -> Iterator[Case]:
    """The scenarios that may all run at the same time, longest first."""
    quiet = [case for case in cases if case.scenario in WAITING | {"slowloris", "slow_read"}]
    return iter(sorted(quiet, key=lambda case: case.scenario != "idle"))
