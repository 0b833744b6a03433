"""Three real nodes over libp2p: what one has all know, what a dead one had nobody finds."""

from __future__ import annotations

import time

from tests.kit.waiting import NOISE, eventually
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
            assert not nodes.has(number, nodes.put(1, b"nobody else has it"))
