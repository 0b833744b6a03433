"""What is shown of a pull, while it runs and afterwards."""

from __future__ import annotations

import io
import json
import time
from typing import Any

import pytest

from fastmirror.errors import PullFailed
from fastmirror.oci.digest import Digest
from fastmirror.pull import told
from fastmirror.pull.hosts import Host
from fastmirror.pull.image import ImageName, Platform
from fastmirror.pull.measured import Measured
from fastmirror.pull.progress import Bars, Lines, progress
from fastmirror.pull.report import Report, size
from fastmirror.pull.told import Told
from fastmirror.pull.walk import Options, Walk
from tests.kit.faulty_peer import FaultyPeer

MIRROR = Host.parse("http://127.0.0.1:5000", "mirror")
DIGEST = Digest.of(b"layer")
PEER = {
    "peer": "10.0.0.2:5001", "bytes": 1 << 20, "seconds": 0.5, "rate": 1 << 21, "requests": 3,
    "failed": {"stalled": 1}, "late": 2, "slow": 0, "wrong": 0, "convicted": False,
}  # fmt: skip


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def layer(*, whole: bool | None = True) -> Measured:
    one = Measured("layer", DIGEST, "m", 1 << 20)
    one.begin()
    one.arrived(1 << 19, str(MIRROR))
    if whole is not None:
        one.arrived(1 << 19, str(MIRROR))
        one.end(whole=whole)
    return one


def finished(*objects: Measured) -> Walk:
    options = Options(
        image=ImageName.parse("registry.example/app:1"), hosts=(MIRROR,), platform=Platform("linux", "amd64")
    )
    walk = Walk(options, lambda _: None)
    walk.objects += objects
    walk.seconds = 2.0
    return walk


def fetch(**more) -> dict[str, Any]:
    common = {
        "digest": DIGEST,
        "began": 1.5,
        "ended": 0.5,
        "hedges": 1,
        "steals": 2,
        "refetched": 1 << 20,
        "peers": [PEER],
    }
    return common | more


def test_the_pause_between_bytes_is_the_gap_and_the_wait_for_the_first_is_not(monkeypatch):
    times = iter([10.0, 12.0, 12.5, 15.5, 16.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(times))
    one = Measured("layer", DIGEST)
    one.begin()
    for _ in range(3):
        one.arrived(100, "http://a")
    one.end(whole=True)
    assert (one.first_byte, one.gap, one.seconds, one.rate, one.hosts) == (2.0, 3.0, 6.0, 50.0, ["http://a"])


def test_each_object_and_each_of_its_peers_has_a_row():
    report = Report(finished(layer()), Told({DIGEST: fetch(earlier=False)}, True), None)
    head, row, total = report.objects()
    assert dict(zip(head, row, strict=True)) | {"KIND": "layer", "SIZE": "1.0 MiB", "SOURCE": "peers"} == dict(
        zip(head, row, strict=True)
    )
    assert total[:3] == ("all", "", "1.0 MiB")
    _, peer = report.peers()
    assert peer == (DIGEST[:19], "10.0.0.2:5001", "1.0 MiB", "2.0 MiB/s", "3", "stalled 1", "answered late 2 times")
    assert report.notes() == [
        f"{DIGEST[:19]}: 1 hedges, 2 parts taken from slower peers, 1.0 MiB asked for again because they were wrong"
    ]


def test_without_the_mirrors_word_the_report_says_how_to_get_it():
    report = Report(finished(layer()), told.ask(None, 1.0, [DIGEST]), None)
    assert report.peers() == []
    assert report.objects()[1][-1] == "?"
    assert "--admin URL" in report.notes()[0]


def test_json_has_all_of_it_and_of_a_failure_why():
    error = PullFailed("registry.example/app:1: gone", missed=True)
    document = json.loads(
        Report(finished(layer(whole=False)), Told({DIGEST: fetch(earlier=False)}, True), error).to_json()
    )
    assert (document["ok"], document["missed"], document["error"]) == (False, True, "registry.example/app:1: gone")
    assert (document["image"], document["platform"], document["bytes"]) == (
        "registry.example/app:1",
        "linux/amd64",
        1 << 20,
    )
    (one,) = document["objects"]
    assert (one["digest"], one["whole"], one["resumes"], one["source"]) == (DIGEST, False, 0, "peers")
    assert one["fetch"]["peers"] == [PEER]


@pytest.mark.parametrize(
    ("fetches", "kept", "hosts", "where"),
    [
        ([fetch()], 64, [str(MIRROR)], "peers"), ([fetch(ended=None)], 64, [str(MIRROR)], "peers"),
        ([fetch(began=9.0, ended=8.0)], 64, [str(MIRROR)], "earlier"),
        ([fetch(began=2.1, ended=1.9)], 64, [str(MIRROR)], "earlier"), ([], 64, [str(MIRROR)], "store"),
        ([fetch(digest="another")], 1, [str(MIRROR)], None), ([], 64, ["https://registry.example"], "other"),
        ([fetch(digest="another", began=9.0)], 1, [str(MIRROR)], "store"),
    ],
)  # fmt: skip
def test_where_an_object_came_from_is_said_only_where_it_is_known(fetches, kept, hosts, where):
    heard = told._read({"kept": kept, "fetches": fetches}, 2.0, {DIGEST})
    assert told.source(heard.fetches.get(DIGEST), heard, hosts, MIRROR) == where


def test_an_admin_listener_that_does_not_tell_is_a_note_and_no_failure():
    with FaultyPeer([]) as other, FaultyPeer([], listening=False) as dead:
        for peer, why in ((other, "status 404"), (dead, "refused")):
            heard = told.ask(Host.parse(f"http://{peer}", "admin"), 1.0, [DIGEST])
            assert heard.problem is not None
            assert why in heard.problem


def test_a_terminal_gets_bars_that_are_drawn_over_each_other_and_a_line_for_what_is_done(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    stream = Terminal()
    show = progress(stream, {"TERM": "xterm", "NO_COLOR": "1"})
    one, other = layer(whole=None), layer(whole=None)
    show([one, other])
    assert stream.getvalue().count("[############------------]  50% 512.0 KiB of 1.0 MiB") == 2
    assert "\x1b[32m" not in stream.getvalue()
    before = len(stream.getvalue())
    one.end(whole=True)
    show([one, other])
    again = stream.getvalue()[before:]
    assert again.startswith("\r\x1b[2A\x1b[J")
    assert again.count("512.0 KiB in ") == again.count("[####") == 1
    assert all(len(line) < 100 for line in again.splitlines())


def test_a_narrow_terminal_has_no_bar_and_no_line_that_is_broken(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    stream = Terminal()
    progress(stream, {"TERM": "xterm"})([layer(whole=None)])
    (line,) = stream.getvalue().removeprefix("\r\x1b[J").splitlines()
    assert len(line) < 40
    assert "#" not in line


def test_colours_are_for_terminals_that_want_them():
    stream = Terminal()
    assert isinstance(progress(stream, {"TERM": "xterm"}), Bars)
    progress(stream, {"TERM": "xterm"})([layer(whole=None)])
    assert "\x1b[32m" in stream.getvalue()
    assert not isinstance(progress(stream, {"TERM": "dumb"}), Bars)


def test_elsewhere_there_is_one_line_per_object_and_no_control_character():
    stream = io.StringIO()
    show = progress(stream, {"TERM": "xterm"})
    assert type(show) is Lines
    running, broken = layer(whole=None), layer(whole=False)
    for _ in range(2):
        show([layer(), running, broken][1:])
    assert stream.getvalue().count("\n") == 1
    assert "failed after 1.0 MiB" in stream.getvalue()
    assert "\r" not in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 KiB"), (3 << 30, "3.0 GiB")])
def test_bytes_for_people(count, text):
    assert size(count) == text
