"""One accepted HTTP/1.1 connection: what is asked on it, what is answered, and how it ends.

Source: RFC 9112; recv(2), tcp(7).
"""

from os import close as os_close, dup

from cpython.bytes cimport PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN

from fastmirror._native.endpoint cimport Endpoint, Reply
from fastmirror._native.requests cimport Refusal, Request, RequestReader
from fastmirror._native.sender cimport CUT, ENDED, GONE, SENT, WAITS, Course, Sender


cdef extern from "wire.h" nogil:
    ssize_t wire_recv(int fd, char *buffer, size_t size)
    ssize_t wire_discard(int fd, size_t size)
    void wire_nodelay(int fd)
    void wire_fin(int fd)
    void wire_shutdown(int fd)
    double wire_clock()


cdef enum:
    RECEIVE = 8192               # bytes of one recv: pipelined requests that cannot be answered yet stay in the kernel
    DISCARD = 1048576            # bytes of one recv that throws them away
    TURN_MICROSECONDS = 1000     # how long one connection's pipelined requests are answered before others have a turn
    LINGER_SECONDS = 3           # how long input is thrown away after our FIN, so that close() sends no RST
    LINGER_BYTES = 67108864      # and how much of it
    STALL_SECONDS = 600          # a client that takes no byte for so long is gone
    ANSWER_LIMIT = 256           # answers of at most 32 KiB that are kept for equal requests

cdef char receive_buffer[RECEIVE]    # only the loop's thread receives requests


cdef class Connection(Sender):
    """One client connection, from accept to close. All methods run on the loop's thread.

    Invariants  The descriptor is owned: closed once, after its reader and writer were removed from the loop.
                A reply's body is owned from ``begin`` on and closed when the reply is over, however it ends.
                Replies leave in the order of the requests; one is being sent at a time.
                The connection ends by FIN: input is read to its end (or thrown away for a while) before close().
                In line for a turn (``queued``) nothing is being sent, and pace has exactly one place for it.
                While a native thread holds the descriptor, ends are written down, and made when it is given back.
    """

    def __cinit__(self, Endpoint endpoint not None, int fd, str client not None):
        self.requests = RequestReader(client)
        self.requests.head_since = endpoint.now
        wire_nodelay(fd)
        endpoint.stats.accepted += 1
        endpoint.connections.add(self)
        self.want_read(True)

    # ---- input

    def on_readable(self):
        # A socket whose reset came with its last bytes is not watched any more (libuv, uv__poll_io: POLLERR). An answer
        # that cannot be sent shows that; who would wait for the rest of a head has to see it now.
        while self.read() and self.reading and self.requests.head_bytes and not (self.lingering or self.pending()):
            pass

    cdef bint read(self) except -1:
        """One recv; whether there were bytes."""
        cdef ssize_t n
        cdef Py_ssize_t used
        cdef bint discard = self.lingering or self.requests.stopped
        if self.fd < 0:
            return False
        n = wire_discard(self.fd, DISCARD) if discard else wire_recv(self.fd, receive_buffer, RECEIVE)
        if n == -EAGAIN:
            return False
        if n < 0:
            self.drop()
        elif n == 0:
            self.eof = True
            self.want_read(False)
            if self.lingering or not self.pending():
                self.close()
        elif discard:
            self.discarded += n
            if self.discarded > LINGER_BYTES:
                self.want_read(False)
                if self.lingering:
                    self.close()
        else:
            data = PyBytes_FromStringAndSize(receive_buffer, n)
            used = self.requests.feed(data, self.endpoint.now)
            if used < n and not self.requests.stopped:
                self.stash = data[used:]
                self.want_read(False)
            self.pump()
        return n > 0

    # ---- output

    def on_writable(self):
        self.pump()

    def wake(self):
        self.parked = False
        self.pump()

    def deliver(self, Reply reply not None):
        self.task = None
        request, self.request = self.request, None
        self.reply_to(request, reply)
        self.pump()

    def on_turn(self):
        """Those before it in the line have had their turn."""
        self.queued = False
        self.pump()

    cdef void pump(self):
        """Send what can be sent and answer what waits, until the socket, a body, an answer or others are waited for."""
        cdef int answered = 0
        cdef double end = 0
        cdef Course course
        if self.pumping or self.parked or self.queued or self.offloaded or self.task is not None:
            return
        self.pumping = True
        try:
            while self.fd >= 0 and not self.lingering:
                if self.busy:
                    if self.unsent and not self.send_out():
                        break
                    if self.body is not None:
                        course = self.send_file()
                        if course != SENT:
                            self.not_sent(course)
                            break
                    self.finish()
                elif not self.has_request():
                    break
                elif answered and (answered >= self.endpoint.pace.limit() or wire_clock() > end):
                    self.queued = True
                    self.endpoint.pace.line_up(self, self.endpoint.loop)
                    break
                else:
                    if answered == 0:
                        end = wire_clock() + TURN_MICROSECONDS * 1e-6
                    answered += 1
                    self.next_request()
                    if self.task is not None:
                        break
        finally:
            self.pumping = False
        if self.fd >= 0 and not (self.lingering or self.busy or self.queued):
            self.want_write(False)
            if self.eof:
                self.close()
            elif self.last:
                self.hang_up()

    cdef bint has_request(self):
        """Whether a request can be answered; parses what was received for that."""
        cdef Py_ssize_t used
        if not self.requests.queue and self.stash is not None and not self.requests.stopped:
            used = self.requests.feed(self.stash, self.endpoint.now)
            self.stash = self.stash[used:] if used < PyBytes_GET_SIZE(self.stash) else None
            if self.stash is None and not self.eof:
                self.want_read(True)
        return bool(self.requests.queue)

    cdef bint pending(self):
        """Whether a request is being answered or waits for it."""
        return self.busy or self.queued or bool(self.requests.queue)

    cdef void next_request(self):
        entry = self.requests.queue.popleft()
        self.busy = True
        self.since = self.endpoint.now
        self.endpoint.stats.requests += 1
        if type(entry) is Refusal:
            self.endpoint.stats.refused += 1
            self.begin(self.endpoint.refuse(entry), False, not (<Refusal>entry).close, False)
            return
        request = <Request>entry
        if self.endpoint.admits is not None and not self.endpoint.admits(request.token):
            self.endpoint.stats.refused += 1
            refusal = Refusal(403, "only other nodes of this cluster are answered here", False)
            self.begin(self.endpoint.refuse(refusal), request.method == "HEAD", request.keep_alive, False)
            return
        if request.range is None:
            kept = self.endpoint.answers.get(request.raw_target)
            if kept is not None:
                self.endpoint.stats.cached += 1
                self.begin(<Reply>kept, request.method == "HEAD", request.keep_alive, False)
                return
        answer = self.endpoint.answer(request)
        if type(answer) is Reply:
            self.reply_to(request, <Reply>answer)
        else:
            self.want_write(False)
            self.request = request
            self.task = self.endpoint.spawn(answer, self)

    cdef void reply_to(self, Request request, Reply reply):
        if self.fd < 0 or self.lingering or request is None:
            if reply.body is not None:
                reply.body.close()
            if reply.done is not None:
                reply.done(0, False)
            return
        if reply.cacheable:
            if len(self.endpoint.answers) >= ANSWER_LIMIT:
                self.endpoint.answers.clear()
            self.endpoint.answers[request.raw_target] = Reply(reply.head, reply.content)
        self.begin(reply, request.method == "HEAD", request.keep_alive, request.range is not None)

    cdef void begin(self, Reply reply, bint is_head, bint keep_alive, bint ranged):
        cdef bytes content = b"" if is_head else reply.content
        cdef bint more = False
        self.reply = reply
        self.close_after = reply.close or self.last or not keep_alive
        if reply.body is not None and not is_head and reply.stop > reply.start:
            more = self.carry(reply.body, reply.start, reply.stop, ranged)
        else:
            if reply.body is not None:
                reply.body.close()
            self.start = 0
            self.pos = self.stop = PyBytes_GET_SIZE(content)
            self.endpoint.pace.mixed = True
        if self.send_parts(reply.head, self.endpoint.tail_close if self.close_after else self.endpoint.tail, content,
                           more) < 0:
            self.drop()

    cdef bint send_out(self):
        cdef int left = self.send_rest(False)
        if left < 0:
            self.drop()
        elif left == 0:
            self.want_write(True)
        return left == 1

    cdef void not_sent(self, Course course):
        """The body did not leave, or not all of it."""
        if course == GONE:
            self.drop()
        elif course == ENDED or course == CUT:    # the length that was promised cannot be met
            self.endpoint.stats.hangups += 1
            if course == ENDED:
                self.endpoint.stats.starved += 1
            else:
                self.endpoint.stats.truncated += 1
                if self.reply.cut is not None:
                    self.reply.cut(self.pos)
            self.hang_up()

    def given_back(self):
        """The native threads are done: with all of what they had, or because it could not be sent."""
        cdef Course course = self.take_back()
        if self.closing:
            self.close()
        elif self.ending:
            self.hang_up()
        elif course != WAITS:
            self.not_sent(course)
        else:
            self.pump()

    cdef void finish(self):
        cdef bint close_after = self.close_after or self.last
        self.release(True)
        if close_after:
            self.hang_up()

    cdef void release(self, bint complete):
        """Give up what belongs to the reply that is being sent, and say how it went."""
        reply, self.reply = self.reply, None
        self.forget_parts()
        self.busy = self.close_after = False
        self.put_down()
        if reply is not None and reply.done is not None:
            reply.done(self.pos - self.start, complete)

    # ---- the socket

    cdef void drop(self):
        """The client is gone in mid-request or mid-reply: normal for containerd's parallel fetch, not an error."""
        if self.pending():
            self.endpoint.stats.clients_left += 1
        self.close()

    def retire(self):
        self.last = True
        self.requests.stopped = True
        if not (self.pending() or self.fd < 0):
            self.hang_up()

    def hang_up(self):
        if self.fd < 0 or self.lingering:
            return
        wire_fin(self.fd)
        if self.offloaded:
            self.ending = True
            return
        self.lingering = True
        self.since = self.endpoint.now
        self.want_write(False)
        self.abandon()
        if self.eof:
            self.close()
        else:
            self.want_read(True)
            self.read()

    def close(self):
        cdef int fd
        if self.offloaded:
            self.closing = True
            self.want_read(False)
            wire_shutdown(self.fd)
            return
        fd = self.leave()
        if fd >= 0:
            os_close(fd)

    def detach(self):
        if self.fd < 0 or self.closing:
            return -1
        if self.busy:
            self.endpoint.stats.hangups += 1
        wire_fin(self.fd)
        if not self.offloaded:
            return self.leave()
        self.closing = True
        self.want_read(False)
        return dup(self.fd)    # the thread ends by the FIN, and is not to lose the descriptor that it has

    cdef int leave(self):
        """Have nothing to do with the descriptor any more; gives it, or -1 if that was so already."""
        cdef int fd = self.fd
        if fd < 0:
            return -1
        self.want_read(False)
        self.want_write(False)
        self.fd = -1
        self.endpoint.stats.closed += 1
        self.endpoint.connections.discard(self)
        self.abandon()
        self.endpoint.closed(self)
        return fd

    cdef void abandon(self):
        task, self.task = self.task, None
        self.request = None
        if task is not None:
            task.cancel()
        if self.busy:
            self.release(False)
        self.requests.queue.clear()
        self.stash = None

    def expire(self, double header_seconds, double idle_seconds):
        cdef double idle
        self.look()
        self.judge(self.writing or self.offloaded)
        idle = self.endpoint.now - self.since
        if self.lingering:
            if idle > LINGER_SECONDS:
                self.close()
        elif self.pending():
            if (self.writing or self.offloaded) and idle > STALL_SECONDS:
                self.hang_up()
        elif self.requests.head_bytes or not self.requests.complete:
            if self.endpoint.now - self.requests.head_since > header_seconds:
                self.hang_up()
        elif idle > idle_seconds:
            self.hang_up()

    @property
    def idle(self):
        return not self.pending()
