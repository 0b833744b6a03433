"""The files of the project, whether it is a clone or an unpacked sdist."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

_GENERATED = "src/fastmirror/containerd/api/"
_ELSEWHERE = (".git", ".venv", "build", "dist", "var", "fastmirror-data", "__pycache__")


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
    if (ROOT / ".git").exists():
        listing = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        return subprocess.run(listing, check=True, capture_output=True, text=True).stdout.split("\0")[:-1]
    return [
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*")
        if path.is_file() and not any(part.startswith(_ELSEWHERE) for part in path.relative_to(ROOT).parts)
    ]
