"""Every metric of fastmirror, in one table; ``docs/metrics.md`` is generated from it.

Names begin with ``fastmirror_``, units are seconds and bytes, counters end in ``_total``. Labels have closed sets of
values: never a peer, a digest or a repository. A group goes whole to the part that it measures.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

from fastmirror import __version__
from fastmirror.observe.instruments import Cell, Distribution, Family, LabelValues

LISTENERS: Final = ("registry", "peer", "admin")
DATA_LISTENERS: Final = LISTENERS[:2]
SOURCES: Final = ("local", "peers", "none")
OUTCOMES: Final = (
    "got", "lacks", "busy", "unreachable", "stalled", "truncated", "garbled", "differs", "corrupt", "left",
)  # fmt: skip
HANGUPS: Final = ("source", "file", "ending")
REFUSALS: Final = ("address", "signature", "frame", "room", "crowd", "suspicion", "admission")
PEER_STATES: Final = ("live", "backoff", "quarantined")


def counter(name: str, help: str, **labels: LabelValues) -> Family[Cell]:
    """Declare a number that only grows."""
    return Family("counter", name, help, Cell, labels)


def gauge(name: str, help: str, **labels: LabelValues) -> Family[Cell]:
    """Declare a number that goes up and down."""
    return Family("gauge", name, help, Cell, labels)


def histogram(name: str, help: str, **labels: LabelValues) -> Family[Distribution]:
    """Declare a distribution of seconds."""
    return Family("histogram", name, help, Distribution, labels)


class HangupCounts(Protocol):
    """What native code counts of the bodies that it ended."""

    @property
    def hangups(self) -> int:
        """All of them."""

    @property
    def starved(self) -> int:
        """Of these, because no bytes were left."""

    @property
    def truncated(self) -> int:
        """Of these, because of the file."""


class HttpMetrics:
    """The listeners. Native code counts; these are followed."""

    def __init__(self) -> None:
        by = {"listener": LISTENERS}
        self.connections = gauge("connections", "Open client connections.", **by)
        self.accepted = counter("connections_accepted_total", "Client connections accepted.", **by)
        self.turned_away = counter(
            "connections_turned_away_total", "Client connections closed at once because a limit was met."
        )
        self.requests = counter("requests_total", "Requests that were parsed and answered.", **by)
        self.cached = counter("requests_cached_total", "Requests answered again with an answer that was kept.", **by)
        self.refused = counter(
            "requests_refused_total",
            "Requests refused unseen: malformed, too large, neither GET nor HEAD, or not from a node of this cluster.",
            **by,
        )
        self.body_bytes = counter("sent_body_bytes_total", "Bytes of bodies sent to clients.", **by)
        self.offloaded = counter(
            "sent_by_threads_total", "Bodies that native threads sent, or the rest of, as send_with says.", **by
        )
        self.clients_left = counter(
            "clients_left_total", "Clients that closed before the end of a body: usual for containerd, no error.", **by
        )
        self.hangups = counter(
            "hangups_total",
            "Bodies that we ended before their end: no source was left (or what came was wrong), the file could not be"
            " read on, or this process ends, or another client needs the place of a slow reader (ending).",
            reason=HANGUPS, **by,
        )  # fmt: skip
        self.truncated = counter("truncated_files_total", "Bodies cut because the file could not be read on.", **by)

    def native(self) -> tuple[tuple[Family[Cell], str], ...]:
        """The metrics by listener, and the names that they have in native code."""
        return (
            (self.accepted, "accepted"), (self.requests, "requests"), (self.cached, "cached"),
            (self.refused, "refused"), (self.body_bytes, "body_bytes"), (self.offloaded, "offloaded"),
            (self.clients_left, "clients_left"), (self.truncated, "truncated"),
        )  # fmt: skip

    def follow_hangups(self, listener: str, stats: HangupCounts) -> None:
        """From now on show the bodies that a listener ended, by reason."""
        at = self.hangups.at
        at("source", listener).follow(lambda: stats.starved)
        at("file", listener).follow(lambda: stats.truncated)
        at("ending", listener).follow(lambda: stats.hangups - stats.starved - stats.truncated)


class PullMetrics:
    """What became of pulls."""

    def __init__(self) -> None:
        by = {"listener": DATA_LISTENERS}
        self.pulls = counter(
            "pulls_total",
            "Pulls answered, by where the content came from; none is each 404: nobody asked has it (which is usual), "
            "a filter denies it, or a limit was met.",
            source=SOURCES, **by,
        )  # fmt: skip
        self.bytes = counter(
            "pull_bytes_total", "Bytes of content sent, by where it came from.", source=SOURCES[:2], **by
        )
        self.elsewhere_seconds = histogram(
            "elsewhere_seconds", "Time to the answer to a pull of content that is not here, hit or miss.",
            source=SOURCES[1:],
        )  # fmt: skip


class FetchMetrics:
    """Fetching from other nodes."""

    def __init__(self) -> None:
        self.active = gauge("fetches_active", "Blobs that are being fetched from peers.")
        self.readers = gauge("fetch_readers", "Client transfers that read blobs on their way.")
        self.spool_bytes = gauge("spool_bytes", "Disk space that blobs on their way use.")
        self.turned_away = counter(
            "fetches_turned_away_total", "Blobs not fetched because a limit was met; answered 404.",
            limit=("fetches", "spool"),
        )  # fmt: skip
        self.bytes = counter("fetched_bytes_total", "Bytes received from peers, good or not.")
        self.outcomes = counter("peer_outcomes_total", "Requests to peers, by how they ended.", outcome=OUTCOMES)
        self.lookup_seconds = histogram(
            "lookup_seconds", "Time to find who has some content.", result=("found", "empty")
        )
        self.hedges = counter("hedges_total", "Requests for bytes that another peer was late with.")
        self.takeovers = counter("takeovers_total", "Requests to slower peers that were cut in favour of quicker ones.")
        self.refused = counter("pieces_refused_total", "Pieces from peers that were wrong, and fetched again.")
        self.mismatches = counter("digest_mismatches_total", "Contents from peers that did not have their digest.")
        self.peers = gauge(
            "peers", "Other nodes that are known, by what this node has experienced of them.", state=PEER_STATES
        )


class ListCounts(Protocol):
    """What the server of lists counts."""

    answered: int
    made_lists: int
    refused: int


class ListMetrics:
    """Lists of piece hashes that other nodes ask for."""

    def __init__(self) -> None:
        self.answered = counter("lists_answered_total", "Requests for lists of piece hashes that were answered.")
        self.made = counter("lists_made_total", "Lists of piece hashes that were computed to their end.")
        self.refused = counter("lists_refused_total", "Lists not begun because too many were being computed.")

    def follow(self, counts: ListCounts) -> None:
        """From now on show what is counted there."""
        self.answered.at().follow(lambda: counts.answered)
        self.made.at().follow(lambda: counts.made_lists)
        self.refused.at().follow(lambda: counts.refused)


class RouterMetrics:
    """The libp2p router; all zero with another one."""

    def __init__(self) -> None:
        self.nodes = gauge(
            "router_nodes", "Other nodes as the router sees them; unmet: its address is not proved yet.",
            state=("live", "unmet", "lost", "left"),
        )  # fmt: skip
        self.losses = counter("router_losses_total", "How often another node was found gone without a good-bye.")
        self.links = gauge("router_links", "Other nodes that this one is connected to.")
        self.keys = gauge("router_keys", "Contents and tags that this node tells the others of.")
        self.keys_refused = counter("router_keys_refused_total", "Own keys not told because there are too many.")
        self.deltas_in = counter("router_deltas_received_total", "Changes of other nodes' content that were heard of.")
        self.deltas_out = counter("router_deltas_sent_total", "Changes of this node's content that were told.")
        self.resyncs = counter("router_resyncs_total", "Changes that did not fit, so that all was asked for again.")
        self.restarts = counter("router_restarts_total", "Times that the router process ended and was started again.")
        self.turned_away = counter("router_turned_away_total", "Connections closed at once because of a limit.")
        self.refused = counter(
            "router_refused_total", "What was not believed or not let in.", reason=REFUSALS
        )  # fmt: skip
        self.index_entries = gauge("router_index_entries", "Pairs of a key and a node that look-ups know.")
        self.index_bytes = gauge("router_index_bytes", "Memory of what look-ups know.")

    def follow(self, counters: Callable[[], dict[str, int]]) -> None:
        """From now on show what the router counts."""

        def show(cell: Cell, name: str) -> None:
            cell.follow(lambda: counters().get(name, 0))

        for state in ("live", "unmet", "lost", "left"):
            show(self.nodes.at(state), state)
        for reason in REFUSALS:
            show(self.refused.at(reason), f"refused_{reason}")
        for name in (
            "losses", "links", "keys", "keys_refused", "deltas_in", "deltas_out", "resyncs", "restarts",
            "turned_away", "index_entries", "index_bytes",
        ):  # fmt: skip
            show(getattr(self, name).at(), name)


class NodeMetrics:
    """The process as a whole."""

    def __init__(self) -> None:
        self.build_info = gauge(
            "build_info", "Always 1; the labels say what runs.",
            version=(__version__,), python=(platform.python_version(),),
        )  # fmt: skip
        self.build_info.at(__version__, platform.python_version()).set(1)
        self.ready = gauge("ready", "1 while /readyz says yes.")
        self.blobs = gauge("blobs", "Blobs and manifests that are here.")
        self.wrong_blobs = counter(
            "wrong_blobs_total", "Blobs here that were found not to have their digest; they are not served any more."
        )
        self.loop_lag_seconds = histogram(
            "loop_lag_seconds", "How late the event loop runs what is due; probed twice a second."
        )
        self.log_lines_dropped = counter("log_lines_dropped_total", "Log lines dropped because stderr took no more.")


class Metrics:
    """The whole table. Iterating gives every metric, group by group."""

    def __init__(self) -> None:
        self.http = HttpMetrics()
        self.pull = PullMetrics()
        self.fetch = FetchMetrics()
        self.lists = ListMetrics()
        self.router = RouterMetrics()
        self.node = NodeMetrics()

    def __iter__(self) -> Iterator[Family[Any]]:
        for group in vars(self).values():
            yield from vars(group).values()
