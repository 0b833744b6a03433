"""The router process. Started by the data plane with the descriptor of a connected Unix socket as its argument."""

from __future__ import annotations

import ctypes
import gc
import logging
import signal
import socket
import sys

import trio

from fastmirror.inventory import bridge
from fastmirror.observe import log as logs
from fastmirror.p2p import identity
from fastmirror.p2p.plane import Plane
from fastmirror.p2p.router import Router

log = logging.getLogger("fastmirror.p2p")

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15


def main() -> int:
    """Run the router until its data plane is gone; the exit code."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # prctl(2)
    for number in (signal.SIGINT, signal.SIGTERM):  # they are the data plane's to hear; it says when to leave
        signal.signal(number, signal.SIG_IGN)
    code = trio.run(_run, socket.socket(fileno=int(sys.argv[1])))
    logging.shutdown()
    return code


async def _run(sock: socket.socket) -> int:
    plane = Plane(sock)
    start = await anext(plane, None)
    if not isinstance(start, bridge.Start):
        return 1
    logs.setup(start.log_level)
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)  # it logs other nodes' ends as errors
    pair, kept = identity.load(start.data_dir)
    if not kept:
        log.info("the identity is new at each start", extra={"event": "p2p.key_temporary"})
    try:
        router = Router(start, pair, plane)
    except (OSError, ValueError) as error:
        log.error("the router cannot begin", extra={"event": "p2p.start_failed", "reason": str(error)})
        return 1
    gc.collect()
    gc.freeze()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_write, plane, router)
        code = await router.run()
        nursery.cancel_scope.cancel()
    return code


async def _write(plane: Plane, router: Router) -> None:
    try:
        await plane.write()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        router.stop(0)


if __name__ == "__main__":
    sys.exit(main())
