"""Compile and run the native load generator (loadgen.c)."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benches.serve import machine

SOURCE = Path(__file__).with_name("loadgen.c")
BUSY = 0.9  # a generator that uses more of its core than this may itself be the limit: the sample is void


class LoadFailed(Exception):
    """The generator ended with an error: a wrong answer, a broken connection or too little in the time it had."""


@dataclass(frozen=True)
class Target:
    """Where to send requests and whose CPU time to count."""

    host: str
    port: int
    pids: list[int]
    name: str = "fastmirror"


@dataclass(frozen=True)
class Load:
    """What to send. ``requests`` set: exactly so many, without a warm-up, within ``seconds``."""

    path: str
    length: int
    connections: int = 1
    seconds: float = 3.0
    warmup: float = 0.3
    requests: int = 0
    method: str = "GET"
    streams: int = 0  # further connections, which fetch ``stream_paths`` one after the other and are counted apart
    stream_paths: tuple[str, ...] = ()
    rate: float = 0.0  # requests per second; 0: as fast as answers come
    leave_after: int = 0  # body bytes after which each response is left; 0: never


@dataclass(frozen=True)
class Sample:
    """One run, over the measured window. CPU in seconds, latencies in microseconds (None: no request ended in it)."""

    seconds: float
    bytes: int
    requests: int
    own_cpu_seconds: float
    server_cpu_seconds: float
    foreign_cpu_seconds: float
    stream_bytes: int = 0
    p50: float | None = None
    p99: float | None = None
    max: float | None = None

    @property
    def void(self) -> bool:
        """The generator was too busy, or nobody got a turn: this sample says nothing about the server."""
        return self.own_cpu_seconds > BUSY * self.seconds or not (self.bytes or self.requests)

    @property
    def foreign_share(self) -> float:
        """CPU used by anybody else, as a share of one CPU."""
        return self.foreign_cpu_seconds / self.seconds


def build(work: Path, source: Path = SOURCE) -> Path:
    """The compiled generator below ``work``; compiled again when the source is newer. Raises LoadFailed."""
    binary = work / source.stem
    if binary.exists() and binary.stat().st_mtime > source.stat().st_mtime:
        return binary
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise LoadFailed("no C compiler (cc or gcc) in PATH: install one to run the benchmarks")
    work.mkdir(parents=True, exist_ok=True)
    subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-o", str(binary), str(source)], check=True)
    return binary


def command(binary: Path, target: Target, load: Load) -> list[str]:
    """The generator's command line."""
    line = [str(binary), "-c", str(load.connections), "-d", str(load.seconds), "-l", str(load.length)]
    line += ["-m", load.method, "-p", ",".join(map(str, target.pids))]
    line += ["-n", str(load.requests)] if load.requests else ["-w", str(load.warmup)]
    line += ["-r", str(load.rate)] if load.rate else []
    line += ["-e", str(load.leave_after)] if load.leave_after else []
    line += ["-b", str(load.streams)] if load.streams else []
    for path in load.stream_paths:
        line += ["-B", path]
    return [*line, target.host, str(target.port), load.path]


def run(binary: Path, target: Target, load: Load, cpu: int) -> Sample:
    """Run one load from CPU ``cpu`` and return what was measured. Raises LoadFailed."""
    line = machine.pinned(command(binary, target, load), cpu)
    busy = machine.busy_seconds()
    servers = machine.cpu_seconds(target.pids)
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LoadFailed(f"{target.name}: {load.path}: {done.stderr.strip() or f'status {done.returncode}'}")
    result = json.loads(done.stdout)
    # The generator's own time outside its window is small; what is left was somebody else's.
    all_seconds = machine.busy_seconds() - busy
    servers = machine.cpu_seconds(target.pids) - servers
    ours = servers + result["own_cpu_seconds"] * (1 + load.warmup / load.seconds * (not load.requests))
    return Sample(
        seconds=result["seconds"],
        bytes=result["bytes"],
        stream_bytes=result["stream_bytes"],
        requests=result["requests"],
        own_cpu_seconds=result["own_cpu_seconds"],
        server_cpu_seconds=result["server_cpu_seconds"],
        foreign_cpu_seconds=max(0.0, all_seconds - ours),
        **(result.get("latency_us") or {}),
    )
