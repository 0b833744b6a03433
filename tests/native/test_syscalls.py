"""System calls of a request, counted by strace on the real server: what docs/performance.md promises.

Source: strace(1); the loop's own calls are uvloop's (libuv puts epoll_ctl calls together with io_uring where it can).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.content import blob
from tests.kit.layout import Layout, digest_of, image
from tests.kit.process import Node, start
from tests.kit.strace import traced
from tests.kit.wire import Wire, build_request

pytestmark = [pytest.mark.needs("strace", "root"), pytest.mark.memory]  # allocators under sanitizers call mmap

LARGE = blob(8 << 20, 1)
SMALL = blob(1000, 2)
MANIFEST, BLOBS = image([LARGE, SMALL])
LOOKED_AT = 256 << 10  # one look, whether it is in memory, for so many bytes; and one at the end of each MiB
TURN_LEAST = 64 << 10  # a sendfile that takes less than this on average would be another design
EVENTS = {"epoll_wait", "epoll_pwait", "epoll_ctl", "io_uring_enter"}
OTHERS = {"futex", "getpid", "restart_syscall", "write", "read"}  # a few in all: timers, the log, the stop of strace


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    layout = Layout(tmp_path_factory.mktemp("syscalls") / "layout")
    layout.add_image("registry.example/a/b:1", MANIFEST, BLOBS)
    with start(layout.directory) as started:
        yield started


def count(node: Node, trace: Path, request: bytes, content: bytes, times: int) -> Counter[str]:
    """Calls of all the server's threads while one connection, already warm, asks so often."""
    with Wire(node.registry) as wire:
        for _ in range(2):
            wire.send(request)
            assert wire.answer(request.split()[0].decode()).body == content
        with traced(node.pid, trace):
            for _ in range(times):
                wire.send(request)
                assert wire.answer(request.split()[0].decode()).body == content
    calls = re.findall(r"^\d+ +(\w+)\(", trace.read_text(), re.MULTILINE)
    assert calls, "strace saw something"
    return Counter(calls)


@pytest.mark.parametrize(
    ("method", "target", "content"),
    [
        ("GET", f"/v2/a/b/manifests/{digest_of(MANIFEST)}", MANIFEST),
        ("HEAD", f"/v2/a/b/manifests/{digest_of(MANIFEST)}", b""),
        ("GET", f"/v2/a/b/blobs/{digest_of(SMALL)}", SMALL),
    ],
    ids=["manifest", "manifest-head", "small-blob"],
)
def test_a_small_hit_is_one_recv_and_one_send(
    node: Node, tmp_path: Path, method: str, target: str, content: bytes
) -> None:
    times = 100
    calls = count(node, tmp_path / "trace", build_request(method, target), content, times)
    assert calls.pop("recvfrom") == times
    assert calls.pop("sendmsg") == times
    events = sum(calls.pop(name, 0) for name in EVENTS)
    assert events <= 1.2 * times, "one wait for the next request, and the ticks of a slow machine"
    assert set(calls) <= OTHERS, calls
    assert sum(calls.values()) < times / 5, calls


@pytest.mark.parametrize(
    ("method", "target", "content"),
    [
        ("GET", "/v2/a/b/manifests/1?ns=registry.example", MANIFEST),
        ("HEAD", f"/v2/a/b/blobs/{digest_of(LARGE)}", b""),
    ],
    ids=["tag", "blob-head"],
)
def test_what_is_looked_up_anew_adds_the_look_at_its_file(
    node: Node, tmp_path: Path, method: str, target: str, content: bytes
) -> None:
    """A tag may have moved; the size of a large blob is not kept."""
    times = 50
    calls = count(node, tmp_path / "trace", build_request(method, target), content, times)
    assert (calls.pop("recvfrom"), calls.pop("sendmsg")) == (times, times)
    for name in ("openat", "newfstatat", "pread64", "close", *EVENTS):
        assert calls.pop(name, 0) <= 3 * times + 10, name
    assert set(calls) <= OTHERS, calls


def test_a_large_hit_adds_sendfile_the_events_its_file_and_a_look_whether_it_is_in_memory(
    node: Node, tmp_path: Path
) -> None:
    times = 10
    request = build_request("GET", f"/v2/a/b/blobs/{digest_of(LARGE)}")
    calls = count(node, tmp_path / "trace", request, LARGE, times)
    assert calls.pop("recvfrom") == times
    assert calls.pop("sendmsg") == times, "the head, with MSG_MORE"
    turns = calls.pop("sendfile")
    assert times <= turns <= times * len(LARGE) / TURN_LEAST, turns
    assert 0 < calls.pop("preadv2") <= times * (len(LARGE) / LOOKED_AT + len(LARGE) / (1 << 20))
    assert sum(calls.pop(name, 0) for name in EVENTS) <= 1.5 * turns + 10 * times
    for name in ("openat", "newfstatat", "close"):  # some more: the store looks at its directories now and then
        assert times - 1 <= calls.pop(name) <= times + 20, name
    calls.pop("pread64", None)  # what was served is compared with its digest once, by a thread, a second later
    assert set(calls) <= OTHERS | {"fcntl"}, calls


def test_a_range_costs_what_its_bytes_cost(node: Node, tmp_path: Path) -> None:
    times = 20
    request = build_request("GET", f"/v2/a/b/blobs/{digest_of(LARGE)}", Range="bytes=100-65635")
    calls = count(node, tmp_path / "trace", request, LARGE[100:65636], times)
    assert (calls["recvfrom"], calls["sendmsg"]) == (times, times)
    assert calls["sendfile"] <= 2 * times
