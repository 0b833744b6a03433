"""What is told to other nodes equals what is in a real containerd, within two seconds of each fact."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from fastmirror.advertise.advertiser import Advertiser, advertising
from fastmirror.oci.digest import Digest
from fastmirror.oci.reference import Reference
from fastmirror.routing import Key
from tests.kit.containerd import Containerd
from tests.kit.fetching import until
from tests.kit.images import Image
from tests.kit.listening import offer, place, pull, running
from tests.kit.origin import Origin
from tests.unit.test_advertise import Told

Make = Callable[..., Image]


def keys_of(image: Image) -> set[Key]:
    return {*map(Digest.parse, image.blobs), Reference.parse(image.name)}


async def told(router: Told, there: set[Key], absent: set[Key], what: str) -> None:
    def true() -> bool:
        return there <= router.now and not absent & router.now

    await until(true, f"{what}: {there - router.now} missing, {absent & router.now} too much", 2.0)


async def test_what_is_pulled_before_and_after_the_start_imported_and_removed_is_told_within_2_s(
    node: Containerd, source: Origin, fresh_image: Make, tmp_path: Path
) -> None:
    before, after, imported = fresh_image(), fresh_image(), fresh_image()
    offer(node, source, before)
    offer(node, source, after)
    await pull(node, before, "cri")
    router = Told()
    async with running(place(node)) as heard:
        await heard.until(lambda: heard.store.problem() is None, "containerd was heard of")
        with advertising(Advertiser(heard.store, router)):
            await told(router, keys_of(before), set(), "pulled before the start")
            await pull(node, after, "cri")
            await told(router, keys_of(before) | keys_of(after), set(), "pulled after the start")
            await asyncio.to_thread(node.load, imported.write_archive(tmp_path / "image.tar"))
            await told(router, keys_of(imported), set(), "imported")
            await asyncio.to_thread(node.remove, before.name)
            await told(router, keys_of(after) | keys_of(imported), keys_of(before), "removed")
        assert router.now == set()


async def test_what_is_removed_while_events_are_lost_is_told_within_2_s_of_their_return(
    node: Containerd, source: Origin, fresh_image: Make
) -> None:
    stays, goes = fresh_image(), fresh_image()
    for image in (stays, goes):
        offer(node, source, image)
        await pull(node, image, "cri")
    router = Told()
    async with running(place(node)) as heard:
        await heard.until(lambda: heard.store.problem() is None, "containerd was heard of")
        with advertising(Advertiser(heard.store, router)):
            await told(router, keys_of(stays) | keys_of(goes), set(), "both are there")
            await asyncio.to_thread(node.stop)
            await asyncio.to_thread(node.start)
            await asyncio.to_thread(node.remove, goes.name)  # likely before its events are listened to again
            await heard.until(lambda: heard.store.problem() is None, "containerd is heard of again")
            await told(router, keys_of(stays), keys_of(goes), "removed meanwhile")
