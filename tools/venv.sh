#!/bin/sh
# Makes .venv: fastmirror in place, and all that builds, tests and checks it. Does nothing when that is done.
# PYTHON=... chooses the interpreter.
set -eu
cd "$(dirname "$0")/.."

fail() {
    echo "fastmirror: $*" >&2
    exit 1
}

wanted=$(cat pyproject.toml tools/venv.sh | cksum)
if [ -x .venv/bin/python ] && [ "$(cat .venv/.made-from 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi

python=
for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
[ -n "$python" ] || fail "needs Python 3.11 or newer; PYTHON=/path/to/python3 make ... names one that is not in PATH"
version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')

has_venv() { "$python" -c 'import ensurepip, venv' 2>/dev/null; }
has_headers() { "$python" -c 'import os, sysconfig as s, sys; sys.exit(not os.path.exists(s.get_path("include") + "/Python.h"))'; }

has_venv || tools/apt.sh "$version-venv" || true
has_venv || fail "$python cannot make virtual environments: install $version-venv (Debian's name)"
has_headers || tools/apt.sh "$version-dev" || true
has_headers || fail "Python.h of $python is missing: install $version-dev (Debian's name)"
cc=${CC:-$("$python" -c 'import sysconfig; print((sysconfig.get_config_var("CC") or "cc").split()[0])')}
echo '#include <stdio.h>' | $cc -E - >/dev/null 2>&1 ||
    fail "no working C compiler ($cc with the C library's headers): install gcc and libc6-dev (Debian's names), or set CC"
# py-libp2p brings fastecdsa, which is built here and needs GMP
has_gmp() { echo '#include <gmp.h>' | $cc -E - >/dev/null 2>&1; }
has_gmp || tools/apt.sh libgmp-dev || true
has_gmp || fail "gmp.h is missing: install libgmp-dev (Debian's name)"

echo "fastmirror: setting up .venv with $("$python" --version); a minute or two, once" >&2
.venv/bin/python -c '' 2>/dev/null || "$python" -m venv --clear .venv
pip="env PIP_DISABLE_PIP_VERSION_CHECK=1 .venv/bin/python -m pip install --quiet"
# --group came with pip 25.1
.venv/bin/python -c 'import pip, sys; sys.exit(tuple(map(int, pip.__version__.split(".")[:2])) < (25, 1))' ||
    $pip --upgrade 'pip>=25.1'
$pip --group build --group test --group lint
FASTMIRROR_EDITABLE=1 $pip --no-build-isolation --editable '.[libp2p]'
echo "$wanted" >.venv/.made-from
