#!/bin/sh
# Installs Tercet into .venv from the lock file; `setup.sh lock` writes the lock file instead.
# Plain POSIX sh. May be interrupted at any point and run again: the stamp is written last.
set -eu
cd "$(dirname "$0")/../.."

uv_version=0.13.9
stamp=.venv/tercet-stamp

fail() {
    echo "make setup: $*" >&2
    exit 1
}

# Prints the real path of the first Python that is new enough (a pyenv shim is not a path uv takes).
find_python() {
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.14 python}; do
        "$candidate" -c 'import sys; sys.version_info >= (3, 11) or sys.exit(1); print(sys.executable)' \
            2>/dev/null && return
    done
    fail "needs Python 3.11 or newer${PYTHON:+, and $PYTHON is not}: install it, or name one: make setup PYTHON=/path/to/python3"
}

# Prints a uv that works: the one on PATH, or one of our own below .tools, never system-wide.
find_uv() {
    if uv --version >/dev/null 2>&1; then
        echo uv
        return
    fi
    own=.tools/uv-$uv_version
    if ! "$own/bin/uv" --version >/dev/null 2>&1; then
        echo "getting uv $uv_version into .tools" >&2
        rm -rf "$own" "$own.new"
        if "$1" -m pip --version >/dev/null 2>&1; then
            set -- "$1" -m pip
        elif "$1" -m venv .tools/pip >/dev/null 2>&1; then
            set -- .tools/pip/bin/python -m pip
        else
            rm -rf .tools/pip
            fail "$1 has neither pip nor venv: install one (Debian, Ubuntu: apt install python3-venv; Fedora: dnf install python3-pip), or uv"
        fi
        PIP_ROOT_USER_ACTION=ignore "$@" install --quiet --disable-pip-version-check --no-deps --require-hashes \
            --target "$own.new" --requirement infra/local/uv.txt >&2 || fail "pip could not get uv"
        mv "$own.new" "$own"
    fi
    echo "$own/bin/uv"
}

python=$(find_python)

# uv wants a folder for its cache; where HOME can not be written it gets one in the project.
if [ -z "${UV_CACHE_DIR:-}${XDG_CACHE_HOME:-}" ] && [ ! -w "${HOME:-/nonexistent}" ]; then
    UV_CACHE_DIR=$PWD/.tools/cache
    export UV_CACHE_DIR
fi

if [ "${1:-}" = lock ]; then
    uv=$(find_uv "$python")
    "$uv" pip compile --quiet --universal --generate-hashes --all-extras --group dev --no-header \
        --upgrade --python "$python" --python-version 3.11 --output-file requirements.lock pyproject.toml
    # The image's own: only what runs there, in the same versions.
    "$uv" pip compile --quiet --universal --generate-hashes --no-header \
        --constraint requirements.lock --python "$python" --python-version 3.11 \
        --output-file infra/docker/requirements.lock pyproject.toml
    exit
fi

# Everything the installation depends on. The folder is in it because scripts hold its path.
wanted="$(cat requirements.lock pyproject.toml infra/local/setup.sh | cksum) $PWD $python"
if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && .venv/bin/python -c '' 2>/dev/null; then
    exit
fi

uv=$(find_uv "$python")
rm -f "$stamp"
real='import os, sys; print(os.path.realpath(sys.executable))'
if [ "$(.venv/bin/python -c "$real" 2>/dev/null)" != "$("$python" -c "$real")" ]; then
    echo "making .venv with $python"
    rm -rf .venv
    "$uv" venv --quiet --python "$python" .venv
fi
echo "installing $(grep -c '^[a-z0-9].*==' requirements.lock) packages from requirements.lock"
"$uv" pip sync --quiet --python .venv/bin/python --require-hashes requirements.lock
"$uv" pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
echo "$wanted" >"$stamp"
