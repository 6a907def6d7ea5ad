#!/bin/sh
# Makes .venv, with what a lock of locks/ names and this checkout in it:  tools/setup.sh core|dev
# Idempotent, and safe to interrupt: an environment counts once .venv/.<name> holds the checksum of what it was made from.
set -eu
cd "$(dirname "$0")/.."
name=$1 lock=locks/$1.txt python=${PYTHON:-python3}

fail() { echo "setup: $*" >&2; exit 1; }

command -v "$python" >/dev/null || fail "no $python; install Python 3.10 or newer, or set PYTHON"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || fail "$python is older than 3.10; set PYTHON to a newer one"
wanted=$(cat "$lock" pyproject.toml | cksum)
if [ "$(cat ".venv/.$name" 2>/dev/null)" = "$wanted" ]; then exit 0; fi

if ! "$python" -c 'import ensurepip' 2>/dev/null; then # Debian keeps it apart
    package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "setup: installing $package"
        { apt-get update -q && apt-get install -q -y --no-install-recommends "$package"; } >/dev/null
    else
        fail "$python cannot make environments; install $package"
    fi
fi
echo "setup: .venv from $lock"
[ -x .venv/bin/python ] && .venv/bin/python -c 'import pip' 2>/dev/null || "$python" -m venv --clear .venv
if [ "$name" = dev ]; then # pip installs uv, and uv the rest
    mkdir -p build
    sed -n '/^uv==/,/[^\\]$/p' "$lock" >build/uv.txt
    .venv/bin/python -m pip --disable-pip-version-check --quiet --quiet install --require-hashes -r build/uv.txt
fi
tools/install.sh .venv/bin/python "$lock"
echo "$wanted" >".venv/.$name"
