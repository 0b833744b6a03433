"""A link that sends one span of a file at a time: in turns on the loop's thread, or by native threads.

Source: sendfile(2); preadv2(2), RWF_NOWAIT; tcp(7).
"""

from libc.errno cimport EAGAIN, ECONNRESET, ENODATA, EPIPE, ETIMEDOUT
from posix.types cimport off_t

from fastmirror._native.endpoint cimport sendpool_reached
from fastmirror._native.link cimport Link


cdef extern from "wire.h" nogil:
    ssize_t wire_sendfile(int fd, int file, off_t offset, size_t count)
    bint wire_would_block(int file, off_t start, off_t stop)
    void wire_notsent_lowat(int fd, int bytes)
    void wire_cork(int fd, bint on)


cdef enum:
    MIXED_TURN = 524288          # bytes of one sendfile while small requests are answered as well: they wait for it
    SHARED_TURN = 2097152        # the same when only bodies are sent, by several connections
    LONE_TURN = 8388608          # the same when one connection alone sends: what the loop may be away for a fast reader
    LOOK = 1048576               # bytes that are looked at together, to see whether they are in memory
    CORK_FROM = 24               # bodies at a time from which each is corked: docs/decisions/0002
    RANGE_LOWAT = 131072         # unsent bytes the kernel may hold for a range: its reader often leaves early


cdef class Sender(Link):
    """The body of a reply on its way into the socket; see the stub.

    Invariants  While ``offloaded`` a native thread may hold both descriptors: neither is closed, no byte is sent here.
                ``pace.sending`` counts this link exactly while it has a body and is not ``offloaded``.
    """

    cdef bint carry(self, body, long long start, long long stop, bint ranged):
        """Take a body, to be closed by ``put_down``; gives whether some of it can be sent at once."""
        self.body = body
        self.body_fd = body.fileno()
        self.start = self.pos = self.looked = start
        self.stop = stop
        self.endpoint.pace.sending += 1
        if ranged != self.lowat:
            self.lowat = ranged
            wire_notsent_lowat(self.fd, RANGE_LOWAT if ranged else 0)
        if self.endpoint.pace.sending >= CORK_FROM and body.available(start) >= stop - start:
            self.corked = True
            wire_cork(self.fd, True)
        return body.available(start) > 0

    cdef void put_down(self):
        body, self.body = self.body, None
        self.parked = False
        if self.corked:    # what is left of the last segment leaves now, and small replies after it are not held back
            self.corked = False
            wire_cork(self.fd, False)
        if body is not None:
            self.endpoint.pace.sending -= 1
            body.close()

    cdef Course send_file(self):
        """One turn."""
        cdef long long may
        cdef ssize_t n
        while self.pos < self.stop:
            may = self.body.available(self.pos)
            if may < 0:
                return ENDED
            if may == 0:
                self.want_write(False)
                self.parked = True
                self.body.wait(self.pos, self.wake)
                return WAITS
            may = min(may, self.stop - self.pos)
            if self.endpoint.senders is not None and self.offload(may):
                return WAITS
            may = min(may, self.turn())
            n = wire_sendfile(self.fd, self.body_fd, self.pos, may)
            if n == -EAGAIN:
                self.want_write(True)
                return WAITS
            if n <= 0:
                return course_of(-n if n < 0 else ENODATA)
            self.sent_to(self.pos + n)
            # Partly sent: the socket is full, another call would only meet EAGAIN. All sent: the turn is over,
            # unless it ended at the frontier of a body that is still growing.
            if self.pos < self.stop and (n < may or self.body.available(self.pos) > 0):
                self.want_write(True)
                return WAITS
        return SENT

    def wake(self):
        """What a body calls that had nothing to send and has something now, or has ended."""

    cdef long long turn(self):
        return MIXED_TURN if self.endpoint.pace.mixed else SHARED_TURN if self.endpoint.pace.sending > 1 else LONE_TURN

    cdef void sent_to(self, long long position):
        cdef long long count = position - self.pos
        self.pos = position
        if count > 0:
            self.progress(count)
            self.endpoint.stats.body_bytes += count

    # ---- native threads

    cdef bint offload(self, long long may):
        """Let the native threads send the next ``may`` bytes if these are for them; False if the loop is to send."""
        cdef long long end
        if not self.endpoint.senders.only_cold:
            if may < self.stop - self.pos:
                return False    # still growing, and so just written
        else:
            end = self.pos + min(may, self.turn())
            if end <= self.looked:
                return False
            end = min(self.pos + may, max(end, self.looked + LOOK))
            if not wire_would_block(self.body_fd, max(self.pos, self.looked), end):
                self.looked = end
                return False
        self.sending.sock = self.fd
        self.sending.file = self.body_fd
        self.sending.pos = self.pos
        self.sending.stop = self.pos + may
        self.want_write(False)
        if not self.endpoint.senders.start(&self.sending, self):
            return False
        self.endpoint.stats.offloaded += 1
        self.endpoint.pace.sending -= 1
        self.offloaded = True
        return True

    cdef void look(self):
        """Count what the native threads have sent meanwhile."""
        if self.offloaded:
            self.sent_to(sendpool_reached(&self.sending))

    cdef Course take_back(self):
        """What became of what the native threads were given; both descriptors are ours again."""
        self.look()
        self.offloaded = False
        self.endpoint.pace.sending += 1
        return course_of(self.sending.error) if self.sending.error else WAITS


cdef Course course_of(int error):
    return GONE if error == EPIPE or error == ECONNRESET or error == ETIMEDOUT else CUT
