"""The extensions; everything else is in pyproject.toml.

Build modes, by environment variable; `make debug` and `make sanitize` build them apart from the usual one.
  FASTMIRROR_DEBUG=1      -O0 -g3 and Cython's bounds checks
  FASTMIRROR_SANITIZE=1   AddressSanitizer and UndefinedBehaviorSanitizer
  FASTMIRROR_EDITABLE=1   no extensions at all: an editable install, for which `build_ext --inplace` makes them
"""

import os
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

DEBUG = os.environ.get("FASTMIRROR_DEBUG") == "1"
SANITIZE = os.environ.get("FASTMIRROR_SANITIZE") == "1"
MODE = "sanitize" if SANITIZE else "debug" if DEBUG else "release"

# Hand-written C that a module is linked with, beside its own ext/<name>.pyx. Its name must be another one: cythonize
# copies it to where the C made from ext/<name>.pyx is written.
C_SOURCES: dict[str, list[str]] = {
    "check": ["ext/check_threads.c", "ext/blake3.c", "ext/sha2.c", "ext/xxh3.c"],
    "endpoint": ["ext/sendpool.c"],
    "hashing": ["ext/sha2.c"],
    "ingest": ["ext/ingest_threads.c"],
}

flags = ["-std=gnu11", "-Wall", "-Wextra", "-Wno-unused-parameter", "-fvisibility=hidden"]
flags += ["-Werror=implicit-function-declaration", "-Werror=incompatible-pointer-types", "-Werror=return-type"]
flags += ["-O0", "-g3"] if DEBUG else ["-O3", "-g1" if SANITIZE else "-g0"]
link_flags = [] if DEBUG or SANITIZE else ["-Wl,-s"]
if SANITIZE:
    flags += ["-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-fno-sanitize-recover=undefined"]
    link_flags += ["-fsanitize=address,undefined"]
else:
    flags += ["-fstack-protector-strong", "-fstack-clash-protection"]
    flags += [] if DEBUG else ["-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"]
    link_flags += ["-Wl,-z,relro,-z,now,-z,noexecstack"]

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": DEBUG,
    "wraparound": False,
    "initializedcheck": DEBUG,
    "embedsignature": True,
    "embedsignature.format": "python",
    "auto_pickle": False,
    "autotestdict": False,
}


class Recipe:
    """What the files in a directory were made with; they are made anew when that changes.

    Neither Cython nor setuptools looks at more than the times of the sources; Cython looks for a module's own .pxd
    beside its .pyx only, and ours are in another directory.
    """

    def __init__(self, note: Path) -> None:
        from Cython import __version__ as cython

        self.note = note
        parts = (Path(__file__), *sorted(Path("src/fastmirror/_native").glob("*.pxd")))
        sources = "\n".join(part.read_text() for part in parts)
        self.text = f"{MODE}\nCython {cython}\nPython {sys.version}\n{sources}"

    def changed(self) -> bool:
        return not self.note.exists() or self.note.read_text() != self.text

    def keep(self) -> None:
        self.note.parent.mkdir(parents=True, exist_ok=True)
        self.note.write_text(self.text)


class BuildExtensions(build_ext):
    def run(self) -> None:
        recipe = Recipe(Path("build/in-place.recipe") if self.inplace else Path(self.build_temp) / ".recipe")
        self.force = self.force or recipe.changed()
        super().run()
        recipe.keep()


def extensions() -> list[Extension]:
    from Cython.Build import cythonize

    modules = [
        Extension(
            f"fastmirror._native.{path.stem}",
            [str(path)],
            include_dirs=["ext"],
            depends=[str(header) for header in Path("ext").glob("*.h")],
            extra_compile_args=flags,
            extra_link_args=link_flags,
        )
        for path in sorted(Path("ext").glob("*.pyx"))
    ]
    generated = Path("build/cython" if MODE == "release" else f"build/{MODE}/cython")
    recipe = Recipe(generated / ".recipe")
    made: list[Extension] = cythonize(
        modules,
        include_path=["src"],
        build_dir=str(generated),
        force=recipe.changed(),
        compiler_directives=DIRECTIVES,
    )
    recipe.keep()
    for module in made:  # after cythonize, which copies the C it is given to where it writes its own
        module.sources += C_SOURCES.get(module.name.rpartition(".")[2], [])
    return made


if __name__ == "__main__":
    if sys.platform != "linux":
        sys.exit("fastmirror serves with Linux system calls (sendfile, accept4, epoll): it builds on Linux only")
    setup(
        ext_modules=[] if os.environ.get("FASTMIRROR_EDITABLE") == "1" else extensions(),
        cmdclass={"build_ext": BuildExtensions},
        options={"build_ext": {"parallel": os.cpu_count() or 1}},
    )
