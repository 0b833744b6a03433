"""What a node holds is damaged, or is larger than usual: pulls go on, and no byte is wrong."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.kit import faults
from tests.kit.containerd import Generation
from tests.kit.faulty_peer import FaultyPeer
from tests.kit.images import Image, make_image
from tests.kit.origin import Origin
from tests.kit.pair import Pair, Two, pair
from tests.kit.waiting import eventually

Make = Callable[..., Image]
CLIENTS = ("ctr", "cri")
SIZES = (20_000, 5_000_000)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_layer_that_was_cut_short_on_the_holder_comes_from_the_origin(
    nodes: Pair, fresh_image: Make, client: str
) -> None:
    image = fresh_image(sizes=SIZES)
    nodes.hold(image)
    layer = list(image.blobs)[4]
    os.truncate(nodes.holder.path(layer), 1_000_000)
    pulled = nodes.pull(client, image)
    assert pulled, pulled
    assert [asked.reference for asked in nodes.origin.asked() if asked.sent] == [layer]


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("which", [1, 2, 3, 4], ids=["manifest", "config", "small layer", "layer"])
def test_a_flipped_bit_on_the_holders_disk_is_not_passed_on(
    nodes: Pair, fresh_image: Make, client: str, which: int
) -> None:
    image = fresh_image(sizes=SIZES)
    nodes.hold(image)
    digest = list(image.blobs)[which]
    large = which == 4  # small content may still be in the memory of the holder's mirror, as it was
    with open(nodes.holder.path(digest), "r+b") as file:
        file.seek(100)
        byte = file.read(1)
        file.seek(100)
        file.write(bytes([byte[0] ^ 1]))
    pulled = nodes.pull(client, image)
    assert pulled, pulled
    assert not large or digest in [asked.reference for asked in nodes.origin.asked() if asked.sent]


@pytest.mark.parametrize("client", CLIENTS)
def test_a_manifest_of_almost_four_mebibytes(nodes: Pair, client: str, generation: Generation) -> None:
    seed = f"{client}/{generation}"
    notes = {f"test.note.{number}": "x" * 10_000 for number in range(380)}
    image = make_image(f"registry.test/large/{client}:{generation}", seed=seed, annotations=notes)
    assert len(image.manifest) > 3_800_000
    nodes.hold(image)
    nodes.origin.off()
    pulled = nodes.pull(client, image)
    assert pulled, pulled


@pytest.mark.parametrize("client", CLIENTS)
def test_a_liar_about_a_large_layer_never_gets_a_wrong_layer_in_and_is_not_asked_again(
    both: Two, source: Origin, fresh_image: Make, client: str
) -> None:
    """Its first half may be passed on before the digest of the whole says that it is wrong: that costs one attempt."""
    image = fresh_image(sizes=(20_000, 12_000_000))
    layer = list(image.blobs)[4]
    lie = faults.corrupt(1000)
    with (
        FaultyPeer(image.blobs.values(), lambda seen: lie if seen.reference == layer else None) as liar,
        pair(source, both, peers=[str(liar)], flags={"lookup_timeout": "3s"}) as nodes,
    ):
        nodes.publish(image)
        first = nodes.pull(client, image)
        assert first or not nodes.puller.path(layer).exists()
        ingest = nodes.puller.content / "ingest"
        eventually(lambda: not os.listdir(ingest), "containerd has collected what it could not commit", 30)
        asked = len(liar.gets(layer))
        second = nodes.pull(client, image)
        assert second, second
        assert len(liar.gets(layer)) == asked
