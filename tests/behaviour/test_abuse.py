"""Clients that leave, dawdle, flood or talk nonsense: others are served, and nothing of it stays behind."""

from __future__ import annotations

import contextlib
import random
import select
import socket
import statistics
import time
from collections.abc import Callable, Iterator

import pytest

from tests.kit import proc
from tests.kit.content import blob
from tests.kit.invariants import Witness, assert_invariants, assert_same
from tests.kit.layout import Layout, digest_of
from tests.kit.process import Node, start
from tests.kit.puller import Puller
from tests.kit.waiting import NOISE, eventually, let_pass
from tests.kit.wire import End, Wire, ask, build_request

LARGE = blob(8 * 1024 * 1024, 21)
LARGE_TARGET = f"/v2/a/blobs/{digest_of(LARGE)}"
HUGE = 64 * 1024 * 1024
LEAVERS = 500
SLOW = 40
ROUNDS = 12


@pytest.fixture(scope="module")
def huge() -> list[str]:
    return []


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, huge: list[str]) -> Iterator[Node]:
    layout = Layout(tmp_path_factory.mktemp("abuse"))
    layout.add(LARGE)
    huge.append(layout.add_zeros(HUGE))
    with start(layout.directory) as started:
        yield started
        assert proc.peak_kib(started.pid) < 96 * 1024, "the data plane took more memory than it may"


def metric(node: Node, name: str) -> float:
    """The sum of a metric over its labels."""
    lines = ask(node.admin, "GET", "/metrics").body.decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.partition("{")[0].split()[0] == name)


def leave_at_once(wire: Wire) -> None:
    """Say nothing."""


def leave_in_the_head(wire: Wire) -> None:
    wire.send(build_request("GET", LARGE_TARGET)[:-3])


def leave_before_the_answer(wire: Wire) -> None:
    wire.send(build_request("GET", LARGE_TARGET))


def reset_in_the_body(wire: Wire) -> None:
    wire.send(build_request("GET", LARGE_TARGET))
    wire.fill(1000)
    wire.reset()


def leave_in_the_body(wire: Wire) -> None:
    wire.send(build_request("GET", LARGE_TARGET))
    wire.fill(1000)


def reset_with_requests_waiting(wire: Wire) -> None:
    wire.send(build_request("GET", LARGE_TARGET) * 20)
    wire.fill(1000)
    wire.reset()


def talk_tls(wire: Wire) -> None:
    wire.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)))


WAYS: list[Callable[[Wire], None]] = [
    leave_at_once, leave_in_the_head, leave_before_the_answer, reset_in_the_body, leave_in_the_body,
    reset_with_requests_waiting, talk_tls,
]  # fmt: skip


def abuse(node: Node, times: int) -> None:
    """That many clients, each leaving in one of the ways."""
    for number in range(times):
        with Wire(node.registry) as wire:
            WAYS[number % len(WAYS)](wire)


def test_five_hundred_clients_that_leave_early_leave_nothing_behind(node: Node) -> None:
    abuse(node, 50)
    with Witness(node) as witness:
        abuse(node, LEAVERS)
        assert_invariants(witness, [], b"", bound_seconds=1.0)
    assert_same(node.ask("GET", LARGE_TARGET).body, LARGE)
    assert metric(node, "fastmirror_clients_left_total") > LEAVERS / 4


def test_clients_at_a_byte_a_second_cost_little_memory_and_keep_their_transfer(node: Node, huge: list[str]) -> None:
    with Witness(node) as witness, contextlib.ExitStack() as stack:
        before = proc.pss_kib(node.pid)
        wires = [stack.enter_context(Wire(node.registry, receive_buffer=4096)) for _ in range(SLOW)]
        for wire in wires:
            wire.send(build_request("GET", f"/v2/a/blobs/{huge[0]}"))
            assert wire.head()[0] == 200
        for _ in range(3):
            let_pass(1.0, "the second per byte")
            for wire in wires:
                assert wire.sock.recv(1) == b"\0"
        assert proc.pss_kib(node.pid) - before < SLOW * 256
        cpu = proc.cpu_seconds(node.pid)
        assert_same(node.ask("GET", LARGE_TARGET).body, LARGE)
        assert proc.cpu_seconds(node.pid) - cpu < 1.0
    assert_invariants(witness, [], b"", bound_seconds=1.0)


def test_a_slow_client_that_becomes_fast_gets_every_byte(node: Node) -> None:
    with Wire(node.registry, receive_buffer=4096) as wire:
        wire.send(build_request("GET", LARGE_TARGET))
        for _ in range(20):
            wire.fill(len(wire.buffer) + 1)
            let_pass(0.01, "the slow client's pace")
        assert_same(wire.answer().body, LARGE)


def test_descriptors_tasks_and_memory_do_not_grow_over_many_rounds(node: Node, huge: list[str]) -> None:
    """The slope of memory over the second half of the rounds, by Theil and Sen; the rest must come back each time."""
    abuse(node, 200)
    fds = proc.fd_count(node.pid)
    threads = proc.thread_count(node.pid)
    memory = []
    for _ in range(ROUNDS):
        abuse(node, 100)
        puller = Puller([node.registry])
        puller.fetch_parallel("a", digest_of(LARGE), len(LARGE), chunk=1024 * 1024)
        eventually(lambda: proc.fd_count(node.pid) <= fds + 1, f"descriptors back to {fds}", 2 * NOISE)
        memory.append(proc.rss_kib(node.pid))
    assert proc.thread_count(node.pid) <= threads
    eventually(lambda: metric(node, "fastmirror_connections") <= 1, "connections back to the one that asks", 2 * NOISE)
    late = memory[ROUNDS // 2 :]
    slopes = [(b - a) / (j - i) for i, a in enumerate(late) for j, b in enumerate(late) if i < j]
    assert statistics.median(slopes) < 64, memory


def test_an_open_ended_range_that_is_left_early_costs_little_more_than_was_read(node: Node, huge: list[str]) -> None:
    """containerd's parallel fetch: every piece is an open-ended range that it leaves by RST.

    What the kernel has taken for a client that reads slower than we send cannot be called back; without a bound on
    what the socket may hold unsent it was three times the blob at this size of pieces.
    """
    before = metric(node, "fastmirror_sent_body_bytes_total")
    with Witness(node) as witness:
        Puller([node.registry]).fetch_parallel("a", huge[0], HUGE, chunk=1024 * 1024, workers=4)
        assert_invariants(witness, [], b"", bound_seconds=1.0)
    sent = metric(node, "fastmirror_sent_body_bytes_total") - before
    assert HUGE <= sent <= 2.5 * HUGE


def test_many_connections_cost_little_memory(node: Node, huge: list[str]) -> None:
    """The data plane at 256 connections, half of them in the middle of a large blob."""
    with contextlib.ExitStack() as stack:
        for number in range(256):
            wire = stack.enter_context(Wire(node.registry, receive_buffer=4096))
            wire.send(build_request("GET", "/v2/" if number % 2 else f"/v2/a/blobs/{huge[0]}"))
            assert wire.head()[0] == 200
        assert proc.pss_kib(node.pid) < 30 * 1024


def test_random_bytes_never_end_the_server(node: Node) -> None:
    noise = random.Random(5)
    with Witness(node) as witness:
        for _ in range(300):
            with Wire(node.registry, timeout=15) as wire:
                wire.send(noise.randbytes(noise.randrange(1, 3000)))
                wire.half_close()
                wire.rest()
                assert wire.end is End.FIN
        assert_invariants(witness, [], b"", bound_seconds=1.0)


def test_more_connections_than_allowed_from_one_foreign_address_are_closed_and_own_ones_never(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The node's own containerd opens many connections: it must not meet the cap of an address."""
    layout = Layout(tmp_path_factory.mktemp("caps"))
    with start(layout.directory, flags={"max_connections_per_address": 4}) as node, contextlib.ExitStack() as stack:
        for _ in range(40):
            wire = stack.enter_context(Wire(node.registry))
            assert wire.ask("GET", "/v2/").status == 200


def test_a_full_house_makes_room_for_a_new_client_by_ending_an_idle_connection(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    layout = Layout(tmp_path_factory.mktemp("full"))
    with start(layout.directory, flags={"max_connections": 20}) as node, contextlib.ExitStack() as stack:
        wires = [stack.enter_context(Wire(node.registry)) for _ in range(20)]
        for wire in wires:
            assert wire.ask("GET", "/v2/").status == 200
        newcomer = stack.enter_context(Wire(node.registry))
        assert newcomer.ask("GET", "/v2/").status == 200
        ended, _, _ = select.select([wire.sock for wire in wires], [], [], 5)
        (gone,) = (wire for wire in wires if wire.sock in ended)
        assert gone.rest() == b""
        assert gone.end is End.FIN
        for wire in wires:
            assert wire is gone or wire.ask("GET", "/v2/").status == 200


def test_a_connection_without_a_word_is_closed_after_the_header_timeout(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    layout = Layout(tmp_path_factory.mktemp("timeout"))
    with (
        start(layout.directory, flags={"header_timeout": 1}) as node,
        socket.create_connection(node.registry) as silent,
    ):
        silent.settimeout(4 * NOISE)
        began = time.monotonic()
        assert silent.recv(1) == b""
        assert time.monotonic() - began > 0.4
