"""The admission secrets, read again when their file changes, so that they can be rotated while all runs.

One a line; the first is the one that this node proves to know, any of them lets another node in. To rotate: add the new
one as the last everywhere, then make it the first everywhere, then take the old one away.
"""

from __future__ import annotations

import logging
import os
from typing import Final

log = logging.getLogger(__name__)

LEAST_BYTES: Final = 16
MOST_BYTES: Final = 65_536


class Secrets:
    """What the file says, as of its last change that made sense."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._secrets: list[bytes] = []
        if path:
            self._read(first=True)

    def __call__(self) -> list[bytes]:
        """The secrets; empty only if there is no file set."""
        if self._path:
            self._read()
        return self._secrets

    def _read(self, first: bool = False) -> None:
        try:
            status = os.stat(self._path)
            stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
            if stamp == self._stamp:
                return
            self._stamp = stamp
            with open(self._path, "rb") as file:
                lines = [line.strip() for line in file.read(MOST_BYTES).splitlines()]
            secrets = [line for line in lines if line and not line.startswith(b"#")]
            if not secrets or any(len(secret) < LEAST_BYTES for secret in secrets):
                raise ValueError(f"every line must be a secret of at least {LEAST_BYTES} characters")
            self._secrets = secrets
        except (OSError, ValueError) as error:
            if first:
                raise ValueError(f"admission_secret_file: {self._path}: {error}") from error
            log.warning(
                "the admission secrets cannot be read: those read before stay",
                extra={"event": "p2p.secrets_unreadable", "reason": str(error)},
            )
