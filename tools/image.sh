#!/bin/bash
# Builds deploy/image/Dockerfile without a container engine's daemon, as root on Debian with buildah and mmdebstrap.
#
#   tools/image.sh [DIRECTORY]    DIRECTORY (build/image) gets image.tar (an OCI archive), digest, sbom.spdx.json
#
# Debian's packages come through mmdebstrap, Python's through pip, both as this machine has them set up; the build
# itself is offline. The same tree gives the same digest: times are those of the last commit (SOURCE_DATE_EPOCH).
set -eu
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:-build/image}")
cache=build/image-cache
mkdir -p "$out" "$cache"
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 1767225600)}
export SOURCE_DATE_EPOCH
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' src/fastmirror/__init__.py)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)

# Nothing to do if it was made of the same.
made_from=$({ git ls-files -z -- src ext deploy/image pyproject.toml setup.py MANIFEST.in README.md LICENSE |
    xargs -0 sha256sum; echo "$SOURCE_DATE_EPOCH $revision"; } | sha256sum)
if [ "$(cat "$out/made-from" 2>/dev/null)" = "$made_from" ] && [ -s "$out/image.tar" ]; then
    exit 0
fi

lacking=
for command in buildah mmdebstrap skopeo; do command -v $command >/dev/null || lacking="$lacking $command"; done
# shellcheck disable=SC2086 # a list of words
[ -z "$lacking" ] || tools/apt.sh $lacking || {
    echo "make image needs root and:$lacking (Debian's names); or: docker build -f deploy/image/Dockerfile ." >&2
    exit 1
}

store=$(mktemp -d) # a storage of our own: no image of this machine is touched
trap 'rm -rf "$store"' EXIT
build() { buildah --root "$store/root" --runroot "$store/run" --storage-driver vfs "$@"; }

# What the build stage starts from, and what pip would download; kept until what they are made of changes.
base=$cache/base-$(sed -n '/apt-get -qq install/,/ca-certificates/p' deploy/image/build.sh | sha256sum | cut -c1-12)
if [ ! -d "$base" ]; then
    packages=$(sed -n '/apt-get -qq install/{n;s/ \{1,\}/,/g;s/^,//;p}' deploy/image/build.sh)
    rm -rf "$base.new"
    mmdebstrap --quiet --variant=minbase --mode=root --format=directory --include="$packages" bookworm "$base.new"
    mv "$base.new" "$base"
fi
wheels=$cache/wheels-$(cat deploy/image/*requirements.txt | sha256sum | cut -c1-12)
if [ ! -d "$wheels" ]; then
    rm -rf "$wheels.new"
    for list in build-requirements requirements; do
        ${PYTHON:-.venv/bin/python} -m pip --disable-pip-version-check download -q --no-deps --require-hashes \
            -r deploy/image/$list.txt -d "$wheels.new" --python-version 3.11
    done
    mv "$wheels.new" "$wheels"
fi

container=$(build from scratch)
build add -q "$container" "$base" / >/dev/null
build config --env PATH=/usr/sbin:/usr/bin:/sbin:/bin "$container"
build commit -q "$container" localhost/fastmirror-base >/dev/null
build rm "$container" >/dev/null
build build -q --isolation chroot --pull-never --timestamp "$SOURCE_DATE_EPOCH" \
    --ignorefile deploy/image/Dockerfile.dockerignore --file deploy/image/Dockerfile \
    --build-arg BASE=localhost/fastmirror-base --build-arg SOURCE_DATE_EPOCH="$SOURCE_DATE_EPOCH" \
    --build-arg VERSION="$version" --build-arg REVISION="$revision" \
    --volume "$(realpath "$wheels"):/wheelhouse:ro" --tag fastmirror . >/dev/null
rm -f "$out/image.tar"
build push -q fastmirror "oci-archive:$out/image.tar:fastmirror:$version"
skopeo inspect --raw "oci-archive:$out/image.tar" >"$out/manifest.json"
echo "sha256:$(sha256sum <"$out/manifest.json" | cut -d' ' -f1)" >"$out/digest"
tar -xOf "$out/image.tar" "blobs/sha256/$(python3 -c '
import json, sys
print(json.load(open(sys.argv[1]))["layers"][0]["digest"][7:])' "$out/manifest.json")" |
    tar -xzO usr/share/fastmirror/sbom.spdx.json >"$out/sbom.spdx.json"
echo "$made_from" >"$out/made-from"
echo "fastmirror $version: $out/image.tar, $(cat "$out/digest"), $(($(stat -c %s "$out/image.tar") / 1048576)) MiB"
