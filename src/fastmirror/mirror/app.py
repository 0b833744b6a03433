"""The Answer of a listener: the only place that decides between 200, 206 and 404."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from fastmirror.chunks.holder import PREFIX
from fastmirror.errors import RegistryError, StoreError
from fastmirror.http.message import Reply, Request
from fastmirror.mirror import answers
from fastmirror.mirror.local import Done, Local
from fastmirror.oci.pull import Pull, parse_pull

log = logging.getLogger(__name__)


class Elsewhere(Protocol):
    """Answers from other nodes. Raises RegistryError where nobody can; never takes longer than its deadlines."""

    async def answer(self, pull: Pull, request: Request, done: Done | None = None) -> Reply:
        """The reply; ``done`` hears how much of its body was sent."""


class Served:
    """What one listener has answered; plain integers for the metrics."""

    def __init__(self) -> None:
        self.local = 0
        self.elsewhere = 0
        self.missed = 0
        self.local_bytes = 0
        self.elsewhere_bytes = 0


class Mirror:
    """Answers pulls from local content, else from elsewhere (on the listener for this node's clients), else 404.

    A peer listener gets no ``elsewhere``: it serves only what is here, so that a request can never travel in circles.
    It alone gets ``chunks``, which answers what other nodes ask beyond pulls (targets that begin with its ``PREFIX``).
    """

    def __init__(
        self,
        local: Local,
        *,
        default_registry: str = "",
        elsewhere: Elsewhere | None = None,
        chunks: Callable[[Request], Reply] | None = None,
    ) -> None:
        self._local = local
        self._default_registry = default_registry
        self._elsewhere = elsewhere
        self._chunks = chunks
        self.served = Served()

    def __call__(self, request: Request) -> Reply | Awaitable[Reply]:
        """Answer one request: at once from local content or with an error, else through an awaitable."""
        if self._chunks is not None and request.target.startswith(PREFIX):
            return _answered(self._chunks, request)
        try:
            pull = parse_pull(request.target, self._default_registry)
            if pull.kind == "api":
                return answers.api_reply()
            reply = self._here(pull, request)
            if reply is not None:
                return reply
            if self._elsewhere is not None:
                return self._ask(self._elsewhere, pull, request)
            raise pull.unknown("not on this node")
        except RegistryError as error:
            self.served.missed += error.status == 404
            return answers.error_reply(error)

    def _here(self, pull: Pull, request: Request) -> Reply | None:
        try:
            reply = self._local.answer(pull, request, self._local_done)
        except (StoreError, OSError) as error:
            log.warning("local content cannot be read: %s", error, extra={"event": "mirror.store_failed"})
            return None
        self.served.local += reply is not None
        return reply

    def _local_done(self, sent: int, complete: bool) -> None:
        self.served.local_bytes += sent

    async def _ask(self, elsewhere: Elsewhere, pull: Pull, request: Request) -> Reply:
        try:
            reply = await elsewhere.answer(pull, request, self._elsewhere_done)
        except RegistryError as error:
            self.served.missed += error.status == 404
            return answers.error_reply(error)
        self.served.elsewhere += 1
        return reply

    def _elsewhere_done(self, sent: int, complete: bool) -> None:
        self.served.elsewhere_bytes += sent


def _answered(answer: Callable[[Request], Reply], request: Request) -> Reply:
    """The answer to what is no pull, and is not counted as one."""
    try:
        return answer(request)
    except RegistryError as error:
        return answers.error_reply(error)
