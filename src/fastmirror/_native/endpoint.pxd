"""C face of ``ext/endpoint.pyx``."""

from posix.types cimport off_t


cdef extern from "sendpool.h" nogil:
    ctypedef struct SendPool:
        pass
    ctypedef struct Sending:
        int sock
        int file
        off_t pos
        off_t stop
        void *owner
        int error
        Sending *next
    SendPool *sendpool_open(int threads)
    int sendpool_fd(const SendPool *pool)
    int sendpool_start(SendPool *pool, Sending *sending)
    long long sendpool_reached(const Sending *sending)
    Sending *sendpool_collect(SendPool *pool)
    void sendpool_close(SendPool *pool)


cdef class Reply:
    cdef readonly bytes head
    cdef readonly bytes content
    cdef readonly object body
    cdef readonly long long start
    cdef readonly long long stop
    cdef readonly bint close
    cdef readonly bint cacheable
    cdef readonly object done
    cdef readonly object cut


cdef class Stats:
    cdef readonly long long accepted
    cdef readonly long long closed
    cdef readonly long long requests
    cdef readonly long long cached
    cdef readonly long long refused
    cdef readonly long long body_bytes
    cdef readonly long long offloaded
    cdef readonly long long hangups
    cdef readonly long long starved
    cdef readonly long long truncated
    cdef readonly long long clients_left


cdef class Pace:
    cdef readonly Py_ssize_t sending
    cdef bint mixed    # small replies left since the last tick
    cdef object line
    cdef object loop
    cdef bint running

    cdef int limit(self)
    cdef void line_up(self, connection, loop)


cdef class Senders:
    cdef object loop
    cdef int threads
    cdef readonly bint only_cold
    cdef SendPool *pool
    cdef readonly Py_ssize_t running
    cdef bint closed

    cdef bint start(self, Sending *sending, connection)


cdef class Endpoint:
    cdef object loop
    cdef object answer
    cdef object spawn
    cdef object refuse
    cdef object closed
    cdef readonly Stats stats
    cdef readonly Pace pace
    cdef readonly Senders senders
    cdef readonly dict answers
    cdef public object admits
    cdef readonly set connections
    cdef readonly double now
    cdef bytes tail
    cdef bytes tail_close
