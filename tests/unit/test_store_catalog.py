"""Names of images, the graph of what names what, and the catalog's events, against models that are plainly right."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmirror.oci.descriptor import OCI_INDEX, OCI_MANIFEST, OCTET_STREAM, Descriptor
from fastmirror.oci.digest import Digest
from fastmirror.oci.manifest import Manifest
from fastmirror.oci.reference import Reference
from fastmirror.store import Arrived, ContentEvent, Gone, Tagged, Untagged
from fastmirror.store.catalog import Catalog, Image
from fastmirror.store.graph import ContentGraph
from fastmirror.store.names import ImageName, image_name
from tests.kit import content

DIGESTS = [Digest.of(bytes([number])) for number in range(8)]


@pytest.mark.parametrize(
    ("text", "label", "name"),
    [
        ("docker.io/library/debian:12", "docker.io/library/debian:12", "docker.io/library/debian"),
        ("debian:12", "docker.io/library/debian:12", "docker.io/library/debian"),
        ("index.docker.io/library/debian:12", "docker.io/library/debian:12", "docker.io/library/debian"),
        ("localhost/app", "localhost/app:latest", "localhost/app"),
        ("localhost:5000/a/b:c", "localhost:5000/a/b:c", "localhost:5000/a/b"),
        ("[::1]:5000/a:b", "[::1]:5000/a:b", "[::1]:5000/a"),
        ("registry.example/a:1@sha256:00", "registry.example/a:1", "registry.example/a"),
        ("registry.example/a@sha256:00", "registry.example/a@sha256:00", "registry.example/a"),
        ("a/b@sha256:00", "docker.io/a/b@sha256:00", "docker.io/a/b"),
    ],
)
def test_a_full_name_has_one_spelling(text: str, label: str, name: str) -> None:
    found = image_name(text)
    assert found is not None
    assert (found.label, found.name) == (label, name)
    assert found.reference == (None if "@" in label else Reference.parse(label))


@pytest.mark.parametrize(
    "text",
    ["", "latest", "3.20", "v1", "a/b", "sha256:" + "0" * 64, "sha512:" + "0" * 128, "A/B:c", "x.y/", ":1", "/a:1"],
)
def test_what_says_nothing_about_which_image_it_is_is_no_name(text: str) -> None:
    assert image_name(text) is None


@given(st.text(max_size=40))
def test_any_text_is_a_name_or_none(text: str) -> None:
    found = image_name(text)
    if found is not None and found.reference is not None:
        assert image_name(found.label) == found


# A step changes the graph; the model is a plain walk downwards over all that was said.

Step = tuple[str, int, int]
steps = st.lists(
    st.tuples(st.sampled_from(["add", "discard", "hold", "release"]), st.integers(0, 7), st.integers(0, 255)),
    max_size=40,
)


def model_names(manifests: dict[Digest, Manifest], holds: dict[str, Descriptor], digest: Digest) -> set[str]:
    found = set()
    for label, target in holds.items():
        below, ahead = {target.digest}, [target.digest]
        while ahead:
            manifest = manifests.get(ahead.pop())
            for child in manifest.children if manifest else ():
                if child.digest not in below:
                    below.add(child.digest)
                    ahead.append(child.digest)
        if digest in below:
            found.add(f"name/{label}")
    return found


@given(steps)
@settings(max_examples=300, deadline=None)
def test_the_graph_knows_the_same_names_as_a_walk_from_the_top(done: list[Step]) -> None:
    graph = ContentGraph()
    manifests: dict[Digest, Manifest] = {}
    holds: dict[str, Descriptor] = {}
    for action, number, more in done:
        digest, label = DIGESTS[number], f"label{number}"
        if action == "add" and digest not in manifests:  # content never changes
            below = [DIGESTS[child] for child in range(number) if more >> child & 1]
            children = tuple(Descriptor(OCI_MANIFEST, child, 1) for child in below)
            manifests[digest] = Manifest(OCI_INDEX, children, children)
            graph.add(digest, manifests[digest])
        elif action == "discard":
            manifests.pop(digest, None)
            graph.discard(digest)
        elif action == "hold":
            holds[label] = Descriptor(OCI_INDEX, DIGESTS[more % 8], 1)
            graph.hold(label, f"name/{label}", holds[label])
        elif action == "release":
            holds.pop(label, None)
            graph.release(label)
        for each in DIGESTS:
            assert graph.names(each) == model_names(manifests, holds, each)
            assert (graph.manifest(each) is None) == (each not in manifests)


def test_a_stranger_digest_leaves_nothing_in_the_graph() -> None:
    graph = ContentGraph()
    for number in range(1000):
        assert graph.names(Digest.of(b"stranger %d" % number)) == frozenset()
    assert graph._names == {}


# Whatever a store tells its catalog, the events are a faithful and ordered account of the view.

WHOLE = content.index([content.image((1536,), seed=1), content.image((1536, 2048), seed=2)])
ALL = list(WHOLE.blobs)
NAMES = [Reference.parse(f"registry.example/a:{number}") for number in range(3)]


def images(chosen: int) -> dict[str, Image]:
    found = {}
    manifests = [digest for digest in ALL if b'"schemaVersion"' in WHOLE.blobs[digest]]
    for number, reference in enumerate(NAMES):
        which = chosen >> (2 * number) & 3
        if which < 3:
            digest = manifests[which]
            target = Descriptor(OCTET_STREAM, digest, len(WHOLE.blobs[digest]))
            found[str(reference)] = Image(ImageName(str(reference), reference.name, reference), target)
    return found


@given(
    st.lists(
        st.tuples(st.sets(st.sampled_from(ALL)), st.sets(st.sampled_from(ALL)), st.none() | st.integers(0, 63)),
        max_size=12,
    )
)
@settings(max_examples=300, deadline=None)
def test_the_events_of_a_catalog_add_up_to_what_it_holds_and_keep_their_order(
    updates: list[tuple[set[Digest], set[Digest], int | None]],
) -> None:
    catalog = Catalog(WHOLE.blobs.get)
    here: set[Digest] = set()
    tags: dict[Reference, Descriptor] = {}

    def hear(event: ContentEvent) -> None:
        match event:
            case Arrived(digest):
                assert digest not in here
                here.add(digest)
            case Gone(digest):
                assert digest in here
                assert digest not in {target.digest for target in tags.values()}
                here.discard(digest)
            case Tagged(reference, target):
                assert target.digest in here
                assert tags.get(reference) != target
                tags[reference] = target
            case Untagged(reference):
                del tags[reference]

    catalog.subscribe(hear)
    for came, left, chosen in updates:
        sizes = {digest: len(WHOLE.blobs[digest]) for digest in came}
        catalog.update(sizes, left, None if chosen is None else images(chosen))
        assert here == set(catalog.digests())
        assert tags == dict(catalog.references())
        for reference, target in tags.items():
            assert catalog.resolve(reference) == target
            assert target.size == len(WHOLE.blobs[target.digest])


def test_events_that_a_listener_causes_come_after_those_that_it_is_told() -> None:
    catalog = Catalog(lambda digest: None)
    heard: list[tuple[str, ContentEvent]] = []

    def meddle(event: ContentEvent) -> None:
        heard.append(("first", event))
        if event == Arrived(DIGESTS[0]):
            catalog.update(left=(DIGESTS[0],))

    catalog.subscribe(meddle)
    catalog.subscribe(lambda event: heard.append(("second", event)))
    catalog.update({DIGESTS[0]: 1, DIGESTS[1]: 1})
    told = [Arrived(DIGESTS[0]), Arrived(DIGESTS[1]), Gone(DIGESTS[0])]
    assert heard == [(who, event) for event in told for who in ("first", "second")]


def test_a_large_blob_is_not_read_to_see_whether_it_is_a_manifest() -> None:
    def read(digest: Digest) -> bytes:
        raise AssertionError(f"{digest} was read")

    catalog = Catalog(read)
    catalog.update({DIGESTS[0]: 5 << 20})
    assert catalog.media_type(DIGESTS[0]) is None


def test_a_blob_that_is_no_manifest_is_read_once_only() -> None:
    reads: list[Digest] = []

    def read(digest: Digest) -> bytes:
        reads.append(digest)
        return b"{}"

    catalog = Catalog(read)
    catalog.update({DIGESTS[0]: 2})
    assert catalog.media_type(DIGESTS[0]) is None
    assert catalog.media_type(DIGESTS[0]) is None
    assert reads == [DIGESTS[0]]
