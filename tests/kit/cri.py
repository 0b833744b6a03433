"""What kubelet does: ``python -m tests.kit.cri SOCKET pull|remove IMAGE SECONDS``, over CRI.

A process of its own: gRPC's threads and descriptors do not live in the tests' process, and two pulls at once are easy.
"""

from __future__ import annotations

import asyncio
import sys

from fastmirror.containerd.client import Client
from fastmirror.errors import StoreError


async def main(socket: str, verb: str, image: str, seconds: str) -> int:
    async with Client(socket, "k8s.io") as client:
        try:
            if verb == "pull":
                print(await client.pull(image, float(seconds)))
            else:
                await client.remove(image, float(seconds))
        except StoreError as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:])))
