"""Hashes of what is in files, by the threads of ``ext/check_threads.c``: here are only their Python faces.

Source: see ext/check_threads.h.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport strerror
from posix.unistd cimport getpid

from fastmirror._native.hashing cimport Hasher, fm_hash_give

PIECE = FM_PIECE

cdef enum:
    THREADS_MAX = 64
    PIECES_MAX = 65536

cdef dict OUTCOMES = {
    FM_WORK_RUNNING: "running",
    FM_WORK_COMPLETE: "complete",
    FM_WORK_SHORT: "short",
    FM_WORK_FAILED: "failed",
    FM_WORK_CANCELLED: "cancelled",
}


cdef object os_error(int number):
    return OSError(number, strerror(number).decode("ascii", "replace"))


cdef const fm_sum *find_sum(str algorithm) except NULL:
    cdef const fm_sum *how = fm_sum_named(algorithm.encode())
    if how is NULL:
        raise ValueError(f"pieces are not hashed by {algorithm!r}: use blake3, sha256 or xxh3-128")
    return how


def implementations():
    """Name what can compute BLAKE3 on this machine, fastest first; the last one is always "portable"."""
    cdef list names = []
    while fm_blake3_way(<int>len(names)) is not NULL:
        names.append(fm_blake3_way(<int>len(names)).decode())
    return tuple(names)


def piece_hash(const uint8_t[::1] data not None, str algorithm not None, str implementation not None=""):
    """The hash of a piece in memory."""
    cdef const fm_sum *how = find_sum(algorithm)
    cdef uint8_t out[64]
    cdef int way = implementations().index(implementation) if implementation else 0
    if data.shape[0] > FM_PIECE:
        raise ValueError(f"{data.shape[0]} bytes are more than a piece")
    cdef int error = fm_sum_hash(how, way, &data[0] if data.shape[0] else NULL, <size_t>data.shape[0], out)
    if error:
        raise MemoryError
    return (<char *>out)[:fm_sum_size(how)]


@cython.no_gc
cdef class Work:
    """Bytes of a file that are being hashed.

    Invariants  While the threads may use ``c``, the Checker owns one reference to the work: from a successful
                ``begin`` until ``told``. The file is borrowed; what the threads write to is held by the subclass.
                ``told`` is set when the end was collected, so that a work never ends between two looks at it.
    """

    def __init__(self):
        raise TypeError("works are made by Checker.sum and Checker.follow")

    @property
    def position(self):
        return fm_work_position(&self.c)

    @property
    def stop(self):
        return self.c.stop

    @property
    def done(self):
        return self.told

    @property
    def outcome(self):
        return OUTCOMES[fm_work_outcome(&self.c)] if self.told else "running"

    @property
    def errno(self):
        return self.c.error if self.told else 0

    def cancel(self):
        """Ask for the end of the work. Idempotent, does nothing when done."""
        if not self.told and self.checker.pool is not NULL and self.checker.process == getpid():
            fm_checker_cancel(self.checker.pool, &self.c)


@cython.final
@cython.no_gc
cdef class Sum(Work):
    """The hashes of some pieces of a file; ``room`` is where the threads write them."""

    @property
    def hashes(self):
        return self.room if self.told and fm_work_outcome(&self.c) == FM_WORK_COMPLETE else b""


@cython.final
@cython.no_gc
cdef class Follow(Work):
    """A hasher that is fed from a file up to a limit that moves; the hasher belongs to the work until it is done."""

    def advance(self, int64_t limit):
        """The bytes before ``limit`` are there and right."""
        if not self.told and self.checker.process == getpid():
            fm_checker_advance(self.checker.pool, &self.c, limit)


@cython.final
cdef class Checker:
    """Threads that share one queue: each takes the next work, hashes at most 1 MiB of it, and puts it back.

    Invariants  ``pool`` is owned, from ``__cinit__`` to ``__dealloc__``; its threads run while ``threads`` > 0.
                ``running`` counts the works that were begun and not told yet; each of them holds the Checker.
    """

    def __cinit__(self, int threads, int nice=0):
        if not 1 <= threads <= THREADS_MAX:
            raise ValueError(f"threads must be 1 to {THREADS_MAX}, not {threads}")
        if not 0 <= nice <= 19:
            raise ValueError(f"nice must be 0 to 19, not {nice}")
        self.process = getpid()
        self.pool = fm_checker_new(threads, nice)
        if self.pool is NULL:
            raise os_error(errno)
        self.threads = threads

    def __dealloc__(self):
        if self.pool is NULL:
            return
        if self.threads and self.process == getpid():
            fm_checker_stop(self.pool)
        elif self.threads:
            fm_checker_abandon(self.pool)
        fm_checker_free(self.pool)

    cdef int usable(self) except -1:
        if self.process != getpid():
            raise RuntimeError("this Checker belongs to the process that forked this one")
        if not self.threads:
            raise ValueError("the Checker is closed")
        return 0

    def fileno(self):
        """A descriptor for ``loop.add_reader``: readable when :meth:`collect` has news."""
        self.usable()
        return fm_checker_fd(self.pool)

    def sum(self, int fd, int64_t start, int64_t stop, str algorithm not None):
        """Begin to hash each piece of ``[start, stop)``."""
        cdef Sum work = Sum.__new__(Sum)
        cdef const fm_sum *how = find_sum(algorithm)
        self.usable()
        if start < 0 or stop < start or start % FM_PIECE or (stop - start) > <int64_t>PIECES_MAX * FM_PIECE:
            raise ValueError(f"[{start}, {stop}) are no pieces of a file")
        cdef int64_t count = (stop - start + FM_PIECE - 1) // FM_PIECE
        work.room = PyBytes_FromStringAndSize(NULL, count * <int64_t>fm_sum_size(how))
        work.algorithm = algorithm
        work.start = start
        work.c.sum = how
        work.c.hashes = <uint8_t *>PyBytes_AS_STRING(work.room)
        work.c.file = fd
        work.c.position = start
        work.c.stop = work.c.limit = stop
        self.begin(work)
        return work

    def follow(self, int fd, Hasher hasher not None, int64_t stop):
        """Feed ``hasher`` with the bytes from ``hasher.length`` on, as far as :meth:`Follow.advance` lets it."""
        cdef Follow work = Follow.__new__(Follow)
        self.usable()
        hasher.take()
        cdef int64_t start = <int64_t>hasher.state.length
        try:
            if stop < start:
                raise ValueError(f"the hasher has had {start} bytes already, more than {stop}")
            work.hasher = hasher
            work.c.hash = &hasher.state
            work.c.file = fd
            work.c.position = work.c.limit = start
            work.c.stop = stop
            self.begin(work)
        except BaseException:
            fm_hash_give(&hasher.state)
            raise
        return work

    cdef int begin(self, Work work) except -1:
        work.c.owner = <void *>work
        work.checker = self
        Py_INCREF(work)
        cdef int error = fm_checker_start(self.pool, &work.c)
        if error:
            Py_DECREF(work)
            raise os_error(error)
        self.running += 1
        return 0

    def collect(self):
        """The works that ended since the last call, each once; resets the descriptor. Never blocks."""
        if self.process != getpid():
            self.usable()
        return self.take_news()

    cdef list take_news(self):
        cdef list works = []
        cdef fm_work *c = fm_checker_collect(self.pool)
        cdef Work work
        while c is not NULL:
            work = <Work>c.owner
            c = c.next_news
            work.told = True
            works.append(work)
            self.running -= 1
            Py_DECREF(work)
        return works

    def close(self):
        """Cancel all works, wait for the threads (at most for a read that is under way); idempotent."""
        if not self.threads:
            return
        self.threads = 0
        if self.process != getpid():
            fm_checker_abandon(self.pool)
            return
        with nogil:
            fm_checker_stop(self.pool)
