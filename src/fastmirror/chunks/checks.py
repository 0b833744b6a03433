"""Hashes of pieces and of wholes, computed beside the loop: the loop's side of the native checker."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import Any

from fastmirror._native.check import Checker, Follow, Sum, Work
from fastmirror._native.hashing import Hasher
from fastmirror.chunks.chunklist import Algorithm
from fastmirror.oci.span import Span


class Checks:
    """Tells who began a work how it ended, on the loop's thread. Owns the native threads until :meth:`close`.

    A descriptor is borrowed from the begin of a work until its end was told, which always comes, once, and never from
    within the call that begins or cancels it.
    """

    def __init__(self, threads: int, nice: int = 0) -> None:
        self._checker = Checker(threads, nice)
        self._told: dict[Work, Callable[[Any], object]] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._checker.fileno(), self._collect)
        self._closed = False

    @property
    def running(self) -> int:
        """Works whose end was not told yet."""
        return len(self._told)

    def sum(self, fd: int, span: Span, algorithm: Algorithm, told: Callable[[Sum], object]) -> Sum:
        """Hash each piece of ``span``, which begins where a piece does.

        Raises OSError if the file is not open, or with ECANCELED after :meth:`close`.
        """
        self._require_open()
        work = self._checker.sum(fd, span.start, span.stop, algorithm.name)
        self._told[work] = told
        return work

    def follow(self, fd: int, hasher: Hasher, stop: int, told: Callable[[Follow], object]) -> Follow:
        """Feed ``hasher`` from where it is to ``stop``, as far as the follow is advanced. Raises OSError likewise."""
        self._require_open()
        work = self._checker.follow(fd, hasher, stop)
        self._told[work] = told
        return work

    def close(self) -> None:
        """End all works, which are told as cancelled, and the threads. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._checker.fileno())
        self._checker.close()
        self._collect()

    def _require_open(self) -> None:
        if self._closed:  # also from within `close`, where those who are told of an end may want to go on
            raise OSError(errno.ECANCELED, "the checks are closed")

    def _collect(self) -> None:
        for work in self._checker.collect():
            self._told.pop(work)(work)
