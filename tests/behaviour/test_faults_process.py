"""Faults of the process, rows N01 to N06 of the fault matrix: ended, killed, broken, blocked, out of descriptors."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.kit import proc
from tests.kit.cluster import free_port, loopback_hosts
from tests.kit.content import blob
from tests.kit.failpoint import BLOCKED_SECONDS, BLOCKS, RAISES
from tests.kit.faulty_peer import FaultyPeer
from tests.kit.invariants import Witness, assert_invariants, assert_legal, assert_prefix, assert_same
from tests.kit.layout import Layout, digest_of
from tests.kit.process import Node, Setup, start
from tests.kit.puller import Puller
from tests.kit.waiting import NOISE, eventually, let_pass
from tests.kit.wire import Answer, End, NoAnswer, Wire, ask, build_request

LARGE = blob(16 * 1024 * 1024, 31)
DIGEST = digest_of(LARGE)
TARGET = f"/v2/a/blobs/{DIGEST}"
DOWNLOADS = 50


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    layout = Layout(tmp_path_factory.mktemp("process"))
    layout.add(LARGE)
    return layout.directory


@contextlib.contextmanager
def in_the_middle(node: Node, count: int) -> Iterator[list[Wire]]:
    """That many transfers of the large blob, each a little way into it."""
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(Wire(node.registry, receive_buffer=65536)) for _ in range(count)]
        for wire in wires:
            wire.send(build_request("GET", TARGET))
        for wire in wires:
            assert wire.fill(100_000)
        yield wires


def read_all(wires: list[Wire]) -> list[Answer]:
    """The rest of every transfer, read at the same time."""
    with ThreadPoolExecutor(len(wires)) as pool:
        return list(pool.map(lambda wire: wire.answer(), wires))


def test_n01_sigterm_lets_fifty_transfers_finish_and_takes_no_new_ones(store: Path) -> None:
    with start(store) as node, Wire(node.registry) as idle:
        assert idle.ask("GET", "/v2/").status == 200
        with in_the_middle(node, DOWNLOADS) as wires:
            node.signal(signal.SIGTERM)
            node.log.wait("daemon.drain_started")
            assert idle.rest() == b""
            assert idle.end is End.FIN, "an idle connection is ended at once, by FIN"
            assert ask(node.admin, "GET", "/readyz").status == 503
            with pytest.raises(OSError, match="refused"):
                Wire(node.registry)
            for answer in read_all(wires):
                assert answer.complete
                assert_same(answer.body, LARGE)
                assert_legal(answer)
        assert node.wait(20 * NOISE) == 0
        assert node.log.problems() == []


def test_n01_a_transfer_that_outlasts_the_drain_ends_by_fin_and_the_pull_goes_on_elsewhere(store: Path) -> None:
    with FaultyPeer([LARGE]) as origin, start(store, flags={"drain_timeout": 0.5}) as node:
        with in_the_middle(node, 1) as (wire,):
            node.signal(signal.SIGTERM)
            node.log.wait("daemon.transfers_cut")
            answer = wire.answer()
        assert (answer.complete, answer.end) == (False, End.FIN)
        assert_prefix(answer, LARGE)
        assert node.wait() == 0
        rest = Puller([node.registry, origin.address]).open(TARGET, len(answer.body))
        assert_same(answer.body + rest.body, LARGE)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV], ids=["N02 SIGKILL", "N04 SIGSEGV"])
def test_a_killed_process_ends_its_transfers_by_fin_and_the_pull_goes_on_elsewhere(
    store: Path, number: signal.Signals
) -> None:
    with FaultyPeer([LARGE]) as origin, start(store) as node:
        with in_the_middle(node, 1) as (wire,):
            node.signal(number)
            assert node.wait() == -number
            answer = wire.answer()
        assert (answer.complete, answer.end) == (False, End.FIN)
        assert_prefix(answer, LARGE)
        puller = Puller([node.registry, origin.address])
        rest = puller.open(TARGET, len(answer.body))
        assert_same(answer.body + rest.body, LARGE)
        assert [step.host for step in puller.steps] == [0, 1]


def test_n04_a_new_process_serves_on_the_same_ports_at_once(store: Path) -> None:
    """Connections of the dead one are still in the kernel; a supervisor starts the next one without waiting."""
    host = loopback_hosts(1)[0]
    setup = Setup(store, host=host, registry_port=free_port(host), peer_port=free_port(host))
    with Node(setup) as node, in_the_middle(node, 3):
        node.kill()
        with Node(setup) as again:
            assert again.registry == node.registry
            assert_same(Puller([again.registry]).fetch("a", DIGEST, len(LARGE)), LARGE)


def test_n02_a_pull_through_a_node_that_is_killed_and_started_again_is_whole(store: Path) -> None:
    host = loopback_hosts(1)[0]
    setup = Setup(store, host=host, registry_port=free_port(host), peer_port=free_port(host))
    with FaultyPeer([LARGE]) as origin:
        with Node(setup) as node:
            puller = Puller([node.registry, origin.address])
            with ThreadPoolExecutor(1) as pool:
                pulls = [pool.submit(puller.fetch, "a", DIGEST, len(LARGE)) for _ in range(10)]
                eventually(lambda: len(puller.steps) > 1, "the first pulls")
                node.kill()
                for pull in pulls:
                    assert_same(pull.result(), LARGE)
        assert {step.host for step in puller.steps} == {0, 1}


def test_n03_a_defect_in_one_answer_costs_only_its_connection(store: Path) -> None:
    with start(store, module="tests.kit.failpoint") as node:
        node.expected.add("http.answer_failed")
        with Witness(node) as witness, in_the_middle(node, 3) as wires:
            broken = node.ask("GET", f"/v2/a/blobs/{RAISES}")
            assert broken.status == 500
            assert b"RuntimeError" not in broken.body
            with Wire(node.registry) as wire:
                wire.send(build_request("GET", f"/v2/a/blobs/{RAISES}"))
                assert wire.answer().status == 500
                assert wire.rest() == b""
                assert wire.end is End.FIN
            answers = read_all(wires)
            for answer in answers:
                assert_same(answer.body, LARGE)
        assert_invariants(witness, [(answer, 0) for answer in answers], LARGE, bound_seconds=5.0 * NOISE)
        assert "a defect, on purpose" in "".join(node.log.lines), "a defect is in the log, with its place"


def test_n05_a_blocked_loop_delays_answers_and_loses_none(store: Path) -> None:
    with start(store, module="tests.kit.failpoint") as node:
        with Witness(node) as witness, in_the_middle(node, 3) as wires:
            for _ in range(3):
                assert node.ask("GET", f"/v2/a/blobs/{BLOCKS}").status == 404
            answers = read_all(wires)
        for answer in answers:
            assert_same(answer.body, LARGE)
        assert not witness.failures
        assert max(witness.latencies) >= BLOCKED_SECONDS / 2, "the loop was not blocked"
        witness.settled()
        eventually(lambda: lag_above(node, 0.05) > 0, "the lag of the loop in the metrics", 5)


def lag_above(node: Node, seconds: float) -> float:
    """How often the loop was later than that, by its own measurement."""
    lines = ask(node.admin, "GET", "/metrics").body.decode().splitlines()
    pairs = (line.rpartition(" ") for line in lines if line.startswith("fastmirror_loop_lag"))
    found = {name: float(value) for name, _, value in pairs}
    below = next(value for name, value in found.items() if f'le="{seconds:g}"' in name)
    return found["fastmirror_loop_lag_seconds_count"] - below


def test_a_node_that_is_frozen_for_a_moment_loses_no_transfer(store: Path) -> None:
    with start(store) as node, in_the_middle(node, 5) as wires:
        node.freeze()
        timer = threading.Timer(0.3, node.thaw)
        timer.start()
        for answer in read_all(wires):
            assert_same(answer.body, LARGE)
        timer.join()


def test_n06_out_of_descriptors_it_closes_what_is_too_much_without_spinning(store: Path) -> None:
    with start(store, open_files=64) as node, Wire(node.registry) as old, contextlib.ExitStack() as stack:
        assert old.ask("GET", "/v2/").status == 200
        with in_the_middle(node, 1) as (running,):
            wires = [stack.enter_context(Wire(node.registry)) for _ in range(150)]
            results = [talk(wire) for wire in wires]
            assert 10 < results.count("served") < 64
            assert results.count("served") + results.count("closed") == 150, results
            before = proc.cpu_seconds(node.pid)
            let_pass(1.0, "a second in which it could spin")
            assert proc.cpu_seconds(node.pid) - before < 0.1
            assert_same(running.answer().body, LARGE)
        stack.close()
        eventually(lambda: quiet_ask(node) == 200, "served again when there is room", 5 * NOISE)
        assert_same(node.ask("GET", TARGET).body, LARGE)


def talk(wire: Wire) -> str:
    """Whether a connection gets an answer or is closed before one."""
    wire.send(build_request("GET", "/v2/"))
    try:
        return "served" if wire.answer().status == 200 else "refused"
    except NoAnswer:
        return "closed"


def quiet_ask(node: Node) -> int:
    """The status of a request on a new connection, 0 if it was closed."""
    try:
        return node.ask("GET", "/v2/").status
    except NoAnswer:
        return 0


@pytest.mark.parametrize("leave", [Wire.reset, Wire.half_close], ids=["RST", "FIN"])
def test_a_client_that_leaves_while_the_node_ends_does_not_hold_it_up(
    store: Path, leave: Callable[[Wire], None]
) -> None:
    with start(store) as node, in_the_middle(node, 5) as wires:
        node.signal(signal.SIGTERM)
        node.log.wait("daemon.drain_started")
        for wire in wires:
            leave(wire)
            wire.sock.close()
        began = time.monotonic()
        assert node.wait() == 0
        assert time.monotonic() - began < 5
