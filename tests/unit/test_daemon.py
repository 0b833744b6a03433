"""How the parts are held together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal

import pytest

from fastmirror import daemon
from fastmirror.admin import Readiness
from fastmirror.config import FetchSettings, ServeSettings, Settings, StoreSettings
from fastmirror.errors import StartFailed, StoreError, StoreUnavailable
from fastmirror.fetch.spool import spool_directory
from fastmirror.store.memory import MemoryStore
from tests.kit.cluster import free_port
from tests.kit.wire import parse_address

ANY = "127.0.0.1:0"


def settings(store: str, admin_addr: str = ANY) -> Settings:
    listeners = ServeSettings(registry_addr=ANY, peer_addr=ANY, admin_addr=admin_addr)
    return Settings(serve=listeners, stores=StoreSettings(store=(store,)))


class Heard(logging.Handler):
    """Sets ``event`` when the daemon says that it serves."""

    def __init__(self) -> None:
        super().__init__()
        self.event = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "event", "") == "daemon.serving":
            self.event.set()


class Broken(MemoryStore):
    """A store whose watch ends with an error at once."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error
        self.closed = False

    async def run(self) -> None:
        raise self._error

    def close(self) -> None:
        self.closed = True
        super().close()


async def test_a_node_serves_until_it_is_told_to_stop(tmp_path, caplog):
    stop, heard = asyncio.Event(), Heard()
    node = daemon.Node(settings(f"oci:{tmp_path / 'store'}"))
    caplog.set_level(logging.INFO, "fastmirror")
    daemon.log.addHandler(heard)
    try:
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            group.create_task(node.run(stop))
            await heard.event.wait()
            _, writer = await asyncio.open_connection(*parse_address(node.peer.addresses[0]))
            writer.close()
            assert node.readiness.reasons() == []
            stop.set()
    finally:
        daemon.log.removeHandler(heard)
    assert node.readiness.reasons() == ["draining"]
    assert node.peer.addresses == []


@pytest.mark.parametrize("error", [ZeroDivisionError("a defect"), StoreUnavailable("the watch is lost")])
async def test_a_part_that_fails_ends_the_node_and_everything_is_closed(monkeypatch, error):
    store = Broken(error)
    monkeypatch.setattr(daemon, "_open_stores", lambda settings, readiness: store)
    node = daemon.Node(settings("oci:unused"))
    with pytest.RaisesGroup(type(error)):
        await node.run(asyncio.Event())
    assert store.closed
    assert node.registry.addresses == node.peer.addresses == node.admin.addresses == []


async def test_a_port_that_is_taken_closes_what_was_already_open(tmp_path):
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        node = daemon.Node(settings(f"oci:{tmp_path / 'store'}", admin_addr=f"{host}:{port}"))
        with pytest.raises(StartFailed, match="admin_addr"):
            await node.run(asyncio.Event())
    assert node.registry.addresses == []


async def test_of_several_stores_all_or_none_are_opened(tmp_path):
    before = set(os.listdir("/proc/self/fd"))
    (tmp_path / "file").touch()
    both = Settings(stores=StoreSettings(store=(f"oci:{tmp_path / 'good'}", f"oci:{tmp_path / 'file'}")))
    with pytest.raises(StoreError, match=r"store: .*file is not a directory"):
        await daemon.Node(both).run(asyncio.Event())
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.needs("root")
def test_a_store_that_may_not_be_looked_at_is_told_with_the_next_step(tmp_path):
    (tmp_path / "private").mkdir(mode=0o700)
    os.seteuid(65534)
    try:
        with pytest.raises(StoreError, match=r"store: .*/private/store: .*Permission denied.*give this user access"):
            daemon._open_layout("oci:store", tmp_path / "private" / "store", Readiness())
    finally:
        os.seteuid(0)


def test_what_a_part_raised_is_logged_with_its_place_and_raised_again(monkeypatch, tmp_path, capfd):
    root, ours = logging.getLogger(), logging.getLogger("fastmirror")
    kept = root.handlers[:], root.level, ours.level
    monkeypatch.setattr(daemon, "_open_stores", lambda settings, readiness: Broken(ZeroDivisionError("a defect")))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with pytest.raises(ZeroDivisionError):
            daemon.run(settings("oci:unused"))
    finally:
        root.handlers[:] = kept[0]
        root.setLevel(kept[1])
        ours.setLevel(kept[2])
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert '"event":"daemon.part_failed"' in capfd.readouterr().err


@pytest.mark.parametrize(
    ("host", "given", "asked"),
    [
        ("127.0.0.1", ["127.0.0.1", "127.0.0.9"], ["127.0.0.9"]),
        ("127.0.0.9", ["127.0.0.1", "127.0.0.9"], ["127.0.0.1"]),
        ("0.0.0.0", ["127.0.0.1", "127.0.0.9", "192.0.2.1", "node-a"], ["192.0.2.1", "node-a"]),
    ],
)
async def test_a_node_leaves_only_itself_out_of_a_list_that_all_nodes_are_given(tmp_path, caplog, host, given, asked):
    caplog.set_level(logging.INFO, "fastmirror")
    port = free_port(host)
    listeners = ServeSettings(registry_addr=ANY, peer_addr=f"{host}:{port}", admin_addr=ANY)
    fetch = FetchSettings(peers=tuple(f"{name}:{port}" for name in given), spool_dir=str(tmp_path))
    node = daemon.Node(Settings(serve=listeners, fetch=fetch))
    async with contextlib.AsyncExitStack() as closing:
        node._build(MemoryStore(), closing)
        node._say_serving()
        assert node.router is not None
        assert [str(peer) for peer in node.router.peers()] == [f"{name}:{port}" for name in asked]
    told = {getattr(record, "event", ""): record for record in caplog.records}
    assert told["daemon.serving"].peers == len(asked)
    assert set(told["daemon.self_left_out"].peers) == {f"{name}:{port}" for name in given if name not in asked}


@pytest.mark.parametrize(
    ("store", "spool_dir", "where"),
    [("oci:{}", "", "{}/.fastmirror/spool"), ("oci:{}", "/srv/spool", "/srv/spool"), ("content:{}", "", "/var/tmp")],
)
def test_content_on_its_way_goes_to_the_disk_of_the_first_layout(tmp_path, store, spool_dir, where):
    stores = StoreSettings(store=(store.format(tmp_path),))
    chosen = spool_directory(Settings(stores=stores, fetch=FetchSettings(spool_dir=spool_dir)))
    assert chosen == where.format(tmp_path)
