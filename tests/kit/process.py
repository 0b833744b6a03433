"""A real fastmirror process: started, watched, stopped, and its log judged."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import fastmirror
from tests.kit.wire import Address, Answer, ask, parse_address

_PATHS = (str(Path(fastmirror.__file__).parents[1]), str(Path(__file__).parents[2]))


@dataclass(frozen=True)
class Setup:
    """How one node is started. ``store`` is a layout's directory, or the text of ``--store``; ``flags`` are further
    flags without their dashes, underscores for dashes inside; ``before`` is a command that runs the rest of its line
    (setpriv ...); ``open_files`` limits descriptors; ``module`` is what Python runs (``tests.kit.failpoint`` fails on
    purpose).
    """

    store: Path | str
    host: str = "127.0.0.1"
    registry_port: int = 0
    peer_port: int = 0
    peers: Sequence[str] = ()
    default_registry: str = ""
    flags: Mapping[str, object] = field(default_factory=dict)
    open_files: int = 0
    before: Sequence[str] = ()
    module: str = "fastmirror"
    switches: Sequence[str] = ()

    def command(self) -> list[str]:
        """The command line, as a user would type it."""
        limit = ["prlimit", f"--nofile={self.open_files}:{self.open_files}"] if self.open_files else []
        store = self.store if isinstance(self.store, str) else f"oci:{self.store}"
        line = [*self.before, *limit, sys.executable, "-m", self.module, "serve", *self.switches, "--store", store]
        line += ["--registry-addr", f"{self.host}:{self.registry_port}", "--peer-addr", f"{self.host}:{self.peer_port}"]
        line += ["--admin-addr", f"{self.host}:0"]
        if self.peers:
            line += ["--peers", ",".join(self.peers)]
        if self.default_registry:
            line += ["--default-registry", self.default_registry]
        for name, value in self.flags.items():
            line += [f"--{name.replace('_', '-')}", str(value)]
        return line


class Log:
    """The stderr of a process, line by line as it comes. ``wait`` blocks for an event; the rest looks back."""

    def __init__(self, stream: Iterable[bytes]) -> None:
        self.lines: list[str] = []
        self.ended = False
        self._stream = stream
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._read, name="log", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self._stream:
            with self._news:
                self.lines.append(line.decode("utf-8", "replace").rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self.ended = True
            self._news.notify_all()

    def events(self) -> list[dict[str, Any]]:
        """Every line as its JSON object; lines that are no events are left out (``problems`` reports them)."""
        return [event for event in map(_parse, list(self.lines)) if event is not None]

    def wait(self, name: str, seconds: float = 15.0) -> dict[str, Any]:
        """The first line with that event name. AssertionError with the log if it does not come in time."""
        deadline = time.monotonic() + seconds
        seen = 0
        with self._news:
            while True:
                for line in self.lines[seen:]:
                    event = _parse(line)
                    if event is not None and event.get("event") == name:
                        return event
                seen = len(self.lines)
                left = deadline - time.monotonic()
                if self.ended or left <= 0:
                    raise AssertionError(f"no {name} in the log: " + "\n".join(self.lines[-20:]))
                self._news.wait(left)

    def problems(self, expected: Iterable[str] = ()) -> list[str]:
        """Lines that are no JSON event, and lines of level error whose event is not ``expected``."""
        allowed = set(expected)
        bad = []
        for line in list(self.lines):
            event = _parse(line)
            if event is None or (event["level"] in ("error", "critical") and event["event"] not in allowed):
                bad.append(line)
        return bad

    def join(self) -> None:
        """Wait until the stream has ended."""
        self._thread.join(10)


def _parse(line: str) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and {"level", "event"} <= event.keys() else None


def environment() -> dict[str, str]:
    """What a process of ours gets: this checkout to import from, and no settings of the machine."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("FASTMIRROR_")}
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, (*_PATHS, kept.get("PYTHONPATH", ""))))}


def children(pid: int) -> list[int]:
    """The processes that this one has started; none if it is gone. Source: proc(5), /proc/pid/task/tid/children."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def destroy(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL for a process and its children, stopped ones too; returns when the process is gone. Idempotent."""
    orphans = children(process.pid) if process.poll() is None else []
    process.kill()
    process.wait(10)
    for orphan in orphans:
        with contextlib.suppress(ProcessLookupError):
            os.kill(orphan, signal.SIGKILL)


class Node:
    """A running ``fastmirror serve``. Owned by a ``with`` block, which stops it and checks its exit and its log.

    ``expected`` holds the names of events that may be logged as errors by this node.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.expected: set[str] = set()
        self._process = subprocess.Popen(
            setup.command(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment(),
        )
        assert self._process.stderr is not None
        self.log = Log(self._process.stderr)
        self.pid = self._process.pid
        try:
            serving = self.log.wait("daemon.serving")
        except AssertionError:
            self._destroy()
            raise
        self.registry: Address = parse_address(serving["registry"])
        self.peer: Address = parse_address(serving["peer"])
        self.admin: Address = parse_address(serving["admin"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        code = 0
        try:
            if kind is None and self.alive:
                code = self.stop()
        finally:
            self._destroy()
        if kind is not None:
            return
        assert code == 0, f"exit code {code} after SIGTERM: " + "\n".join(self.log.lines[-20:])
        assert not self.log.problems(self.expected), self.log.problems(self.expected)

    def _destroy(self) -> None:
        """End what still runs of it; its stderr is closed once nobody can write there, since that waits for the log."""
        destroy(self._process)
        self.log.join()
        if self.log.ended and self._process.stderr is not None:
            self._process.stderr.close()

    def ask(self, method: str, target: str, **fields: str) -> Answer:
        """One request to the registry listener on a connection of its own."""
        return ask(self.registry, method, target, **fields)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        self._process.send_signal(number)

    def freeze(self) -> None:
        """Stop the process where it is, sockets open: to others it is a hung node."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen process go on."""
        self.signal(signal.SIGCONT)

    def wait(self, seconds: float = 40.0) -> int:
        """The exit code, once the process has ended by itself."""
        code = self._process.wait(seconds)
        self.log.join()
        return code

    def stop(self, seconds: float = 40.0) -> int:
        """SIGTERM; the exit code once it has ended."""
        self.signal(signal.SIGTERM)
        return self.wait(seconds)

    def kill(self) -> None:
        """SIGKILL; returns when the process is gone, and its log has ended."""
        destroy(self._process)
        self.log.join()

    @property
    def child(self) -> int | None:
        """The serving process of a supervised node."""
        return next(iter(children(self.pid)), None)

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None


def start(store: Path | str, **setup: Any) -> Node:
    """Start one node on free ports; the keywords are those of :class:`Setup`."""
    return Node(Setup(store, **setup))
