"""The checks that need no compiled test of ours: layers, stubs, generated pages."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.house.tree import ROOT


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)


def test_imports_point_down_the_stairs() -> None:
    checked = run("-c", "from importlinter.cli import lint_imports_command; lint_imports_command()")
    assert checked.returncode == 0, checked.stdout
    assert "2 kept, 0 broken" in checked.stdout


@pytest.mark.timeout(180)
def test_stubs_say_what_the_compiled_modules_are() -> None:
    modules = [f"fastmirror._native.{path.stem}" for path in sorted((ROOT / "ext").glob("*.pyx"))]
    checked = run("-m", "mypy.stubtest", *modules)
    assert checked.returncode == 0, checked.stdout
    assert f"no issues found in {len(modules)} modules" in checked.stdout


def test_generated_pages_are_what_the_code_says() -> None:
    checked = run("-m", "tools.gendocs", "--check")
    assert checked.returncode == 0, checked.stdout + checked.stderr
