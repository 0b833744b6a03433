"""The image as `make image` builds it, opened; and Helm."""

from __future__ import annotations

import subprocess
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.kit.built import Built, build_image
from tools.gendeploy import render

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session", autouse=True)
def helm() -> None:
    """Let Helm's library, which is Go's, open what it keeps until the end: threads, one for each call at a time and
    some of its own.
    """
    values: dict[str, object] = {"image": {"repository": "registry.example/team/fastmirror"}}
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda _: list(render(values)), range(32)))


@pytest.fixture(scope="session")
def built() -> Built:
    """The image of this tree; built once, and again only when what it is made of has changed."""
    return build_image(ROOT / "build" / "image")


@pytest.fixture(scope="session")
def image_root(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The files of the image."""
    root = tmp_path_factory.mktemp("image") / "root"
    for layer in built.layers():
        with tarfile.open(layer) as archive:
            archive.extractall(root, filter="fully_trusted")  # users and modes are part of what is looked at
    yield root
    subprocess.run(["rm", "-rf", str(root)], check=True)
