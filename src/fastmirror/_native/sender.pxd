"""C face of ``ext/sender.pyx``."""

from fastmirror._native.endpoint cimport Sending
from fastmirror._native.link cimport Link


cdef enum Course:
    WAITS    # for the socket, the body, or a native thread
    SENT     # all of it
    GONE     # the client is
    ENDED    # the body has, before its end
    CUT      # the file is shorter than was promised, or the disk failed


cdef class Sender(Link):
    cdef object body
    cdef int body_fd
    cdef bint parked
    cdef bint corked
    cdef bint lowat
    cdef long long start
    cdef long long pos
    cdef long long stop
    cdef Sending sending
    cdef bint offloaded
    cdef long long looked    # up to where the file was in memory when it was looked at

    cdef bint carry(self, body, long long start, long long stop, bint ranged)
    cdef void put_down(self)
    cdef Course send_file(self)
    cdef long long turn(self)
    cdef void sent_to(self, long long position)
    cdef bint offload(self, long long may)
    cdef void look(self)
    cdef Course take_back(self)
