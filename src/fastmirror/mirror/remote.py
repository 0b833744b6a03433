"""Answers from other nodes, for what is not on this one. Only the listener for this node's clients has them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from typing import Final

from fastmirror.errors import RegistryError
from fastmirror.fetch.layer import LayerFetch, Stage
from fastmirror.fetch.lru import Lru
from fastmirror.fetch.sizes import agreed
from fastmirror.fetch.spool import Spool
from fastmirror.fetch.table import FetchTable
from fastmirror.fetch.tags import agreed_target
from fastmirror.fetch.tap import NoBody, Tap
from fastmirror.fetch.want import Want
from fastmirror.http.message import Reply, Request
from fastmirror.mirror import answers
from fastmirror.mirror.filters import Filters
from fastmirror.mirror.local import SMALL_BYTES, Done
from fastmirror.oci.descriptor import Descriptor
from fastmirror.oci.digest import Digest
from fastmirror.oci.manifest import parse_manifest
from fastmirror.oci.pull import Pull
from fastmirror.oci.span import Span, span_for

log = logging.getLogger(__name__)

ANSWER_SECONDS: Final = 10.0
"""The longest that a client waits for a status line while content comes, but slowly: containerd has a next host, and
waits 30 s (from 2.3 on) or for ever."""
_LOOK_SECONDS: Final = 0.5  # how often it is looked whether that can be kept
TYPES: Final = 1024  # manifests whose media type is remembered


class Remote:
    """Turns a pull into a reply with bytes of other nodes. Raises RegistryError where nobody has them.

    Peers judge by their own filters what they give; ``filters`` here only keep pulls of what is denied by name from
    being asked for.
    """

    def __init__(self, table: FetchTable, filters: Filters) -> None:
        self._table = table
        self._parts = table.parts
        self._filters = filters
        self._loop = asyncio.get_running_loop()
        self._types: Lru[Digest, str] = Lru(TYPES)

    async def answer(self, pull: Pull, request: Request, done: Done | None = None) -> Reply:
        """The reply. Raises BlobUnknown, ManifestUnknown, RangeNotSatisfiable.

        Cancel: the client has left; what was begun for it stays for others for ``grace``.
        """
        if not self._filters.allows((f"{pull.registry}/{pull.repository}",)):
            raise pull.unknown("the name is not one that this node fetches")
        if pull.kind == "manifests":
            return await self._manifest(pull, done)
        assert pull.digest is not None
        if request.method == "HEAD":
            return await self._blob_head(pull, pull.digest)
        return await self._blob(pull, pull.digest, request, done)

    # ---- manifests

    async def _manifest(self, pull: Pull, done: Done | None) -> Reply:
        digest = pull.digest
        if pull.reference is not None:
            if not self._parts.settings.resolve_tags:
                raise pull.unknown("the tag is not on this node, and tags are not asked for elsewhere")
            digest = await agreed_target(pull.reference, self._parts, self._table.router)
            if digest is None:
                raise pull.unknown("no peer has this tag, or they do not agree on what it means")
        assert digest is not None
        with contextlib.ExitStack() as stack:
            want = Want(digest, "manifests", pull.repository, pull.registry)
            tap = stack.enter_context(self._join(want, pull))
            if not await _settled(tap) or tap.fetch.stage is not Stage.VERIFIED:
                raise pull.unknown("no peer has it")
            spool = tap.fetch.spool
            assert spool is not None
            media_type, size = self._media_type(pull, digest, spool), spool.size
            head = answers.manifest_head(Descriptor(media_type, digest, size), pull.registry)
            if size <= SMALL_BYTES:
                return Reply(head, _read(spool, 0, size, pull), done=done)
            tap.open(partial(self._cut, digest))
            stack.pop_all()  # the reply owns it from here on
            return Reply(head, body=tap, stop=size, done=done)

    def _media_type(self, pull: Pull, digest: Digest, spool: Spool) -> str:
        """From the verified bytes, which are read and parsed once. Raises ManifestUnknown for what is no manifest."""
        media_type = self._types.get(digest)
        if media_type is None:
            manifest = parse_manifest(_read(spool, 0, spool.size, pull))
            if manifest is None:
                raise pull.unknown("the content with this digest is no manifest")
            self._parts.sizes.learn(manifest)
            media_type = manifest.media_type
            self._types.put(digest, media_type)
        return media_type

    # ---- blobs

    async def _blob(self, pull: Pull, digest: Digest, request: Request, done: Done | None) -> Reply:
        now = self._loop.time()
        handover = self._parts.handover
        begun = handover.begun(digest, now)
        etag = answers.etag(digest)
        span = None if begun is None else span_for(request.range, request.if_range, etag, begun)
        resumed = span is not None and span.start > 0
        if handover.was_cut(digest, span.start if span else 0, now):
            raise pull.unknown("the body ended here because no peer could go on; ask the next host")
        with contextlib.ExitStack() as stack:
            try:
                want = Want(digest, "blobs", pull.repository, pull.registry)
                tap = stack.enter_context(self._join(want, pull, resumed=resumed))
                if not await _settled(tap):
                    raise pull.unknown("no peer has it")
            except RegistryError:
                if begun is None or span is None or not resumed:
                    raise
                return self._nothing(pull, digest, span, begun, done)
            fetch = tap.fetch
            assert fetch.size is not None
            span = span_for(request.range, request.if_range, etag, fetch.size)
            reply = self._body(pull, tap, span, done)
            if reply.body is tap:
                stack.pop_all()  # the reply owns it from here on
            return reply

    def _body(self, pull: Pull, tap: Tap, span: Span | None, done: Done | None) -> Reply:
        fetch = tap.fetch
        digest, size = fetch.want.digest, fetch.size
        assert size is not None
        assert fetch.spool is not None
        self._parts.handover.begin(digest, size, self._loop.time())
        head = answers.blob_head(digest, size, span, pull.registry)
        start, stop = span or (0, size)
        if stop - start <= SMALL_BYTES and fetch.stage is Stage.VERIFIED:
            return Reply(head, _read(fetch.spool, start, stop, pull), done=done)
        tap.open(partial(self._cut, digest))
        return Reply(head, body=tap, start=start, stop=stop, done=done)

    def _nothing(self, pull: Pull, digest: Digest, span: Span, size: int, done: Done | None) -> Reply:
        """206 without a byte of its body: a client that has read part of the blob here may be in a parallel fetch,
        where an error status fails the pull; the FIN makes it come back at this offset, and then be sent on.
        """
        head = answers.blob_head(digest, size, span, pull.registry)
        return Reply(head, body=NoBody(partial(self._cut, digest)), start=span.start, stop=span.stop, done=done)

    async def _blob_head(self, pull: Pull, digest: Digest) -> Reply:
        fetch = self._table.get(digest, "blobs")
        size = _known_size(fetch) if fetch else None
        if size is None:
            size = await self._ask_size(digest)
        if size is None:
            raise pull.unknown("no peer has it")
        return Reply(answers.blob_head(digest, size, None, pull.registry))

    async def _ask_size(self, digest: Digest) -> int | None:
        """The size of a blob that some peer has; None if nobody has it, or those who have it do not agree.

        Where no manifest has told it all peers are heard, since what one of them says is only a claim.
        """
        known = self._parts.sizes.get(digest)
        claims: list[int | None] = []
        lookup = self._table.router.find(digest)
        try:
            async for holder in lookup:
                size = holder.size
                if size is None:
                    answer = await self._parts.asker.ask(holder.peer, digest, self._parts.settings.lookup_timeout)
                    size = answer.size if answer else None
                if size is None or (known is None and not size):
                    continue
                if known == size:
                    return size
                claims.append(size)
        finally:
            await lookup.aclose()
        return agreed(claims) if known is None else None

    def _cut(self, digest: Digest, offset: int) -> None:
        self._parts.handover.cut(digest, offset, self._loop.time())

    def _join(self, want: Want, pull: Pull, *, resumed: bool = False) -> contextlib.closing[Tap]:
        tap = self._table.join(want, resumed=resumed)
        if tap is None:
            raise pull.unknown("this node fetches as much as it may already")
        return contextlib.closing(tap)


def _read(spool: Spool, start: int, stop: int, pull: Pull) -> bytes:
    try:
        return spool.read(start, stop)
    except OSError as error:
        log.warning("the spool cannot be read: %s", error, extra={"event": "mirror.spool_failed"})
        raise pull.unknown("this node cannot read its own disk") from None


def _known_size(fetch: LayerFetch) -> int | None:
    return fetch.size if fetch.stage in (Stage.FLOWING, Stage.VERIFIED) else None


async def _settled(tap: Tap) -> bool:
    """Whether there is something to read within ``ANSWER_SECONDS``; False as soon as it can be foreseen that not: by
    the bytes that came lately, twice in a row.
    """
    left, slow, before = ANSWER_SECONDS, 0, 0
    while left > 0 and slow < 2:
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                return await tap.settled()
        except TimeoutError:
            left -= _LOOK_SECONDS
        missing = tap.fetch.missing()
        came = before - missing
        slow = slow + 1 if came > 0 and missing * _LOOK_SECONDS > came * left else 0
        before = missing
    return False
