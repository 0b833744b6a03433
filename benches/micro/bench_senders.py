"""Who should send file bodies: the loop, native threads, or the threads only what is not in the page cache?

``python -m benches.micro.bench_senders [--work DIR] [--seconds S] [--rounds N]``: one server for each way, on one CPU,
in turns; the median of the ratios to the loop within each round, so that other work on the machine counts little: bytes
per second and CPU per GiB of hot bodies, requests per second of small ones; then the latency of small requests beside
files that are read from a slow disk (root only).
"""

from __future__ import annotations

import argparse
import os
import statistics
from contextlib import ExitStack
from pathlib import Path

from benches.serve import cells, cold, contenders, content, loadgen

WAYS = ("loop", "cold", "threads")
CELLS = (
    *(cells.Cell("blobs", item, n) for item in ("8 MiB", "1 GiB") for n in (1, 8, 64)),
    cells.Cell("manifests", "2 KiB manifest", 64),
    cells.Cell("mixed", "2 KiB manifest", 8, streams=8),
    *(cells.Cell("cold", "2 KiB manifest", 8, streams=n, of=content.COLD) for n in (1, 16)),
)


def compare(name: str, samples: dict[str, list[float]], better: str) -> None:
    """One line: the loop's median, and the others' as a multiple of the loop's in the same round."""
    line = f"{name:52s} {better:18s} loop {statistics.median(samples['loop']):10.4g}"
    for way in WAYS[1:]:
        ratios = [mine / loops for mine, loops in zip(samples[way], samples["loop"], strict=True) if loops]
        line += f"   {way} {statistics.median(ratios):5.2f}x"
    print(line, flush=True)


def main() -> None:
    """Measure all cells and print a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/bench"))
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    binary, data = loadgen.build(arguments.work), content.prepare(arguments.work)
    server_cpu, _ = cells.cpu_pair()
    missing = cold.why_not(data.root)
    with ExitStack() as stack:
        targets = {}
        for way in WAYS:
            os.environ["FASTMIRROR_SEND_WITH"] = way  # for the process that is started next
            server = contenders.fastmirror(data.layout, arguments.work / f"senders-{way}", server_cpu)
            targets[way] = (stack.enter_context(server), arguments.rounds)
        plan = cells.Plan(CELLS, arguments.seconds, arguments.rounds, 0, 0)
        for cell in CELLS:
            if cell.of == content.COLD and missing is not None:
                print(f"{cell.name}: not measured: {missing}")
                continue
            taken = cells.measure(binary, data, cell, targets, plan, cells.Retries(0))
            if cell.streams:
                compare(cell.name, {way: [s.p99 or 0.0 for s in taken[way]] for way in WAYS}, "p99, us")
                rates = {way: [s.stream_bytes / s.seconds for s in taken[way]] for way in WAYS}
                compare(cell.name, rates, "stream bytes/s")
            else:
                compare(cell.name, {way: [cells.rate(cell, s) for s in taken[way]] for way in WAYS}, "per second")
                compare(cell.name, {way: [cells.cost(cell, s) for s in taken[way]] for way in WAYS}, "CPU-s per unit")


if __name__ == "__main__":
    main()
