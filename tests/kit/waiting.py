"""Waiting for what another process does: poll with a deadline, never a bare sleep."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

NOISE: Final = float(os.environ.get("FASTMIRROR_TEST_NOISE", "5"))
"""How many times slower than quiet a shared machine may be: latency bounds in milliseconds are multiplied by it."""


def eventually(probe: Callable[[], T], what: str, seconds: float = 10.0, every: float = 0.01) -> T:
    """The first true value of ``probe``; AssertionError naming ``what`` if there was none in ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what} (last: {value!r})")
        time.sleep(every)


def let_pass(seconds: float, what: str) -> None:
    """Let time pass in which ``what`` goes on or must not happen. Where there is an event to wait for, wait for it."""
    if not what:
        raise ValueError("say what the time is for")
    time.sleep(seconds)


async def pause(seconds: float, what: str) -> None:
    """:func:`let_pass` for a test on a loop: between two looks at something, or while ``what`` goes on."""
    if not what:
        raise ValueError("say what the time is for")
    await asyncio.sleep(seconds)
