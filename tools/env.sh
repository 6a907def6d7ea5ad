#!/bin/sh
# Makes .envs/NAME from locks/NAME.txt, with this checkout in it:  tools/env.sh airflow|kfp|prefect|...
# Idempotent, and safe to interrupt: an environment counts once its .ready holds the lock's checksum.
set -eu
cd "$(dirname "$0")/.."
name=$1 lock=locks/$1.txt env=.envs/$1
tools/setup.sh core
wanted=$(cksum <"$lock")
if [ "$(cat "$env/.ready" 2>/dev/null)" = "$wanted" ]; then exit 0; fi
echo "setup: $env from $lock"
.venv/bin/python -m venv --clear "$env"
pip() { "$env/bin/python" -m pip --disable-pip-version-check --quiet --quiet "$@"; }
pip install --require-hashes -r "$lock"
pip install --no-build-isolation --no-deps --no-index -e .
echo "$wanted" >"$env/.ready"
