"""Helm in a process of its own: its Go runtime starts threads whenever it likes, and ends none."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]


class Refused(Exception):
    """Helm takes these values not; what it said."""


_lock = threading.Lock()
_process: subprocess.Popen[str] | None = None


def render(values: dict[str, Any]) -> list[dict[str, Any]]:
    """All objects that the chart makes of these values, its hooks too. Within ``running``. Raises Refused."""
    return _ask("render", values)


def lint(values: dict[str, Any]) -> list[dict[str, Any]]:
    """What ``helm lint --strict`` says, each with its ``severity``. Within ``running``. Raises Refused."""
    return _ask("lint", values)


@contextlib.contextmanager
def running() -> Iterator[None]:
    """Helm is there until the block ends."""
    global _process
    command = [sys.executable, "-m", "tests.kit.helm"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_ROOT) as _process:
        yield
        assert _process.stdin is not None
        _process.stdin.close()
        assert _process.wait(30) == 0
    _process = None


def _ask(what: str, values: dict[str, Any]) -> list[dict[str, Any]]:
    assert _process is not None
    assert _process.stdin is not None
    assert _process.stdout is not None
    with _lock:
        _process.stdin.write(json.dumps([what, values]) + "\n")
        _process.stdin.flush()
        refused, answer = json.loads(_process.stdout.readline())
    if refused:
        raise Refused(answer)
    found: list[dict[str, Any]] = answer
    return found


def _serve() -> None:
    import helm_python

    from tools import gendeploy

    for line in sys.stdin:
        what, values = json.loads(line)
        try:
            if what == "lint":
                answer = helm_python.lint(str(gendeploy.CHART), values=values, strict=True)["messages"]
            else:
                answer = list(gendeploy.render(values))
        except helm_python.HelmError as error:
            print(json.dumps([True, str(error)]), flush=True)
        else:
            print(json.dumps([False, answer]), flush=True)


if __name__ == "__main__":
    _serve()
