#!/bin/sh
# Makes .venv: fastmirror in place, and all that builds, tests and checks it. Does nothing when that is done.
# PYTHON=... chooses the interpreter, CC=... the compiler. All that the machine lacks is named at once.
set -eu
cd "$(dirname "$0")/.."

wanted=$(cat pyproject.toml tools/venv.sh | cksum)
lean="$wanted, without libp2p"
made=
[ ! -x .venv/bin/python ] || made=$(cat .venv/.made-from 2>/dev/null) || true
[ "$made" != "$wanted" ] || exit 0

# py-libp2p brings fastecdsa, which is built here and needs GMP
has_gmp() { echo '#include <gmp.h>' | ${CC:-cc} -E - >/dev/null 2>&1; }
without_libp2p() {
    echo "fastmirror: gmp.h is missing, so py-libp2p and its tests (tests/p2p) are left out: install libgmp-dev" \
        "(Debian's name), then all is done by the same command" >&2
}
if [ "$made" = "$lean" ] && ! has_gmp && ! tools/apt.sh libgmp-dev; then
    without_libp2p
    exit 0
fi

find_python() {
    python=
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            python=$candidate
            return
        fi
    done
}
has_venv() { "$python" -c 'import ensurepip, venv' 2>/dev/null; }
has_headers() { "$python" -c 'import os, sysconfig as s, sys; sys.exit(not os.path.exists(s.get_path("include") + "/Python.h"))'; }
has_cc() { echo '#include <stdio.h>' | $cc -E - >/dev/null 2>&1; }

# What is missing, in words, and the Debian packages that bring it.
lack() {
    lacks="$lacks${lacks:+; }$1"
    packages="$packages${packages:+ }$2"
}
look() {
    lacks='' packages=''
    find_python
    if [ -n "$python" ]; then
        version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
        has_venv || lack "$python cannot make virtual environments" "$version-venv"
        has_headers || lack "Python.h of $python is missing" "$version-dev"
        compiler=$("$python" -c 'import sysconfig; print((sysconfig.get_config_var("CC") or "cc").split()[0])')
    else
        lack "needs Python 3.11 or newer (PYTHON=/path/to/python3 make ... names one that is not in PATH)" \
            "python3 python3-venv python3-dev"
        compiler=cc
    fi
    cc=${CC:-$compiler}
    has_cc || lack "no working C compiler ($cc with the C library's headers; CC=... names another)" "gcc libc6-dev"
}
look
if [ -n "$lacks" ]; then
    # shellcheck disable=SC2086 # a list of words
    tools/apt.sh $packages || true
    look
fi
[ -z "$lacks" ] || {
    echo "fastmirror: $lacks: install $packages (Debian's names)" >&2
    exit 1
}
extra='[libp2p]'
has_gmp || tools/apt.sh libgmp-dev || extra=''

echo "fastmirror: setting up .venv with $("$python" --version); a minute or two, once" >&2
.venv/bin/python -c '' 2>/dev/null || "$python" -m venv --clear .venv
pip="env PIP_DISABLE_PIP_VERSION_CHECK=1 .venv/bin/python -m pip install --quiet"
# --group came with pip 25.1
.venv/bin/python -c 'import pip, sys; sys.exit(tuple(map(int, pip.__version__.split(".")[:2])) < (25, 1))' ||
    $pip --upgrade 'pip>=25.1'
$pip --group build --group test --group lint --group deploy --group bench
FASTMIRROR_EDITABLE=1 $pip --no-build-isolation --editable ".$extra"
if [ -n "$extra" ]; then
    echo "$wanted" >.venv/.made-from
else
    echo "$lean" >.venv/.made-from
    without_libp2p
fi
