#!/bin/sh
# Install PostgreSQL with PostGIS for the tests where that is allowed; otherwise say why not and leave it.
# The tests start a private cluster of their own from these binaries, so no system cluster is made or started.
set -eu
what="PostgreSQL with PostGIS"
lack="Tests that need it are skipped (under CI=true they fail)."
. "$(dirname "$0")/apt.sh"

for control in /usr/share/postgresql/*/extension/postgis.control; do
    version=${control#/usr/share/postgresql/}
    if [ -e "$control" ] && [ -x "/usr/lib/postgresql/${version%%/*}/bin/initdb" ]; then
        echo "PostGIS for PostgreSQL ${version%%/*} is installed"
        exit 0
    fi
done

ready_apt
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
apt_install "postgresql-$version-postgis-3"
echo "installed PostgreSQL $version with PostGIS"
