#!/bin/sh
# Checks ext/sha2.c on ARMv8 without an ARM machine, against coreutils: run it by hand after a change there.
# Debian packages: qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross (200 MB: why `make test` does not use it).
set -eu
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
aarch64-linux-gnu-gcc -std=gnu11 -O3 -Wall -Wextra -Werror -static -Iext tests/native/sha2_stdin.c ext/sha2.c -o "$work/sha2"
for size in 0 1 55 56 63 64 65 111 112 127 128 129 1000 100000 1000000; do
    head -c "$size" /dev/urandom >"$work/data"
    qemu-aarch64 -cpu max "$work/sha2" <"$work/data" >"$work/digests"
    grep -q armv8 "$work/digests"
    while read -r algorithm implementation digest; do
        expected=$("${algorithm}sum" <"$work/data")
        [ "$digest" = "${expected%% *}" ] || { echo "$algorithm by $implementation is wrong for $size bytes" >&2; exit 1; }
    done <"$work/digests"
done
echo "$(wc -l <"$work/digests") implementations are right: $(cut -d' ' -f1,2 "$work/digests" | tr '\n' ' ')"
