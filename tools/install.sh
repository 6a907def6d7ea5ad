#!/bin/sh
# Installs what a lock names, and this checkout, for a Python:  tools/install.sh PYTHON LOCK
# By uv where .venv has it: a tenth of pip's time. Where it fails (an index that only pip is told of), pip is asked.
set -eu
cd "$(dirname "$0")/.."
python=$1 lock=$2 uv=.venv/bin/uv
export UV_PYTHON_DOWNLOADS=never UV_COMPILE_BYTECODE=1

if [ -x "$uv" ]; then
    if "$uv" pip install --quiet --python "$python" --require-hashes -r "$lock" &&
        "$uv" pip install --quiet --python "$python" --offline --no-build-isolation --no-deps --reinstall -e .; then
        exit 0
    fi
    echo "setup: uv could not; asking pip" >&2
fi
"$python" -c 'import pip' 2>/dev/null || "$python" -m ensurepip >/dev/null
pip() { "$python" -m pip --disable-pip-version-check --quiet --quiet "$@"; }
pip install --require-hashes -r "$lock"
pip install --no-build-isolation --no-deps --no-index -e .
