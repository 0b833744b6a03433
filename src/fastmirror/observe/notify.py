"""Tells whoever started the process that it serves, and that it still does. Source: sd_notify(3).

systemd listens with Type=notify and WatchdogSec=, and so does our own ``supervisor``; elsewhere nothing happens.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping
from typing import Final

_LEAST_SECONDS: Final = 0.05


class Notifier:
    """The socket that ``NOTIFY_SOCKET`` names, if any. Never raises and never waits: nobody may be listening."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket: socket.socket | None = None
        self.seconds = 0.0
        if address.startswith(("/", "@")):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
            microseconds = environ.get("WATCHDOG_USEC", "")
            self.seconds = int(microseconds) / 1e6 if microseconds.isdigit() else 0.0

    def say(self, state: str) -> None:
        """Send one state, such as ``READY=1`` or ``STOPPING=1``."""
        if self._socket is not None:
            try:
                self._socket.sendto(state.encode("ascii"), self._address)
            except OSError:
                return

    async def beat(self) -> None:
        """Say that the loop turns, four times in the time after which it counts as stuck, until cancelled."""
        while self.seconds:
            self.say("WATCHDOG=1")
            await asyncio.sleep(max(_LEAST_SECONDS, self.seconds / 4))

    def close(self) -> None:
        """Close the socket; idempotent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
