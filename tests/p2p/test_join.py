"""Three real nodes over libp2p: what one has all know, what a dead one had nobody finds."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

from fastmirror.inventory.keys import fingerprint
from tests.kit.process import environment
from tests.kit.waiting import NOISE, eventually, let_pass
from tests.kit.wire import ask
from tests.p2p.swarm import swarm


def test_a_key_appears_everywhere_and_is_gone_with_its_node(tmp_path):
    with swarm(tmp_path, 3) as nodes:
        early = nodes.put(1, b"here before the start")
        for number in range(3):
            nodes.start(number)
        nodes.wait_joined(2)
        for number in (0, 2):
            eventually(lambda n=number: nodes.has(n, early), "content from before the start is found")
        late = nodes.put(1, b"here after the start")
        for number in (0, 2):
            eventually(lambda n=number: nodes.has(n, late), "content that arrived is found")
        nodes.nodes[1].kill()
        began = time.monotonic()
        for number in (0, 2):
            eventually(lambda n=number: nodes.live(n) == 1, "the dead node is known to be gone")
        assert time.monotonic() - began < 0.2 * NOISE
        for number in (0, 2):
            began = time.monotonic()
            assert not nodes.has(number, late), "all that had it are gone"
            assert time.monotonic() - began < 0.3 * NOISE


def test_where_trust_is_set_up_the_peer_listener_asks_for_proof_of_it(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("an admission secret of this test\n")
    with swarm(tmp_path, 2, admission_secret_file=secret) as nodes:
        content = b"private" * 10_000
        digest = nodes.put(1, content)
        for number in range(2):
            nodes.start(number)
        nodes.wait_joined(1)
        target = f"/v2/a/blobs/{digest}"
        eventually(lambda: nodes.nodes[0].ask("GET", target).body == content, "a node of the cluster is served")
        for method, path in (("GET", target), ("HEAD", target), ("GET", "/v2/")):
            assert ask(nodes.nodes[1].peer, method, path).status == 403
        for shown in ("", "00", "zz", "00" * 16):
            assert ask(nodes.nodes[1].peer, "GET", target, **{"Fastmirror-Token": shown}).status == 403


def test_peers_are_shown_to_people(tmp_path):
    with swarm(tmp_path, 2) as nodes:
        for number in range(2):
            nodes.start(number)
        nodes.wait_joined(1)
        admin = ":".join(map(str, nodes.nodes[0].admin))
        command = [sys.executable, "-m", "fastmirror", "peers", "--admin-addr", admin]
        shown = subprocess.run(command, capture_output=True, text=True, env=environment(), check=True).stdout
        assert shown.split()[:2] == ["NAME", "PEER"]
        assert "node1" in shown
        assert " live " in shown
        (row,) = json.loads(subprocess.run([*command, "-o", "json"], capture_output=True, env=environment()).stdout)
        assert row["address"] == ":".join(map(str, nodes.nodes[1].peer))
        assert row["peer_id"].startswith("12D3KooW")
        assert row["round_trip"] is None or 0 < row["round_trip"] < NOISE
        assert nodes.nodes[0].log.problems() == []
        nodes.nodes[1].kill()
        eventually(lambda: nodes.live(0) == 0, "the dead node is known to be gone")
        (row,) = json.loads(subprocess.run([*command, "-o", "json"], capture_output=True, env=environment()).stdout)
        assert (row["state"], row["connection"]) == ("lost", "none")
        assert "connection lost" in row["failure"] or "Connection refused" in row["failure"]  # dialled again since
        assert 0 <= row["failure_age"] <= row["age"] + 0.1
    asked = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert asked.returncode == 1
    assert "no node answers" in asked.stderr


def test_the_one_that_has_it_is_found_among_many_that_only_say_so(tmp_path):
    with swarm(tmp_path, 3) as nodes:
        content = b"what only one of them has" * 1000
        digest = nodes.put(1, content)
        for number in range(3):
            nodes.start(number)
        nodes.wait_joined(2)
        # eight of a hundred identities at node 2's address are believed; it answers 404 for one, nobody for the others
        line = ("crowd", nodes.hosts[0], "4400", nodes.hosts[2], "", f"{fingerprint(digest):x}")
        with subprocess.Popen([sys.executable, "-m", "tests.p2p.hostile", *line], stdout=subprocess.DEVNULL):
            refused = 'fastmirror_router_refused_total{reason="crowd"}'
            eventually(lambda: nodes.counters(0)[refused] >= 4, "as many as can be are believed", 20, 0.05)
            began = time.monotonic()
            assert nodes.nodes[0].ask("GET", f"/v2/a/blobs/{digest}").body == content
            assert time.monotonic() - began < 0.3 * NOISE


def test_a_node_alone_is_ready_and_quiet(tmp_path):
    with swarm(tmp_path, 1) as nodes:
        node = nodes.start(0)
        eventually(lambda: ask(node.admin, "GET", "/readyz").status == 200, "it is ready", 15)
        lines = len(node.log.lines)
        let_pass(2, "a while in which nothing is to be said")
        assert len(node.log.lines) == lines


def test_a_bootstrap_name_that_is_down_is_told_and_keeps_nobody_from_serving(tmp_path):
    with swarm(tmp_path, 1) as nodes:
        digest = nodes.put(0, b"local")
        node = nodes.start(0, bootstrap="dns:no-such-name.invalid:4400")
        assert nodes.has(0, digest)
        node.log.wait("p2p.bootstrap_failed", 20)
        eventually(lambda: b"no-such-name" in ask(node.admin, "GET", "/readyz").body, "it says whom it looks for", 15)
        eventually(lambda: ask(node.admin, "GET", "/readyz").status == 200, "ready for local content after 10 s", 25)
        warnings = [event for event in node.log.events() if event["level"] == "warning"]
        assert len(warnings) == 1


def test_a_node_that_ends_says_good_bye_first(tmp_path):
    with swarm(tmp_path, 3) as nodes:
        digest = nodes.put(1, b"here until the end")
        for number in range(3):
            nodes.start(number)
        nodes.wait_joined(2)
        eventually(lambda: nodes.has(0, digest), "it is found")
        nodes.nodes[1].signal(signal.SIGTERM)
        for number in (0, 2):
            eventually(lambda n=number: nodes.live(n) == 1, "it is gone", 2 * NOISE)
            assert nodes.counters(number)['fastmirror_router_nodes{state="left"}'] == 1
        assert nodes.nodes[1].wait() == 0
