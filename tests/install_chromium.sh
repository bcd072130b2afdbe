#!/bin/sh
# Install the browser the dashboard's tests drive, where that is allowed; otherwise say why not and leave it.
set -eu
what=chromium
lack="Tests in a browser are skipped (under CI=true they fail)."
. "$(dirname "$0")/apt.sh"

if command -v chromium >/dev/null; then
    echo "chromium is installed"
    exit 0
fi
ready_apt
apt_install chromium fonts-dejavu-core
echo "installed chromium"
