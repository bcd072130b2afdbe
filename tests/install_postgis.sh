#!/bin/sh
# Install PostgreSQL with PostGIS for the tests where that is allowed; otherwise say why not and leave it.
# The tests start a private cluster of their own from these binaries, so no system cluster is made or started.
set -eu

for control in /usr/share/postgresql/*/extension/postgis.control; do
    version=${control#/usr/share/postgresql/}
    if [ -e "$control" ] && [ -x "/usr/lib/postgresql/${version%%/*}/bin/initdb" ]; then
        echo "PostGIS for PostgreSQL ${version%%/*} is installed"
        exit 0
    fi
done

leave() {
    echo "PostGIS is not installed: $1. Tests that need it are skipped (under CI=true they fail)." >&2
    exit 0
}

command -v apt-get >/dev/null || leave "this is no Debian or Ubuntu (no apt-get); install PostgreSQL with PostGIS by hand"
if [ "$(id -u)" = 0 ]; then
    as_root() { "$@"; }
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root() { sudo -n "$@"; }
else
    leave "neither root nor sudo without a password; run: sudo apt-get install postgresql postgresql-*-postgis-3"
fi

as_root apt-get update -qq || echo "apt-get update failed; trying with the package lists that are here" >&2
# A server that is already installed decides the version, else the newest the distribution offers.
installed=$(ls -d /usr/lib/postgresql/*/bin/initdb 2>/dev/null | cut -d/ -f5 | sort -n | tail -n 1)
offered=$(apt-cache search --names-only '^postgresql-[0-9]+-postgis-3$' | sed 's/^postgresql-\([0-9]*\)-.*/\1/' | sort -n)
version=$(echo "$offered" | grep -Fx "${installed:-none}" || echo "$offered" | tail -n 1)
[ -n "$version" ] || leave "apt offers no postgresql-*-postgis-3"

# Read by the package's own script when it is set up: without it a cluster "main" would be created and started.
as_root mkdir -p /etc/postgresql-common
if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
    echo "create_main_cluster = false" | as_root tee /etc/postgresql-common/createcluster.conf >/dev/null
fi
# The server comes as a dependency: named here, an installed one would be upgraded and its clusters restarted.
as_root env DEBIAN_FRONTEND=noninteractive UCF_FORCE_CONFFOLD=1 apt-get install -y -qq -o Dpkg::Use-Pty=0 --no-install-recommends \
    -o Dpkg::Options::=--force-confold "postgresql-$version-postgis-3" ||
    leave "apt-get install failed (see above)"
echo "installed PostgreSQL $version with PostGIS"
