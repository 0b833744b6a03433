"""The daemon as a process: it begins, says so, measures itself, ends in order, and says plainly why it cannot begin."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.kit.cluster import free_port
from tests.kit.layout import Layout, image
from tests.kit.process import Node, environment, start
from tests.kit.waiting import eventually
from tests.kit.wire import End, Wire, ask, build_request

ROOT = Path(__file__).parents[2]
BIG = 64 * 1024 * 1024


class Ended(NamedTuple):
    """A process that ended by itself."""

    code: int
    complaint: str  # what was said on stderr besides the log


def serve(*flags: str, cwd: Path, before: tuple[str, ...] = (), **environ: str) -> Ended:
    """Run ``fastmirror serve`` with settings that do not let it begin."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FASTMIRROR_")}
    environment |= environ | {"PYTHONPATH": str(ROOT / "src")}
    ports = ("--registry-addr", "127.0.0.1:0", "--peer-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0")
    done = subprocess.run(
        [*before, sys.executable, "-m", "fastmirror", "serve", *ports, *flags],
        env=environment, cwd=cwd, capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    return Ended(done.returncode, "".join(line for line in done.stderr.splitlines(True) if line[:1] != "{"))


def metrics(node: Node) -> dict[str, float]:
    text = ask(node.admin, "GET", "/metrics").body.decode()
    pairs = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def layout_with_big_blob(directory: Path) -> tuple[Layout, str]:
    layout = Layout(directory)
    return layout, layout.add_zeros(BIG)


def test_it_says_once_that_it_serves_with_the_addresses_it_really_has(tmp_path):
    with start(tmp_path / "store") as node:
        serving = [event for event in node.log.events() if event["event"] == "daemon.serving"]
        assert len(serving) == 1
        for name in ("registry", "peer", "admin"):
            host, _, port = serving[0][name].rpartition(":")
            assert (host, int(port) > 0) == ("127.0.0.1", True)
        assert ask(node.registry, "GET", "/v2/").status == 200
        assert ask(node.peer, "GET", "/v2/").status == 200
        assert ask(node.admin, "GET", "/livez").body == b"ok\n"
        assert ask(node.admin, "GET", "/readyz").status == 200
        assert ask(node.admin, "GET", "/v2/").status == 404


def test_what_clients_did_is_in_the_metrics_by_listener(tmp_path):
    manifest, blobs = image([b"x" * 100_000])
    layout = Layout(tmp_path)
    layout.add_image("example.com/app:1", manifest, blobs)
    with start(tmp_path) as node:
        digest = layout.add(b"y" * 50_000)
        assert node.ask("GET", f"/v2/app/blobs/{digest}").status == 200
        assert node.ask("GET", "/v2/app/blobs/sha256:" + "0" * 64).status == 404
        assert ask(node.peer, "GET", "/v2/app/manifests/1?ns=example.com").status == 200
        assert node.ask("PUT", "/v2/app/manifests/1").status == 405
        seen = metrics(node)
    assert seen['fastmirror_pulls_total{listener="registry",source="local"}'] == 1
    assert seen['fastmirror_pulls_total{listener="registry",source="none"}'] == 1
    assert seen['fastmirror_pulls_total{listener="peer",source="local"}'] == 1
    assert seen['fastmirror_pull_bytes_total{listener="registry",source="local"}'] == 50_000
    assert seen['fastmirror_requests_refused_total{listener="registry"}'] == 1
    assert seen['fastmirror_connections_accepted_total{listener="registry"}'] == 3
    assert seen["fastmirror_blobs"] == 4
    assert seen["fastmirror_ready"] == 1
    assert seen["process_open_fds"] > 5


def test_what_peers_gave_is_in_the_metrics(tmp_path):
    layout = Layout(tmp_path / "one")
    digests = [layout.add(b"small"), layout.add_zeros(12 * 1024 * 1024)]
    with start(tmp_path / "one") as one:
        peers = ["{}:{}".format(*one.peer)]
        with start(tmp_path / "two", peers=peers) as two:
            lengths = [len(two.ask("GET", f"/v2/app/blobs/{digest}").body) for digest in digests]
            assert two.ask("GET", "/v2/app/blobs/sha256:" + "0" * 64).status == 404
            seen = metrics(two)
    assert lengths == [5, 12 * 1024 * 1024]
    assert seen['fastmirror_pulls_total{listener="registry",source="peers"}'] == 2
    assert seen['fastmirror_pull_bytes_total{listener="registry",source="peers"}'] == sum(lengths)
    assert seen["fastmirror_fetched_bytes_total"] == sum(lengths)
    assert seen["fastmirror_spool_bytes"] == sum(lengths)
    assert seen['fastmirror_elsewhere_seconds_count{source="none"}'] == 1
    assert seen['fastmirror_peers{state="live"}'] == 1
    assert seen['fastmirror_peer_outcomes_total{outcome="lacks"}'] == 1


def test_a_transfer_from_a_peer_is_finished_while_draining(tmp_path):
    _, digest = layout_with_big_blob(tmp_path / "one")
    with start(tmp_path / "one") as one, start(tmp_path / "two", peers=["{}:{}".format(*one.peer)]) as two:
        with Wire(two.registry, receive_buffer=65536) as wire:
            wire.send(build_request("GET", f"/v2/app/blobs/{digest}"))
            assert wire.head()[0] == 200
            two.signal(signal.SIGTERM)
            two.log.wait("daemon.drain_started")
            assert len(wire.rest()) == BIG
        assert two.wait() == 0


def test_a_miss_is_no_warning(tmp_path):
    with start(tmp_path / "store", flags={"log_level": "debug"}) as node:
        for _ in range(3):
            assert node.ask("GET", "/v2/app/blobs/sha256:" + "0" * 64).status == 404
            assert node.ask("GET", "/v2/app/manifests/latest?ns=docker.io").status == 404
        assert {event["level"] for event in node.log.events()} <= {"debug", "info"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order_with_exit_code_0(tmp_path, number):
    with start(tmp_path / "store") as node:
        node.signal(number)
        assert node.wait() == 0
        events = [event["event"] for event in node.log.events()]
    assert events[-3:] == ["daemon.signal_received", "daemon.drain_started", "daemon.ended"]


def test_a_running_transfer_is_finished_while_new_connections_are_refused(tmp_path):
    _, digest = layout_with_big_blob(tmp_path)
    with start(tmp_path) as node, Wire(node.registry, receive_buffer=65536) as wire:
        wire.send(build_request("GET", f"/v2/app/blobs/{digest}"))
        status, _ = wire.head()
        assert status == 200
        node.signal(signal.SIGTERM)
        eventually(lambda: ask(node.admin, "GET", "/readyz").status == 503, "not ready")
        assert json.loads(ask(node.admin, "GET", "/readyz").body)["reasons"] == ["draining"]
        for address in (node.registry, node.peer):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address)
        assert len(wire.rest()) == BIG
        assert wire.end is End.FIN
        assert node.wait() == 0


def test_a_transfer_that_outlasts_the_drain_time_is_cut_by_fin(tmp_path):
    _, digest = layout_with_big_blob(tmp_path)
    flags = {"drain_timeout": "200ms"}
    with start(tmp_path, flags=flags) as node, Wire(node.registry, receive_buffer=65536) as wire:
        wire.send(build_request("GET", f"/v2/app/blobs/{digest}"))
        wire.head()
        assert node.stop() == 0
        assert 0 < len(wire.rest()) < BIG
        assert wire.end is End.FIN
        (cut,) = [event for event in node.log.events() if event["event"] == "daemon.transfers_cut"]
    assert (cut["level"], cut["connections"]) == ("warning", 1)


def test_signals_that_come_together_are_one(tmp_path):
    _, digest = layout_with_big_blob(tmp_path)
    with start(tmp_path) as node, Wire(node.registry, receive_buffer=65536) as wire:
        wire.send(build_request("GET", f"/v2/app/blobs/{digest}"))
        wire.head()
        node.signal(signal.SIGTERM)
        node.log.wait("daemon.drain_started")
        for number in (signal.SIGTERM, signal.SIGINT):
            node.signal(number)
        assert len(wire.rest()) == BIG
        assert node.wait() == 0


def test_a_second_signal_ends_it_at_once(tmp_path):
    _, digest = layout_with_big_blob(tmp_path)
    with start(tmp_path) as node, Wire(node.registry, receive_buffer=65536) as wire:
        wire.send(build_request("GET", f"/v2/app/blobs/{digest}"))
        wire.head()
        node.signal(signal.SIGTERM)
        node.log.wait("daemon.drain_started")

        def ended() -> bool:
            node.signal(signal.SIGTERM)
            return not node.alive

        eventually(ended, "a later one counts")
        assert node.wait(5) == 128 + signal.SIGTERM


def test_it_is_not_ready_while_the_blobs_are_away_and_ready_again_when_they_are_back(tmp_path):
    layout = Layout(tmp_path)
    digest = layout.add(b"here")
    with start(tmp_path) as node:
        blobs, away = tmp_path / "blobs", tmp_path / "away"
        blobs.rename(away)
        answer = ask(node.admin, "GET", "/readyz")
        assert answer.status == 503
        assert json.loads(answer.body)["reasons"] == [f"store oci:{tmp_path}: its blobs cannot be read"]
        assert ask(node.admin, "GET", "/livez").status == 200
        away.rename(blobs)
        assert ask(node.admin, "GET", "/readyz").status == 200
        assert eventually(lambda: node.ask("GET", f"/v2/app/blobs/{digest}").status == 200, "served again")


def test_an_answer_that_is_kept_is_given_up_when_its_content_goes(tmp_path):
    layout = Layout(tmp_path)
    digest = layout.add(b"small")
    target = f"/v2/app/blobs/{digest}"
    with start(tmp_path) as node:
        for _ in range(2):
            assert node.ask("GET", target).body == b"small"
        assert metrics(node)['fastmirror_requests_cached_total{listener="registry"}'] == 1
        layout.path(digest).unlink()
        eventually(lambda: node.ask("GET", target).status == 404, "gone")


def test_it_takes_all_the_descriptors_that_it_may_have(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, soft), hard))
    try:
        with start(tmp_path / "store") as node:
            assert resource.prlimit(node.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_several_stores_are_asked_in_order(tmp_path):
    one, two = Layout(tmp_path / "one"), Layout(tmp_path / "two")
    digests = one.add(b"in the first"), two.add(b"in the second")
    with start(tmp_path / "one", flags={"store": f"oci:{tmp_path / 'two'}"}) as node:
        bodies = [node.ask("GET", f"/v2/app/blobs/{digest}").body for digest in digests]
    assert bodies == [b"in the first", b"in the second"]


@pytest.mark.parametrize("setting", ["registry_addr", "peer_addr", "admin_addr"])
def test_a_busy_port_is_one_line_with_the_setting_and_how_to_find_who_has_it(tmp_path, setting):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ended = serve("--store", "oci:a", f"--{setting.replace('_', '-')}", f"127.0.0.1:{port}", cwd=tmp_path)
    assert ended.code == 1
    assert ended.complaint.startswith(f"fastmirror: {setting}: cannot listen on 127.0.0.1:{port}: ")
    assert f"sport = :{port}" in ended.complaint
    assert ended.complaint.count("\n") == 1


def broken_stores(directory: Path) -> dict[str, Path]:
    """Directories that are no store, by what is wrong."""
    made = {name: directory / name for name in ("file", "foreign", "marker", "version", "index")}
    made["file"].touch()
    made["foreign"].mkdir()
    (made["foreign"] / "holiday.jpg").touch()
    for name in ("marker", "version", "index"):
        Layout(made[name])
    (made["marker"] / "oci-layout").write_text("{")
    (made["version"] / "oci-layout").write_text('{"imageLayoutVersion":"9.0.0"}')
    (made["index"] / "index.json").write_text("[")
    return made


@pytest.mark.parametrize("fault", ["file", "foreign", "marker", "version", "index"])
def test_a_store_that_is_none_or_is_damaged_is_one_line_with_its_path(tmp_path, fault):
    path = broken_stores(tmp_path)[fault]
    ended = serve("--store", f"oci:{path}", cwd=tmp_path)
    assert ended.code == 1
    assert ended.complaint.startswith("fastmirror: store: ")
    assert str(path) in ended.complaint
    assert ended.complaint.count("\n") == 1


@pytest.mark.needs("setpriv")
def test_a_store_that_may_not_be_read_is_one_line_with_its_path(tmp_path):
    path = tmp_path / "store"
    Layout(path)
    (path / "blobs/sha256").chmod(0)
    # root reads everything unless it gives these capabilities up
    before = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
    ended = serve("--store", f"oci:{path}", cwd=tmp_path, before=before)
    assert ended.code == 1
    assert ended.complaint.startswith("fastmirror: store: ")
    assert str(path) in ended.complaint
    assert "Permission denied" in ended.complaint
    assert ended.complaint.count("\n") == 1


@pytest.mark.needs("root", "unshare", "mount")
def test_a_full_disk_is_one_line_with_the_path(tmp_path):
    full = tmp_path / "full"
    full.mkdir()
    script = 'mount -t tmpfs -o nr_inodes=2 none "$0" && exec "$@"'
    before = ("unshare", "--mount", "sh", "-c", script, str(full))
    ended = serve("--store", f"oci:{full}/store", cwd=tmp_path, before=before)
    assert ended.code == 1
    assert ended.complaint.startswith("fastmirror: store: ")
    assert "No space left on device" in ended.complaint
    assert ended.complaint.count("\n") == 1


def test_it_serves_without_standard_streams_and_no_socket_gets_its_log(tmp_path):
    port = free_port("127.0.0.1")
    command = [sys.executable, "-m", "fastmirror", "serve", "--registry-addr", f"127.0.0.1:{port}"]
    command += ["--peer-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0", "--store", "oci:store"]
    line = 'exec "$@" <&- >&- 2>&-'
    process = subprocess.Popen(["sh", "-c", line, "sh", *command], env=environment(), cwd=tmp_path)

    def answers() -> bool:
        with contextlib.suppress(OSError):
            return ask(("127.0.0.1", port), "GET", "/v2/").status == 200
        return False

    try:
        eventually(answers, "it answers", 20)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


def test_wrong_settings_are_one_line_with_their_origin_and_exit_code_2(tmp_path):
    (tmp_path / "bad.toml").write_text("stall_timout = 1\n")
    for ended, said in (
        (serve(cwd=tmp_path, FASTMIRROR_STALL_TIMEOUT="-1"), "(from FASTMIRROR_STALL_TIMEOUT in the environment)"),
        (serve(cwd=tmp_path, FASTMIRROR_STAL_TIMEOUT="1"), "did you mean FASTMIRROR_STALL_TIMEOUT?"),
        (serve("--config", "bad.toml", cwd=tmp_path), "(from bad.toml); did you mean stall_timeout?"),
        (serve("--peers", "nowhere", cwd=tmp_path), "(from --peers)"),
        (serve("--peers", "127.0.0.1:1", "--spool-dir", "bad.toml", cwd=tmp_path), "spool_dir: cannot write files"),
    ):
        assert ended.code == 2
        assert said in ended.complaint
        assert ended.complaint.count("\n") == 1
