"""What the connections of one listener share: replies, counters, the turn of sending, and kept answers.

Source: RFC 9110 section 6.6.1 (Date); the plain data that ext/connection.pyx works on.
"""

from collections import deque

from cpython.ref cimport Py_DECREF, Py_INCREF


cdef extern from "wire.h" nogil:
    double wire_clock()


cdef extern from "poll.h" nogil:
    struct pollfd:
        int fd
        short events
    int POLLIN
    int poll(pollfd *fds, unsigned long count, int timeout)


cdef enum:
    TURN_REQUESTS = 16          # pipelined requests of one connection that are answered in one turn
    LINE_MICROSECONDS = 1000    # how long the loop answers those in line before it looks at the sockets again
    CLOSE_SECONDS = 2           # how long a read of a slow disk is waited for at the end


cdef class Reply:
    """One response; the attributes are described in the stub."""

    def __cinit__(self, bytes head not None, bytes content not None=b"", *, body=None, long long start=0,
                  long long stop=0, bint close=False, bint cacheable=False, done=None, cut=None):
        self.head = head
        self.content = content
        self.body = body
        self.start = start
        self.stop = stop
        self.close = close
        self.cacheable = cacheable
        self.done = done
        self.cut = cut


cdef class Stats:
    """Counters of one endpoint, since it was made. Plain integers, read from any thread."""


cdef class Pace:
    """How connections share one loop: the size of their turns; see the stub.

    Invariants  A run of the line is scheduled exactly while somebody stands in it, or it is running.
    """

    def __cinit__(self):
        self.line = deque()

    cdef int limit(self):
        """How many requests a connection may have answered at once: one while others stand in line."""
        return 1 if self.line and not self.running else TURN_REQUESTS

    cdef void line_up(self, connection, loop):
        """Call ``connection.on_turn`` after those that stand in line already."""
        if not self.line and not self.running:
            self.loop = loop
            loop.call_soon(self.run)
        self.line.append(connection)

    def run(self):
        cdef double end = wire_clock() + LINE_MICROSECONDS * 1e-6
        self.running = True
        try:
            for _ in range(len(self.line)):    # who lines up again waits for the next run
                self.line.popleft().on_turn()
                if wire_clock() > end:
                    break
        finally:
            self.running = False
            if self.line:
                self.loop.call_soon(self.run)


cdef class Senders:
    """Native threads that send file bodies for all endpoints of one loop; see the stub.

    Invariants  The pool is there from the first body to ``close``, and is watched by the loop so long.
                A connection whose body is out there is kept alive by a reference, which ``collect`` takes back.
    """

    def __cinit__(self, loop not None, int threads, bint only_cold):
        if not 1 <= threads <= 64:
            raise ValueError("threads must be 1 to 64")
        self.loop = loop
        self.threads = threads
        self.only_cold = only_cold

    cdef bint start(self, Sending *sending, connection):
        """Send; False if that cannot be: then nothing has begun."""
        if self.closed:
            return False
        if self.pool == NULL:
            self.pool = sendpool_open(self.threads)
            if self.pool == NULL:
                return False
            self.loop.add_reader(sendpool_fd(self.pool), self.collect)
        sending.owner = <void *>connection
        if sendpool_start(self.pool, sending) < 0:
            return False
        Py_INCREF(connection)
        self.running += 1
        return True

    def collect(self):
        cdef Sending *sending = sendpool_collect(self.pool) if self.pool != NULL else NULL
        cdef list owners = []
        while sending != NULL:
            owners.append(<object>sending.owner)
            sending = sending.next
        for connection in owners:
            Py_DECREF(connection)
            self.running -= 1
            try:
                connection.given_back()
            except Exception as error:    # one connection's defect: the others are given back all the same
                self.loop.call_exception_handler({"message": "a sent body could not be settled", "exception": error})

    def close(self):
        cdef SendPool *pool = self.pool
        cdef pollfd wait
        cdef double end = wire_clock() + CLOSE_SECONDS
        self.closed = True
        if pool == NULL:
            return
        self.loop.remove_reader(sendpool_fd(pool))
        wait.fd = sendpool_fd(pool)
        wait.events = POLLIN
        while self.running and wire_clock() < end:
            with nogil:
                poll(&wait, 1, 100)
            self.collect()
        self.pool = NULL
        sendpool_close(pool)


cdef class Endpoint:
    """What the connections of one listener share.

    Invariants  ``answers`` only holds replies that are right for every client until ``answers.clear()``.
                ``connections`` holds exactly the connections whose descriptor is open.
    """

    def __cinit__(self, loop not None, answer not None, spawn not None, refuse not None, closed not None,
                  Pace pace not None, Senders senders=None):
        self.loop = loop
        self.answer = answer
        self.spawn = spawn
        self.refuse = refuse
        self.closed = closed
        self.pace = pace
        self.senders = senders
        self.stats = Stats()
        self.answers = {}
        self.admits = None
        self.connections = set()
        self.tick(loop.time(), b"")

    def tick(self, double now, bytes date not None):
        self.now = now
        self.pace.mixed = False
        line = b"Date: " + date + b"\r\n" if date else b""
        self.tail = line + b"\r\n"
        self.tail_close = line + b"Connection: close\r\n\r\n"
