"""Hashes of what is in files, by native threads that never take the GIL.

How the loop uses it::

    checker = Checker(threads=2)
    loop.add_reader(checker.fileno(), lambda: [note(work) for work in checker.collect()])
    pieces = checker.sum(file_fd, 0, 3 * PIECE, "blake3")  # told when all three hashes are there
    whole = checker.follow(file_fd, Hasher("sha256"), size)  # told when it has come to the end
    whole.advance(verified)

Everything here is called on one thread, the loop's.
"""

from typing import Final, Literal, Self, TypeAlias, final

from typing_extensions import Buffer, disjoint_base

from fastmirror._native.hashing import Hasher

_Outcome: TypeAlias = Literal["running", "complete", "short", "failed", "cancelled"]

PIECE: Final[int]
"""Bytes of a piece, 1 MiB."""

def implementations() -> tuple[str, ...]:
    """Name what can compute BLAKE3 on this machine, fastest first; the last one is always "portable"."""

def piece_hash(data: Buffer, algorithm: str, implementation: str = "") -> bytes:
    """The hash of at most a piece in memory, with the GIL held: for tests. ``algorithm`` as in :meth:`Checker.sum`.

    ``implementation`` is one of :func:`implementations` and concerns BLAKE3 only; by default the fastest.

    Raises     ValueError for more than a piece, and for names that are not known here.
    """

@disjoint_base
class Work:
    """Bytes of a file that are being hashed. Made by the methods of a :class:`Checker` only.

    Invariants  ``position`` only grows, at any time. ``done``, ``outcome`` and ``errno`` change once, when
                :meth:`Checker.collect` tells the end of the work; after that nothing here changes any more.
                The descriptor is borrowed until ``done``: the caller closes it, and never before.
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        """Raises TypeError: only a :class:`Checker` makes works."""
    @property
    def position(self) -> int:
        """All bytes of the work before it are hashed."""
    @property
    def stop(self) -> int:
        """Where the work ends, in bytes."""
    @property
    def done(self) -> bool:
        """No thread has the descriptor or the hasher any more; the same as ``outcome != "running"``."""
    @property
    def outcome(self) -> _Outcome:
        """What became of it; a value of a closed set.

        running    not ended yet
        complete   all bytes are hashed
        short      the file ends before ``stop``
        failed     reading failed (``errno`` as in pread(2): EIO, EISDIR ...)
        cancelled  by :meth:`cancel` or :meth:`Checker.close`
        """
    @property
    def errno(self) -> int:
        """The error behind ``failed``, else 0."""
    def cancel(self) -> None:
        """Ask for the end of the work; :meth:`Checker.collect` tells it, until then the descriptor stays open.

        Idempotent, does nothing when done. A work that has just come to its end may still end as "complete".
        """

@final
class Sum(Work):
    """The hashes of some pieces of a file."""

    @property
    def algorithm(self) -> str:
        """As in :meth:`Checker.sum`."""
    @property
    def start(self) -> int:
        """Where the first piece begins, in bytes."""
    @property
    def hashes(self) -> bytes:
        """The hashes of the pieces, in order and without gaps; empty unless ``outcome`` is "complete"."""

@final
class Follow(Work):
    """A hasher that is fed from a file as far as bytes are known to be there and right."""

    def advance(self, limit: int) -> None:
        """The bytes before ``limit`` may be read. Smaller limits than before change nothing, larger ones than
        ``stop`` mean ``stop``.
        """

@final
class Checker:
    """Threads that share one queue: each takes the next work, hashes at most 1 MiB of it, and puts it back.

    Invariants  Owned: the threads and one descriptor, until :meth:`close` (or the last reference; a work that is not
                told holds one). Borrowed: the descriptors of every work, until it is done.
                Memory: a little more than 1 MiB for each thread. Signals go to other threads. In a forked child all
                methods but ``close`` raise RuntimeError, and ``close`` only closes the child's descriptor.
    Source      pread(2), eventfd(2), setpriority(2); BLAKE3, FIPS 180-4, XXH3.
    """

    def __new__(cls, threads: int, nice: int = 0) -> Self:
        """Begin 1 to 64 threads, ``nice`` (0 to 19) steps behind the process's own.

        Raises ValueError, or OSError if the system has no room for them.
        """
    @property
    def threads(self) -> int:
        """How many threads there are; 0 after :meth:`close`."""
    @property
    def running(self) -> int:
        """Works whose end :meth:`collect` has not told yet."""
    def fileno(self) -> int:
        """A descriptor for ``loop.add_reader``: readable when a work has ended. Raises ValueError if closed."""
    def sum(self, fd: int, start: int, stop: int, algorithm: str) -> Sum:
        """Begin to hash each piece of the bytes ``[start, stop)``; ``start`` is where a piece begins.

        ``algorithm`` is "blake3", "sha256" (32 bytes each) or "xxh3-128" (16 bytes, big-endian). The pieces of one work
        are done in order, by one thread at a time; several works go on beside each other.

        Raises     ValueError for what is no piece or no algorithm, or a closed checker; OSError for a descriptor
                   that is not open. Then nothing has begun.
        """
    def follow(self, fd: int, hasher: Hasher, stop: int) -> Follow:
        """Feed ``hasher`` with the bytes ``[hasher.length, stop)`` of the file, as far as the follow is advanced.

        The hasher belongs to the work until it is done; then it has had the bytes before ``position``.

        Raises     ValueError if the hasher has had more than ``stop`` bytes, or for a closed checker; OSError for a
                   descriptor that is not open; RuntimeError if the hasher is in use. Then nothing has begun.
        """
    def collect(self) -> list[Sum | Follow]:
        """The works that ended since the last call, each once; resets the descriptor. Never blocks.

        After :meth:`close` the works that it cancelled are still told.
        """
    def close(self) -> None:
        """Cancel all works, wait for the threads (at most for a read that is under way); idempotent.

        Remove the reader of :meth:`fileno` before.
        """
