"""A pull over real sockets: hosts in order, resumed after a FIN, and failed where containerd would fail."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from fastmirror.errors import PullFailed
from fastmirror.oci.digest import Digest
from fastmirror.pull import hosts
from fastmirror.pull.hosts import Host
from fastmirror.pull.image import ImageName, Platform
from fastmirror.pull.measured import Measured
from fastmirror.pull.walk import Options, Walk
from fastmirror.store.layout import open_layout
from tests.kit import faults
from tests.kit.content import blob
from tests.kit.faults import Plan, Seen, on_get
from tests.kit.faulty_peer import FaultyPeer
from tests.kit.layout import digest_of, image

LAYER = blob(3_000_000, 81)
MANIFEST, BLOBS = image([LAYER, blob(1000, 82)])
CONTENT = [MANIFEST, *BLOBS]
NAME = f"registry.example/team/app@{digest_of(MANIFEST)}"


def layer_only(plan: Plan) -> Plan:
    """That plan for the GETs of the large layer, which are counted alone; the others are answered rightly."""
    count = 0

    def choose(seen: Seen) -> faults.Fault | None:
        nonlocal count
        if seen.reference != digest_of(LAYER):
            return None
        count += 1
        return plan(seen._replace(number=count - 1))

    return choose


def walk(peers: Sequence[FaultyPeer], **more) -> Walk:
    urls = tuple(Host.parse(f"http://{peer}", "mirror") for peer in peers)
    more = {"platform": Platform("linux", "amd64")} | more
    made = Walk(Options(image=ImageName.parse(NAME), hosts=urls, **more), lambda _: None)
    made.run()
    return made


def failure(peers: Sequence[FaultyPeer], **more) -> PullFailed:
    with pytest.raises(PullFailed) as caught:
        walk(peers, **more)
    return caught.value


def of_layer(done: Walk) -> Measured:
    (found,) = (one for one in done.objects if one.digest == digest_of(LAYER))
    return found


def test_everything_is_fetched_once_measured_and_named():
    with FaultyPeer(CONTENT) as peer:
        done = walk([peer])
        assert len(peer.gets()) == 4
        assert all("ns=registry.example" in seen.target for seen in peer.requests)
    assert [one.kind for one in done.objects] == ["manifest", "config", "layer", "layer"]
    assert [one.bytes for one in done.objects] == [len(content) for content in CONTENT[:1] + BLOBS]
    assert all(one.whole and one.first_byte is not None and one.rate > 0 for one in done.objects)
    assert done.seconds >= of_layer(done).seconds


def test_an_image_without_an_index_that_is_for_another_platform_is_pulled_and_told_of():
    with FaultyPeer(CONTENT) as peer:
        assert walk([peer]).other is None
        assert walk([peer], platform=Platform("linux", "arm64")).other == Platform("linux", "amd64")


def test_after_a_fin_the_rest_is_asked_for_from_the_first_host_again():
    with FaultyPeer(CONTENT, layer_only(on_get(faults.truncate(1_000_000), None))) as peer:
        done = of_layer(walk([peer]))
        assert [seen.start for seen in peer.gets(digest_of(LAYER))] == [None, 1_000_000]
    assert (done.resumes, done.bytes, done.whole) == (1, len(LAYER), True)


def test_a_first_host_that_has_no_more_hands_over_to_the_next_one():
    plan = layer_only(on_get(faults.truncate(1_000_000), faults.status(404)))
    with FaultyPeer(CONTENT, plan) as peer, FaultyPeer(CONTENT) as origin:
        done = of_layer(walk([peer, origin]))
        assert [seen.start for seen in origin.gets()] == [1_000_000]
    assert done.hosts == [f"http://{peer}", f"http://{origin}"]


def test_a_range_that_is_ignored_is_skipped_over():
    with FaultyPeer(CONTENT, layer_only(on_get(faults.truncate(1_000_000), faults.no_range()))) as peer:
        done = of_layer(walk([peer]))
    assert (done.resumes, done.bytes) == (1, len(LAYER))


@pytest.mark.parametrize(
    ("plan", "why"),
    [
        (on_get(faults.reset(1_000_000)), "breaks the connection at byte"),
        (on_get(faults.truncate(1_000_000), faults.truncate(0)), "at byte 1000000 of 3000000, again and again"),
        (on_get(faults.truncate(1_000_000), faults.wrong_range(7)), "sends another range"),
        (on_get(faults.corrupt(5)), "sent other content: expected sha256:"),
        (on_get(faults.status(500)), "status 500"),
        (on_get(faults.garbage()), "http://127.0.0.1:"),
    ],
)
def test_what_containerd_would_fail_at_fails_and_says_what_from_where_and_why(plan, why):
    with FaultyPeer(CONTENT, layer_only(plan)) as peer:
        error = failure([peer])
        assert why in str(error)
        assert f"http://{peer}" in str(error)
        assert digest_of(LAYER) in str(error)
        assert not error.missed


def test_silence_in_a_body_ends_the_pull(monkeypatch):
    monkeypatch.setattr(hosts, "SILENCE_SECONDS", 0.3)
    with FaultyPeer(CONTENT, layer_only(on_get(faults.stall(1_000_000)))) as peer:
        assert "silent in the middle of the answer, at byte 1000000" in str(failure([peer]))


def test_what_nobody_has_is_a_miss_that_names_the_next_step():
    with FaultyPeer([]) as peer, FaultyPeer([]) as origin:
        alone = failure([peer])
        assert alone.missed
        assert "does not have it (404). A miss: " in str(alone)
        assert "--origin URL" in str(alone)
        both = failure([peer, origin])
        assert both.missed
        assert f"http://{origin}: does not have it" in str(both)


def test_a_host_that_cannot_be_reached_is_no_miss_and_the_next_one_is_asked():
    with FaultyPeer(CONTENT, listening=False) as dead, FaultyPeer(CONTENT) as origin:
        error = failure([dead])
        assert not error.missed
        assert "refused" in str(error)
        assert of_layer(walk([dead, origin])).hosts == [f"http://{origin}"]


def test_redirects_are_followed_and_not_for_ever():
    with FaultyPeer(CONTENT) as store:
        elsewhere = f"http://{store}/v2/x/blobs/{digest_of(LAYER)}"
        with FaultyPeer(CONTENT, layer_only(on_get(faults.redirect(elsewhere)))) as peer:
            assert of_layer(walk([peer])).whole
            assert len(store.gets()) == 1
        with FaultyPeer(CONTENT, layer_only(on_get(faults.redirect("/v2/x/blobs/" + digest_of(LAYER))))) as peer:
            assert "more than 5 redirects" in str(failure([peer]))


def test_a_token_for_everybody_is_fetched_where_one_is_asked_for():
    token = b'{"token": "abc"}'
    with FaultyPeer([token]) as realm:
        url = f"http://{realm}/v2/realm/blobs/{digest_of(token)}"

        def plan(seen: Seen) -> faults.Fault | None:
            return None if seen.headers.get("authorization") == "Bearer abc" else faults.unauthorized(url)

        with FaultyPeer(CONTENT, plan) as peer:
            assert all(one.whole for one in walk([peer]).objects)
            assert "service=x&scope=y" in realm.requests[0].target


def test_nothing_is_kept_of_a_pull_that_failed_and_everything_of_one_that_did_not(tmp_path):
    with FaultyPeer(CONTENT, layer_only(on_get(faults.corrupt(5), None))) as peer:
        failure([peer], into=tmp_path / "out")
        assert list((tmp_path / "out/blobs/sha256").iterdir()) == []
        walk([peer], into=tmp_path / "out")
    store = open_layout(tmp_path / "out")
    assert {str(digest) for digest in store.digests()} == {digest_of(content) for content in CONTENT}
    blob_ = store.open(Digest.of(LAYER))
    assert blob_ is not None
    with blob_:
        assert blob_.read_span(0, len(LAYER)) == LAYER
    store.close()
