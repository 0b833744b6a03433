#!/bin/sh
# Runs tests with native code built in another way, beside the usual one: tools/variant.sh debug|sanitize [pytest args]
set -eu
cd "$(dirname "$0")/.."
variant=$1
shift
base=build/$variant

case $variant in
debug)
    export FASTMIRROR_DEBUG=1 PYTHONASYNCIODEBUG=1
    ;;
sanitize)
    export FASTMIRROR_SANITIZE=1
    ;;
*)
    echo "variants: debug, sanitize" >&2
    exit 2
    ;;
esac
.venv/bin/python setup.py -q build --build-base "$base"
PYTHONPATH=$(echo "$PWD/$base"/lib.*)
export PYTHONPATH

if [ "$variant" = sanitize ]; then
    # The interpreter itself is not instrumented, so the libraries must come first; CPython frees little at its end,
    # which would be called leaks.
    cc=${CC:-gcc}
    LD_PRELOAD="$($cc -print-file-name=libasan.so) $($cc -print-file-name=libubsan.so)"
    ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:allocator_may_return_null=1
    UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
    PYTHONMALLOC=malloc # so that Python's own objects are watched, too
    # a report goes to stderr before the process dies: pytest must not hold it
    set -- --capture=sys -m "not memory" "$@"
    export LD_PRELOAD ASAN_OPTIONS UBSAN_OPTIONS PYTHONMALLOC
fi
exec .venv/bin/python -m pytest --timeout=240 "$@"
