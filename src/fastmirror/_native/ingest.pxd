"""C face of ``ext/ingest.pyx``."""

from libc.stdint cimport int64_t, uint8_t
from posix.types cimport pid_t

from fastmirror._native.hashing cimport Hasher, fm_hash


cdef extern from "ingest_threads.h" nogil:
    enum:
        FM_RUNNING
        FM_COMPLETE
        FM_CLOSED
        FM_RESET
        FM_FAILED
        FM_DISK
        FM_CANCELLED

    ctypedef struct fm_ingester:
        pass

    ctypedef struct fm_job:
        void *owner
        int sock
        int file
        int64_t offset
        int64_t length
        fm_hash *hash
        const uint8_t *prefix
        size_t prefix_size
        int error
        fm_job *next_collected
        int final

    int fm_job_outcome(const fm_job *job)
    int64_t fm_job_received(const fm_job *job)
    int64_t fm_job_progress_ns(const fm_job *job)
    fm_ingester *fm_ingester_new(int threads, int64_t rate)
    int fm_ingester_fd(const fm_ingester *ingester)
    int fm_ingester_start(fm_ingester *ingester, fm_job *job)
    fm_job *fm_ingester_collect(fm_ingester *ingester)
    void fm_ingester_cancel(fm_job *job)
    int64_t fm_ingester_shorten(fm_job *job, int64_t length)
    void fm_ingester_stop(fm_ingester *ingester)
    void fm_ingester_abandon(fm_ingester *ingester)
    void fm_ingester_free(fm_ingester *ingester)


cdef class Job:
    cdef fm_job c
    cdef Hasher hasher
    cdef bytes prefix
    cdef bint told


cdef class Ingester:
    cdef fm_ingester *pool
    cdef pid_t process
    cdef readonly int threads
    cdef readonly Py_ssize_t running

    cdef int usable(self) except -1
    cdef list take_news(self)
