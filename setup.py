"""The extensions; everything else is in pyproject.toml.

Build modes, by environment variable:
  FASTMIRROR_DEBUG=1      -O0 -g3 and Cython's bounds checks
  FASTMIRROR_SANITIZE=1   AddressSanitizer and UndefinedBehaviorSanitizer
"""

import os
import sys
from pathlib import Path

from setuptools import Extension, setup

DEBUG = os.environ.get("FASTMIRROR_DEBUG") == "1"
SANITIZE = os.environ.get("FASTMIRROR_SANITIZE") == "1"

# Hand-written C that a module is linked with, beside its own ext/<name>.pyx.
C_SOURCES: dict[str, list[str]] = {"hashing": ["ext/sha2.c"], "ingest": ["ext/ingest.c"]}

flags = ["-std=gnu11", "-Wall", "-Wextra", "-Wno-unused-parameter", "-fvisibility=hidden"]
flags += ["-O0", "-g3"] if DEBUG else ["-O3", "-g1" if SANITIZE else "-g0"]
link_flags = [] if DEBUG or SANITIZE else ["-Wl,-s"]
if SANITIZE:
    flags += ["-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-fno-sanitize-recover=undefined"]
    link_flags += ["-fsanitize=address,undefined"]
else:
    flags += ["-fstack-protector-strong"] + ([] if DEBUG else ["-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"])
    link_flags += ["-Wl,-z,relro,-z,now,-z,noexecstack"]


def extensions() -> list[Extension]:
    from Cython.Build import cythonize

    modules = [
        Extension(
            f"fastmirror._native.{path.stem}",
            [str(path), *C_SOURCES.get(path.stem, [])],
            include_dirs=["ext"],
            depends=[str(p) for p in Path("ext").glob("*.h")],
            extra_compile_args=flags,
            extra_link_args=link_flags,
        )
        for path in sorted(Path("ext").glob("*.pyx"))
    ]
    return cythonize(
        modules,
        include_path=["src"],
        build_dir="build/cython-debug" if DEBUG else "build/cython",
        compiler_directives={
            "language_level": 3,
            "boundscheck": DEBUG,
            "wraparound": False,
            "initializedcheck": DEBUG,
            "embedsignature": True,
            "embedsignature.format": "python",
            "auto_pickle": False,
            "autotestdict": False,
        },
    )


if __name__ == "__main__":
    if sys.platform != "linux":
        sys.exit("fastmirror serves with Linux system calls (sendfile, accept4, epoll): it builds on Linux only")
    setup(ext_modules=extensions())
