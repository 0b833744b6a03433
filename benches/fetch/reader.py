"""An in-order reader, in a process of its own: one GET, bytes as they come, the digest afterwards.

    python -m benches.fetch.reader HOST:PORT DIGEST SIZE MARK

Prints ``mark`` when so many bytes have come (0: never), and in the end what it saw as one line of JSON. All of the body
stays in memory until then, so that hashing it takes no CPU from who is measured.
"""

from __future__ import annotations

import hashlib
import json
import socket
import sys
import time

SECONDS = 60.0  # without a byte, and the pull has failed
_PIECE = 1 << 20


def read(address: tuple[str, int], digest: str, size: int, mark: int) -> dict[str, object]:
    """One pull; ``first_byte`` from the connection's begin on, ``gap`` the longest time without a byte after it."""
    body = memoryview(bytearray(size + _PIECE))
    began = time.monotonic()
    with socket.create_connection(address, SECONDS) as sock:
        sock.sendall(f"GET /v2/bench/blobs/{digest} HTTP/1.1\r\nHost: mirror\r\nConnection: close\r\n\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            piece = sock.recv(_PIECE)
            if not piece:
                return {"status": 0, "complete": False, "seconds": 0.0, "first_byte": 0.0, "gap": 0.0, "received": 0}
            head += piece
        first = last = time.monotonic()
        head, _, rest = head.partition(b"\r\n\r\n")
        body[: len(rest)] = rest
        received, gap = len(rest), 0.0
        while received < size and (count := sock.recv_into(body[received : received + _PIECE])):
            now = time.monotonic()
            gap, last = max(gap, now - last), now
            received += count
            if mark and received >= mark:
                mark = 0
                print("mark", flush=True)
    right = received == size and digest == "sha256:" + hashlib.sha256(body[:size]).hexdigest()
    return {
        "status": int(head.split()[1]),
        "complete": right,
        "seconds": last - began,
        "first_byte": first - began,
        "gap": gap,
        "received": received,
    }


def main(where: str, digest: str, size: str, mark: str) -> None:
    """Read, and print what was seen."""
    host, _, port = where.rpartition(":")
    print(json.dumps(read((host, int(port)), digest, int(size), int(mark))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
