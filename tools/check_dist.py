"""Check what is in dist/: ``python -m tools.check_dist``.

The sdist holds exactly what git has; the wheel holds the package with every compiled module and its faces, and nothing
else. Exit code 1, and a line for each file that is missing or should not be there.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[1]


def tracked() -> set[str]:
    listing = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], check=True, capture_output=True, text=True)
    return set(listing.stdout.split("\0")[:-1])


def sdist_faults(archive: Path) -> Iterator[str]:
    with tarfile.open(archive) as tar:
        inside = {member.name.partition("/")[2] for member in tar if member.isfile()}
    own = {"PKG-INFO", "setup.cfg"}
    yield from (f"sdist lacks {name}" for name in sorted(tracked() - inside))
    yield from (
        f"sdist has {name}"
        for name in sorted(inside - tracked() - own)
        if not name.startswith("src/fastmirror.egg-info/")
    )


def wheel_faults(archive: Path) -> Iterator[str]:
    with zipfile.ZipFile(archive) as wheel:
        inside = {PurePosixPath(name) for name in wheel.namelist() if ".dist-info/" not in name}
    package = {
        PurePosixPath(name).relative_to("src")
        for name in tracked()
        if name.startswith("src/") and not name.endswith(".proto")
    }
    compiled = {path for path in inside if path.suffix == ".so"}
    modules = {PurePosixPath("fastmirror/_native", path.stem) for path in (ROOT / "ext").glob("*.pyx")}
    yield from (f"wheel lacks {path}" for path in sorted(package - inside))
    yield from (f"wheel has {path}" for path in sorted(inside - package - compiled) if path.suffix != ".proto")
    found = {path.parent / path.name.partition(".")[0] for path in compiled}
    yield from (f"wheel lacks the compiled {path}" for path in sorted(modules - found))
    yield from (f"wheel has an unknown {path}" for path in sorted(found - modules))


def main() -> int:
    dist = ROOT / "dist"
    sdists, wheels = list(dist.glob("*.tar.gz")), list(dist.glob("*.whl"))
    if len(sdists) != 1 or len(wheels) != 1:
        print(f"dist/ should hold one sdist and one wheel, not {len(sdists)} and {len(wheels)}: make dist")
        return 1
    faults = [*sdist_faults(sdists[0]), *wheel_faults(wheels[0])]
    print("\n".join(faults) or f"{sdists[0].name} and {wheels[0].name} hold what they should")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
