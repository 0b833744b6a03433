"""C face of ``ext/check.pyx``."""

from libc.stdint cimport int64_t, uint8_t
from posix.types cimport pid_t

from fastmirror._native.hashing cimport Hasher, fm_hash


cdef extern from "blake3.h" nogil:
    const char *fm_blake3_way(int n)


cdef extern from "check_threads.h" nogil:
    enum:
        FM_WORK_RUNNING
        FM_WORK_COMPLETE
        FM_WORK_SHORT
        FM_WORK_FAILED
        FM_WORK_CANCELLED
        FM_PIECE

    ctypedef struct fm_sum:
        pass

    ctypedef struct fm_checker:
        pass

    ctypedef struct fm_work:
        void *owner
        int file
        int64_t stop
        const fm_sum *sum
        uint8_t *hashes
        fm_hash *hash
        int error
        int64_t position
        int64_t limit
        fm_work *next_news

    const fm_sum *fm_sum_named(const char *name)
    size_t fm_sum_size(const fm_sum *sum)
    int fm_sum_hash(const fm_sum *sum, int way, const uint8_t *data, size_t size, uint8_t *hash)
    int fm_work_outcome(const fm_work *work)
    int64_t fm_work_position(const fm_work *work)
    fm_checker *fm_checker_new(int threads, int nice)
    int fm_checker_fd(const fm_checker *checker)
    int fm_checker_start(fm_checker *checker, fm_work *work)
    void fm_checker_advance(fm_checker *checker, fm_work *work, int64_t limit)
    void fm_checker_cancel(fm_checker *checker, fm_work *work)
    fm_work *fm_checker_collect(fm_checker *checker)
    void fm_checker_stop(fm_checker *checker)
    void fm_checker_abandon(fm_checker *checker)
    void fm_checker_free(fm_checker *checker)


cdef class Work:
    cdef fm_work c
    cdef Checker checker
    cdef bint told


cdef class Sum(Work):
    cdef bytes room
    cdef readonly str algorithm
    cdef readonly int64_t start


cdef class Follow(Work):
    cdef Hasher hasher


cdef class Checker:
    cdef fm_checker *pool
    cdef pid_t process
    cdef readonly int threads
    cdef readonly Py_ssize_t running

    cdef int usable(self) except -1
    cdef int begin(self, Work work) except -1
    cdef list take_news(self)
