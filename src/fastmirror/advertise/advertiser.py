"""Runs the ledger: hears the store, tells the router."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Final

from fastmirror.advertise.announced import Announced, Change
from fastmirror.errors import StoreError
from fastmirror.oci.digest import Digest
from fastmirror.oci.reference import Reference
from fastmirror.routing import Key, Router
from fastmirror.store import Arrived, BlobStore, ContentEvent, Gone, Tagged, Untagged

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 0.1
"""With filters names decide what is served, and one name can do so for many contents: all is looked at again, once,
this long after the first change."""

RETRY_SECONDS: Final = 1.0
_SLICE: Final = 512


class Advertiser:
    """Keeps what the router tells equal to what this node serves, from :meth:`begin` to :meth:`retire`.

    ``may_serve`` and ``may_name`` judge content and tags; None: everything is served. With them :meth:`run` must run.
    """

    def __init__(
        self,
        store: BlobStore,
        router: Router,
        may_serve: Callable[[Digest], bool] | None = None,
        may_name: Callable[[Reference], bool] | None = None,
    ) -> None:
        self.announced = Announced(lambda digest: store.media_type(digest) is not None)
        self._store = store
        self._router = router
        self._may_serve = may_serve
        self._may_name = may_name
        self._look = asyncio.Event()
        self._undo: Callable[[], None] | None = None

    def begin(self) -> None:
        """Tell all that is here, and follow the store from now on."""
        self._undo = self._store.subscribe(self._changed)
        if self._filtered:
            self._look.set()
        try:
            self._tell(self.announced.become(self._served()))
        except StoreError as error:
            log.warning("what is here cannot be told now: %s", error, extra={"event": "advertise.store_failed"})
            self._look.set()

    async def run(self) -> None:
        """Look at everything again whenever that is due, until cancelled."""
        while True:
            await self._look.wait()
            await asyncio.sleep(LOOK_SECONDS)
            self._look.clear()
            try:
                await self._look_again()
            except StoreError as error:
                log.warning("what is here cannot be told now: %s", error, extra={"event": "advertise.store_failed"})
                await asyncio.sleep(RETRY_SECONDS)
                self._look.set()

    def retire(self) -> None:
        """Withdraw everything and follow the store no more; idempotent."""
        if self._undo is not None:
            self._undo()
            self._undo = None
        self._tell(self.announced.become(()))

    @property
    def _filtered(self) -> bool:
        return self._may_serve is not None or self._may_name is not None

    def _changed(self, event: ContentEvent) -> None:
        match event:
            case Gone(digest):
                self._tell(self.announced.drop(digest))
            case Untagged(reference):
                self._tell(self.announced.drop(reference))
            case Arrived(digest) if not self._filtered:
                self._tell(self.announced.add(digest))
            case Tagged(reference) if not self._filtered:
                self._tell(self.announced.add(reference))
        if self._filtered:
            self._look.set()

    def _served(self) -> Iterator[Key]:
        for digest in list(self._store.digests()):
            if self._may_serve is None or self._may_serve(digest):
                yield digest
        for reference, _ in list(self._store.references()):
            if self._may_name is None or self._may_name(reference):
                yield reference

    async def _look_again(self) -> None:
        served = []
        for number, key in enumerate(self._served(), 1):
            served.append(key)
            if number % _SLICE == 0:
                await asyncio.sleep(0)
        self._tell(self.announced.become(served))  # what has changed meanwhile has asked for another look

    def _tell(self, change: Change) -> None:
        if change.withdraw:
            self._router.withdraw(change.withdraw)
        if change.advertise:
            self._router.advertise(change.advertise)


@contextlib.contextmanager
def advertising(advertiser: Advertiser) -> Iterator[Advertiser]:
    """The advertiser at work; everything is withdrawn at the end of the block."""
    advertiser.begin()
    try:
        yield advertiser
    finally:
        advertiser.retire()
