"""All objects of one image, in containerd's order: the index, the manifest of a platform, then config and layers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Final

import msgspec

from fastmirror.errors import PullFailed, StoreError
from fastmirror.oci.descriptor import INDEX_TYPES, Descriptor
from fastmirror.oci.digest import Digest
from fastmirror.oci.manifest import MAX_BYTES, Manifest, parse_manifest
from fastmirror.oci.reference import Reference
from fastmirror.pull.hosts import Client, Host
from fastmirror.pull.image import ImageName, Platform, choose, platform_of
from fastmirror.pull.measured import Measured, Nowhere
from fastmirror.pull.objects import Objects
from fastmirror.store import Batch, Ingest

TICK_SECONDS: Final = 0.1
_DEPTH: Final = 4  # an index of indexes is allowed, without end it is not

Watch = Callable[[Sequence[Measured]], None]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What to pull, from where, and how. ``hosts``: the mirror, then the others in order."""

    image: ImageName
    hosts: tuple[Host, ...]
    platform: Platform
    at_once: int = 3
    into: Path | None = None


class Walk:
    """One pull. ``objects`` has what was measured so far, also after a failure; ``began`` is its start (monotonic).
    ``other`` is the platform that an image without an index is for, if it is not the one that was asked for.
    """

    def __init__(self, options: Options, watch: Watch) -> None:
        self.options = options
        self.objects: list[Measured] = []
        self.target: Digest | None = None
        self.began = self.seconds = 0.0
        self.other: Platform | None = None
        self._watch = watch
        self._client = Client()
        self._get = Objects(self._client, options.image, options.hosts)
        self._batch: Batch | None = None

    def run(self) -> None:
        """Pull everything. Raises PullFailed or StoreError; then nothing is kept, and no thread goes on."""
        self.began = time.monotonic()
        try:
            with contextlib.ExitStack() as closing:
                self._batch = self._open(closing)
                self._pull()
        finally:
            self.seconds = time.monotonic() - self.began
            self._client.stop()
            self._watch(self.objects)

    def _open(self, closing: contextlib.ExitStack) -> Batch | None:
        if self.options.into is None:
            return None
        from fastmirror.store.layout import open_layout  # only a pull that keeps something needs it

        try:
            store = open_layout(self.options.into, create=True)
        except StoreError as error:
            raise StoreError(f"into: {error}") from error
        closing.callback(store.close)
        return closing.enter_context(store.batch())

    def _pull(self) -> None:
        image = self.options.image
        size: int | None = None
        if image.digest is None:
            self.target, size = self._get.resolve()
        else:
            self.target = image.digest
        target, manifest = self._manifests(Measured("manifest", self.target, size=size))
        children = {child.digest: child for child in manifest.children}
        layers = [Measured("layer", child.digest, child.media_type, child.size) for child in children.values()]
        if layers:
            layers[0].kind = "config"  # a manifest's children begin with it
        self._blobs(layers)
        if self._batch is not None:
            if image.digest is None:
                self._batch.tag(Reference(image.registry, image.repository, image.tag), target)
            self._batch.commit()

    def _manifests(self, what: Measured) -> tuple[Descriptor, Manifest]:
        """What the image's name means, and the manifest of the platform."""
        target: Descriptor | None = None
        for _ in range(_DEPTH):
            content = self._manifest(what)
            manifest = parse_manifest(content)
            if manifest is None:
                raise PullFailed(f"{self.options.image}: {what.digest} is no manifest that can be read")
            what.media_type = manifest.media_type
            target = target or Descriptor(manifest.media_type, what.digest, len(content))
            if manifest.media_type not in INDEX_TYPES:
                return target, manifest
            what.kind = "index"
            child = choose(content, self.options.platform)
            what = Measured("manifest", child.digest, child.media_type, child.size)
        raise PullFailed(f"{self.options.image}: more than {_DEPTH} indexes in each other")

    def _manifest(self, what: Measured) -> bytes:
        self.objects.append(what)
        self._watch(self.objects)
        if what.size is not None and what.size > MAX_BYTES:
            raise PullFailed(f"{self.options.image}: {what.digest} is too large for a manifest: {what.size} bytes")
        kept = _Kept(self._sink(what))
        self._get.fetch(what, kept)
        return bytes(kept.content)

    def _blobs(self, blobs: list[Measured]) -> None:
        """Fetch them, so many at a time; the first failure ends all."""
        self.objects += blobs
        with ThreadPoolExecutor(self.options.at_once, thread_name_prefix="pull") as pool:
            waiting: set[Future[None]] = {pool.submit(self._blob, blob) for blob in blobs}
            try:
                while waiting:
                    done, waiting = wait(waiting, TICK_SECONDS, FIRST_COMPLETED)
                    self._watch(self.objects)
                    for each in done:
                        each.result()
            except BaseException:
                self._client.stop()
                for each in waiting:
                    each.cancel()
                raise

    def _blob(self, what: Measured) -> None:
        sink = self._sink(what)
        # an image with an index was chosen from it
        single = what.kind == "config" and all(one.kind != "index" for one in self.objects)
        kept = _Kept(sink) if single and what.size is not None and what.size <= MAX_BYTES else None
        try:
            self._get.fetch(what, kept or sink)
        except OSError as error:
            raise StoreError(f"into: {what.digest} cannot be written ({error.strerror or error})") from error
        there = kept and platform_of(kept.content)
        if there and there[:2] != self.options.platform[:2]:
            self.other = there

    def _sink(self, what: Measured) -> Ingest:
        return Nowhere(what.digest, what.size) if self._batch is None else self._batch.ingest(what.digest, what.size)


class _Kept:
    """An Ingest in front of another one that remembers what was written, up to the size of a manifest."""

    def __init__(self, sink: Ingest) -> None:
        self.content = bytearray()
        self._sink = sink

    def write(self, piece: bytes | memoryview) -> None:
        if len(self.content) + len(piece) > MAX_BYTES:
            raise PullFailed(f"what should be a manifest has more than {MAX_BYTES} bytes")
        self.content += piece
        self._sink.write(piece)

    def commit(self) -> None:
        self._sink.commit()

    def abort(self) -> None:
        self._sink.abort()
