"""Who serves in front of containerd without somebody who would end a stuck process is told so."""

from __future__ import annotations

import pytest

from fastmirror import supervisor


@pytest.mark.parametrize(
    ("kinds", "environment", "told"),
    [
        (["containerd"], {}, True),
        (["oci", "content"], {}, True),
        (["oci"], {}, False),
        (["containerd"], {"NOTIFY_SOCKET": "/run/systemd/notify"}, True),
        (["containerd"], {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "5000000"}, False),
    ],
)
def test_serving_containerd_with_nobody_who_ends_a_stuck_process_is_warned_of(
    caplog: pytest.LogCaptureFixture, kinds: list[str], environment: dict[str, str], told: bool
) -> None:
    supervisor.remind(kinds, environment)
    assert ("--supervise" in caplog.text) == told
