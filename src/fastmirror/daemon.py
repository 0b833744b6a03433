"""The composition root: builds the parts, runs them in one TaskGroup, and stops them in order.

The only place that knows concrete classes. Stopping: not ready, withdraw from the other nodes, no new connections,
running transfers end within ``drain_timeout``, then everything else ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import uvloop

from fastmirror import __version__, admin
from fastmirror._native.endpoint import Pace
from fastmirror.advertise.advertiser import Advertiser
from fastmirror.chunks.checks import Checks
from fastmirror.chunks.chunklist import ALGORITHMS
from fastmirror.chunks.holder import ListServer
from fastmirror.chunks.scrub import Scrubber
from fastmirror.config import Settings, check
from fastmirror.errors import FastmirrorError, RegistryError, StartFailed, StoreError
from fastmirror.fetch.parts import FetchParts
from fastmirror.fetch.seen import Seen
from fastmirror.fetch.spool import spool_directory
from fastmirror.fetch.table import FetchTable
from fastmirror.http.limits import Admission
from fastmirror.http.message import Answer, Reply, Request
from fastmirror.http.own import leads_here, own_addresses
from fastmirror.http.paced import Paced
from fastmirror.http.server import Server, senders_of
from fastmirror.mirror.answers import refusal_reply
from fastmirror.mirror.app import Elsewhere, Mirror
from fastmirror.mirror.filters import Filters
from fastmirror.mirror.local import Done, Local
from fastmirror.mirror.remote import Remote
from fastmirror.observe import log as logs
from fastmirror.observe.lag import watch_lag
from fastmirror.observe.metrics import Metrics, PullMetrics
from fastmirror.observe.notify import Notifier
from fastmirror.oci.digest import Digest
from fastmirror.oci.pull import Pull
from fastmirror.oci.reference import Reference
from fastmirror.peers import Peers
from fastmirror.routing import Peer, Router
from fastmirror.routing.inventory import InventoryRouter
from fastmirror.routing.start import start_of
from fastmirror.routing.static import StaticRouter
from fastmirror.store import Arrived, BlobStore, ContentEvent
from fastmirror.store.layout import open_layout
from fastmirror.store.several import SeveralStores

log = logging.getLogger(__name__)

ADMIN_CONNECTIONS: Final = 64
SAME_SECONDS: Final = 1.0
"""What signals a whole process group (timeout(1), a terminal) reaches a supervised process twice: that is one wish."""


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain and return. Another one, ``SAME_SECONDS`` later, ends it at once.

    Raises StoreError or StartFailed if it cannot begin; what a part raises later ends the daemon.
    """
    handler = logs.setup(settings.log.log_level)
    _raise_file_limit()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_until_signalled(settings, handler))
    except BaseExceptionGroup as group:
        error = _first(group)
        if not isinstance(error, FastmirrorError):
            log.error("a part of the daemon failed", exc_info=error, extra={"event": "daemon.part_failed"})
        raise error from None


async def _until_signalled(settings: Settings, handler: logs.StderrHandler) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    first = 0.0

    def signalled(number: int) -> None:
        nonlocal first
        name = signal.Signals(number).name
        if stop.is_set():
            if loop.time() - first < SAME_SECONDS:
                return
            log.warning("second signal: ending at once", extra={"event": "daemon.killed", "signal": name})
            os._exit(128 + number)
        log.info("ending", extra={"event": "daemon.signal_received", "signal": name})
        first = loop.time()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled, number)
    node = Node(settings)
    node.metrics.node.log_lines_dropped.at().follow(lambda: handler.dropped)
    await node.run(stop)
    for number in (signal.SIGTERM, signal.SIGINT):  # it ends by itself now, with 0
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_IGN)


class Node:
    """All parts of one serving node. :meth:`run` owns them: whatever happens, they are closed when it returns."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.readiness = admin.Readiness()
        self.router: Router | None = None
        self.advertiser: Advertiser
        self.registry: Server
        self.peer: Server
        self.admin: Server

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set, then drain. Raises StoreError, StartFailed, or a group with a part's error."""
        async with contextlib.AsyncExitStack() as closing:
            store = _open_stores(self.settings, self.readiness)
            closing.callback(store.close)
            self._build(store, closing)
            notifier = Notifier()
            closing.callback(notifier.close)
            async with asyncio.TaskGroup() as group:
                parts = [
                    group.create_task(store.run(), name="store"),
                    group.create_task(watch_lag(self.metrics.node.loop_lag_seconds.at()), name="lag"),
                    group.create_task(notifier.beat(), name="watchdog"),
                ]
                if self.router is not None:
                    parts.append(group.create_task(self.router.run(), name="router"))
                    parts.append(group.create_task(self.advertiser.run(), name="advertiser"))
                    self.advertiser.begin()
                self._say_serving()
                notifier.say("READY=1")
                await stop.wait()
                notifier.say("STOPPING=1")
                await self._drain()
                for part in parts:
                    part.cancel()
        log.info("ended", extra={"event": "daemon.ended"})

    def _build(self, store: BlobStore, closing: contextlib.AsyncExitStack) -> None:
        settings, metrics = self.settings, self.metrics
        serve = settings.serve
        filters = Filters(settings.stores.allow, settings.stores.deny)
        seen = Seen()
        seen.sizes.here = store.expected_size
        checks = Checks(max(1, (os.cpu_count() or 2) // 2), nice=10)
        closing.callback(checks.close)
        scrubber = Scrubber(store, checks)
        closing.callback(scrubber.close)
        local = Local(store, filters, seen, scrubber)
        pace, senders, own = Pace(), senders_of(serve, closing), own_addresses()
        # One for each listener: whoever fills the places of the other nodes must not keep this node's clients out.
        admissions = [Admission(serve.max_connections, serve.max_connections_per_address, own) for _ in range(2)]
        lists = self._build_lists(store, local, scrubber, checks)
        closing.callback(lists.close)
        for_peers = Mirror(local, default_registry=serve.default_registry, chunks=lists)
        paced = Paced(for_peers, serve.serve_rate) if serve.serve_rate else for_peers
        self.peer = Server(serve, paced, refusal_reply, pace=pace, admission=admissions[1], senders=senders)
        closing.push_async_callback(self.peer.close)
        self.peer.listen(serve.peer_addr, "peer_addr")  # first: where it is says which of the peers is this node
        joined = settings.fetch.peers or settings.router.joins
        elsewhere = self._build_remote(filters, seen, own, closing) if joined else None
        if self.router is not None:
            self.advertiser = Advertiser(store, self.router, *_judges(local, filters))
        for_clients = Mirror(local, default_registry=serve.default_registry, elsewhere=elsewhere)
        self.registry = Server(serve, for_clients, refusal_reply, pace=pace, admission=admissions[0], senders=senders)
        closing.push_async_callback(self.registry.close)
        loop = asyncio.get_running_loop()
        answer: Answer = admin.Admin(self.readiness, metrics, lambda: seen.log.told(loop.time()))
        if isinstance(self.router, InventoryRouter | StaticRouter):
            answer = Peers(self.router.rows, answer)
        if isinstance(self.router, InventoryRouter) and settings.router.trusts:
            self.peer.endpoint.admits = self.router.admits
        few = Admission(ADMIN_CONNECTIONS, ADMIN_CONNECTIONS, own)
        self.admin = Server(serve, answer, admin.refuse, pace=Pace(), admission=few)
        closing.push_async_callback(self.admin.close)
        closing.callback(store.subscribe(self._forget_answers))
        self._measure(store, admissions, {"registry": for_clients, "peer": for_peers})
        self.registry.listen(serve.registry_addr, "registry_addr", same_node=True)
        self.admin.listen(serve.admin_addr, "admin_addr")

    def _build_lists(self, store: BlobStore, local: Local, scrubber: Scrubber, checks: Checks) -> ListServer:
        settings = self.settings.fetch
        early = settings.whole_bytes + 1 if self.settings.serve.early_lists else None
        lists = ListServer(
            store,
            lambda digest: scrubber.holds_right(digest) and local.may_serve(digest),
            checks,
            ALGORITHMS[settings.piece_hash],
            early,
        )
        self.metrics.lists.follow(lists)
        self.metrics.node.wrong_blobs.at().follow(lambda: scrubber.found)
        return lists

    def _build_remote(
        self, filters: Filters, seen: Seen, own: frozenset[str], closing: contextlib.AsyncExitStack
    ) -> Elsewhere:
        settings = self.settings.fetch
        parts = FetchParts(settings, spool_directory(self.settings), self.metrics.fetch, seen)
        closing.push_async_callback(parts.close)
        if self.settings.router.joins:
            self.router = self._join(parts)
        else:
            self.router = StaticRouter(self._other_nodes(own), parts.asker, settings.lookup_timeout)
        closing.push_async_callback(self.router.close)
        table = FetchTable(parts, self.router)
        closing.push_async_callback(table.close)
        return Timed(Remote(table, filters), self.metrics.pull)

    def _other_nodes(self, own: frozenset[str]) -> list[Peer]:
        """The nodes of ``peers`` without this one, which a list that all nodes are given contains."""
        given = [check.peer(text) for text in self.settings.fetch.peers]
        selves = [text for text in given if leads_here(text, self.peer.addresses, own)]
        if selves:
            details = {"event": "daemon.self_left_out", "peers": [str(text) for text in selves]}
            log.info("of the peers given, this node itself is left out", extra=details)
        return [Peer(*text) for text in given if text not in selves]

    def _join(self, parts: FetchParts) -> InventoryRouter:
        if find_spec("libp2p") is None:  # found, not loaded: the router process does that
            raise StartFailed("router: py-libp2p is not installed; pip install 'fastmirror[libp2p]', or give --peers")
        router = InventoryRouter(lambda epoch: start_of(self.settings, self.peer.addresses[0], epoch), parts.asker)
        self.readiness.watch(router.why_not_ready)
        self.metrics.router.follow(router.counters)
        parts.client.token = router.token
        zone = self.settings.router.zone
        if zone:
            parts.book.far = lambda peer: router.zone(peer) not in ("", zone)
        return router

    def _measure(self, store: BlobStore, admissions: list[Admission], mirrors: dict[str, Mirror]) -> None:
        http, pull, node = self.metrics.http, self.metrics.pull, self.metrics.node
        for name, server in (("registry", self.registry), ("peer", self.peer), ("admin", self.admin)):
            connections = server.endpoint.connections
            http.follow_hangups(name, server.stats)
            http.connections.at(name).follow(partial(len, connections))
            for family, counter in http.native():
                family.at(name).follow(partial(getattr, server.stats, counter))
        http.turned_away.at().follow(lambda: sum(admission.turned_away for admission in admissions))
        for name, mirror in mirrors.items():
            for source, counter in (("local", "local"), ("peers", "elsewhere"), ("none", "missed")):
                pull.pulls.at(source, name).follow(partial(getattr, mirror.served, counter))
            for source, counter in (("local", "local_bytes"), ("peers", "elsewhere_bytes")):
                pull.bytes.at(source, name).follow(partial(getattr, mirror.served, counter))
        node.ready.at().follow(lambda: not self.readiness.reasons())
        node.blobs.at().follow(lambda: sum(1 for _ in store.digests()))

    def _forget_answers(self, event: ContentEvent) -> None:
        if not isinstance(event, Arrived):  # nothing is kept for what is not here
            self.registry.endpoint.answers.clear()
            self.peer.endpoint.answers.clear()

    def _say_serving(self) -> None:
        self.readiness.begin()
        log.info(
            "serving",
            extra={
                "event": "daemon.serving",
                "version": __version__,
                "registry": self.registry.addresses[0],
                "peer": self.peer.addresses[0],
                "admin": self.admin.addresses[0],
                "store": self.settings.stores.store,
                "peers": len(self.router.peers()) if isinstance(self.router, StaticRouter) else 0,
            },
        )

    async def _drain(self) -> None:
        self.readiness.end("draining")
        if self.router is not None:
            if isinstance(self.router, InventoryRouter):
                await self.router.leave()
            self.advertiser.retire()
        servers = (self.registry, self.peer)
        busy = sum(len(server.endpoint.connections) for server in servers)
        log.info("draining", extra={"event": "daemon.drain_started", "connections": busy})
        try:
            async with asyncio.timeout(self.settings.serve.drain_timeout), asyncio.TaskGroup() as group:
                for server in servers:
                    group.create_task(server.drain(), name="drain")
        except TimeoutError:
            left = sum(len(server.endpoint.connections) for server in servers)
            log.warning("drain_timeout is over", extra={"event": "daemon.transfers_cut", "connections": left})


class Timed:
    """Measures how long answers from elsewhere take, the 404s too."""

    def __init__(self, elsewhere: Elsewhere, metrics: PullMetrics) -> None:
        self._elsewhere = elsewhere
        self._found = metrics.elsewhere_seconds.at("peers")
        self._missed = metrics.elsewhere_seconds.at("none")

    async def answer(self, pull: Pull, request: Request, done: Done | None = None) -> Reply:
        """See ``Elsewhere``."""
        began = time.monotonic()
        try:
            reply = await self._elsewhere.answer(pull, request, done)
        except RegistryError:
            self._missed.observe(time.monotonic() - began)
            raise
        self._found.observe(time.monotonic() - began)
        return reply


def _judges(
    local: Local, filters: Filters
) -> tuple[Callable[[Digest], bool] | None, Callable[[Reference], bool] | None]:
    """What decides which content and which tags are told to other nodes: what decides whether they are served."""
    if not filters:
        return None, None
    return local.may_serve, lambda reference: filters.allows((reference.name,))


def _open_stores(settings: Settings, readiness: admin.Readiness) -> BlobStore:
    """Open every store, all or none. Raises StoreError that names the setting."""
    with contextlib.ExitStack() as opened:
        stores: list[BlobStore] = []
        for text in settings.stores.store:
            address = check.store(text)
            if address.kind == "oci":
                store: BlobStore = _open_layout(text, Path(address.path), readiness)
            else:
                store = _open_containerd(settings, address, readiness)
            opened.callback(store.close)
            stores.append(store)
        opened.pop_all()
    return stores[0] if len(stores) == 1 else SeveralStores(stores)


def _open_layout(text: str, path: Path, readiness: admin.Readiness) -> BlobStore:
    existed = os.path.exists(path)  # unlike Path.exists it says no where it may not look; open_layout says why not
    try:
        store = open_layout(path, create=True)
    except StoreError as error:
        raise StoreError(f"store: {error}") from error
    readiness.watch(partial(_why_unreadable, text, path / "blobs"))
    if not existed:
        log.info("an empty store was made", extra={"event": "daemon.store_created", "store": text})
    return store


def _open_containerd(settings: Settings, address: check.StoreAddress, readiness: admin.Readiness) -> BlobStore:
    from fastmirror.containerd.store import ContainerdStore, Place  # only nodes with a containerd need it

    if address.kind == "content":
        place = Place(content=Path(address.path))
    else:
        place = Place(
            socket=address.path,
            content=Path(address.content) if address.content else None,
            namespace=settings.stores.containerd_namespace,
            all_namespaces=settings.stores.all_namespaces,
        )
    store = ContainerdStore(place)
    readiness.watch(store.problem)
    return store


def _why_unreadable(text: str, blobs: Path) -> str | None:
    return None if os.access(blobs, os.R_OK | os.X_OK) else f"store {text}: its blobs cannot be read"


def _raise_file_limit() -> None:
    """Each connection and each blob being sent takes a descriptor; the soft limit is 1024 on most systems."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
