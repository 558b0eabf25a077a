#!/bin/sh
# Prepares this checkout for `make demo|test|lint|bench`: a Python with Kedge in it and, as root, Debian's packages.
#
#   sh scripts/setup.sh demo|test|lint|bench
#
# Says what it does, does only what is not done yet, and as an ordinary user says what is missing and how to go on.
set -eu
cd "$(dirname "$0")/.."
purpose=${1:?usage: setup.sh demo|test|lint|bench}

say() { printf '%s\n' "setup: $*" >&2; }
stop() { printf '%s\n' "setup: $*" >&2; exit 1; }

# ---- Debian packages --------------------------------------------------------------------------------------------------

# program:package; a program that is there needs no package
case $purpose in
demo) wanted="" && [ "$(id -u)" = 0 ] || wanted="newuidmap:uidmap" ;; # root has all ids anyway
test) wanted="newuidmap:uidmap git:git ssh-agent:openssh-client openssl:openssl xz:xz-utils docker-registry:docker-registry
    htpasswd:apache2-utils busybox:busybox-static skopeo:skopeo umoci:umoci mmdebstrap:mmdebstrap tmux:tmux gcc:gcc setfattr:attr faketime:faketime" ;;
bench) wanted="newuidmap:uidmap docker-registry:docker-registry busybox:busybox-static" ;;
*) wanted="" ;;
esac

has() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || [ -x "/sbin/$1" ]; }

packages=""
for pair in $wanted; do
    has "${pair%%:*}" || packages="$packages ${pair##*:}"
done

install_packages() {
    # The lists may be missing or old: fetch them before the first installation, once.
    say "installing Debian packages: $*"
    DEBIAN_FRONTEND=noninteractive
    export DEBIAN_FRONTEND
    apt-get -qq update || say "apt-get update failed; going on with the lists that are here"
    # One by one where all together fail, so that one unknown package does not cost the others.
    if ! apt-get -qq install -y --no-install-recommends "$@" >/dev/null; then
        for package in "$@"; do
            apt-get -qq install -y --no-install-recommends "$package" >/dev/null || say "could not install $package"
        done
    fi
}

if [ -n "$packages" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        # shellcheck disable=SC2086
        install_packages $packages
    else
        say "not installed:$packages"
        say "what needs them is left out; to have it all: sudo apt-get install --no-install-recommends$packages"
    fi
fi

# ---- Python -----------------------------------------------------------------------------------------------------------

find_python() {
    for name in python3 python3.14 python3.13 python3.12 python3.11; do
        if command -v "$name" >/dev/null 2>&1 && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
            command -v "$name"
            return
        fi
    done
}

python=$(find_python)
if [ -z "$python" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    install_packages python3 python3-venv
    python=$(find_python)
fi
[ -n "$python" ] || stop "Kedge needs Python 3.11 or newer: sudo apt-get install python3 python3-venv"

# What was installed, for which project file: pip runs again only when that changes. All of it includes what a demo needs.
extra="[dev]" stamp=.venv/installed-dev
if [ "$purpose" = demo ] && [ ! -e "$stamp" ]; then
    extra="" stamp=.venv/installed
fi

make_venv() {
    rm -rf .venv
    "$python" -m venv .venv >/dev/null 2>&1 && return 0
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        install_packages python3-venv
        rm -rf .venv
        "$python" -m venv .venv >/dev/null 2>&1 && return 0
    fi
    # Debian splits ensurepip off into python3-venv, which only root can install. A venv without pip needs none of it,
    # and pip itself is a file in a package that anybody may download.
    say "python3-venv is not installed: doing without it"
    rm -rf .venv
    "$python" -m venv --without-pip .venv >/dev/null 2>&1 && bring_pip
}

bring_pip() {
    if "$python" -m pip --version >/dev/null 2>&1; then
        "$python" -m pip --python .venv/bin/python install --quiet --disable-pip-version-check pip && return 0
    fi
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
    folder=$PWD/.venv/pip
    mkdir -p "$folder/lists/partial" "$folder/archives/partial" "$folder/files"
    private="-o Dir::State::lists=$folder/lists -o Dir::Cache=$folder -o Debug::NoLocking=1"
    # shellcheck disable=SC2086
    (cd "$folder" && { apt-get -qq download python3-pip-whl 2>/dev/null ||
        { apt-get -qq $private update && apt-get -qq $private download python3-pip-whl; }; }) || return 1
    dpkg-deb -x "$folder"/python3-pip-whl_*.deb "$folder/files" || return 1
    wheel=$(ls "$folder"/files/usr/share/python-wheels/pip-*.whl | tail -1)
    .venv/bin/python "$wheel/pip" install --quiet --disable-pip-version-check pip && rm -rf "$folder"
}

if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ] ||
    ! .venv/bin/python -c 'import kedge' 2>/dev/null; then
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        say "making a virtual environment in .venv with $python"
        if ! make_venv; then
            stop "$python has neither venv nor pip: sudo apt-get install python3-venv, then call make again"
        fi
    fi
    say "installing Kedge and its libraries with pip"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-warn-script-location -e ".$extra" ||
        stop "pip could not install Kedge's libraries: is there a network?"
    touch "$stamp"
fi
