"""``python -m tests.kit.failpoint serve ...``: fastmirror with handlers that fail on purpose, for certain digests.

What a defect of ours would do cannot be provoked from outside; everything else of the process is the real one.
``FAILPOINT_RAISES`` and ``FAILPOINT_BLOCKS`` in its environment name other digests than those below.
"""

from __future__ import annotations

import os
import time
from typing import Final

from fastmirror.cli import main
from fastmirror.http.message import Reply, Request
from fastmirror.mirror.local import Done, Local
from fastmirror.oci.pull import Pull

RAISES: Final = "sha256:" + "ee" * 32
"""A request for this blob meets an exception that nobody expects."""
BLOCKS: Final = "sha256:" + "bb" * 32
"""A request for this blob blocks the event loop for 200 ms."""
BLOCKED_SECONDS: Final = 0.2

_answer = Local.answer
_raises = os.environ.get("FAILPOINT_RAISES", RAISES)
_blocks = os.environ.get("FAILPOINT_BLOCKS", BLOCKS)


def _fail(self: Local, pull: Pull, request: Request, done: Done | None = None) -> Reply | None:
    if pull.digest == _raises:
        raise RuntimeError("a defect, on purpose")
    if pull.digest == _blocks:
        time.sleep(BLOCKED_SECONDS)
    return _answer(self, pull, request, done)


if __name__ == "__main__":
    Local.answer = _fail  # type: ignore[method-assign]
    main()
