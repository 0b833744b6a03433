#!/bin/sh
# Checks ext/blake3.c and ext/xxh3.c on another processor than this one, against the libraries that the tests use: run
# it by hand after a change there. ARCH=s390x checks big-endian words.
# Debian packages: qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross (or the same for s390x).
set -eu
cd "$(dirname "$0")/../.."
arch=${ARCH:-aarch64}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$arch-linux-gnu-gcc" -std=gnu11 -O3 -Wall -Wextra -Werror -static -Iext tests/native/pieces_stdin.c ext/blake3.c ext/xxh3.c -o "$work/pieces"
for size in 0 1 3 4 8 9 16 17 63 64 65 128 129 240 241 1023 1024 1025 2048 2049 4097 5120 65536 100000 1000000 1048576; do
    head -c "$size" /dev/urandom >"$work/data"
    "qemu-$arch" -cpu max "$work/pieces" <"$work/data" >"$work/hashes"
    .venv/bin/python - "$work/data" "$work/hashes" <<'PYTHON'
import sys
from pathlib import Path

import xxhash
from blake3 import blake3

data = Path(sys.argv[1]).read_bytes()
expected = {"blake3": blake3(data).hexdigest(), "xxh3-128": xxhash.xxh3_128_hexdigest(data)}
for line in Path(sys.argv[2]).read_text().splitlines():
    algorithm, way, found = line.split()
    if found != expected[algorithm]:
        sys.exit(f"{algorithm} by {way} is wrong for {len(data)} bytes")
PYTHON
done
echo "right on $arch: $(cut -d' ' -f1,2 "$work/hashes" | tr '\n' ' ')"
