# Sourced by the install_*.sh beside it: how they install from apt where that is allowed, and otherwise say why not.
# $what is what a script installs, $lack what follows where it cannot.

leave() {
    echo "$what is not installed: $1. $lack" >&2
    exit 0
}

ready_apt() {
    command -v apt-get >/dev/null || leave "this is no Debian or Ubuntu (no apt-get); install $what by hand"
    if [ "$(id -u)" = 0 ]; then
        as_root() { "$@"; }
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        as_root() { sudo -n "$@"; }
    else
        leave "neither root nor sudo without a password; install $what with sudo apt-get install"
    fi
    as_root apt-get update -qq || echo "apt-get update failed; trying with the package lists that are here" >&2
}

apt_install() {
    as_root env DEBIAN_FRONTEND=noninteractive UCF_FORCE_CONFFOLD=1 apt-get install -y -qq -o Dpkg::Use-Pty=0 \
        --no-install-recommends -o Dpkg::Options::=--force-confold "$@" || leave "apt-get install failed (see above)"
}
