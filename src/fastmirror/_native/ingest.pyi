"""Bodies from peers' sockets into files, hashed on the way, by native threads that never take the GIL.

How the loop uses it::

    ingester = Ingester(threads=4)
    loop.add_reader(ingester.fileno(), lambda: [note(job) for job in ingester.collect()])
    job = ingester.start(sock_fd, file_fd, span.start, span.length, hasher, prefix=body_bytes_after_the_head)

Everything here is called on one thread, the loop's.
"""

from typing import Literal, Self, TypeAlias, final

from fastmirror._native.hashing import Hasher

_Outcome: TypeAlias = Literal["running", "complete", "closed", "reset", "failed", "disk", "cancelled"]

@final
class Job:
    """One body, or a part of one, on its way from a socket into a file. Made by :meth:`Ingester.start` only.

    Invariants  ``received`` only grows, at any time; ``length`` only falls, by :meth:`shorten`. ``done``,
                ``outcome`` and ``errno`` change once, when :meth:`Ingester.collect` tells the end of the job; after
                that nothing here changes any more.
                The descriptors are borrowed until ``done``: the caller closes them, and never before.
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        """Raises TypeError: only :meth:`Ingester.start` makes jobs."""
    @property
    def offset(self) -> int:
        """Where in the file the first byte goes, in bytes."""
    @property
    def length(self) -> int:
        """Bytes wanted; not one more is read from the socket."""
    @property
    def received(self) -> int:
        """Bytes that are written to the file and hashed: the file is right in [offset, offset + received)."""
    @property
    def last_progress(self) -> float:
        """When the last byte was received (at first: when the job began), in ``time.monotonic()`` seconds."""
    @property
    def done(self) -> bool:
        """No thread has the descriptors or the hasher any more; the same as ``outcome != "running"``."""
    @property
    def outcome(self) -> _Outcome:
        """What became of it; a value of a closed set.

        running    not ended yet
        complete   all ``length`` bytes are there; the connection can be used again, unless ``cancel`` was called or
                   ``shorten`` made the job shorter
        closed     the peer sent FIN before that
        reset      the connection was reset (``errno`` ECONNRESET or EPIPE)
        failed     receiving failed otherwise (``errno`` as in recv(2): ETIMEDOUT, EHOSTUNREACH ...)
        disk       writing failed (``errno`` as in pwrite(2): ENOSPC, EDQUOT, EIO, EFBIG ...): not the peer's fault
        cancelled  by :meth:`cancel` or :meth:`Ingester.close`
        """
    @property
    def errno(self) -> int:
        """The error behind ``reset``, ``failed`` and ``disk``, else 0."""
    def cancel(self) -> None:
        """Ask for the end of the job: shuts the socket down both ways. Idempotent, does nothing when done.

        The end is told by :meth:`Ingester.collect` like every other; until then the descriptors must stay open.
        A job whose last byte was just received may still end as "complete", but its connection cannot be used again.
        """
    def shorten(self, length: int) -> int:
        """Receive only ``length`` bytes, or a few more that may be being received right now; gives the ``length`` from
        now on, which is never raised. The job ends as "complete" there, without waiting for one more byte.

        Raises     ValueError if the number is negative.
        """

@final
class Ingester:
    """Threads that share one epoll: each takes the next readable socket, moves at most 1 MiB, and re-arms it.

    Invariants  Owned: the epoll, two more descriptors and the threads, until :meth:`close` (or the last reference).
                Borrowed: the descriptors of every job, until it is done.
                Memory: one 256 KiB buffer for each thread. Signals go to other threads. In a forked child all
                methods but ``close`` raise RuntimeError, and ``close`` only closes the child's descriptors.
    Source      epoll(7) (EPOLLONESHOT), timerfd_create(2), recv(2), pwrite(2).
    """

    def __new__(cls, threads: int, rate: int = 0) -> Self:
        """Begin 1 to 64 threads. All jobs together receive at most ``rate`` bytes per second (0: any), a fiftieth of it
        at once. Raises ValueError, or OSError if the system has no room for the threads.
        """
    @property
    def threads(self) -> int:
        """How many threads there are; 0 after :meth:`close`."""
    @property
    def running(self) -> int:
        """Jobs whose end :meth:`collect` has not told yet."""
    def fileno(self) -> int:
        """A descriptor for ``loop.add_reader``: readable when :meth:`collect` has news.

        The end of a job is news at once, mere progress at most every 2 ms. Raises ValueError if closed.
        """
    def start(
        self, sock_fd: int, file_fd: int, offset: int, length: int, hasher: Hasher | None, prefix: bytes = b""
    ) -> Job:
        """Receive ``length`` bytes from a connected socket into a file at ``offset``.

        ``prefix`` are bytes of the body that came with its head: they are written first and count as received.
        The hasher, if any, gets all bytes in order, and belongs to the job until it is done. The socket need not be
        non-blocking; nobody else may read from it meanwhile. A socket has one job at a time.

        Raises     ValueError for numbers out of range or a closed ingester; OSError for a descriptor that is not
                   open or not a socket; RuntimeError if the hasher is in use. Then nothing has begun.
        """
    def collect(self) -> list[Job]:
        """The jobs that got bytes or ended since the last call, each once; resets the descriptor. Never blocks.

        An ended job is told exactly once; after :meth:`close` the jobs that it cancelled are still told.
        """
    def close(self) -> None:
        """Cancel all jobs, wait for the threads (at most for a write that is under way); idempotent.

        Remove the reader of :meth:`fileno` before.
        """
