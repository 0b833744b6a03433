"""Runs in the build stage: ``assemble.py /image /wheels /own`` puts together the files of the last stage.

``/image/base`` gets the interpreter, the shared libraries that it and the packages load, and the packages;
``/image/app`` gets fastmirror. What is taken of Debian is noted where scanners look (/var/lib/dpkg/status.d).
"""

from __future__ import annotations

import compileall
import os
import py_compile
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from sbom import Package, debian_packages, python_packages, write_spdx

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
STDLIB = Path(f"/usr/lib/python{VERSION}")
PACKAGES = Path("usr/lib/python3/dist-packages")
UNUSED_STDLIB = (
    "test", "idlelib", "tkinter", "turtledemo", "turtle.py", "ensurepip", "lib2to3", "pydoc_data", "sqlite3", "curses",
    "dbm", "__pycache__", "EXTERNALLY-MANAGED",
)  # fmt: skip
UNUSED_MODULES = re.compile(
    r"(_test|_xx|xxlimited|_ctypes_test|_sqlite3|_tkinter|readline|_curses|_dbm|_gdbm|nis|ossaudiodev)"
)
UNUSED_PACKAGES = ("examples", "bin", "tests", "*/test", "*/tests")
LIBRARY = re.compile(r"(/\S+) \(0x")

_PASSWD = "root:x:0:0:root:/:/sbin/nologin\nfastmirror:x:65532:0:fastmirror:/:/sbin/nologin\n"
_GROUP = "root:x:0:\nfastmirror:x:65532:\n"
_NSSWITCH = "passwd: files\ngroup: files\nhosts: files dns\n"
_PROGRAM = "#!/usr/bin/python3 -I\nfrom fastmirror.cli import main\n\nmain()\n"


def main(image: Path, wheels: Path, own: Path) -> None:
    """Make both trees. They must not exist yet."""
    base, app = image / "base", image / "app"
    taken = list(_interpreter(base))
    _install(wheels, base / PACKAGES)
    _install(own, app / PACKAGES)
    for pattern in UNUSED_PACKAGES:
        for path in (base / PACKAGES).glob(pattern):
            shutil.rmtree(path)
    taken += _libraries(base, _native(base, app))
    taken += _system(base)
    program = app / "usr/bin/fastmirror"
    program.parent.mkdir(parents=True)
    program.write_text(_PROGRAM)
    program.chmod(0o755)
    debian = debian_packages(taken)
    _notes(base, debian)
    python = [*python_packages(base / PACKAGES), *python_packages(app / PACKAGES)]
    write_spdx(app / "usr/share/fastmirror/sbom.spdx.json", [*debian, *python])
    _compile(base, app)
    for directory in ("tmp", "var/lib/fastmirror", "var/spool/fastmirror", "run/containerd", "etc/containerd/certs.d"):
        (app / directory).mkdir(parents=True, exist_ok=True)  # where volumes go
    (app / "tmp").chmod(0o1777)


def _interpreter(base: Path) -> Iterator[Path]:
    """Copy Python and its standard library; gives the files that were taken."""
    binary = Path(f"/usr/bin/python{VERSION}")
    _copy(binary, base)
    (base / "usr/bin/python3").symlink_to(binary.name)
    yield binary
    for path in sorted(STDLIB.rglob("*")):
        inside = path.relative_to(STDLIB)
        first = inside.parts[0]
        unused = first in UNUSED_STDLIB or first.startswith("config-") or "__pycache__" in path.parts
        if path.is_dir() or unused or (first == "lib-dynload" and UNUSED_MODULES.match(path.name)):
            continue
        _copy(path, base)
        yield path


def _install(wheels: Path, target: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile", "--target"]
    subprocess.run([*command, str(target), *sorted(map(str, wheels.glob("*.whl")))], check=True)
    for path in target.glob("*.dist-info/*"):
        if path.name in ("direct_url.json", "REQUESTED"):  # say where the wheel lay
            path.unlink()
    shutil.rmtree(target / "bin", ignore_errors=True)


def _native(*trees: Path) -> list[Path]:
    binaries = [tree / f"usr/bin/python{VERSION}" for tree in trees]
    found = [path for tree in trees for path in tree.rglob("*.so*") if path.is_file()]
    return [*filter(Path.exists, binaries), *found]


def _libraries(base: Path, binaries: Iterable[Path]) -> list[Path]:
    """Copy every shared library that the binaries load; gives where Debian has them."""
    needed: set[Path] = set()
    for binary in binaries:
        said = subprocess.run(["ldd", str(binary)], capture_output=True, text=True, check=False).stdout
        if "not found" in said:
            raise SystemExit(f"{binary} lacks a library:\n{said}")
        needed |= {Path(path) for path in LIBRARY.findall(said) if not path.startswith(str(base))}
    # loaded by name, not linked: pthread_cancel needs it
    needed |= set(Path("/lib").glob("*-linux-gnu/libgcc_s.so.1"))
    for path in sorted(needed):
        _copy(path, base)
    return sorted(needed)


def _system(base: Path) -> Iterator[Path]:
    """What a C library and TLS look for; gives what was taken from Debian."""
    files = {"etc/passwd": _PASSWD, "etc/group": _GROUP, "etc/nsswitch.conf": _NSSWITCH}
    for name, text in files.items():
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text(text)
    bundle = base / "etc/ssl/certs/ca-certificates.crt"
    bundle.parent.mkdir(parents=True)
    # Debian's certificates, not the build machine's bundle, which may hold more
    certificates = sorted(Path("/usr/share/ca-certificates/mozilla").glob("*.crt"))
    bundle.write_text("".join(path.read_text().rstrip() + "\n" for path in certificates))
    yield from certificates
    release = Path("/usr/lib/os-release")
    _copy(release, base)
    (base / "etc/os-release").symlink_to("../usr/lib/os-release")
    yield release


def _copy(path: Path, base: Path) -> None:
    """Copy with the place where it really is: /lib is a link to /usr/lib, which the image has too."""
    parent = base / os.path.realpath(path.parent).lstrip("/")
    parent.mkdir(parents=True, exist_ok=True)
    for link in ("lib", "lib64"):
        if Path("/", link).is_symlink() and not (base / link).is_symlink():
            (base / link).symlink_to(os.readlink(f"/{link}"))
    shutil.copy(path, parent / path.name, follow_symlinks=path.is_symlink() and not _beside(path))
    if path.is_symlink() and _beside(path):
        _copy(path.parent / os.readlink(path), base)


def _beside(path: Path) -> bool:
    return "/" not in os.readlink(path)


def _notes(base: Path, packages: list[Package]) -> None:
    """Copyright files, and the packages' records for scanners."""
    for package in packages:
        said = Path("/usr/share/doc", package.name, "copyright")
        if said.exists():
            _copy(said, base)
        status = base / "var/lib/dpkg/status.d" / package.name
        status.parent.mkdir(parents=True, exist_ok=True)
        status.write_text(package.record)


def _compile(*trees: Path) -> None:
    """Bytecode that is never compared with the source: the image is read-only."""
    for tree in trees:
        for place in ("usr/lib/python" + VERSION, str(PACKAGES)):
            if (tree / place).is_dir():
                compileall.compile_dir(
                    tree / place, quiet=2, workers=1, stripdir=str(tree), prependdir="/", maxlevels=30,
                    invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
                )  # fmt: skip


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
