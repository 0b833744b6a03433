"""``python -m tests.fuzz``: 10^7 cases over all targets, or as many as are asked for; new behaviour can be kept.

A failure ends it with status 1 and prints the input; put it into the test of the thing that failed.
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor

from tests.fuzz.engine import Found, Progress, fuzz, keep
from tests.fuzz.targets import TARGETS

CASES = 10_000_000


def _share(name: str, names: list[str], cases: int) -> int:
    """A target's part of the cases: each gets about the same time."""
    return max(1, cases * TARGETS[name].rate // sum(TARGETS[each].rate for each in names))


def _run(name: str, cases: int, seed: int, kept: bool) -> tuple[Progress, int]:
    progress = fuzz(TARGETS[name], cases=cases, seed=seed)
    return progress, keep(TARGETS[name], progress) if kept else 0


def main() -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; without: all")
    parser.add_argument("--cases", type=int, default=CASES, help="in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3)), help="default: another each time")
    parser.add_argument("--keep", action="store_true", help="write inputs with new behaviour into tests/fuzz/corpus")
    given = parser.parse_args()
    names = given.targets or list(TARGETS)
    unknown = [name for name in names if name not in TARGETS]
    if unknown:
        parser.error(f"no target {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    print(f"seed {given.seed}", flush=True)
    failed, total = 0, 0
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        jobs = {
            name: pool.submit(_run, name, _share(name, names, given.cases), given.seed, given.keep) for name in names
        }
        for name, job in jobs.items():
            try:
                progress, kept = job.result()
            except Found as found:
                failed += 1
                print(found, flush=True)
                continue
            total += progress.cases
            note = f", {kept} kept" if given.keep else ""
            print(f"{name}: {progress.cases} cases in {progress.seconds:.0f} s, {len(progress.kept)} behaviours{note}",
                  flush=True)  # fmt: skip
    print(f"{total} cases, {failed} targets failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
