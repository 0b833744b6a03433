"""What a newcomer's machine may lack is told in one line; nothing is installed where that is not wanted."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.tree import ROOT, files


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """As much of a clone as setting up looks at."""
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def run(checkout: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "CC")}
    return subprocess.run(
        [str(checkout / "tools" / command[0]), *command[1:]],
        env={**inherited, "FASTMIRROR_APT": "no", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_python_that_is_too_old_is_told_in_one_line(checkout: Path) -> None:
    old = checkout / "old-python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    setup = run(checkout, "venv.sh", PYTHON=str(old))
    assert (setup.returncode, setup.stderr.count("\n")) == (1, 1)
    assert "needs Python 3.11 or newer" in setup.stderr


def test_a_missing_compiler_is_told_in_one_line(checkout: Path) -> None:
    setup = run(checkout, "venv.sh", PYTHON=sys.executable, CC="no-such-compiler")
    assert (setup.returncode, setup.stderr.count("\n")) == (1, 1)
    assert "no working C compiler (no-such-compiler" in setup.stderr
    assert not (checkout / ".venv").exists()


def test_missing_headers_are_told_in_one_line(checkout: Path) -> None:
    # all is there but the headers, whatever the interpreter is asked
    bare = checkout / "bare-python"
    bare.write_text(f'#!/bin/sh\ncase "$2" in *Python.h*) exit 1 ;; esac\nexec {sys.executable} "$@"\n')
    bare.chmod(0o755)
    setup = run(checkout, "venv.sh", PYTHON=str(bare))
    assert (setup.returncode, setup.stderr.count("\n")) == (1, 1)
    assert "Python.h" in setup.stderr
    assert f"python{sys.version_info.major}.{sys.version_info.minor}-dev" in setup.stderr


def test_all_that_is_missing_is_told_at_once_with_what_brings_it(checkout: Path) -> None:
    bare = checkout / "bare-python"
    bare.write_text(f'#!/bin/sh\ncase "$2" in *Python.h*|*ensurepip*) exit 1 ;; esac\nexec {sys.executable} "$@"\n')
    bare.chmod(0o755)
    setup = run(checkout, "venv.sh", PYTHON=str(bare), CC="no-such-compiler")
    assert (setup.returncode, setup.stderr.count("\n")) == (1, 1)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    assert setup.stderr.endswith(f": install {version}-venv {version}-dev gcc libc6-dev (Debian's names)\n")


def test_where_gmp_is_missing_an_environment_without_libp2p_is_kept_and_said(checkout: Path) -> None:
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "python").symlink_to(sys.executable)
    said = run(checkout, "venv.sh", CC="no-such-compiler", PYTHON="no-such-python").stderr
    assert "needs Python 3.11" in said
    files = [(checkout / name).read_bytes() for name in ("pyproject.toml", "tools/venv.sh")]
    sums = subprocess.run(["cksum"], input=b"".join(files), capture_output=True, check=True).stdout.decode().strip()
    (checkout / ".venv" / ".made-from").write_text(f"{sums}, without libp2p\n")
    setup = run(checkout, "venv.sh", CC="no-such-compiler", PYTHON="no-such-python")
    assert (setup.returncode, setup.stderr.count("\n")) == (0, 1)
    assert "tests/p2p) are left out: install libgmp-dev" in setup.stderr


def test_containerds_are_only_listed_where_nothing_may_be_installed(checkout: Path) -> None:
    cache = checkout / "cache"
    run(checkout, "containerd-versions.sh", FASTMIRROR_CONTAINERD_CACHE=str(cache))
    assert not cache.exists()


def test_missing_commands_are_named_with_what_needs_them_and_are_no_failure(checkout: Path) -> None:
    (checkout / "tools" / "debian.txt").write_text("no-such-command some-package demo,test a demonstration\n")
    for job in ("demo", "test"):
        told = run(checkout, "debian.sh", job)
        assert told.returncode == 0
        assert "some-package (a demonstration)" in told.stderr
        assert "apt-get install some-package" in told.stderr
    assert run(checkout, "debian.sh", "bench").stderr == ""


def test_nothing_is_installed_where_that_is_not_wanted(checkout: Path) -> None:
    refused = run(checkout, "apt.sh", "hello")
    assert (refused.returncode, refused.stdout, refused.stderr) == (1, "", "")


def test_what_tests_need_is_installed_by_make_test() -> None:
    # what every Debian has: util-linux, and the compiler that the build needs anyway
    there = {"root", "mount", "unshare", "nsenter", "setpriv", "gcc"}
    rows = [line.split(maxsplit=3) for line in (ROOT / "tools" / "debian.txt").read_text().splitlines()]
    installed = {command for command, _, jobs, _ in rows if "test" in jobs.split(",")}
    marks = re.compile(r"\bmark\.needs\(([^)]*)\)")
    named = {
        what
        for path in files(".py", below="tests/")
        for arguments in marks.findall(path.read_text())
        for what in re.findall(r'"([^"]+)"', arguments)
    }
    assert "skopeo" in named
    assert named - there - installed - {"a-command-that-is-nowhere"} == set()
