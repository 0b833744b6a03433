"""Watching and breaking the system calls of a running process. Source: strace(1), "Tampering"."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def traced(pid: int, output: Path, *options: str) -> Iterator[None]:
    """Attach strace to all threads of a process for the length of the block; what it sees goes to ``output``.

    ``options`` are strace's: ``-e trace=connect``, ``-e inject=sendfile:error=EIO:when=2``.
    """
    command = ["strace", "-f", "-p", str(pid), "-o", str(output), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stderr is not None
        line = process.stderr.readline().decode()
        try:
            assert "attached" in line, line
            yield
        finally:
            process.send_signal(signal.SIGINT)
            process.stderr.read()
