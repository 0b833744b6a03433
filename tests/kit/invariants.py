"""What must hold in every fault test, whatever breaks.

A :class:`Witness` watches a node while a fault happens; :func:`assert_invariants` judges what was seen:
(i)   the bytes that arrived are a prefix of the true ones,
(ii)  status and header fields were legal,
(iii) the request ended within its bound (and a fifth of it),
(iv)  the connection ended by FIN, unless the client reset it itself,
(v)   descriptors, threads and memory are back at their baseline in 2 s,
(vi)  a healthy client was served quickly all the time,
(vii) the log has no error that the fault does not explain.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Self

from tests.kit import proc
from tests.kit.process import Node
from tests.kit.waiting import NOISE, eventually
from tests.kit.wire import Answer, End, Wire, build_request

_LEGAL_STATUS = frozenset({200, 206, 400, 404, 405, 414, 416, 431, 500, 503, 505})
_NEVER = ("content-encoding", "transfer-encoding", "location", "www-authenticate")
_SETTLE_SECONDS = 2.0
_FD_SLACK = 6  # connections to peers are kept, some to each
_MEMORY_SLACK_KIB = 12 * 1024
_HEALTHY_EVERY = 0.02
_HEALTHY_P99 = 0.1


class Witness:
    """Watches ``node`` from before a fault on: its resources, and a healthy client that asks again and again.

    Owned by a ``with`` block. ``latencies`` are the seconds of the healthy client's requests, ``failures`` what went
    wrong with them.
    """

    def __init__(self, node: Node, *, memory_slack_kib: int = _MEMORY_SLACK_KIB) -> None:
        self.node = node
        self.latencies: list[float] = []
        self.failures: list[str] = []
        node.ask("GET", "/v2/")
        self.fds = proc.fd_count(node.pid)
        self.threads = proc.thread_count(node.pid)
        self.rss = proc.rss_kib(node.pid)
        self._memory_slack = memory_slack_kib
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask_again_and_again, name="healthy client", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join(30)

    def _ask_again_and_again(self) -> None:
        request = build_request("GET", "/v2/")
        try:
            with Wire(self.node.registry) as wire:
                while not self._over.wait(_HEALTHY_EVERY):
                    began = time.monotonic()
                    wire.send(request)
                    answer = wire.answer()
                    self.latencies.append(time.monotonic() - began)
                    if answer.status != 200:
                        self.failures.append(f"status {answer.status}")
        except (AssertionError, OSError) as error:
            self.failures.append(repr(error))

    def settled(self) -> None:
        """AssertionError if the node's descriptors, threads or memory do not come back."""
        pid = self.node.pid
        eventually(
            lambda: proc.fd_count(pid) <= self.fds + _FD_SLACK + 1,  # the healthy client may still hold one
            f"descriptors back to {self.fds}",
            _SETTLE_SECONDS * NOISE,
        )
        assert proc.thread_count(pid) <= self.threads + 16, "threads were left behind"
        rss = proc.rss_kib(pid)
        assert rss <= self.rss + self._memory_slack, f"memory grew from {self.rss} to {rss} KiB"


def assert_legal(answer: Answer) -> None:
    """(ii): a status that containerd takes well, a length, and no field that changes what the body means."""
    assert answer.status in _LEGAL_STATUS, answer.status
    for name in _NEVER:
        assert name not in answer.headers, (name, answer.headers)
    if answer.status == 206:
        unit, _, rest = answer.headers["content-range"].partition(" ")
        first, last = rest.partition("/")[0].split("-")
        assert unit == "bytes"
        assert int(last) - int(first) + 1 == int(answer.headers["content-length"])
    if answer.status == 416:
        assert answer.headers["content-range"].startswith("bytes */")


def assert_same(found: bytes, expected: bytes) -> None:
    """Large contents are equal; says where they are not, and does not print them (pytest would, for minutes)."""
    if found != expected:
        pairs = enumerate(zip(found, expected, strict=False))
        first = next((at for at, (mine, true) in pairs if mine != true), min(len(found), len(expected)))
        raise AssertionError(f"differs from byte {first} on: {len(found)} bytes, expected were {len(expected)}")


def assert_prefix(answer: Answer, truth: bytes, start: int = 0) -> None:
    """(i): what arrived is the true content from ``start`` on, as far as it goes."""
    if answer.status in (200, 206):
        expected = truth[start : start + len(answer.body)]
        assert_same(answer.body, expected)


def assert_invariants(
    witness: Witness,
    answers: Iterable[tuple[Answer, int]],
    truth: bytes,
    *,
    bound_seconds: float,
    expected_errors: Iterable[str] = (),
) -> None:
    """The seven invariants. ``answers`` are what the clients got, each with the offset that it asked from.

    Call it after the fault is over, inside the witness's ``with`` block or behind it.
    """
    for answer, start in answers:
        assert_prefix(answer, truth, start)
        assert_legal(answer)
        assert answer.seconds <= bound_seconds * 1.2, f"took {answer.seconds:.2f} s of {bound_seconds} s"
        assert answer.end is not End.RST, f"ended by RST after {len(answer.body)} bytes"
    assert not witness.failures, witness.failures
    if witness.node.alive:
        witness.settled()
    if len(witness.latencies) >= 20:
        ordered = sorted(witness.latencies)
        p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
        assert p99 <= _HEALTHY_P99 * NOISE, f"the healthy client's p99 was {p99 * 1000:.0f} ms"
    problems = witness.node.log.problems({*witness.node.expected, *expected_errors})
    assert not problems, problems
