"""The cells of the comparison and how one is measured: interleaved, several rounds, in both orders."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from benches.serve import cold, loadgen, machine
from benches.serve.content import COLD, MIB, Content
from benches.serve.loadgen import Load, Sample, Target

Group = Literal["blobs", "manifests", "mixed", "cold", "hang-ups"]
NOISE = 0.15  # a sample during which others used more of a CPU than this is taken again
SERVER_CPU, CLIENT_CPU = 0, 1  # positions in machine.cpus()
STEADY = 2000.0  # small requests per second beside streams: each server gets the same, so that its streams compare


@dataclass(frozen=True)
class Cell:
    """One object at one number of connections; ``streams`` connections fetch blobs of kind ``of`` beside it."""

    group: Group
    item: str
    connections: int
    method: str = "GET"
    streams: int = 0
    of: str = "1 GiB"
    leave_after: int = 0  # body bytes after which each response is left

    @property
    def small(self) -> bool:
        """Counted in requests per second instead of bytes per second."""
        return self.group != "blobs"

    @property
    def name(self) -> str:
        """The cell in one line."""
        beside = f" beside {self.streams} of {self.of}" if self.streams else ""
        left = f", left after {self.leave_after // MIB} MiB" if self.leave_after else ""
        method = "" if self.method == "GET" else f"{self.method} "
        return f"{method}{self.item}{left}, {self.connections} connections{beside}"


def _cells(connections: tuple[int, ...], manifest_connections: tuple[int, ...], heads: bool) -> list[Cell]:
    found = [Cell("blobs", item, n) for item in ("8 MiB", "1 GiB") for n in connections]
    for item in ("2 KiB manifest", "9.5 KiB manifest"):
        for method in ("GET", "HEAD") if heads else ("GET",):
            found += [Cell("manifests", item, n, method) for n in manifest_connections]
    found += [Cell("mixed", "2 KiB manifest", 8, streams=n) for n in (1, 8)]
    found += [Cell("cold", "2 KiB manifest", 8, streams=n, of=COLD) for n in (1, 16)]
    return [*found, Cell("hang-ups", "1 GiB", 8, leave_after=MIB)]


@dataclass(frozen=True)
class Plan:
    """How long and how often: ``seconds`` per sample, ``rounds`` samples of fastmirror and nginx, ``other_rounds`` of
    the rest; in the whole run ``retries`` noisy samples may be taken again."""

    cells: tuple[Cell, ...]
    seconds: float
    rounds: int
    other_rounds: int
    retries: int


QUICK = Plan(tuple(_cells((1, 64), (64,), heads=False)), seconds=0.8, rounds=2, other_rounds=1, retries=0)
FULL = Plan(tuple(_cells((1, 8, 64, 256), (1, 64), heads=True)), seconds=3.0, rounds=3, other_rounds=1, retries=60)


def cpu_pair() -> tuple[int, int]:
    """The server's and the generator's CPU; the same one where there is only one."""
    usable = machine.cpus()
    return usable[SERVER_CPU], usable[min(CLIENT_CPU, len(usable) - 1)]


class Retries:
    """How many more samples of this run may be taken again."""

    def __init__(self, left: int) -> None:
        self.left = left

    def quiet(self, take: Callable[[], Sample]) -> Sample:
        """A sample that nobody disturbed, or else the less disturbed of two, or the only one when none are left."""
        first = take()
        if self.left == 0 or (first.foreign_share <= NOISE and not first.void):
            return first
        self.left -= 1
        return min(first, take(), key=lambda sample: (sample.void, sample.foreign_share))


def load_of(cell: Cell, content: Content, seconds: float) -> Load:
    """What the generator is to do for ``seconds``."""
    item = content.items[cell.item]
    paths = content.cold if cell.of == COLD else (content.items[cell.of].path,)
    return Load(
        item.path,
        item.size,
        cell.connections,
        seconds,
        warmup=min(0.3, seconds / 6),
        method=cell.method,
        streams=cell.streams,
        stream_paths=paths if cell.streams else (),
        rate=STEADY if cell.streams else 0.0,
        leave_after=cell.leave_after,
    )


def measure(
    binary: Path,
    content: Content,
    cell: Cell,
    targets: Mapping[str, tuple[Target, int]],
    plan: Plan,
    retries: Retries,
) -> dict[str, list[Sample]]:
    """Samples by contender; every other round goes in the reverse order. Raises LoadFailed.

    ``targets`` has each contender's target and in how many rounds it takes part.
    """
    load = load_of(cell, content, plan.seconds)
    samples: dict[str, list[Sample]] = {name: [] for name in targets}
    for number in range(plan.rounds):
        taking_part = [name for name in targets if number < targets[name][1]]
        for name in reversed(taking_part) if number % 2 else taking_part:
            take = partial(_sample, binary, content, cell, targets[name][0], load)
            samples[name].append(retries.quiet(take))
    return samples


def _sample(binary: Path, content: Content, cell: Cell, target: Target, load: Load) -> Sample:
    cpu = cpu_pair()[1]
    if cell.of != COLD:
        return loadgen.run(binary, target, load, cpu)
    with cold.slow_disk(content.root, target.pids):
        cold.forget(content.root / path.lstrip("/") for path in content.cold)
        return loadgen.run(binary, target, load, cpu)


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
    taken = {name: [asdict(sample) for sample in samples[name]] for name in samples}
    return {"cell": asdict(cell), "samples": taken}
