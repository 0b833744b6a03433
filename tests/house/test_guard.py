"""The guard around every test catches what it is there for. (A planted fault per kind, in a run of its own.)"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.tree import ROOT

PLANTED = """
import asyncio, os, subprocess, threading
import pytest

forever = threading.Event()
processes = []

def test_descriptor():
    os.open("/dev/null", os.O_RDONLY)

def test_thread():
    threading.Thread(target=forever.wait, daemon=True).start()

def test_process():
    processes.append(subprocess.Popen(["tail", "-f", "/dev/null"]))

def test_orphan():
    subprocess.run("tail -f /dev/null &", shell=True, check=True)

async def test_task():
    asyncio.get_running_loop().create_task(asyncio.Event().wait())

async def test_handler():
    asyncio.get_running_loop().call_soon(lambda: 1 / 0)
    await asyncio.sleep(0)

@pytest.mark.timeout(1)
async def test_endless():
    await asyncio.Event().wait()

@pytest.mark.needs("a-command-that-is-nowhere")
def test_skipped():
    pass

@pytest.mark.xfail
def test_expected_to_fail():
    raise ValueError

@pytest.fixture(scope="module")
def shared():
    fd = os.open("/dev/null", os.O_RDONLY)
    yield fd
    os.close(fd)

def test_clean_with_wide_fixture(shared):
    assert shared

async def test_clean_with_loop(shared):
    await asyncio.sleep(0)
"""


def outcome_of_each(directory: Path, *options: str, **environment: str) -> dict[str, str]:
    (directory / "test_planted.py").write_text(PLANTED)
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "-p", "tests.conftest", "-rA"]
    inherited = {name: value for name, value in os.environ.items() if name != "CI"}
    run = subprocess.run(
        [*command, "--timeout=10", "-p", "no:cacheprovider", *options, str(directory)],
        cwd=ROOT,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    worst: dict[str, str] = {}
    for word, test in re.findall(r"^(PASSED|FAILED|ERROR|XFAIL) \S+::test_(\w+)", run.stdout, re.MULTILINE):
        if worst.get(test, "PASSED") == "PASSED":
            worst[test] = word
    return worst


@pytest.mark.timeout(120)
def test_what_a_test_leaves_behind_fails_it(tmp_path: Path) -> None:
    assert outcome_of_each(tmp_path) == {
        "descriptor": "ERROR",
        "thread": "ERROR",
        "process": "ERROR",
        "orphan": "ERROR",
        "task": "ERROR",
        "handler": "ERROR",
        "endless": "FAILED",
        "expected_to_fail": "XFAIL",
        "clean_with_wide_fixture": "PASSED",
        "clean_with_loop": "PASSED",
    }


@pytest.mark.timeout(120)
def test_ci_skips_nothing(tmp_path: Path) -> None:
    outcomes = outcome_of_each(tmp_path, "-k", "skipped or expected or wide", CI="true")
    assert outcomes == {"skipped": "ERROR", "expected_to_fail": "FAILED", "clean_with_wide_fixture": "PASSED"}
