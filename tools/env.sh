# shellcheck shell=bash
# Sourced by tools/quickstart, tools/test and tools/check: find Python, make the virtual environment, install into it.
#
#   DEEPEN_VENV     where the environment goes (default: .venv in the checkout)
#   DEEPEN_PYTHON   the Python to make it with (default: the first one found that is new enough)
#
# Everything may be interrupted and run again: a step counts as done only when its stamp is written, at its end.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
VENV="${DEEPEN_VENV:-$ROOT/.venv}"
case "$VENV" in /*) ;; *) VENV="$PWD/$VENV" ;; esac
PYTHON="$VENV/bin/python"
NAME="${0##*/}"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

say() { printf 'tools/%s: %s\n' "$NAME" "$*" >&2; }
die() { say "error: $*"; exit 1; }

may_apt() { command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; }

# apt_install PACKAGE...: install Debian packages, where that is permitted.
apt_install() {
    say "installing the Debian packages $*"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q "$@" </dev/null >/dev/null 2>&1 ||
        { DEBIAN_FRONTEND=noninteractive apt-get update -q </dev/null >/dev/null 2>&1 &&
            DEBIAN_FRONTEND=noninteractive apt-get install -y -q "$@" </dev/null >&2; }
}

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

# Prints the first Python that is 3.11 or newer.
find_python() {
    local candidate
    for candidate in ${DEEPEN_PYTHON:+"$DEEPEN_PYTHON"} python3 python3.13 python3.12 python3.11 python3.14 python; do
        if command -v "$candidate" >/dev/null && new_enough "$candidate"; then
            command -v "$candidate"
            return 0
        fi
    done
    return 1
}

# Make $VENV if it is absent, broken, or was left half-made.
make_venv() {
    local python
    if [ ! -e "$VENV/.deepen-incomplete" ] && [ -x "$PYTHON" ] && new_enough "$PYTHON" &&
        "$PYTHON" -c 'import pip' >/dev/null 2>&1; then
        return 0
    fi
    if [ -e "$VENV" ] && [ ! -e "$VENV/.deepen-incomplete" ] && [ ! -e "$VENV/pyvenv.cfg" ] &&
        [ -n "$(ls -A "$VENV" 2>/dev/null)" ]; then
        die "$VENV exists and is no virtual environment; move it away or set DEEPEN_VENV"
    fi
    if ! python="$(find_python)"; then
        if may_apt; then apt_install python3 python3-venv || true; fi
        python="$(find_python)" || die "no Python 3.11 or newer found; on Debian and Ubuntu install it with" \
            "'apt-get install python3 python3-venv', or name one with DEEPEN_PYTHON"
    fi
    if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        if may_apt; then
            apt_install python3-venv ||
                apt_install "$("$python" -c 'import sys; print("python3.%d-venv" % sys.version_info[1])')" || true
        fi
        "$python" -c 'import ensurepip, venv' >/dev/null 2>&1 ||
            die "$python cannot make virtual environments; on Debian and Ubuntu: 'apt-get install python3-venv'"
    fi
    say "making a virtual environment in $VENV with $("$python" -V)"
    mkdir -p "$VENV"
    find "$VENV" -mindepth 1 -delete
    touch "$VENV/.deepen-incomplete"
    "$python" -m venv "$VENV" </dev/null || die "could not make a virtual environment in $VENV"
    rm -f "$VENV/.deepen-incomplete"
}

# What an installation depends on, as text: same text, nothing to do.
fingerprint() {
    local file
    printf '%s\n%s\n' "$ROOT" "$("$PYTHON" -V)"
    for file in "$@"; do cat "$ROOT/$file"; done
}

# is_done STAMP FILES...: whether a step succeeded before, with the same files.
is_done() {
    local stamp="$VENV/.deepen-$1"
    shift
    [ -f "$stamp" ] && [ "$(fingerprint "$@")" = "$(cat "$stamp")" ]
}

# step STAMP FILE... -- COMMAND...: run a command unless it already succeeded with the same files.
step() {
    local name="$1" files=()
    shift
    while [ "$1" != -- ]; do files+=("$1"); shift; done
    shift
    if is_done "$name" "${files[@]}"; then return 0; fi
    rm -f "$VENV/.deepen-$name"
    "$@" || return 1
    fingerprint "${files[@]}" >"$VENV/.deepen-$name"
}

pip_install() { "$PYTHON" -m pip install -qq "$@" </dev/null; }

install_deepen() {
    say "installing deepen${1:+ with its extra '$1'} and the packages it needs (a minute or two, once)"
    pip_install -e "$ROOT${1:+[$1]}" ||
        die "pip could not install the packages; it needs a package index (see 'pip config' or PIP_INDEX_URL)"
    "$PYTHON" -c 'import lightgbm' >/dev/null 2>&1 && return 0
    if may_apt; then apt_install libgomp1 || true; fi
    "$PYTHON" -c 'import lightgbm' ||
        die "LightGBM does not load; on Debian and Ubuntu: 'apt-get install libgomp1'"
}

# prepare [EXTRA]: environment and packages, once; safe against a second tool doing the same at the same time.
prepare() {
    mkdir -p "$(dirname "$VENV")"
    if command -v flock >/dev/null; then
        exec 9>"$VENV.lock"
        flock 9
    fi
    make_venv
    is_done installed-dev setup.cfg pyproject.toml ||
        step "installed${1:+-$1}" setup.cfg pyproject.toml -- install_deepen "${1:-}"
    if command -v flock >/dev/null; then exec 9>&-; fi
}
