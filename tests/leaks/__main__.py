"""``python -m tests.leaks``: 10^5 connections, 10^4 aborted transfers; do descriptors, threads and memory stay flat?"""

from __future__ import annotations

import argparse
import sys

from tests.leaks.hunt import hunt

MEMORY = 200.0  # KiB that a full round may add: the allocator's noise; one lost object for each connection is 500


def main() -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.leaks", description=__doc__)
    parser.add_argument("--connections", type=int, default=100_000, help="in all (default: %(default)s)")
    parser.add_argument("--aborts", type=int, default=10_000, help="transfers left by their client (%(default)s)")
    given = parser.parse_args()
    found = hunt(given.connections, given.aborts)
    print("\n".join(found.lines()))
    troubles = found.troubles(MEMORY)
    print("\n".join(troubles) or "flat")
    return 1 if troubles else 0


if __name__ == "__main__":
    sys.exit(main())
