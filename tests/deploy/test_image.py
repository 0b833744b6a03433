"""What the image is: small, the same each time, without a shell, and honest about what is in it."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
from pathlib import Path

import pytest

from tests.kit.built import Built, build_image

pytestmark = [pytest.mark.needs("root", "buildah", "mmdebstrap", "skopeo"), pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]


def test_the_same_tree_gives_the_same_digest(built: Built, tmp_path: Path) -> None:
    assert build_image(tmp_path).digest == built.digest


def test_it_is_below_seventy_mebibytes_and_the_docs_say_how_large(built: Built) -> None:
    mebibytes = built.compressed_bytes / 2**20
    assert mebibytes < 70
    said = re.search(r"The image is (\d+) MiB", (ROOT / "docs" / "install.md").read_text())
    assert said is not None
    assert abs(int(said[1]) - mebibytes) < 3


def test_it_runs_as_nobody_in_particular_and_says_what_it_is(built: Built) -> None:
    config = built.config["config"]
    assert config["User"] == "65532:0"
    assert config["Entrypoint"] == ["/usr/bin/fastmirror"]
    labels = {name.removeprefix("org.opencontainers.image."): text for name, text in config["Labels"].items()}
    assert labels["title"] == "fastmirror"
    assert labels["licenses"] == "Apache-2.0"
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=ROOT, check=True)
    assert labels["revision"] == head.stdout.strip()


def test_it_has_no_shell_no_package_manager_and_no_rights_to_win(image_root: Path) -> None:
    programs = {path.name for path in image_root.rglob("*") if path.is_file() and os.access(path, os.X_OK)}
    assert programs.isdisjoint(["sh", "bash", "dash", "busybox", "apt-get", "dpkg", "pip", "pip3", "su", "mount"])
    assert sorted(path.name for path in (image_root / "usr/bin").iterdir()) == ["fastmirror", "python3", "python3.11"]
    assert list((image_root / "usr/lib/python3/dist-packages").glob("pip*")) == []
    for path in image_root.rglob("*"):
        assert not path.lstat().st_mode & (stat.S_ISUID | stat.S_ISGID), path
        assert path.lstat().st_uid == 0, path


def test_it_starts_without_compiling_anything(image_root: Path) -> None:
    package = image_root / "usr/lib/python3/dist-packages/fastmirror"
    sources = sorted(path.relative_to(package) for path in package.rglob("*.py"))
    compiled = [package / path.parent / "__pycache__" / f"{path.stem}.cpython-311.pyc" for path in sources]
    assert sources
    assert [path for path in compiled if not path.is_file()] == []
    # flags 1: hashed and never checked against the source; PEP 552
    assert {path.read_bytes()[4] for path in compiled} == {1}


def test_it_runs_with_the_libp2p_router_and_without_anything_else_of_this_machine(image_root: Path) -> None:
    line = ["chroot", "--userspec=65532:0", str(image_root), "/usr/bin/python3", "-I", "-c"]
    done = subprocess.run([*line, "import fastmirror.p2p.__main__, fastmirror.containerd.helper, ssl"], check=False)
    assert done.returncode == 0


class TestBillOfMaterials:
    """The SBOM in the image, which `make image` puts beside it too."""

    @pytest.fixture
    def listed(self, built: Built, image_root: Path) -> dict[str, dict[str, str]]:
        """Versions by kind of package and name."""
        inside = (image_root / "usr/share/fastmirror/sbom.spdx.json").read_text()
        assert (built.directory / "sbom.spdx.json").read_text() == inside
        document = json.loads(inside)
        assert document["spdxVersion"] == "SPDX-2.3"
        found: dict[str, dict[str, str]] = {"deb": {}, "pypi": {}}
        for package in document["packages"]:
            kind = package["externalRefs"][0]["referenceLocator"].partition(":")[2].partition("/")[0]
            found[kind][package["name"]] = package["versionInfo"]
        return found

    def test_every_python_package_is_in_it_and_nothing_else(
        self, listed: dict[str, dict[str, str]], image_root: Path
    ) -> None:
        there = {
            path.name.removesuffix(".dist-info").rpartition("-")[0].lower().replace("_", "-")
            for path in image_root.rglob("*.dist-info")
        }
        assert set(listed["pypi"]) == there

    def test_every_shared_library_of_debian_belongs_to_a_package_in_it(
        self, listed: dict[str, dict[str, str]], image_root: Path
    ) -> None:
        records = {path.name for path in (image_root / "var/lib/dpkg/status.d").iterdir()}
        assert set(listed["deb"]) == records
        assert {"libc6", "libssl3", "python3.11-minimal", "ca-certificates"} <= records

    def test_the_versions_are_those_that_the_requirements_pin(self, listed: dict[str, dict[str, str]]) -> None:
        text = (ROOT / "deploy/image/requirements.txt").read_text()
        pinned = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", text, re.MULTILINE))
        assert {name: listed["pypi"].get(name) for name in pinned} == pinned
