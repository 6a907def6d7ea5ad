#!/bin/sh
# Makes .envs/NAME from locks/NAME.txt, with this checkout in it:  tools/env.sh airflow|kfp|prefect|...
# Idempotent, and safe to interrupt: an environment counts once its .ready holds the checksum of what it was made from.
set -eu
cd "$(dirname "$0")/.."
name=$1 lock=locks/$1.txt env=.envs/$1
tools/setup.sh dev # which has uv
wanted=$(cat "$lock" pyproject.toml | cksum)
if [ "$(cat "$env/.ready" 2>/dev/null)" = "$wanted" ]; then exit 0; fi
echo "setup: $env from $lock"
rm -f "$env/.ready"
.venv/bin/python -m venv --clear --without-pip "$env"
tools/install.sh "$env/bin/python" "$lock"
echo "$wanted" >"$env/.ready"
