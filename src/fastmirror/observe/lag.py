"""How late the event loop is: a slow callback delays all others. Source: Python, "Developing with asyncio"."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from fastmirror.observe.instruments import Distribution

PROBE_SECONDS: Final = 0.5


async def watch_lag(series: Distribution) -> None:
    """Observe twice a second how much later than asked the loop comes back, until cancelled."""
    while True:
        due = time.monotonic() + PROBE_SECONDS  # not loop.time(): uvloop reads its clock once a turn
        await asyncio.sleep(PROBE_SECONDS)
        series.observe(max(0.0, time.monotonic() - due))
