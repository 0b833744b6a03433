"""C face of ``ext/connection.pyx``."""

from fastmirror._native.endpoint cimport Endpoint, Reply
from fastmirror._native.requests cimport Request, RequestReader


cdef class Connection:
    cdef Endpoint endpoint
    cdef readonly str client
    cdef int fd
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
    cdef bytes out
    cdef Py_ssize_t out_pos
    cdef bint close_after
    # the socket
    cdef bint reading
    cdef bint writing
    cdef bint eof
    cdef bint last
    cdef bint lingering
    cdef bint pumping
    cdef readonly double since

    cdef void read(self)
    cdef void pump(self)
    cdef void next_request(self)
    cdef void reply_to(self, Request request, Reply reply)
    cdef void begin(self, Reply reply, bint is_head, bint keep_alive, bint ranged)
    cdef bint send_parts(self, bytes head, bytes tail, bytes content, bint more)
    cdef bint send_out(self)
    cdef bint send_file(self)
    cdef void finish(self)
    cdef void release(self, bint complete)
    cdef void want_write(self, bint on)
    cdef void want_read(self, bint on)
    cdef void drop(self)
    cdef void abandon(self)
