#!/bin/sh
# Every check that reads the code and does not run it. All are run, then the failed ones are named.
set -u
cd "$(dirname "$0")/.."
failed=

check() {
    echo "> $*" >&2
    "$@" || failed="$failed
  $*"
}

check ruff check --quiet .
check ruff format --quiet --check .
check cython-lint ext/*.pyx src/fastmirror/_native/*.pxd
check mypy
# shellcheck disable=SC2046 # a list of module names
check python -m mypy.stubtest $(ls ext/*.pyx | sed 's#ext/\(.*\).pyx#fastmirror._native.\1#')
check lint-imports --no-logo
check codespell
check python -m tools.gendocs --check
check python -m tools.gendeploy --check

[ -z "$failed" ] && exit 0
echo "failed:$failed" >&2
exit 1
