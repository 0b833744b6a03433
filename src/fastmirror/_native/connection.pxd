"""C face of ``ext/connection.pyx``."""

from fastmirror._native.endpoint cimport Reply
from fastmirror._native.link cimport Link
from fastmirror._native.requests cimport Request, RequestReader


cdef class Connection(Link):
    cdef RequestReader requests
    cdef bytes stash
    # the reply that is being sent
    cdef bint busy
    cdef Request request
    cdef object task
    cdef Reply reply
    cdef object body
    cdef int body_fd
    cdef bint parked
    cdef bint lowat
    cdef long long start
    cdef long long pos
    cdef long long stop
    cdef bint close_after
    # the connection
    cdef bint eof
    cdef bint last
    cdef bint lingering
    cdef long long discarded
    cdef bint pumping
    cdef bint queued

    cdef bint read(self) except -1
    cdef void pump(self)
    cdef bint has_request(self)
    cdef bint pending(self)
    cdef void next_request(self)
    cdef void reply_to(self, Request request, Reply reply)
    cdef void begin(self, Reply reply, bint is_head, bint keep_alive, bint ranged)
    cdef bint send_out(self)
    cdef bint send_file(self)
    cdef void finish(self)
    cdef void release(self, bint complete)
    cdef void drop(self)
    cdef void abandon(self)
    cdef int leave(self)
