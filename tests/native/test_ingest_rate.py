"""An ingester that is to keep to a rate: the native one and its twin alike."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.kit.waiting import NOISE
from tests.native.ingesting import MIB, Rig, content, read_back
from tests.native.test_ingest import PAIRS


class LimitedRig(Rig):
    """A rig whose ingester has a rate."""

    def __init__(self, ingest: Any, rate: int) -> None:
        super().__init__(ingest)
        self.ingester.close()
        self.ingester = ingest.Ingester(4, rate)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("rate", [2 * MIB, 40 * MIB])
def test_all_jobs_together_keep_to_the_rate(name: str, rate: int) -> None:
    rig = LimitedRig(PAIRS[name][0], rate)
    size = rate // 8
    bodies = [content(size, seed) for seed in range(4)]
    jobs, files = [], []
    began = time.monotonic()
    for body in bodies:
        (ours, peer), file = rig.connection(), rig.file()
        jobs.append(rig.ingester.start(ours.fileno(), file, 0, size, None))
        files.append(file)
        rig.send(peer, body)
    rig.finish(*jobs)
    seconds = time.monotonic() - began
    assert 0.5 - 0.05 < seconds < 0.75 * NOISE
    for job, body, file in zip(jobs, bodies, files, strict=True):
        assert job.outcome == "complete"
        assert read_back(file, 0, size) == body, "other bytes"
    rig.close()


@pytest.mark.parametrize("name", PAIRS)
def test_a_job_that_must_wait_can_be_cancelled_and_shortened(name: str) -> None:
    rig = LimitedRig(PAIRS[name][0], 1000)
    (ours, peer), (other, other_peer), file = rig.connection(), rig.connection(), rig.file()
    first = rig.ingester.start(ours.fileno(), file, 0, MIB, None)
    peer.sendall(b"x" * 500)
    rig.until(first, 1)
    second = rig.ingester.start(other.fileno(), file, MIB, MIB, None)
    other_peer.sendall(b"x" * 500)
    assert second.shorten(0) == second.received
    first.cancel()
    rig.finish(first, second, seconds=5)
    assert (first.outcome, second.outcome) == ("cancelled", "complete")
    rig.close()


@pytest.mark.parametrize("name", PAIRS)
def test_a_rate_below_nothing_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="rate"):
        PAIRS[name][0].Ingester(1, -1)
