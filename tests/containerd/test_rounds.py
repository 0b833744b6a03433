"""A few rounds of random faults on every generation; ``python -m tests.kit.rounds`` plays many."""

from __future__ import annotations

import pytest

from tests.kit.containerd import Generation
from tests.kit.rounds import play_all


@pytest.mark.timeout(300)
def test_pulls_under_random_faults_succeed(generation: Generation) -> None:
    assert play_all(generation, 6, seed=7) == []
