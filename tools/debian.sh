#!/bin/sh
# Sees to the commands of tools/debian.txt that a job (demo, test, bench) uses: installs them where it may, else says
# which are missing. Never fails for a missing one: what needs it is skipped, or done in another way.
set -eu
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin

missing() {
    while read -r command package jobs purpose; do
        case ",$jobs," in
        *",$1,"*) command -v "$command" >/dev/null || echo "$package ($purpose)" ;;
        esac
    done <tools/debian.txt
}

lacking=$(missing "$1")
[ -n "$lacking" ] || exit 0
packages=$(echo "$lacking" | sed 's/ .*//' | sort -u)
# shellcheck disable=SC2086 # a list of words
tools/apt.sh $packages || true
lacking=$(missing "$1")
[ -z "$lacking" ] && exit 0
{
    echo "fastmirror: not on this machine; what needs it is skipped or done in another way:"
    echo "$lacking" | sed 's/^/  /'
    echo "  as root on Debian: apt-get install $(echo "$lacking" | sed 's/ .*//' | sort -u | tr '\n' ' ')"
} >&2
