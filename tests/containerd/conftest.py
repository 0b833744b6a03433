"""Tests against real containerd: every generation that is on this machine, by name in the test's id."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from tests.kit.cluster import free_port
from tests.kit.containerd import Containerd, Generation, containerd, generations
from tests.kit.images import Image, make_image
from tests.kit.layout import Layout
from tests.kit.origin import Origin, origin
from tests.kit.pair import Pair, Two, pair, two

_NONE = Generation("0.0", None)
_seeds = itertools.count(1)


def pytest_report_header() -> str:
    """CI's log says which versions ran."""
    return "containerd: " + (", ".join(generation.version for generation in generations()) or "none (needs root)")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "generation" in metafunc.fixturenames:
        found = generations()
        if metafunc.definition.get_closest_marker("any_generation"):
            found = found[-1:]
        none = pytest.param(_NONE, marks=pytest.mark.needs("root", "containerd", "runc"))
        metafunc.parametrize("generation", found or [none], ids=str, scope="module")


@pytest.fixture
def node(generation: Generation) -> Iterator[Containerd]:
    """A fresh containerd of one generation."""
    with containerd(generation) as running:
        yield running


@pytest.fixture(scope="module")
def shared(generation: Generation) -> Iterator[Containerd]:
    """A containerd that the tests of a module share: each uses images of its own."""
    with containerd(generation) as running:
        yield running


@pytest.fixture
def fresh_image() -> Callable[..., Image]:
    """Makes images that no other test has."""

    def make(repository: str = "t/app", sizes: tuple[int, ...] = (20_000, 300_000)) -> Image:
        seed = next(_seeds)
        return make_image(f"registry.test/{repository}{seed}:1", sizes, seed=seed)

    return make


@pytest.fixture(scope="session")
def _origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Origin]:
    directory = tmp_path_factory.mktemp("origin")
    with origin(Layout(directory / "layout"), "127.0.0.1", free_port("127.0.0.1"), directory / "log") as running:
        yield running


@pytest.fixture
def source(_origin: Origin) -> Origin:
    """An origin that answers and has counted nothing yet; the test fills it with images of its own."""
    _origin.on().forget()
    return _origin


@pytest.fixture(scope="module")
def both(generation: Generation) -> Iterator[Two]:
    """Two containerds that the tests of a module share."""
    with two(generation) as running:
        yield running


@pytest.fixture
def nodes(both: Two, source: Origin) -> Iterator[Pair]:
    """Two nodes with a mirror each."""
    with pair(source, both, flags={"lookup_timeout": "3s"}) as made:
        yield made
