"""One connected socket of the loop: whether it is watched, what has still to leave from memory, and how fast it takes.

Source: sendmsg(2), tcp(7).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN

from fastmirror._native.endpoint cimport Endpoint


cdef extern from "wire.h" nogil:
    ssize_t wire_send(int fd, const char *a, size_t an, const char *b, size_t bn, const char *c, size_t cn,
                      size_t skip, int more)


cdef enum:
    RATE_SECONDS = 2    # a reader's rate is told over at least so long


cdef class Link:
    """The socket of a connection; see the stub.

    Invariants  The descriptor is the subclass's, which ends both watches before it closes it.
                What waits to be sent is referred to, never copied: readers of the same bytes share them.
    """

    def __cinit__(self, Endpoint endpoint not None, int fd, str client not None):
        self.endpoint = endpoint
        self.fd = fd
        self.client = client
        self.since = self.marked_at = endpoint.now
        self.rate = -1

    def on_readable(self):
        """What the loop calls when there is input."""

    def on_writable(self):
        """What the loop calls when there is room."""

    cdef void want_write(self, bint on):
        if on != self.writing and self.fd >= 0:
            self.writing = on
            if on:
                self.endpoint.loop.add_writer(self.fd, self.on_writable)
            else:
                self.endpoint.loop.remove_writer(self.fd)

    cdef void want_read(self, bint on):
        if on != self.reading and self.fd >= 0:
            self.reading = on
            if on:
                self.endpoint.loop.add_reader(self.fd, self.on_readable)
            else:
                self.endpoint.loop.remove_reader(self.fd)

    cdef int send_parts(self, bytes head, bytes tail, bytes content, bint more):
        """Send a head and a small body in one call. 1: all has left; 0: the rest waits; -1: the client is gone."""
        self.head = head
        self.tail = tail
        self.content = content
        self.out_pos = 0
        return self.send_rest(more)

    cdef int send_rest(self, bint more):
        """Send what ``send_parts`` could not; gives the same."""
        cdef Py_ssize_t hn = PyBytes_GET_SIZE(self.head), tn = PyBytes_GET_SIZE(self.tail)
        cdef Py_ssize_t cn = PyBytes_GET_SIZE(self.content)
        cdef ssize_t n = wire_send(self.fd, PyBytes_AS_STRING(self.head), hn, PyBytes_AS_STRING(self.tail), tn,
                                   PyBytes_AS_STRING(self.content), cn, self.out_pos, more)
        if n < 0 and n != -EAGAIN:
            return -1
        if n > 0:
            self.out_pos += n
            self.progress(n)
        self.unsent = self.out_pos < hn + tn + cn
        if self.unsent:
            return 0
        self.forget_parts()
        return 1

    cdef void forget_parts(self):
        self.unsent = False
        self.head = self.tail = self.content = None

    cdef void progress(self, long long count):
        """The client's kernel, or ours for it, has taken so many bytes."""
        self.since = self.endpoint.now
        self.taken += count

    cdef void judge(self, bint waits):
        """Look how fast the client takes what ``waits`` for it; a client that nothing waits for has no rate."""
        cdef double seconds = self.endpoint.now - self.marked_at
        if not waits:
            self.rate = -1
        elif seconds >= RATE_SECONDS:
            self.rate = (self.taken - self.marked) / seconds
        else:
            return
        self.marked = self.taken
        self.marked_at = self.endpoint.now
