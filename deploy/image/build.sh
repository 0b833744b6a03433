#!/bin/sh
# Runs in the build stage: build.sh dependencies, then build.sh fastmirror. The result is /image/base and /image/app.
# Where /wheelhouse is mounted (tools/image.sh), nothing is downloaded.
set -eu
export PYTHONHASHSEED=0 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_CACHE_DIR=1
if [ -d /wheelhouse ]; then
    export PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheelhouse
fi
python=/opt/build/bin/python

dependencies() {
    if ! command -v gcc >/dev/null || ! [ -e /usr/include/gmp.h ] || ! python3 -c 'import ensurepip' 2>/dev/null; then
        apt-get -qq update
        DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends \
            python3-venv python3-dev gcc libc6-dev libgmp-dev ca-certificates
    fi
    python3 -m venv /opt/build
    "$python" -m pip install -q --require-hashes -r /build/build-requirements.txt
    # a path of the build machine must not be in what is compiled
    export CFLAGS="-O2 -g0 -ffile-prefix-map=/tmp=."
    "$python" -m pip wheel -q --no-build-isolation --no-deps --require-hashes -r /build/requirements.txt -w /wheels
}

fastmirror() {
    cd /source
    "$python" -c 'from setuptools.build_meta import build_sdist; build_sdist("/dist")' >/dev/null
    "$python" -m pip wheel -q --no-build-isolation --no-deps /dist/*.tar.gz -w /own
    "$python" /build/assemble.py /image /wheels /own
}

"$1"
