#!/usr/bin/env bash
# Make .venv with all that the demo and the tests need. Safe to run again: it returns at once
# while setup.py, setup.cfg and constraints.txt are what was installed. With the argument `browser`
# it also looks for Chromium, in which the web page is tested.
#
# Environment: PYTHON=<interpreter> is tried before all others.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
venv="$root/.venv"
python="$venv/bin/python"
stamp="$venv/residual_smolvla_ros.stamp"
unfinished="$venv/residual_smolvla_ros.unfinished"
private_uv="$venv/uv"
plugin=lerobot_policy_residual_smolvla

say() { echo "setup: $*"; }
fail() {
    echo "setup: error: $*" >&2
    exit 1
}

# The folder counts too: an editable install points to it, and a moved .venv is stale.
wanted() { { echo "$root"; cat setup.py setup.cfg constraints.txt "$plugin"/*.{py,toml}; } | sha256sum; }
up_to_date() { [[ -x $python && -f $stamp && $(<"$stamp") == "$(wanted)" ]]; }

# Only by running it: pyenv's shims exist for versions that are not active, and then fail.
# Below 3.14, since the pinned packages have no wheels for it yet.
is_suitable() {
    "$1" -c 'import ctypes, ssl, sys, venv; sys.exit(not (3, 12) <= sys.version_info < (3, 14))' \
        >/dev/null 2>&1
}

candidates() {
    if [[ -n ${PYTHON:-} ]]; then echo "$PYTHON"; fi
    printf '%s\n' python3.12 python3.13 python3 python
    printf '%s\n' "${PYENV_ROOT:-$HOME/.pyenv}"/versions/{3.12,3.13}*/bin/python
}

find_python() {
    local candidate
    while read -r candidate; do
        if is_suitable "$candidate"; then
            # The real path: a shim that works here may fail in another folder.
            "$candidate" -c 'import os, sys; print(os.path.realpath(sys.executable))'
            return
        fi
    done < <(candidates)
}

# Set $uv, with the given interpreter's pip where there is no uv yet.
get_uv() {
    local candidate
    for candidate in uv "$private_uv/bin/uv"; do
        if "$candidate" --version >/dev/null 2>&1; then
            uv=$candidate
            return
        fi
    done
    for candidate in "$1" python3 python; do
        if [[ -n $candidate ]] && "$candidate" -m pip --version >/dev/null 2>&1; then
            say "getting uv with the pip of $candidate"
            "$candidate" -m pip install -qq --disable-pip-version-check --upgrade \
                --constraint constraints.txt --target "$private_uv" uv
            uv="$private_uv/bin/uv"
            return
        fi
    done
    fail "found neither uv nor a Python with pip; install one of them, e.g. apt-get install python3-pip"
}

make_venv() {
    if [[ -x $python ]] && is_suitable "$python"; then
        return
    fi
    if "$python" -c '' >/dev/null 2>&1; then
        fail ".venv: expected Python 3.12 or 3.13, found $("$python" --version); remove .venv and try again"
    fi
    local base
    base=$(find_python)
    if [[ -n $base ]]; then
        say "making .venv with $base"
        # Without pip: Debian's pythons lack ensurepip, and uv needs none. It empties the folder.
        "$base" -m venv --clear --without-pip "$venv"
        return
    fi
    get_uv ""
    say "found no Python 3.12 or 3.13; asking uv for one"
    "$uv" venv --quiet --allow-existing --python 3.12 "$venv" 2>/dev/null ||
        fail "needs Python 3.12 or 3.13: found none, and uv could not fetch one; install one, or name it: PYTHON=<path> make venv"
}

has_osmesa() {
    "$python" -c 'import ctypes.util, sys; sys.exit(ctypes.util.find_library("OSMesa") is None)'
}

# MuJoCo draws with it where there is no GPU; another choice of MUJOCO_GL needs other libraries.
get_osmesa() {
    if [[ ${MUJOCO_GL:-osmesa} != osmesa ]] || has_osmesa; then
        return
    fi
    if [[ $EUID -eq 0 ]] && command -v apt-get >/dev/null; then
        say "installing libosmesa6, the library for off-screen rendering"
        export DEBIAN_FRONTEND=noninteractive
        apt-get install -qq -y libosmesa6 >/dev/null 2>&1 ||
            { apt-get update -qq && apt-get install -qq -y libosmesa6 >/dev/null; } || true
        if has_osmesa; then
            return
        fi
    fi
    fail "off-screen rendering needs libOSMesa.so and found none; on Debian or Ubuntu: sudo apt-get install libosmesa6"
}

# Its absence stops nothing: the tests that need it are skipped, and say so.
get_chromium() {
    if command -v chromium >/dev/null || command -v chromium-browser >/dev/null ||
        command -v google-chrome >/dev/null; then
        return
    fi
    if [[ $EUID -eq 0 ]] && command -v apt-get >/dev/null; then
        say "installing chromium, in which the web page is tested"
        export DEBIAN_FRONTEND=noninteractive
        apt-get install -qq -y --no-install-recommends chromium >/dev/null 2>&1 ||
            { apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium >/dev/null; } ||
            true
    fi
    if ! command -v chromium >/dev/null; then
        say "found no chromium: the tests of the web page will be skipped"
    fi
}

install_packages() {
    local -a options=()
    # A package that an interrupted install left half-written looks complete to uv.
    if [[ -e $unfinished ]]; then options+=(--reinstall); fi
    # As in many containers: else each node would compile 4,000 files whenever it starts.
    if [[ -n ${PYTHONDONTWRITEBYTECODE:-} ]]; then options+=(--compile-bytecode); fi
    # uv's list of 200 packages is of use only while a person watches it grow.
    if [[ ! -t 2 ]]; then options+=(--quiet); fi
    rm -f "$stamp"
    touch "$unfinished"
    say "installing the packages (about 6 GB; half a minute to some minutes, once)"
    VIRTUAL_ENV="$venv" "$uv" pip install --python "$python" ${options[@]+"${options[@]}"} \
        --constraint constraints.txt --build-constraint constraints.txt \
        --editable '.[ros,sim,test]' --editable "./$plugin"
    rm -f "$unfinished"
    wanted >"$stamp.new"
    mv "$stamp.new" "$stamp"
}

if [[ ${1:-} == browser ]]; then get_chromium; fi
if up_to_date; then exit 0; fi
# One set-up at a time in this folder: `make demo` and `make test` may be started together.
if command -v flock >/dev/null; then
    exec 9<"${BASH_SOURCE[0]}"
    flock 9
    if up_to_date; then exit 0; fi
fi
make_venv
get_osmesa
get_uv "$(find_python)"
install_packages
say "done: .venv is ready"
