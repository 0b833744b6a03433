"""Fixtures that several behaviour tests share."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.catalogue.fixture import write
from tests.kit.process import Node, start


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What waits for a timer of more than a minute is judged last: meanwhile the other tests run."""
    items.sort(key=_waits_long)


@pytest.fixture(scope="session")
def catalogue_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The content that the catalogue asks for."""
    directory = tmp_path_factory.mktemp("catalogue")
    write(directory)
    return directory


@pytest.fixture(scope="session", autouse=True)
def idle_case(request: pytest.FixtureRequest) -> Iterator[tuple[subprocess.Popen[str], Node] | None]:
    """The case of the idle timeout, running since the first behaviour test; None if its test was not chosen."""
    if not any(map(_waits_long, request.session.items)):
        yield None
        return
    with start(request.getfixturevalue("catalogue_store")) as node:
        host, port = node.registry
        command = [sys.executable, "-m", "tests.catalogue", host, str(port), "--only", "x-idle-ka"]
        root = Path(__file__).parents[2]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as case:
            yield case, node
            case.kill()


def _waits_long(item: pytest.Item) -> bool:
    return item.name == "test_a_connection_without_requests_is_ended_after_the_idle_timeout"
