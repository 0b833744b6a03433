from asyncio import AbstractEventLoop
from collections.abc import Callable
from typing import Any

from typing_extensions import disjoint_base

from fastmirror._native.connection import Connection
from fastmirror._native.requests import Refusal

@disjoint_base
class Reply:
    """One response. Exactly one of ``content`` and ``body`` carries what follows the head; a HEAD gets neither.

    head        status line and header fields, each ended by CRLF, without Date, Connection and the empty line
    content     a small body, sent together with the head
    body        a FileBody, of which ``[start, stop)`` is sent; the reply owns it
    close       end the connection (by FIN) after this reply
    cacheable   equal requests (without Range) may be answered with it until ``Endpoint.answers`` is cleared
    done        called once when the reply is over: bytes of body sent, and whether that was all of it
    cut         called before ``done`` with the offset of the first byte that could not be read from the file
    """

    def __new__(
        cls,
        head: bytes,
        content: bytes = ...,
        *,
        body: Any = ...,
        start: int = ...,
        stop: int = ...,
        close: bool = ...,
        cacheable: bool = ...,
        done: Callable[[int, bool], object] | None = ...,
        cut: Callable[[int], object] | None = ...,
    ) -> Reply: ...
    @property
    def head(self) -> bytes: ...
    @property
    def content(self) -> bytes: ...
    @property
    def body(self) -> Any: ...
    @property
    def start(self) -> int: ...
    @property
    def stop(self) -> int: ...
    @property
    def close(self) -> bool: ...
    @property
    def cacheable(self) -> bool: ...
    @property
    def done(self) -> Callable[[int, bool], object] | None: ...
    @property
    def cut(self) -> Callable[[int], object] | None: ...

@disjoint_base
class Stats:
    """Counters of one endpoint since it was made; plain integers that any thread may read.

    ``cached``: answered from kept answers; ``offloaded``: bodies, or parts of them, given to the native threads;
    ``hangups``: replies ended early by us; of these ``starved``: because the body has no further bytes, and
    ``truncated``: because the file was shorter than promised or could not be read; ``clients_left``: replies that the
    client ended early.
    """

    @property
    def accepted(self) -> int: ...
    @property
    def closed(self) -> int: ...
    @property
    def requests(self) -> int: ...
    @property
    def cached(self) -> int: ...
    @property
    def refused(self) -> int: ...
    @property
    def body_bytes(self) -> int: ...
    @property
    def offloaded(self) -> int: ...
    @property
    def hangups(self) -> int: ...
    @property
    def starved(self) -> int: ...
    @property
    def truncated(self) -> int: ...
    @property
    def clients_left(self) -> int: ...

@disjoint_base
class Pace:
    """How the connections of all endpoints of one loop share it.

    How many want to send file bytes now, and whether small replies were sent lately, sizes the turns of sending. Who
    has more pipelined requests than one turn is for stands in a line, of which the loop serves about a millisecond
    at once.
    """

    def run(self) -> None:
        """Give those in line their turns; called by the loop."""

    @property
    def sending(self) -> int: ...

@disjoint_base
class Senders:
    """Native threads that send the bodies of files for all endpoints of one loop, without the GIL.

    Begun with the first body that is for them. With ``only_cold`` these are the bytes that are not in the page cache,
    for which the loop would wait for a disk; else all bodies that are there whole. Where threads cannot be begun the
    loop sends. Owned by who makes it: :meth:`close`, after the connections are closed. Raises ValueError for
    ``threads`` outside 1 to 64.
    """

    def __new__(cls, loop: AbstractEventLoop, threads: int, only_cold: bool) -> Senders: ...
    @property
    def only_cold(self) -> bool: ...
    @property
    def running(self) -> int:
        """Bodies that the threads have now."""

    def collect(self) -> None:
        """Give back what has ended; called by the loop."""

    def close(self) -> None:
        """End the threads; idempotent. Connections that they serve must be closed before, and get their ends here.

        Waits up to 2 s for a read of a slow disk; a thread that is still in one then ends by itself after it.
        """

@disjoint_base
class Endpoint:
    """What the connections of one listener share.

    answer   ``Answer`` of ``http.message``
    spawn    runs the awaitable of an answer and calls ``Connection.deliver``; returns something with ``cancel()``
    refuse   makes the Reply for a Refusal
    closed   called with each connection after it was closed
    senders  send the bodies that are for them; None: the loop's thread sends all
    admits   whether a request with this Fastmirror-Token (None: without one) is answered; None: all are
    """

    def __new__(
        cls,
        loop: AbstractEventLoop,
        answer: Callable[..., Any],
        spawn: Callable[..., Any],
        refuse: Callable[[Refusal], Reply],
        closed: Callable[[Connection], object],
        pace: Pace,
        senders: Senders | None = None,
    ) -> Endpoint: ...
    def tick(self, now: float, date: bytes) -> None:
        """Set the coarse clock (seconds of the loop) and the value of Date; about twice a second."""

    @property
    def stats(self) -> Stats: ...
    @property
    def pace(self) -> Pace: ...
    @property
    def senders(self) -> Senders | None: ...
    admits: Callable[[bytes | None], bool] | None
    @property
    def answers(self) -> dict[bytes, Reply]: ...
    @property
    def connections(self) -> set[Connection]: ...
    @property
    def now(self) -> float: ...
