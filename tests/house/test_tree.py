"""Sizes, sleeps, and what must not be named in the tree."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.house.tree import files, name

MAX_LINES = 400
MAX_FUNCTION_LINES = 60

FOREIGN = re.compile(
    # the letters in brackets keep this file from naming what it looks for
    r"pypi[.]org|pythonhosted[.]org|debian[.]org|npmjs[.]|--(extra-)?index-url|find-link[s]"
    r"|\b(quay|ghcr|gcr)[.]io\b|registry[.]k8s[.]io|public[.]ecr[.]aws|mcr[.]microsoft"
)
"""Package indexes, and registries of images: examples say ``registry.example``. docker[.]io is the default of the
image names themselves."""

MACHINE_PATH = re.compile(r"(?<![\w./])/(?:work|root|farm|home/\w+)(?=[/\s\"'`]|$)")


def lines(paths: Iterator[Path]) -> Iterator[tuple[str, str]]:
    for path in paths:
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            yield f"{name(path)}:{number}", line


def test_no_file_is_longer_than_a_reader_holds_in_mind() -> None:
    paths = files(".py", ".pyi", ".pyx", ".pxd", ".c", ".h", ".sh")
    sizes = {name(path): len(path.read_text().splitlines()) for path in paths}
    assert len(sizes) > 50
    assert {path: size for path, size in sizes.items() if size > MAX_LINES} == {}


def test_no_function_is_longer_than_a_screen() -> None:
    long = {}
    for path in files(".py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                size = node.end_lineno - node.lineno + 1
                if size > MAX_FUNCTION_LINES:
                    long[f"{name(path)}:{node.lineno} {node.name}"] = size
    assert long == {}


def test_tests_wait_for_events_and_do_not_sleep() -> None:
    # the kit has the polls with a deadline; the catalogue's client and the hostile peer keep to a pace
    paced = ("tests/kit/", "tests/catalogue/", "tests/p2p/hostile.py")
    tests = (path for path in files(".py", below="tests/") if not name(path).startswith(paced))
    sleeping = [where for where, line in lines(tests) if re.search(r"\bsleep\((?!0\))", line)]
    assert sleeping == []


def test_nothing_but_the_epoch_of_an_identity_is_read_from_the_wall_clock() -> None:
    """Clocks are set while a node runs: no deadline may depend on it."""
    wall = re.compile(r"\btime\.(time|time_ns|localtime)\(|datetime\.(now|utcnow)\(|CLOCK_REALTIME")
    found = {where.partition(":")[0] for where, line in lines(files(".py", ".pyx", below="src/")) if wall.search(line)}
    assert found == {"src/fastmirror/p2p/router.py"}


def test_no_package_index_and_no_registry_is_named() -> None:
    assert [where for where, line in lines(files()) if FOREIGN.search(line)] == []


def test_no_path_of_a_developers_machine_is_named() -> None:
    assert [where for where, line in lines(files()) if MACHINE_PATH.search(line)] == []


def test_no_work_is_left_for_later_in_comments() -> None:
    marks = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b")
    assert [where for where, line in lines(files(".py", ".pyx", ".pxd", ".c", ".h", ".sh")) if marks.search(line)] == []
