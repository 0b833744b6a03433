"""C programs that drive native code without Python, built and run under a sanitizer."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
SANITIZERS = ("thread", "address,undefined")


def counts(sources: Sequence[str], sanitizer: str, directory: Path, *flags: str) -> dict[str, int]:
    """What the program prints, words and numbers in turn. AssertionError if it fails or a sanitizer complains."""
    program = str(directory / "race")
    always = ["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread", "-Iext"]
    always += [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    subprocess.run(["gcc", *always, *flags, *sources, "-o", program], cwd=ROOT, check=True)
    done = _run([program])
    if "unexpected memory mapping" in done.stderr:  # more random address bits than this libtsan knows of
        done = _run(["setarch", "-R", program])
    assert (done.returncode, done.stderr) == (0, "")
    words = done.stdout.split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    # As root in a container the leak checker may lack ptrace(2); leaks are looked for by the tests in Python.
    env = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    env.pop("LD_PRELOAD", None)
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=50)
