"""Clients that behave anyhow, peers that fail anyhow, content that comes and goes, all at once: nothing wrong is ever
delivered, and nothing stays behind. ``make soak`` runs it for a minute, the test suite for some seconds.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit import faults, proc
from tests.kit.content import blob
from tests.kit.faults import Fault, Seen
from tests.kit.faulty_peer import FaultyPeer
from tests.kit.layout import Layout, digest_of
from tests.kit.metrics import metric
from tests.kit.process import Node, start
from tests.kit.waiting import eventually
from tests.kit.wire import Answer, End, Wire, build_request

SECONDS = float(os.environ.get("SOAK_SECONDS", "8"))
MOST_MEMORY_KIB = 96 * 1024  # what the data plane may take, whatever is done to it
CLIENTS = 12
ANSWER_SECONDS = 30.0  # an answer that takes longer hangs, on the busiest machine too
MIB = 1 << 20
LOCAL = [blob(size, number) for number, size in enumerate((500, 32_768, 200_000, 2 * MIB, 9 * MIB))]
REMOTE = [blob(size, 100 + number) for number, size in enumerate((800, 40_000, MIB, 3 * MIB, 9 * MIB, 14 * MIB))]
CONTENT = {digest_of(content): content for content in LOCAL + REMOTE}

FAULTS = [
    faults.silent(), faults.half_status(), faults.status(404), faults.status(500), faults.status(503),
    faults.garbage(), faults.chunked(), faults.truncate(0), faults.truncate(300_000), faults.reset(10_000),
    faults.stall(100_000), faults.no_range(), faults.wrong_range(5), faults.extra(10), faults.wrong_length(-5),
    faults.wrong_length(5), faults.promised_length(1 << 40), faults.corrupt(3), faults.corrupt(700_000),
    faults.slow_first_byte(0.3), faults.drip(50_000, 0.02),
]  # fmt: skip


class Client(threading.Thread):
    """Asks, reads, leaves, and notes in ``wrong`` whatever must not be."""

    def __init__(self, node: Node, seed: int, until: float) -> None:
        super().__init__(name=f"client {seed}", daemon=True)
        self.wrong: list[str] = []
        self.seen: Counter[str] = Counter()
        self._node = node
        self._chance = random.Random(seed)
        self._until = until

    def run(self) -> None:
        while time.monotonic() < self._until:
            try:
                self._once()
            except Exception as error:
                self.wrong.append(repr(error)[:300])

    def _once(self) -> None:
        chance = self._chance
        slow = chance.random() < 0.1
        where = chance.choice([self._node.registry] * 3 + [self._node.peer])
        with Wire(where, receive_buffer=8192 if slow else 0, timeout=ANSWER_SECONDS) as wire:
            for _ in range(chance.randint(1, 5)):
                digest, content = chance.choice(list(CONTENT.items()))
                start, stop, fields = 0, len(content), {}
                if chance.random() < 0.4:
                    start = chance.randrange(len(content))
                    stop = min(len(content), start + chance.choice([1, 32_768, MIB, len(content)]))
                    fields["Range"] = f"bytes={start}-{stop - 1}"
                method = chance.choice(["GET", "GET", "GET", "HEAD"])
                request = build_request(method, f"/v2/team/app/blobs/{digest}?ns=reg.example", **fields)
                way = chance.random()
                if way < 0.06:
                    wire.send(request[: chance.randrange(len(request))])
                    return
                wire.send(request)
                if way < 0.12:
                    wire.reset()
                    return
                if way < 0.2:
                    wire.fill(1)
                    return
                answer = wire.answer(method)
                self._judge(answer, method, content, (start, stop))
                if answer.end is not End.KEPT:
                    return

    def _judge(self, answer: Answer, method: str, content: bytes, asked: tuple[int, int]) -> None:
        self.seen[f"{method} {answer.status}"] += 1
        if answer.status == 404:
            return
        wanted = content[slice(*asked)] if answer.status == 206 else content
        told = int(answer.headers.get("content-length", -1))
        if answer.status not in (200, 206):
            self.wrong.append(f"status {answer.status}")
        elif answer.end is End.RST:
            self.wrong.append("a reset")
        elif method == "HEAD":
            if told != len(content):
                self.wrong.append(f"HEAD tells {told} bytes instead of {len(content)}")
        elif not wanted.startswith(answer.body) or told != len(wanted):
            self.wrong.append(f"wrong bytes or length: {told} of {len(wanted)}")


class Disorder(threading.Thread):
    """Takes files away and gives them back, and stops the holder now and then."""

    def __init__(self, layout: Layout, holder: Node, until: float) -> None:
        super().__init__(name="disorder", daemon=True)
        self._paths = [layout.path(digest_of(content)) for content in LOCAL]
        self._holder = holder
        self._until = until
        self._chance = random.Random(0)
        self._over = threading.Event()

    def run(self) -> None:
        while time.monotonic() < self._until:
            if self._chance.random() < 0.5:
                path = self._chance.choice(self._paths)
                away = path.with_name("away")
                path.rename(away)
                self._over.wait(0.02)
                away.rename(path)
            else:
                self._holder.freeze()
                self._over.wait(self._chance.choice([0.05, 0.3, 0.8]))
                self._holder.thaw()
            self._over.wait(0.1)


@contextlib.contextmanager
def faulty(seed: int) -> Iterator[FaultyPeer]:
    """A peer that breaks every third answer, and tells true lists."""
    chance = random.Random(seed)

    def plan(_: Seen) -> Fault | None:
        return chance.choice(FAULTS) if chance.random() < 0.3 else None

    with FaultyPeer(REMOTE, plan) as peer:
        peer.list_of = bytes
        yield peer


@pytest.mark.timeout(SECONDS + 4 * ANSWER_SECONDS)
def test_nothing_wrong_is_delivered_and_nothing_stays_behind_whatever_happens(tmp_path: Path) -> None:
    here, there = Layout(tmp_path / "here"), Layout(tmp_path / "there")
    for content in LOCAL:
        here.add(content)
    for content in REMOTE:
        there.add(content)
    flags = {"grace": 0.3, "max_fetches": 8, "spool_bytes": 60_000_000, "max_connections": 200, "drain_timeout": 2}
    with faulty(1) as one, faulty(2) as two, start(there.directory, flags={"drain_timeout": 2}) as holder:
        peers = [str(one), str(two), "{}:{}".format(*holder.peer)]
        with start(here.directory, peers=peers, flags=flags) as node:
            _warm(node)
            descriptors, threads = proc.fd_count(node.pid), proc.thread_count(node.pid)
            until = time.monotonic() + SECONDS
            clients = [Client(node, seed, until) for seed in range(CLIENTS)]
            everybody = [*clients, Disorder(here, holder, until)]
            memory = 0
            for thread in everybody:
                thread.start()
            for thread in everybody:
                thread.join(1.0)
                memory = max(memory, proc.pss_kib(node.pid))
            for thread in everybody:
                thread.join(SECONDS + 2 * ANSWER_SECONDS)
                assert not thread.is_alive(), f"{thread.name} hangs"
            assert [wrong for client in clients for wrong in client.wrong] == []
            seen = sum((client.seen for client in clients), Counter[str]())
            assert seen["GET 200"] > CLIENTS, seen
            assert seen["GET 206"] > 0, seen
            for name in ("fetches_active", "fetch_readers", "spool_bytes"):
                eventually(lambda name=name: metric(node, f"fastmirror_{name}") == 0, f"{name} is 0", 20)
            eventually(lambda: proc.deleted_files(node.pid) == 0, "no file without a name is open", 20)
            eventually(
                lambda: proc.fd_count(node.pid) <= descriptors + 3 * 32, "only kept connections to peers are left"
            )
            assert proc.thread_count(node.pid) <= threads
            assert max(memory, proc.pss_kib(node.pid)) < MOST_MEMORY_KIB


def _warm(node: Node) -> None:
    """So that what is made once is there: threads, caches."""
    for digest in CONTENT:
        node.ask("GET", f"/v2/team/app/blobs/{digest}?ns=reg.example")
