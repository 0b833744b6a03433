"""What is served is what is told: order, filters, and what happens when the store does not answer."""

from __future__ import annotations

import asyncio
import contextlib

from hypothesis import given
from hypothesis import strategies as st

from fastmirror.advertise.advertiser import Advertiser, advertising
from fastmirror.advertise.announced import Announced
from fastmirror.errors import StoreUnavailable
from fastmirror.mirror.filters import Filters
from fastmirror.mirror.local import Local
from fastmirror.oci.digest import Digest
from fastmirror.oci.reference import Reference
from fastmirror.routing import Key, Peer
from fastmirror.routing.memory import Directory, MemoryRouter
from fastmirror.store.memory import MemoryStore
from tests.kit.content import image, put, put_blob
from tests.kit.fetching import until

TAG = Reference("reg.example", "team/app", "v1")
OTHER = Reference("reg.example", "secret/app", "v1")
MANIFESTS = [Digest.of(b"manifest %d" % n) for n in range(3)]
BLOBS = [Digest.of(b"blob %d" % n) for n in range(3)]


class Told(MemoryRouter):
    """A router that remembers what it was told, in order."""

    def __init__(self) -> None:
        super().__init__(Peer("here", 1), Directory())
        self.said: list[tuple[str, Key]] = []
        self.now: set[Key] = set()

    def advertise(self, keys) -> None:
        keys = list(keys)
        self.said += [("advertise", key) for key in keys]
        self.now |= set(keys)

    def withdraw(self, keys) -> None:
        keys = list(keys)
        self.said += [("withdraw", key) for key in keys]
        self.now -= set(keys)


def filtered(store: MemoryStore, router: Told, **filters) -> Advertiser:
    chosen = Filters(**filters)
    local = Local(store, chosen)
    return Advertiser(store, router, local.may_serve, lambda tag: chosen.allows((tag.name,)))


def test_blobs_come_before_manifests_and_these_before_tags_and_all_go_in_reverse():
    announced = Announced(MANIFESTS.__contains__)
    come = announced.become([TAG, *MANIFESTS, *BLOBS])
    assert come.withdraw == ()
    ranks = [2 if key == TAG else int(key in MANIFESTS) for key in come.advertise]
    assert ranks == sorted(ranks)
    gone = announced.become([])
    ranks = [2 if key == TAG else int(key in MANIFESTS) for key in gone.withdraw]
    assert ranks == sorted(ranks, reverse=True)
    assert not announced.become([])


@given(st.lists(st.one_of(st.sets(st.sampled_from(BLOBS)), st.sampled_from(BLOBS)), max_size=20))
def test_the_ledger_is_what_was_told(steps):
    announced = Announced(MANIFESTS.__contains__)
    told: set[Key] = set()
    wanted: set[Key] = set()
    for number, step in enumerate(steps):
        if isinstance(step, set):
            wanted, change = set(step), announced.become(step)
        elif number % 2:
            wanted, change = wanted | {step}, announced.add(step)
        else:
            wanted, change = wanted - {step}, announced.drop(step)
        assert set(change.withdraw) <= told
        assert not set(change.advertise) & told
        told = (told - set(change.withdraw)) | set(change.advertise)
        assert told == wanted
        assert len(announced) == len(wanted)


async def test_what_was_here_before_and_what_comes_and_goes_is_told_at_once():
    store, router = MemoryStore(), Told()
    first = put_blob(store, b"before")
    with advertising(Advertiser(store, router)):
        assert router.now == {first}
        second = put_blob(store, b"after")
        assert router.now == {first, second}
        store.remove(first)
        assert router.now == {second}
    assert router.now == set()
    put_blob(store, b"later")
    assert router.now == set()


async def test_with_filters_exactly_what_is_served_is_told_whatever_comes_first():
    store, router = MemoryStore(), Told()
    advertiser = filtered(store, router, deny=["reg.example/secret/*"])
    task = asyncio.get_running_loop().create_task(advertiser.run())
    with advertising(advertiser):
        open_image, secret = image(seed=1), image(seed=2)
        put(store, open_image, str(TAG))
        put(store, secret, str(OTHER))
        served = {*open_image.blobs, TAG}
        await until(lambda: router.now == served, "what is served is told", 2)
        assert OTHER not in router.now
        store.untag(TAG)  # nothing says any more whose content this is
        await until(lambda: router.now == set(), "nothing is told any more", 2)
        put(store, secret, str(TAG))  # the same content by a name that may be served
        await until(lambda: router.now == {*secret.blobs, TAG}, "it is told by its other name", 2)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_a_store_that_does_not_answer_is_asked_again(monkeypatch):
    monkeypatch.setattr("fastmirror.advertise.advertiser.RETRY_SECONDS", 0.05)
    store, router = MemoryStore(), Told()
    digest = put_blob(store, b"content")
    failures = [StoreUnavailable("restarting")] * 2
    answer = store.digests

    def digests():
        if failures:
            raise failures.pop()
        return answer()

    monkeypatch.setattr(store, "digests", digests)
    advertiser = Advertiser(store, router)
    task = asyncio.get_running_loop().create_task(advertiser.run())
    with advertising(advertiser):
        assert router.now == set()
        await until(lambda: router.now == {digest}, "it is told at last", 2)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
