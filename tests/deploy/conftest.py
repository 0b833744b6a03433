"""The image as `make image` builds it, opened; and Helm."""

from __future__ import annotations

import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit import helm
from tests.kit.built import Built, build_image

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session", autouse=True)
def helm_process() -> Iterator[None]:
    """What ``tests.kit.helm`` asks."""
    with helm.running():
        yield


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
