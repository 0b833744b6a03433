#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Makes src/fastmirror/containerd/api/*_pb2.py{,i} from the .proto files beside them; with --check only compares.
#
# Generated code refuses a protobuf older than its generator's, so the generator is the oldest that fits the protobuf
# that pyproject.toml allows (4.25), not the newest. It runs in a throw-away environment and is no dependency.
set -eu
cd "$(dirname "$0")/.."
api=fastmirror/containerd/api
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" -q --disable-pip-version-check install "grpcio-tools==1.62.3" "protobuf==4.25.9" "setuptools<80"
mkdir "$work/out"
"$work/venv/bin/python" -m grpc_tools.protoc -I src --python_out="$work/out" --pyi_out="$work/out" src/$api/*.proto
status=0
for made in "$work/out/$api"/*_pb2.py*; do
    { printf '# %s\n' "SPDX-License-Identifier: Apache-2.0" "ruff: noqa" "mypy: ignore-errors"; cat "$made"; } >"$work/file"
    target=src/$api/$(basename "$made")
    if [ "${1:-}" = --check ]; then
        cmp "$work/file" "$target" || status=1
    else
        install -m 644 "$work/file" "$target"
    fi
done
exit $status
