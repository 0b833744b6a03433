"""The cells of the comparison and how one is measured: interleaved, several rounds, in both orders."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from benches.serve import loadgen, machine
from benches.serve.content import Content
from benches.serve.loadgen import Load, Sample, Target

NOISE = 0.15  # a sample during which others used more of a CPU than this is taken again
SERVER_CPU, CLIENT_CPU = 0, 1  # positions in machine.cpus()


@dataclass(frozen=True)
class Cell:
    """One object at one number of connections."""

    item: str
    connections: int

    @property
    def small(self) -> bool:
        """Counted in requests per second instead of bytes per second."""
        return self.item.endswith("manifest")


CELLS = [Cell(item, connections) for item in ("8 MiB", "1 GiB") for connections in (1, 8, 64)]
CELLS += [Cell("2 KiB manifest", connections) for connections in (1, 64)]


@dataclass(frozen=True)
class Plan:
    """How long and how often: ``seconds`` per sample, ``rounds`` samples per contender, ``retries`` of noisy ones."""

    seconds: float
    rounds: int
    retries: int


QUICK = Plan(seconds=1.2, rounds=3, retries=0)
FULL = Plan(seconds=3.0, rounds=5, retries=1)


def cpu_pair() -> tuple[int, int]:
    """The server's and the generator's CPU; the same one where there is only one."""
    usable = machine.cpus()
    return usable[SERVER_CPU], usable[min(CLIENT_CPU, len(usable) - 1)]


def quiet_sample(take: Callable[[], Sample], retries: int) -> Sample:
    """The first sample that nobody disturbed, else the least disturbed of ``1 + retries``."""
    best = take()
    for _ in range(retries):
        if best.foreign_share <= NOISE and not best.void:
            break
        best = min(best, take(), key=lambda sample: (sample.void, sample.foreign_share))
    return best


def measure(
    binary: Path, content: Content, cell: Cell, targets: Mapping[str, Target], plan: Plan
) -> dict[str, list[Sample]]:
    """Samples by contender; every other round goes in the reverse order. Raises LoadFailed."""
    item = content.items[cell.item]
    load = Load(item.path, item.size, cell.connections, plan.seconds, warmup=min(0.3, plan.seconds / 6))
    cpu = cpu_pair()[1]
    samples: dict[str, list[Sample]] = {name: [] for name in targets}
    for number in range(plan.rounds):
        for name in sorted(targets, reverse=bool(number % 2)):
            take = partial(loadgen.run, binary, targets[name], load, cpu)
            samples[name].append(quiet_sample(take, plan.retries))
    return samples


def rate(cell: Cell, sample: Sample) -> float:
    """Bytes per second, or requests per second for small objects."""
    return (sample.requests if cell.small else sample.bytes) / sample.seconds


def cost(cell: Cell, sample: Sample) -> float:
    """Server CPU seconds per GiB, or per request for small objects. Only of a sample that is not void."""
    return sample.server_cpu_seconds / (sample.requests if cell.small else sample.bytes / (1 << 30))


def peak_memory(binary: Path, content: Content, target: Target, connections: int, seconds: float) -> int:
    """The largest PSS in bytes of the server while ``connections`` clients download 1 GiB each. Raises LoadFailed."""
    item = content.items["1 GiB"]
    load = Load(item.path, item.size, connections, seconds, warmup=0.1)
    line = machine.pinned(loadgen.command(binary, target, load), cpu_pair()[1])
    peak = 0
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        while process.poll() is None:
            peak = max(peak, machine.pss_bytes(machine.process_tree(target.pids[0])))
            time.sleep(0.1)
        if process.returncode != 0:
            assert process.stderr is not None
            raise loadgen.LoadFailed(process.stderr.read().decode())
    return peak


def as_json(cell: Cell, samples: Mapping[str, list[Sample]]) -> dict[str, object]:
    """The cell as it goes into the results file."""
    return {
        "item": cell.item,
        "connections": cell.connections,
        "samples": {name: [asdict(sample) for sample in taken] for name, taken in samples.items()},
    }
