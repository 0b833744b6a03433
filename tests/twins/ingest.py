"""What ``fastmirror._native.ingest`` does, without threads: the turns are taken inside ``collect``.

Its ``fileno`` is the epoll itself, which is readable when one of its sockets is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import time

from tests.twins.hashing import Hasher

PIECE = 256 * 1024
TURN = 1024 * 1024


class Job:
    def __init__(self, sock: socket.socket, file: int, offset: int, length: int, hasher: Hasher | None) -> None:
        self.sock = sock  # does not own the descriptor: see Ingester.start
        self.file = file
        self.offset = offset
        self.length = length
        self.hasher = hasher
        self.prefix = b""
        self.received = 0
        self.last_progress = time.monotonic()
        self.outcome = "running"
        self.errno = 0
        self.cancelled = False

    @property
    def done(self) -> bool:
        return self.outcome != "running"

    def cancel(self) -> None:
        if not self.done and not self.cancelled:
            self.cancelled = True
            with contextlib.suppress(OSError):  # it is not connected any more, and so readable
                self.sock.shutdown(socket.SHUT_RDWR)

    def shorten(self, length: int) -> int:
        if length < 0:
            raise ValueError(f"{length} is no length")
        if not self.done and max(length, self.received, len(self.prefix)) < self.length:
            self.length = max(length, self.received, len(self.prefix))
            if self.length == self.received:
                with contextlib.suppress(OSError):
                    self.sock.shutdown(socket.SHUT_RDWR)
        return self.length

    def end(self, outcome: str, number: int = 0) -> None:
        if self.cancelled and outcome in ("closed", "reset", "failed"):
            outcome, number = "cancelled", 0
        if self.hasher:
            self.hasher.give()
        self.sock.detach()
        self.outcome, self.errno = outcome, number

    def store(self, data: bytes) -> None:
        """Write and hash; ends the job if the disk refuses."""
        done, number = 0, 0
        while done < len(data) and not number:
            try:
                done += os.pwrite(self.file, data[done:], self.offset + self.received + done)
            except OSError as error:
                number = error.errno or errno.EIO
        if done and self.hasher:
            self.hasher.feed(data[:done])
        if done:
            self.received += done
            self.last_progress = time.monotonic()
        if number:
            self.end("disk", number)

    def turn(self, budget: int) -> None:
        prefix, self.prefix = self.prefix, b""
        if prefix:
            self.store(prefix)
        while not self.done:
            left = self.length - self.received
            if left == 0:
                return self.end("complete")
            if self.cancelled:
                return self.end("cancelled")
            if budget <= 0:
                return None
            try:
                data = self.sock.recv(min(left, PIECE, budget), socket.MSG_DONTWAIT)
            except BlockingIOError:
                return None
            except OSError as error:
                number = error.errno or errno.EIO
                return self.end("reset" if number in (errno.ECONNRESET, errno.EPIPE) else "failed", number)
            if not data:
                return self.end("closed")
            self.store(data)
            budget -= len(data)
        return None


class Ingester:
    def __init__(self, threads: int, rate: int = 0) -> None:
        if not 1 <= threads <= 64:
            raise ValueError(f"threads must be 1 to 64, not {threads}")
        if rate < 0:
            raise ValueError(f"{rate} is no rate")
        self.rate = rate
        self.paid = 0.0  # the time up to which what was received is paid for
        self.threads = threads
        self.epoll = select.epoll()
        self.kick = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.epoll.register(self.kick, select.EPOLLIN)
        self.jobs: dict[int, Job] = {}  # by the descriptor of the socket
        self.fresh: list[Job] = []  # that had no turn yet
        self.ended: list[Job] = []  # by close

    @property
    def running(self) -> int:
        return len(self.jobs) + len(self.ended)

    def fileno(self) -> int:
        if not self.threads:
            raise ValueError("the Ingester is closed")
        return self.epoll.fileno()

    def start(
        self, sock_fd: int, file_fd: int, offset: int, length: int, hasher: Hasher | None, prefix: bytes = b""
    ) -> Job:
        if not self.threads:
            raise ValueError("the Ingester is closed")
        if offset < 0 or length < 0 or offset + length >= 2**63:
            raise ValueError(f"offset {offset} and length {length} are no part of a file")
        if len(prefix) > length:
            raise ValueError(f"{len(prefix)} bytes came with the head, more than the {length} of the body")
        if sock_fd < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        sock = socket.socket(fileno=sock_fd)
        if sock.type != socket.SOCK_STREAM:
            sock.detach()
            raise OSError(errno.EPROTOTYPE, os.strerror(errno.EPROTOTYPE))
        try:
            os.get_blocking(file_fd)
            if hasher:
                hasher.take()
        except BaseException:
            sock.detach()
            raise
        job = Job(sock, file_fd, offset, length, hasher)
        job.prefix = prefix
        self.jobs[sock_fd] = job
        self.fresh.append(job)
        self.epoll.register(sock_fd, select.EPOLLIN)
        os.eventfd_write(self.kick, 1)
        return job

    def collect(self) -> list[Job]:
        if not self.threads:
            ended, self.ended = self.ended, []
            return ended
        if self.fresh:
            os.eventfd_read(self.kick)
        ready = self.fresh + [self.jobs[fd] for fd, _ in self.epoll.poll(0) if fd != self.kick]
        self.fresh = []
        return [job for job in dict.fromkeys(ready) if self.turn(job)]

    def turn(self, job: Job) -> bool:
        """One turn; true if there is news."""
        before, fd = job.received, job.sock.fileno()
        budget = TURN
        if self.rate:
            budget = min(TURN, self.rate // 50 + 1) if self.paid <= time.monotonic() else 0
        job.turn(budget)
        if self.rate:
            self.paid = max(self.paid, time.monotonic() - 0.02) + (job.received - before) / self.rate
        if job.done:
            self.epoll.unregister(fd)
            del self.jobs[fd]
        return job.done or job.received != before

    def close(self) -> None:
        if self.threads:
            self.threads = 0
            self.ended = list(self.jobs.values())
            self.jobs.clear()
            for job in self.ended:
                job.end("cancelled")
            self.epoll.close()
            os.close(self.kick)
