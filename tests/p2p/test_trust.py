"""Who is let in: with the admission secret, with an allowed identity, and nobody else."""

from __future__ import annotations

import asyncio

from fastmirror.routing import Peer
from tests.p2p.conftest import until
from tests.p2p.test_hostile import hostile

OLD, NEW = "the old admission secret", "the new admission secret"


def secrets(path, *lines: str) -> str:
    path.write_text("".join(line + "\n" for line in lines))
    return str(path)


async def test_only_who_knows_the_secret_is_let_in(cluster, tmp_path):
    file = secrets(tmp_path / "ours", OLD)
    ours, theirs = cluster.start(0, secret_file=file), cluster.start(1, secret_file=file)
    wrong, none = cluster.start(2, secret_file=secrets(tmp_path / "wrong", NEW)), cluster.start(3)
    await until(lambda: ours.peers() and theirs.peers(), "those who know it are joined")
    await until(lambda: ours.counters().get("refused_admission", 0) > 0, "a wrong secret is counted")
    assert "ended" in await hostile("join", cluster, cluster.hosts[5], "no such secret here", "1")
    assert "linked" in await hostile("join", cluster, cluster.hosts[5], OLD, "1")
    assert ours.peers() == [Peer(cluster.hosts[1], 5001)]
    assert wrong.peers() == none.peers() == []


async def test_the_secret_is_rotated_without_anybody_leaving(cluster, tmp_path):
    files = [secrets(tmp_path / str(number), OLD) for number in range(3)]
    ours, theirs = cluster.start(0, secret_file=files[0]), cluster.start(1, secret_file=files[1])
    await until(lambda: ours.peers() and theirs.peers(), "both are joined")
    for stage in ((OLD, NEW), (NEW, OLD), (NEW,)):
        for number in range(2):
            secrets(tmp_path / str(number), *stage)
            third = cluster.start(2, secret_file=secrets(tmp_path / "2", *stage))
            await until(lambda third=third: len(third.peers()) == 2, f"a newcomer joins while {stage} comes in")
            await cluster.stop(third)
            assert ours.peers()
            assert theirs.peers()
    assert "ended" in await hostile("join", cluster, cluster.hosts[5], OLD, "1")


async def test_who_only_knows_a_secret_that_was_taken_away_has_to_go_and_nobody_else(cluster, tmp_path):
    files = [secrets(tmp_path / str(number), OLD) for number in range(3)]
    ours, theirs, late = (cluster.start(number, secret_file=file) for number, file in enumerate(files))
    await until(lambda: all(len(router.peers()) == 2 for router in (ours, theirs, late)), "all are joined")
    token = ours.accepted
    for stage in ((OLD, NEW), (NEW, OLD), (NEW,)):
        for number in range(2):
            secrets(tmp_path / str(number), *stage)
    await until(lambda: ours.peers() == [Peer(cluster.hosts[1], 5001)], "who does not know the new one is gone", 30)
    await until(lambda: theirs.peers() == [Peer(cluster.hosts[0], 5001)], "and from the other, too", 30)
    await until(lambda: ours.counters()["losses"] == theirs.counters()["losses"] == 1, "nobody else ever was")
    await until(lambda: ours.accepted[0] not in token, "and what it knows of the peer listener gets old")


async def test_peers_show_each_other_a_token_where_trust_is_set_up(cluster, tmp_path):
    file = secrets(tmp_path / "s", OLD)
    ours, theirs = cluster.start(0, secret_file=file), cluster.start(1, secret_file=file)
    await until(lambda: ours.peers() and theirs.peers(), "both are joined")
    await until(lambda: ours.token(Peer(cluster.hosts[1], 5001)), "the token has come")
    assert ours.token(Peer(cluster.hosts[1], 5001)) in theirs.accepted
    assert ours.token(Peer(cluster.hosts[5], 5001)) == b""


async def test_only_allowed_identities_are_let_in(cluster, tmp_path):
    theirs = cluster.start(1, data_dir=str(tmp_path / "theirs"))
    await until(lambda: theirs.peer_id, "it has an identity")
    ours = cluster.start(0, allowed_ids=[theirs.peer_id])
    stranger = cluster.start(2)
    await until(lambda: ours.peers(), "the allowed one is joined")
    await until(lambda: ours.counters().get("refused_admission", 0) > 0, "the stranger was refused")
    assert ours.peers() == [Peer(cluster.hosts[1], 5001)]
    assert Peer(cluster.hosts[0], 5001) not in stranger.peers()


async def test_the_identity_stays_over_a_restart_and_a_clone_gets_another(cluster, tmp_path):
    directory = tmp_path / "data"
    first = cluster.start(1, data_dir=str(directory))
    ours = cluster.start(0)
    await until(lambda: ours.peers() and first.peer_id, "it is joined")
    identity = first.peer_id
    await cluster.stop(first)
    again = cluster.start(1, data_dir=str(directory))
    await until(lambda: again.peer_id, "it is back")
    assert again.peer_id == identity
    assert (directory / "identity.key").stat().st_mode & 0o777 == 0o600
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "identity.key").write_bytes((directory / "identity.key").read_bytes())
    await until(lambda: again.peers(), "it is joined again")
    clone = cluster.start(2, data_dir=str(copy))
    await until(lambda: len(ours.peers()) == 2, "both are there, under two names", 30)
    assert {again.peer_id, clone.peer_id} != {identity}
    await asyncio.sleep(0)
    assert again.peer_id != clone.peer_id
