"""The files of the project, whether it is a clone or an unpacked sdist."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

_GENERATED = "src/fastmirror/containerd/api/"
_ELSEWHERE = (".git", ".venv", ".mypy", ".pytest", ".ruff", ".hypothesis", "build", "dist", "var", "fastmirror-data")


def files(*suffixes: str, below: str = "", generated: bool = False) -> Iterator[Path]:
    """Files with one of the suffixes (any, if none is named) that are, or would be, part of the project."""
    for name in sorted(_names()):
        path = ROOT / name
        if (
            name.startswith(below)
            and (not suffixes or path.suffix in suffixes)
            and (generated or not name.startswith(_GENERATED))
            and path.is_file()
        ):
            yield path


def name(path: Path) -> str:
    """How a file is called in a complaint."""
    return path.relative_to(ROOT).as_posix()


def _names() -> list[str]:
    listing = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    # not in an sdist, without git, or where git thinks that the directory belongs to somebody else
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        if found := subprocess.run(listing, check=True, capture_output=True, text=True).stdout.split("\0")[:-1]:
            return found
    names = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
    return [name.as_posix() for name in names if not any(part.startswith(_ELSEWHERE) for part in name.parts)]
