"""The send pool's C under ThreadSanitizer and AddressSanitizer: ``send_race.c`` drives it without Python."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ["tests/native/send_race.c", "ext/sendpool.c"]


@pytest.mark.needs("gcc")
@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_a_sanitizer_finds_nothing_while_bodies_begin_end_and_are_cut(sanitizer: str, tmp_path: Path) -> None:
    program = str(tmp_path / "race")
    flags = ["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread", "-Iext", f"-fsanitize={sanitizer}"]
    flags += ["-fno-sanitize-recover=all", "-Wl,--wrap=sendfile,--wrap=epoll_ctl,--wrap=epoll_wait"]
    subprocess.run(["gcc", *flags, *SOURCES, "-o", program], cwd=ROOT, check=True)
    # As root in a container the leak checker may lack ptrace(2); leaks are looked for by the tests in Python.
    env = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    env.pop("LD_PRELOAD", None)
    done = subprocess.run([program], env=env, capture_output=True, text=True, check=False, timeout=50)
    if "unexpected memory mapping" in done.stderr:  # more random address bits than this libtsan knows of
        done = subprocess.run(
            ["setarch", "-R", program], env=env, capture_output=True, text=True, check=False, timeout=50
        )
    assert (done.returncode, done.stderr) == (0, "")
    words = done.stdout.split()
    counts = dict(zip(words[::2], map(int, words[1::2]), strict=True))
    assert sum(counts.values()) == 360
    assert all(count > 0 for count in counts.values())
