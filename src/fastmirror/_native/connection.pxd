"""C face of ``ext/connection.pyx``."""

from fastmirror._native.endpoint cimport Reply
from fastmirror._native.requests cimport Request, RequestReader
from fastmirror._native.sender cimport Course, Sender


cdef class Connection(Sender):
    cdef RequestReader requests
    cdef bytes stash
    # the reply that is being sent
    cdef bint busy
    cdef Request request
    cdef object task
    cdef Reply reply
    cdef bint close_after
    # the connection
    cdef bint eof
    cdef bint last
    cdef bint lingering
    cdef bint ending     # to be hung up when it is given back
    cdef bint closing    # to be closed when it is given back
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
    cdef void not_sent(self, Course course)
    cdef void finish(self)
    cdef void release(self, bint complete)
    cdef void drop(self)
    cdef void abandon(self)
    cdef int leave(self)
