#!/bin/bash
# Copyright (c) fastmirror authors. SPDX-License-Identifier: Apache-2.0
# Puts several generations of containerd side by side, installing nothing: Debian's packages, unpacked.
#
#   tools/containerd-versions.sh           get what is missing, print "VERSION<TAB>DIRECTORY" for each that runs
#   tools/containerd-versions.sh --one     get one of them only
#   tools/containerd-versions.sh --list    print what is there already; no network
#
# Only root can run them, and FASTMIRROR_APT=no leaves the machine as it is: in both cases --list is meant.
# The directories are below ${FASTMIRROR_CONTAINERD_CACHE:-${XDG_CACHE_HOME:-~/.cache}/fastmirror/containerd}, each with
# containerd, ctr and the shim. An installed containerd is listed too. Exit 0 if at least one runs, 1 if none does.
set -u

cache=${FASTMIRROR_CONTAINERD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/fastmirror/containerd}
suites="bookworm trixie sid" # 1.6.20, 1.7.24 and 2.1.9 at the time of writing; sid moves on
[ "${1:-}" = --one ] && suites=trixie

say() { echo "containerd-versions: $*" >&2; }

# The Debian mirror that this machine itself uses: no host is named here.
mirror() {
    {
        cat /etc/apt/sources.list.d/*.sources 2>/dev/null | sed -n 's/^URIs:[[:space:]]*\([^[:space:]]*\).*/\1/p'
        cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null |
            sed -n 's/^deb[[:space:]]*\(\[[^]]*\][[:space:]]*\)\{0,1\}\([^[:space:]]*\).*/\2/p'
    } | grep -E '/debian/?$' | head -n 1
}

fetch() {
    local suite=$1 url=$2 work
    [ -x "$cache/$suite/usr/bin/containerd" ] && return 0
    work=$(mktemp -d) || return 1
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/deb" "$cache"
    local keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    echo "deb [signed-by=$keyring] $url $suite main" >"$work/sources.list"
    # The machine's own packages are not asked about: what is unpacked needs none of them. sid may be a copy of some
    # days ago, which its signature vouches for and its date does not.
    local options=(-q -o Dir::State::status=/dev/null -o Acquire::Check-Valid-Until=false -o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=/dev/null
        -o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root
        -o Acquire::Languages=none -o Acquire::Retries=2 -o Acquire::http::Timeout=30)
    if apt-get "${options[@]}" update >"$work/log" 2>&1 &&
        (cd "$work/deb" && apt-get "${options[@]}" download containerd >>"$work/log" 2>&1) &&
        dpkg-deb -x "$work"/deb/containerd_*.deb "$work/root"; then
        rm -rf "$cache/$suite"
        mv "$work/root" "$cache/$suite"
    else
        say "Debian's $suite could not be had; its containerd is left out:"
        tail -n 3 "$work/log" >&2
    fi
    rm -rf "$work"
}

version_of() { "$1/containerd" --version 2>/dev/null | awk '{ print $3 }'; }

list() {
    local directory version seen=" " count=0
    for directory in "$cache"/*/usr/bin "$(dirname "$(command -v containerd || echo /)")"; do
        [ -x "$directory/containerd" ] && [ -x "$directory/ctr" ] || continue
        version=$(version_of "$directory")
        # One of each: an unpacked package and the installed one may be the same.
        case "$version:$seen" in :* | *" $version "*) continue ;; esac
        seen="$seen$version "
        printf '%s\t%s\n' "$version" "$directory"
        count=$((count + 1))
    done | sort -V
}

if [ "${1:-}" != --list ] && [ "$(id -u)" = 0 ] && [ "${FASTMIRROR_APT:-yes}" != no ]; then
    url=$(mirror)
    if [ -z "$url" ] || ! command -v dpkg-deb >/dev/null || ! command -v apt-get >/dev/null; then
        say "this machine has no Debian mirror configured: only an installed containerd can be used"
    else
        for suite in $suites; do fetch "$suite" "$url"; done
    fi
fi
found=$(list)
if [ -z "$found" ]; then
    say "no containerd at all: install one (apt-get install containerd runc) or set FASTMIRROR_CONTAINERD_CACHE"
    exit 1
fi
echo "$found"
