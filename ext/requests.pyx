"""Requests out of received bytes: httptools behind the limits that it does not have.

Source: RFC 9112 sections 2 to 6; llhttp's callbacks as httptools gives them.
"""

from collections import deque

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE


cdef extern from "arpa/inet.h" nogil:
    int AF_INET6
    int inet_pton(int family, const char *text, void *address)


cdef enum:
    TARGET_LIMIT = 8192     # bytes of a request target; more: 414
    HEAD_LIMIT = 32768      # bytes of a request head; more: 431
    FIELD_LIMIT = 100       # header fields; more: 431
    SLICE = 1024            # what the parser is fed at once, so that the limits are met between two slices
    QUEUE_LIMIT = 16        # pipelined requests that wait; more stay unparsed
    QUEUE_BYTES = 8192      # and what was parsed for those behind the first


cdef class Request:
    """One parsed request without a body; the attributes are described in the stub."""

    def __cinit__(self, str method, bytes raw_target not None, bytes range, bytes if_range, bint keep_alive,
                  str client, bytes token=None):
        self.method = method
        self.raw_target = raw_target
        self.range = range
        self.if_range = if_range
        self.keep_alive = keep_alive
        self.client = client
        self.token = token

    @property
    def target(self):
        return self.raw_target.decode("latin-1")


cdef class Refusal:
    """A request that is answered with an error: HTTP status, reason for the client, and whether to close after it."""

    def __cinit__(self, int status, str message, bint close):
        self.status = status
        self.message = message
        self.close = close


cdef class RequestReader:
    """The requests of one connection, in order, in ``queue``: each a Request or a Refusal.

    Invariants  At most QUEUE_LIMIT requests, of QUEUE_BYTES behind the first, and those of one more slice wait in
                ``queue``.
                Nothing is parsed after ``stopped``: what follows on the connection is thrown away by its owner.
                An error never loses the requests that were complete before it.
    """

    def __cinit__(self, str client):
        self.client = client
        self.queue = deque()
        self.parser = HttpRequestParser(self)
        self.url = b""

    cdef Py_ssize_t feed(self, bytes data, double now) except -1:
        """Parse; returns how many bytes were used: fewer than given when the queue is full or reading has stopped."""
        cdef Py_ssize_t at = 0, size = PyBytes_GET_SIZE(data), step
        if not self.queue:
            self.queued_bytes = 0
        while (at < size and not self.stopped and len(self.queue) < QUEUE_LIMIT
               and self.queued_bytes < QUEUE_BYTES):
            if self.head_bytes > HEAD_LIMIT:
                self.refuse(431, "request head is larger than 32 KiB")
                break
            if self.head_bytes == 0:
                self.head_since = now
            step = min(size - at, SLICE)
            if self.queue:
                self.queued_bytes += step
            self.head_bytes += step
            try:
                self.parser.feed_data(data if step == size else data[at:at + step])
            except HttpParserUpgrade:
                self.stopped = True    # answered as an ordinary request, the last one: what follows is not HTTP/1.1
            except HttpParserError:
                self.refuse(400, "malformed HTTP")
            at += step
        return at

    cdef void refuse(self, int status, str message):
        """Answer with an error after what is queued, read no further request, and end the connection."""
        if not self.stopped:
            self.stopped = True
            self.queue.append(Refusal(status, message, True))

    def on_message_begin(self):
        self.url = b""
        self.range = self.if_range = self.token = None
        self.fields = self.hosts = 0
        self.bad_host = self.framed = self.not_allowed = False

    def on_url(self, bytes piece):
        self.url = self.url + piece if self.url else piece
        if PyBytes_GET_SIZE(self.url) > TARGET_LIMIT:
            self.refuse(414, "request target is longer than 8 KiB")

    def on_header(self, bytes name, bytes value):
        cdef Py_ssize_t n = PyBytes_GET_SIZE(name)
        self.fields += 1
        if self.fields > FIELD_LIMIT:
            self.refuse(431, "more than 100 header fields")
        elif n == 4:
            if name.lower() == b"host":
                self.hosts += 1
                self.bad_host |= not is_host(value)
        elif n == 5:
            if name.lower() == b"range":
                # Two Range fields select nothing that could be answered rightly: malformed, like two ranges in one.
                self.range = value if self.range is None else b"bytes=,"
        elif n == 8:
            if name.lower() == b"if-range":
                self.if_range = value
        elif n == 14:
            if name.lower() == b"content-length":
                self.framed |= value.strip() != b"0"
        elif n == 16:
            if name.lower() == b"fastmirror-token":
                self.token = value if self.token is None else b""
        elif n == 17:
            if name.lower() == b"transfer-encoding":
                self.framed = True

    def on_headers_complete(self):
        cdef str version = self.parser.get_http_version()
        cdef bytes method = self.parser.get_method()
        if version != "1.1" and version != "1.0":
            self.refuse(505, "only HTTP/1.0 and HTTP/1.1")
        elif self.hosts > 1 or (self.hosts == 0 and version == "1.1"):
            self.refuse(400, "exactly one Host field is needed")
        elif self.bad_host:
            self.refuse(400, "Host is not a name or an address with an optional port up to 65535")
        elif method != b"GET" and method != b"HEAD":
            if self.framed:    # answered before the body, which is never read
                self.refuse(405, "only GET and HEAD")
            self.not_allowed = True
        elif self.framed:
            self.refuse(400, "a request with a body")

    def on_message_complete(self):
        cdef bint keep_alive
        if self.stopped:
            return
        self.head_bytes = 0
        self.complete += 1
        keep_alive = (self.parser.should_keep_alive() and self.parser.get_http_version() == "1.1"
                      and not self.parser.should_upgrade())
        if self.not_allowed:
            self.queue.append(Refusal(405, "only GET and HEAD", not keep_alive))
        else:
            method = "HEAD" if self.parser.get_method() == b"HEAD" else "GET"
            self.queue.append(Request(method, self.url, self.range, self.if_range, keep_alive, self.client,
                                      self.token))
        self.stopped = not keep_alive


cdef bint is_host(bytes value):
    """Whether this can be a Host field (RFC 9110 section 7.2): empty, or a name or address with an optional port."""
    cdef const unsigned char *text = <const unsigned char *>PyBytes_AS_STRING(value)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(value), at = 0, i
    cdef int port = 0
    if size == 0:
        return True
    if text[0] == c"[":
        while at < size and text[at] != c"]":
            at += 1
        at += 1    # past the bracket, or past the end
        if at > size or not is_ipv6(value[1:at - 1]):
            return False
    else:
        while at < size and text[at] != c":":
            if not (is_alphanumeric(text[at]) or text[at] == c"-" or text[at] == c"_" or
                    (text[at] == c"." and at > 0 and text[at - 1] != c".")):
                return False
            at += 1
        if at == 0:
            return False
    if at == size:
        return True
    if text[at] != c":" or size - at > 6:
        return False
    for i in range(at + 1, size):
        if not c"0" <= text[i] <= c"9":
            return False
        port = port * 10 + text[i] - c"0"
    return port <= 65535


cdef bint is_alphanumeric(unsigned char c):
    return c"a" <= c <= c"z" or c"A" <= c <= c"Z" or c"0" <= c <= c"9"


cdef bint is_ipv6(bytes text):
    cdef char address[16]
    return b"\0" not in text and inet_pton(AF_INET6, PyBytes_AS_STRING(text), address) == 1
