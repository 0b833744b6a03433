"""Requests to peers: connecting, kept connections, patience, and what cancelling leaves."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from fastmirror._native.hashing import Hasher
from fastmirror.config import FetchSettings
from fastmirror.http import client as client_module
from fastmirror.http.body import Body, Landing, Received
from fastmirror.http.client import PeerClient
from fastmirror.http.intake import Intake
from fastmirror.http.outcome import PeerOutcome
from fastmirror.http.resolve import Place, Resolver
from fastmirror.http.response import Ask, Head
from fastmirror.oci.digest import Digest
from fastmirror.oci.span import Span
from tests.kit import faults
from tests.kit.content import blob
from tests.kit.faulty_peer import FaultyPeer
from tests.kit.fetching import HolderNode, until
from tests.kit.waiting import NOISE

CONTENT = blob(300_000, 1)
TARGET = f"/v2/a/blobs/{Digest.of(CONTENT)}"


class Rig:
    """A client with its intake, and a file to receive into."""

    def __init__(self, directory: Path, **settings: float) -> None:
        self.intake = Intake(2)
        self.client = PeerClient(FetchSettings(**settings), self.intake)  # type: ignore[arg-type]
        self.fd = os.open(directory, os.O_TMPFILE | os.O_RDWR)
        self.landed = 0
        self.frontier = 0
        self.hasher = Hasher("sha256")

    def landing(self) -> Landing:
        return Landing(self.fd, self.hasher, self._moved, self._landed)

    def _moved(self, frontier: int) -> None:
        assert frontier >= self.frontier
        self.frontier = frontier

    def _landed(self) -> None:
        self.landed += 1

    async def close(self) -> None:
        await self.client.close()
        self.intake.close()
        os.close(self.fd)


Make = Callable[..., Rig]


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Make]:
    made: list[Rig] = []

    def make(**settings: float) -> Rig:
        made.append(Rig(tmp_path, **settings))
        return made[-1]

    yield make
    for each in made:
        await each.close()


async def test_a_body_goes_into_the_file_and_the_hash_at_its_place(rig: Make) -> None:
    made = rig()
    with FaultyPeer([CONTENT]) as peer:
        body = await made.client.open(peer.address, Ask(TARGET, Span(100_000, 300_000), 300_000))
        assert isinstance(body, Body)
        assert await body.receive(made.landing()) == Received(PeerOutcome.GOT, 200_000)
        assert os.pread(made.fd, 300_000, 0) == bytes(100_000) + CONTENT[100_000:]
        assert made.hasher.hexdigest() == Digest.of(CONTENT[100_000:]).hex
        assert (made.frontier, made.landed) == (300_000, 1)
        assert peer.gets()[0].headers["range"] == "bytes=100000-299999"


async def test_a_body_that_is_not_wanted_is_closed_and_its_connection_not_kept(rig: Make) -> None:
    made = rig()
    with FaultyPeer([CONTENT]) as peer:
        for _ in range(3):
            body = await made.client.open(peer.address, Ask(TARGET))
            assert isinstance(body, Body)
            body.close()
            body.close()
        assert isinstance(await made.client.head(peer.address, TARGET, 1.0), Head)
        assert isinstance(await made.client.head(peer.address, TARGET, 1.0), Head)


@pytest.mark.parametrize("plan", [faults.silent(), faults.stall(50_000)], ids=["before the head", "in the body"])
async def test_cancelling_leaves_nothing_behind(rig: Make, plan: faults.Fault) -> None:
    made = rig(first_byte_timeout=30.0, stall_timeout=30.0)

    async def receive(peer: FaultyPeer) -> None:
        body = await made.client.open(peer.address, Ask(TARGET))
        assert isinstance(body, Body)
        await body.receive(made.landing())

    with FaultyPeer([CONTENT], faults.on_get(plan)) as peer:
        fds = len(os.listdir("/proc/self/fd"))
        task = asyncio.get_running_loop().create_task(receive(peer))
        await until(lambda: peer.gets() and (plan.kind == "silent" or made.frontier == 50_000), "it is under way")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: plan.kind == "silent" or made.landed == 1, "the landing is given back")
        (sock,) = peer._open
        await until(lambda: _was_left(sock), "the peer sees the end of the connection")
        assert len(os.listdir("/proc/self/fd")) == fds + 1, "only the peer's own end is left"


def _was_left(sock: socket.socket) -> bool:
    try:
        return sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except ConnectionError:
        return True
    except BlockingIOError:
        return False


async def test_closing_the_intake_gives_landings_back(rig: Make) -> None:
    made = rig(stall_timeout=30.0)
    with FaultyPeer([CONTENT], faults.on_get(faults.stall(50_000))) as peer:
        body = await made.client.open(peer.address, Ask(TARGET))
        assert isinstance(body, Body)
        task = asyncio.get_running_loop().create_task(body.receive(made.landing()))
        await until(lambda: made.frontier == 50_000, "it is under way")
        made.intake.close()
        assert await task == Received(PeerOutcome.LEFT, 50_000)
        assert made.landed == 1


async def test_a_refused_connection_is_told_at_once(rig: Make) -> None:
    made = rig()
    with FaultyPeer([], listening=False) as dead:
        began = time.monotonic()
        assert await made.client.head(dead.address, TARGET, 5.0) is PeerOutcome.UNREACHABLE
        assert await made.client.open(dead.address, Ask(TARGET)) is PeerOutcome.UNREACHABLE
        assert time.monotonic() - began < 0.1 * NOISE


async def test_a_peer_that_takes_the_connection_and_leaves_is_unreachable(rig: Make) -> None:
    made = rig()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        task = loop.create_task(made.client.open(listener.getsockname(), Ask(TARGET)))
        sock, _ = await loop.sock_accept(listener)
        await loop.sock_recv(sock, 65536)
        sock.close()
        assert await task is PeerOutcome.UNREACHABLE


async def test_a_peer_that_leaves_in_the_head_truncated_it(rig: Make) -> None:
    made = rig()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        task = loop.create_task(made.client.open(listener.getsockname(), Ask(TARGET)))
        sock, _ = await loop.sock_accept(listener)
        await loop.sock_recv(sock, 65536)
        await loop.sock_sendall(sock, b"HTTP/1.1 200 OK\r\nContent-")
        sock.close()
        assert await task is PeerOutcome.TRUNCATED


async def test_interim_answers_before_the_real_one_are_skipped(rig: Make) -> None:
    made = rig()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        task = loop.create_task(made.client.open(listener.getsockname(), Ask(TARGET)))
        sock, _ = await loop.sock_accept(listener)
        await loop.sock_recv(sock, 65536)
        await loop.sock_sendall(sock, b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        body = await task
        assert isinstance(body, Body)
        assert (await body.receive(made.landing())).outcome is PeerOutcome.GOT
        assert os.pread(made.fd, 10, 0) == b"hello"
        sock.close()


async def test_names_are_resolved_and_all_their_addresses_tried(rig: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = rig()
    node = HolderNode()
    node.store.put(CONTENT)
    host, port = node.peer
    with FaultyPeer([], listening=False) as dead:

        async def places(self: Resolver, name: str, _: int) -> list[Place]:
            assert name == "node.example"
            return [Place(socket.AF_INET, dead.address), Place(socket.AF_INET, (host, port))]

        monkeypatch.setattr(Resolver, "places", places)
        assert isinstance(await made.client.head(("node.example", port), TARGET, 1.0), Head)
    await node.close()


async def test_a_name_that_no_host_can_have_is_unreachable(rig: Make) -> None:
    for name in ("a" * 64 + ".example", "a..example"):
        assert await rig().client.head((name, 1), TARGET, 1.0) is PeerOutcome.UNREACHABLE


async def test_a_name_that_does_not_exist_is_unreachable(rig: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = rig()
    asked: list[str] = []

    async def no_such_name(host: str, *_: object, **__: object) -> list[Any]:
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    resolver = made.client._resolver
    monkeypatch.setattr(resolver, "_loop", _Loop(no_such_name))
    for _ in range(3):
        assert await made.client.head(("nowhere.example", 1), TARGET, 1.0) is PeerOutcome.UNREACHABLE
    assert asked == ["nowhere.example"]


class _Loop:
    """The running loop with another ``getaddrinfo``."""

    def __init__(self, getaddrinfo: Callable[..., Any]) -> None:
        self._loop = asyncio.get_running_loop()
        self.getaddrinfo = getaddrinfo

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


async def test_a_name_server_that_hangs_costs_the_connect_timeout(rig: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = rig(connect_timeout=0.1)

    async def hang(*_: object, **__: object) -> list[Any]:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(made.client._resolver, "_loop", _Loop(hang))
    began = time.monotonic()
    assert await made.client.open(("slow.example", 1), Ask(TARGET)) is PeerOutcome.UNREACHABLE
    assert time.monotonic() - began < 0.2 * NOISE


async def test_a_name_that_nobody_knows_is_told_once_until_it_is_known(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    resolver = Resolver()
    known = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("198.18.0.1", 1))]
    answers: list[Any] = [socket.gaierror(2, "no such name"), socket.gaierror(2, "x"), known, socket.gaierror(2, "x")]

    async def look_up(*_: object, **__: object) -> list[Any]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return list(answer)

    monkeypatch.setattr(resolver, "_loop", _Loop(look_up))
    told = []
    while answers:
        await resolver._look_up(("node.example", 1))
        told.append([getattr(record, "host", "") for record in caplog.records])
    assert told == [["node.example"]] * 3 + [["node.example"] * 2]
    assert "no such name" in caplog.records[0].getMessage()
    await resolver.close()


async def test_known_names_stay_known_while_the_name_server_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = Resolver()
    answers: list[Any] = [[(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("198.18.0.1", 5001))], socket.gaierror(2, "x")]
    now = [0.0]

    async def look_up(*_: object, **__: object) -> list[Any]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return list(answer)

    loop = _Loop(look_up)
    loop.time = lambda: now[0]  # type: ignore[attr-defined]
    monkeypatch.setattr(resolver, "_loop", loop)
    expected = [Place(socket.AF_INET, ("198.18.0.1", 5001))]
    assert await resolver.places("node.example", 5001) == expected
    assert await resolver.places("node.example", 5001) == expected
    assert len(answers) == 1, "what is fresh is not looked up"
    now[0] += 60
    assert await resolver.places("node.example", 5001) == expected
    await until(lambda: not answers and not resolver._running, "looked up in the background")
    assert await resolver.places("node.example", 5001) == expected
    await resolver.close()


@pytest.mark.skipif(not os.path.exists("/proc/net/if_inet6"), reason="this machine has no IPv6")
async def test_a_peer_may_have_an_ipv6_address(rig: Make) -> None:
    made = rig()
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        port = listener.getsockname()[1]
        task = loop.create_task(made.client.head(("::1", port), TARGET, 5.0))
        sock, _ = await loop.sock_accept(listener)
        request = await loop.sock_recv(sock, 65536)
        assert f"\r\nHost: [::1]:{port}\r\n".encode() in request
        await loop.sock_sendall(sock, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
        head = await task
        assert isinstance(head, Head)
        assert head.length == 5
        sock.close()


async def test_idle_connections_are_ended_by_us(rig: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "IDLE_SECONDS", 0.1)
    made = rig()
    with FaultyPeer([CONTENT]) as peer:
        assert isinstance(await made.client.head(peer.address, TARGET, 1.0), Head)
        assert len(peer._open) == 1
        await until(lambda: not peer._open, "the idle connection is ended")
        assert made.client._idle == {}


async def test_a_kept_connection_that_the_peer_ends_is_ended_at_once_by_us_too(rig: Make) -> None:
    made = rig()
    with FaultyPeer([CONTENT]) as peer:
        assert isinstance(await made.client.head(peer.address, TARGET, 1.0), Head)
        (sock,) = peer._open
        sock.shutdown(socket.SHUT_WR)
        await until(lambda: not peer._open, "the peer sees our end")
        assert isinstance(await made.client.head(peer.address, TARGET, 1.0), Head)


async def test_out_of_descriptors_is_not_the_peers_fault(rig: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = rig()

    def none_left(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "socket", none_left)
    assert await made.client.head(("127.0.0.1", 1), TARGET, 1.0) is PeerOutcome.LEFT
