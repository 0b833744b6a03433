"""Bodies from sockets into files by the threads of ``ext/ingest_threads.c``: here are only their Python faces.

Source: see ext/ingest_threads.h.
"""

cimport cython
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport errno
from libc.stdint cimport INT64_MAX, int64_t, uint8_t
from libc.string cimport strerror
from posix.unistd cimport getpid

from fastmirror._native.hashing cimport fm_hash_give


cdef enum:
    THREADS_MAX = 64

cdef dict OUTCOMES = {
    FM_RUNNING: "running",
    FM_COMPLETE: "complete",
    FM_CLOSED: "closed",
    FM_RESET: "reset",
    FM_FAILED: "failed",
    FM_DISK: "disk",
    FM_CANCELLED: "cancelled",
}


cdef object os_error(int number):
    return OSError(number, strerror(number).decode("ascii", "replace"))


@cython.final
@cython.no_gc
cdef class Job:
    """One body, or a part of one, on its way from a socket into a file.

    Invariants  While the threads may use ``c``, the Ingester owns one reference to the job: from a successful
                ``start`` until ``told``. Descriptors are borrowed; ``prefix`` and ``hasher`` are held for ``c``.
                ``told`` is set when ``c.final`` was collected, so that a job never ends between two looks at it.
    """

    def __init__(self):
        raise TypeError("jobs are made by Ingester.start")

    @property
    def offset(self):
        return self.c.offset

    @property
    def length(self):
        return self.c.length

    @property
    def received(self):
        return fm_job_received(&self.c)

    @property
    def last_progress(self):
        return fm_job_progress_ns(&self.c) * 1e-9

    @property
    def done(self):
        return self.told

    @property
    def outcome(self):
        return OUTCOMES[fm_job_outcome(&self.c)] if self.told else "running"

    @property
    def errno(self):
        return self.c.error if self.told else 0

    def cancel(self):
        """Ask for the end of the job: shuts the socket down both ways. Idempotent, does nothing when done."""
        fm_ingester_cancel(&self.c)

    def shorten(self, int64_t length):
        """Lower the length, as far as that is still possible; gives the length that the job has now."""
        if length < 0:
            raise ValueError(f"{length} is no length")
        return self.c.length if self.told else fm_ingester_shorten(&self.c, length)


@cython.final
cdef class Ingester:
    """Threads that share one epoll: each takes the next readable socket, moves at most 1 MiB, and re-arms it.

    Invariants  ``pool`` is owned, from ``__cinit__`` to ``__dealloc__``; its threads run while ``threads`` > 0.
                ``running`` counts the jobs that were started and not told yet.
    """

    def __cinit__(self, int threads, int64_t rate=0):
        if not 1 <= threads <= THREADS_MAX:
            raise ValueError(f"threads must be 1 to {THREADS_MAX}, not {threads}")
        if rate < 0:
            raise ValueError(f"{rate} is no rate")
        self.process = getpid()
        self.pool = fm_ingester_new(threads, rate)
        if self.pool is NULL:
            raise os_error(errno)
        self.threads = threads

    def __dealloc__(self):
        if self.pool is NULL:
            return
        if self.process != getpid():
            fm_ingester_abandon(self.pool)
        elif self.threads:
            fm_ingester_stop(self.pool)
        if self.process == getpid():
            self.take_news()
        fm_ingester_free(self.pool)

    cdef int usable(self) except -1:
        if self.process != getpid():
            raise RuntimeError("this Ingester belongs to the process that forked this one")
        if not self.threads:
            raise ValueError("the Ingester is closed")
        return 0

    def fileno(self):
        """A descriptor for ``loop.add_reader``: readable when :meth:`collect` has news."""
        self.usable()
        return fm_ingester_fd(self.pool)

    def start(self, int sock_fd, int file_fd, int64_t offset, int64_t length, Hasher hasher, bytes prefix not None=b""):
        """Receive ``length`` bytes from a connected socket into a file at ``offset``."""
        cdef Job job = Job.__new__(Job)
        cdef int error
        self.usable()
        if offset < 0 or length < 0 or offset > INT64_MAX - length:
            raise ValueError(f"offset {offset} and length {length} are no part of a file")
        if len(prefix) > length:
            raise ValueError(f"{len(prefix)} bytes came with the head, more than the {length} of the body")
        job.hasher = hasher
        job.prefix = prefix
        job.c.owner = <void *>job
        job.c.sock = sock_fd
        job.c.file = file_fd
        job.c.offset = offset
        job.c.length = length
        job.c.prefix = <const uint8_t *><const char *>prefix
        job.c.prefix_size = len(prefix)
        if hasher is not None:
            hasher.take()
            job.c.hash = &hasher.state
        error = fm_ingester_start(self.pool, &job.c)
        if error:
            if hasher is not None:
                fm_hash_give(&hasher.state)
            raise os_error(error)
        Py_INCREF(job)
        self.running += 1
        return job

    def collect(self):
        """The jobs that got bytes or ended since the last call, each once; resets the descriptor. Never blocks."""
        if self.process != getpid():
            self.usable()
        return self.take_news()

    cdef list take_news(self):
        cdef list jobs = []
        cdef fm_job *c = fm_ingester_collect(self.pool)
        cdef Job job
        while c is not NULL:
            job = <Job>c.owner
            c = c.next_collected
            jobs.append(job)
            if job.c.final:
                job.told = True
                job.prefix = None
                self.running -= 1
                Py_DECREF(job)
        return jobs

    def close(self):
        """Cancel all jobs, wait for the threads (at most for a write that is under way); idempotent."""
        if not self.threads:
            return
        self.threads = 0
        if self.process != getpid():
            fm_ingester_abandon(self.pool)
            return
        with nogil:
            fm_ingester_stop(self.pool)
