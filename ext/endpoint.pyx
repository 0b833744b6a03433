"""What the connections of one listener share: replies, counters, the turn of sending, and kept answers.

Source: RFC 9110 section 6.6.1 (Date); the plain data that ext/connection.pyx works on.
"""


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
    """How many connections want to send file bytes now, over all endpoints of one loop, and whether small replies were
    sent lately: it sizes their turns."""


cdef class Endpoint:
    """What the connections of one listener share.

    Invariants  ``answers`` only holds replies that are right for every client until ``answers.clear()``.
                ``connections`` holds exactly the connections whose descriptor is open.
    """

    def __cinit__(self, loop not None, answer not None, spawn not None, refuse not None, closed not None,
                  Pace pace not None):
        self.loop = loop
        self.answer = answer
        self.spawn = spawn
        self.refuse = refuse
        self.closed = closed
        self.pace = pace
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
