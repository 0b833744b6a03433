"""C face of ``ext/link.pyx``."""

from fastmirror._native.endpoint cimport Endpoint


cdef class Link:
    cdef Endpoint endpoint
    cdef readonly str client
    cdef int fd
    cdef bint reading
    cdef bint writing
    # what waits to leave from memory
    cdef bint unsent
    cdef bytes head
    cdef bytes tail
    cdef bytes content
    cdef Py_ssize_t out_pos
    # how fast it leaves
    cdef readonly double since
    cdef readonly double rate
    cdef long long taken
    cdef long long marked
    cdef double marked_at

    cdef void want_read(self, bint on)
    cdef void want_write(self, bint on)
    cdef int send_parts(self, bytes head, bytes tail, bytes content, bint more)
    cdef int send_rest(self, bint more)
    cdef void forget_parts(self)
    cdef void progress(self, long long count)
    cdef void judge(self, bint waits)
