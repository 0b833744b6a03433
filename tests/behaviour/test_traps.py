"""The traps of serving files by sendfile on own sockets: each was seen in a prototype, none may come back.

Source: the kernel's behaviour as measured; sendfile(2), tcp(7), epoll(7).
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit import proc
from tests.kit.content import blob
from tests.kit.invariants import Witness, assert_invariants, assert_same
from tests.kit.layout import Layout
from tests.kit.metrics import metric
from tests.kit.process import Node, start
from tests.kit.waiting import NOISE, eventually, let_pass
from tests.kit.wire import End, Wire, build_request

LARGE = blob(8 * 1024 * 1024, 1)
HUGE = 64 * 1024 * 1024


class Store:
    """A node with one 8 MiB blob of noise and one 64 MiB blob of zeros."""

    def __init__(self, node: Node, layout: Layout) -> None:
        self.node = node
        self.layout = layout
        self.large = f"/v2/a/blobs/{layout.add(LARGE)}"
        self.huge_digest = layout.add_zeros(HUGE)
        self.huge = f"/v2/a/blobs/{self.huge_digest}"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    layout = Layout(tmp_path_factory.mktemp("traps"))
    with start(layout.directory) as node:
        yield Store(node, layout)


def spins(pid: int) -> bool:
    """Whether the process uses most of a core. It may use some: what was served is read again once."""
    before = proc.cpu_seconds(pid)
    let_pass(1.0, "the process at work, or idle")
    return proc.cpu_seconds(pid) - before > 0.5


def test_the_head_comes_before_the_body_on_every_answer(store: Store) -> None:
    with Wire(store.node.registry) as wire:
        wire.send(build_request("GET", store.large) * 8)
        for _ in range(8):
            answer = wire.answer()
            assert (answer.status, answer.body == LARGE) == (200, True)


def test_a_connection_that_is_to_close_ends_by_fin_right_after_the_body(store: Store) -> None:
    with Wire(store.node.registry) as wire:
        answer = wire.ask("GET", store.large, Connection="close")
        began = time.monotonic()
        assert wire.rest() == b""
        assert time.monotonic() - began < 0.2 * NOISE
        assert wire.end is End.FIN
        assert_same(answer.body, LARGE)


def test_clients_that_leave_in_a_body_leave_no_spinning_loop(store: Store) -> None:
    fds = proc.fd_count(store.node.pid)
    for number in range(60):
        with Wire(store.node.registry, receive_buffer=4096) as wire:
            wire.send(build_request("GET", store.huge))
            wire.head()
            if number % 2:
                wire.reset()
    eventually(lambda: proc.fd_count(store.node.pid) <= fds, "descriptors of left transfers closed", 2 * NOISE)
    assert not spins(store.node.pid)


def test_a_small_answer_after_a_large_one_does_not_wait_for_a_cork(store: Store) -> None:
    """A cork that is left on the socket holds the next small answer back for 200 ms."""
    waits = []
    with Wire(store.node.registry) as wire:
        for _ in range(5):
            assert wire.ask("GET", store.large).complete
            waits.append(wire.ask("GET", "/v2/").seconds)
            assert wire.ask("GET", store.large, Range="bytes=0-99999").status == 206
            waits.append(wire.ask("GET", "/v2/").seconds)
    assert min(waits[::2]) < 0.1
    assert min(waits[1::2]) < 0.1


def test_a_file_that_is_cut_while_it_is_sent_ends_the_connection_by_fin(store: Store) -> None:
    """sendfile gives 0 at the end of the file: neither an endless loop nor a short body on a kept connection."""
    content = blob(8 * 1024 * 1024, 2)
    path = store.layout.path(store.layout.add(content))
    with Witness(store.node) as witness:
        with Wire(store.node.registry, receive_buffer=65536) as wire:
            wire.send(build_request("GET", f"/v2/a/blobs/sha256:{path.name}"))
            wire.fill(1024 * 1024)
            os.truncate(path, 5 * 1024 * 1024)
            answer = wire.answer()
            assert not answer.complete
            assert answer.end is End.FIN
            assert wire.rest() == b""
        assert_invariants(witness, [(answer, 0)], content, bound_seconds=1.0 * NOISE)
    assert not spins(store.node.pid)


def test_a_blob_that_is_removed_while_it_is_sent_arrives_whole_and_its_file_is_let_go(store: Store) -> None:
    content = blob(8 * 1024 * 1024, 3)
    path = store.layout.path(store.layout.add(content))
    with Witness(store.node) as witness:
        with Wire(store.node.registry, receive_buffer=65536) as wire:
            wire.send(build_request("GET", f"/v2/a/blobs/sha256:{path.name}"))
            wire.fill(1024 * 1024)
            path.unlink()
            answer = wire.answer()
            assert_same(answer.body, content)
        eventually(lambda: proc.deleted_files(store.node.pid) == 0, "the removed file let go", 2 * NOISE)
        assert_invariants(witness, [(answer, 0)], content, bound_seconds=2.0 * NOISE)
    assert store.node.ask("GET", f"/v2/a/blobs/sha256:{path.name}").status == 404


def test_a_client_that_half_closes_gets_everything_and_costs_no_cpu(store: Store) -> None:
    """A reader that stays registered on a half-closed socket fires without end."""
    with Wire(store.node.registry, receive_buffer=4096) as wire:
        wire.send(build_request("GET", store.large))
        wire.half_close()
        wire.fill(1000)
        assert not spins(store.node.pid)
        answer = wire.answer()
        assert_same(answer.body, LARGE)
        assert wire.rest() == b""
        assert wire.end is End.FIN


def test_resets_in_a_body_kill_nothing(store: Store) -> None:
    """First ECONNRESET, then EPIPE; sendfile has no MSG_NOSIGNAL, so SIGPIPE must be ignored."""
    status = Path(f"/proc/{store.node.pid}/status").read_text()
    ignored = int(status.partition("SigIgn:")[2].split()[0], 16)
    assert ignored & 1 << 12, "SIGPIPE is not ignored"
    with Witness(store.node) as witness:
        for _ in range(50):
            with Wire(store.node.registry) as wire:
                wire.send(build_request("GET", store.huge) * 3)
                wire.fill(100_000)
                wire.reset()
        assert_invariants(witness, [], b"", bound_seconds=1.0)
    assert store.node.alive


def test_pipelined_requests_are_answered_in_order_and_bounded_while_nobody_reads(store: Store) -> None:
    proc.reset_peak(store.node.pid)
    before = proc.rss_kib(store.node.pid)
    with Wire(store.node.registry, receive_buffer=4096) as wire:
        wire.sock.settimeout(0.5)
        sent = 0
        request = build_request("GET", store.large, Range="bytes=0-65535") + build_request("GET", "/v2/")
        piece = request * 400
        try:
            while sent < 64:  # until the server stops reading: then the socket takes no more
                wire.sock.sendall(piece)
                sent += 1
        except TimeoutError:
            pass
        assert sent < 64, "the server read requests without end"
        wire.sock.settimeout(20)
        for number in range(60):
            answer = wire.answer()
            assert answer.body == (b"{}" if number % 2 else LARGE[:65536]), number
    assert proc.peak_kib(store.node.pid) - before < 8 * 1024


@pytest.mark.parametrize(
    "following",
    [b"\x00\x01 nonsense\r\n\r\n", b"GET /v2/ HTTP/1.1\r\nBad Header\r\n\r\n"],
    ids=["no HTTP", "a malformed head"],
)
def test_an_error_in_the_next_request_loses_nothing_of_the_answer_before(store: Store, following: bytes) -> None:
    with Wire(store.node.registry) as wire:
        wire.send(build_request("GET", store.large) + following)
        assert_same(wire.answer().body, LARGE)
        assert wire.answer().status == 400
        assert wire.rest() == b""
        assert wire.end is End.FIN


def test_bytes_after_a_closing_request_lose_nothing_and_cause_no_reset(store: Store) -> None:
    """What is unread at close() turns the FIN into a RST, and that throws away what the client has not read yet."""
    with Wire(store.node.registry, receive_buffer=65536) as wire:
        wire.send(build_request("GET", store.large, Connection="close") + b"x" * 300_000)
        answer = wire.answer()
        assert_same(answer.body, LARGE)
        assert wire.rest() == b""
        assert wire.end is End.FIN


def test_eight_megabytes_reach_forty_clients_at_once_without_a_wrong_byte(store: Store) -> None:
    wanted = hashlib.sha256(LARGE).digest()
    wires = [Wire(store.node.registry) for _ in range(40)]
    try:
        for wire in wires:
            wire.send(build_request("GET", store.large))
        for wire in wires:
            assert hashlib.sha256(wire.answer().body).digest() == wanted
    finally:
        for wire in wires:
            wire.sock.close()


def test_a_range_pushes_little_ahead_of_its_reader(store: Store) -> None:
    """containerd leaves open-ended ranges after a piece of them: what the kernel has taken by then is lost work."""
    before = metric(store.node, "fastmirror_sent_body_bytes_total", listener="registry")
    with Wire(store.node.registry, receive_buffer=65536) as wire:
        wire.send(build_request("GET", store.huge, Range="bytes=0-"))
        wire.fill(1024 * 1024)
        let_pass(0.2, "whatever it still pushes")
        sent = metric(store.node, "fastmirror_sent_body_bytes_total", listener="registry") - before
        assert 1024 * 1024 <= sent < 2 * 1024 * 1024
