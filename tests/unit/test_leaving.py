"""cleanup over many nodes: when a node gives its files back, and how all of them are waited for."""

from __future__ import annotations

import http.client
import json
import threading
from pathlib import Path

import pytest

from fastmirror.config.check import Address
from fastmirror.containerd import hosts, leaving
from fastmirror.containerd.configure import write
from fastmirror.containerd.leaving import NotAllDone, State, Told, await_all, leave, stay
from fastmirror.containerd.plan import Wanted
from fastmirror.containerd.probe import Answer, Kind
from tests.kit.cluster import free_port
from tests.kit.waiting import eventually

URL = "http://127.0.0.1:5000"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaving, "LOOK_SECONDS", 0.01)


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    """A certs.d that fastmirror has configured, with nothing there before."""
    path = tmp_path / "certs.d"
    path.mkdir()
    write(path, Wanted((hosts.target(hosts.DEFAULT),), URL, False, False))
    return path


class Mirror:
    """What answers, look by look; the last answer stays."""

    def __init__(self, certs: Path, *kinds: Kind) -> None:
        self.kinds = list(kinds)
        self.certs = certs
        self.there: list[bool] = []

    def __call__(self, url: str) -> Answer:
        assert url == URL
        self.there.append((self.certs / "_default" / "hosts.toml").exists())
        return Answer(self.kinds.pop(0) if len(self.kinds) > 1 else self.kinds[0], "")


def test_nothing_is_given_back_while_the_mirror_answers(certs: Path) -> None:
    state, mirror = State(), Mirror(certs, Kind.OURS, Kind.OURS, Kind.ABSENT, Kind.OURS, Kind.ABSENT, Kind.ABSENT)
    leave(certs, URL, state, threading.Event(), mirror)
    assert mirror.there == [True] * 6
    assert list(certs.iterdir()) == []
    assert json.loads(state.told())["done"] is True


def test_it_says_what_it_waits_for_and_ends_when_told_to(certs: Path) -> None:
    state, stop = State(), threading.Event()
    thread = threading.Thread(target=leave, args=(certs, URL, state, stop, Mirror(certs, Kind.OURS)))
    thread.start()
    eventually(lambda: "still answers at http://127.0.0.1:5000" in state.why, "it says so")
    stop.set()
    thread.join(10)
    assert not state.done
    assert (certs / "_default" / "hosts.toml").exists()


def test_what_cannot_be_given_back_is_told_and_tried_again(certs: Path) -> None:
    record = certs / ".fastmirror-record.json"
    kept = record.read_bytes()
    record.write_bytes(b"damaged")
    state, stop = State(), threading.Event()
    thread = threading.Thread(target=leave, args=(certs, URL, state, stop, Mirror(certs, Kind.ABSENT)))
    thread.start()
    eventually(lambda: ".fastmirror-record.json" in state.why, "it says what is wrong")
    record.write_bytes(kept)
    thread.join(10)
    assert state.done
    assert list(certs.iterdir()) == []


def test_it_stays_and_tells_until_it_is_told_to_end(certs: Path) -> None:
    port, stop = free_port("127.0.0.1"), threading.Event()
    listener = Address("127.0.0.1", port)
    thread = threading.Thread(target=stay, args=(certs, "http://127.0.0.1:9", listener, stop))
    thread.start()
    try:
        told = eventually(lambda: one if (one := leaving.ask_node(*listener)).done else None, "it is done")
        assert told is not None
        assert told.remarks == ()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/readyz")
        assert connection.getresponse().status == 200
        connection.close()
    finally:
        stop.set()
        thread.join(10)
    assert "does not answer" in leaving.ask_node(*listener).why


class Nodes:
    """Addresses and answers, round by round; the last round stays."""

    def __init__(self, *rounds: dict[str, bool]) -> None:
        self.rounds = list(rounds)
        self.now: dict[str, bool] = {}

    def resolve(self, name: str) -> tuple[str, ...]:
        assert name == "cleanup.test"
        self.now = self.rounds.pop(0) if len(self.rounds) > 1 else self.rounds[0]
        return tuple(self.now)

    def ask(self, host: str, port: int) -> Told:
        assert port == 5004
        return Told(f"node-{host}", self.now[host], "" if self.now[host] else "fastmirror still answers")


def wait(nodes: Nodes, timeout: float = 60.0) -> list[Told]:
    return await_all(Address("cleanup.test", 5004), timeout, threading.Event(), nodes.resolve, nodes.ask)


def test_all_are_waited_for_also_those_that_come_late() -> None:
    late = Nodes({}, {"a": True}, {"a": True}, {"a": True, "b": False}, {"a": True, "b": True})
    assert [told.node for told in wait(late)] == ["node-a", "node-b"]


def test_those_that_are_not_done_are_named() -> None:
    with pytest.raises(NotAllDone, match=r"^1 nodes are done; have not .*: node-b \(fastmirror still answers\)$"):
        wait(Nodes({"a": True, "b": False}), 0)


def test_a_name_without_addresses_is_told() -> None:
    with pytest.raises(NotAllDone, match=r"cleanup\.test has no addresses"):
        wait(Nodes({}), 0)
