#!/bin/sh
# Installs the named Debian packages where it may (root, apt-get, and not FASTMIRROR_APT=no); else ends with 1.
# No service is started by it, now or at the next boot.
set -eu
[ "$#" -gt 0 ] || exit 0
if [ "$(id -u)" != 0 ] || [ "${FASTMIRROR_APT:-yes}" = no ] || ! command -v apt-get >/dev/null; then
    exit 1
fi
echo "fastmirror: apt-get install $*" >&2

# invoke-rc.d asks this file before it starts a service; exit 101 means no
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT
    trap 'exit 1' HUP INT TERM
fi

at_boot() { ls /etc/systemd/system/*.wants 2>/dev/null | grep '\.service$' | sort -u || true; }
install() {
    DEBCONF_NOWARNINGS=yes DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=120 \
        install --yes --no-install-recommends "$@" </dev/null >/dev/null
}
before=$(at_boot)
all=yes
if ! install "$@" 2>/dev/null; then
    apt-get -qq update >&2 || true
    # one by one, so that a package that this release does not have leaves the others be
    for package; do
        install "$package" || all=no
    done
fi
for unit in $(at_boot); do
    case "$before" in
    *"$unit"*) ;;
    *) systemctl disable --quiet "$unit" 2>/dev/null || true ;;
    esac
done
[ "$all" = yes ]
