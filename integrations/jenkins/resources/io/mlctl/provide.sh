#!/bin/sh
# Installs mlctl once, in an environment of its own, and prints the folder of its programs.
# An environment counts once a symbolic link names it, which is made in one step: builds may race, or be killed, anywhere.
set -eu
fail() { echo "withMlctl: $*" >&2; exit 2; }
version=$MLCTL_PROVIDE_VERSION index=$MLCTL_PROVIDE_INDEX wheel=$MLCTL_PROVIDE_WHEEL
extras=$MLCTL_PROVIDE_EXTRAS python=$MLCTL_PROVIDE_PYTHON
command -v "$python" >/dev/null || fail "python: no $python on this agent; it needs 3.10 or newer"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || fail "python: $python is older than 3.10"

tools=${MLCTL_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/mlctl}/jenkins
digest=
case $wheel in "" | *://*) ;; *) [ -f "$wheel" ] || fail "wheel: no $wheel here"; digest=$(cksum <"$wheel") ;; esac
name=$(printf '%s\n' "$version" "$index" "$wheel" "$digest" "$extras" "$("$python" -c 'import sys; print(sys.version, sys.executable)')" | cksum | tr ' ' -)
link=$tools/$name
if ! [ -x "$link/bin/mlctl" ]; then
    mkdir -p "$tools"
    find "$tools" -mindepth 2 -maxdepth 2 -name .draft -mtime +1 -exec sh -c 'rm -rf "${1%/.draft}"' - {} ';' # of killed builds
    made=$(mktemp -d "$tools/env.XXXXXX")
    touch "$made/.draft"
    trap 'rm -rf "$made"' EXIT
    trap 'exit 143' TERM INT
    if [ -n "$index" ]; then # and no other, whatever this agent is configured for: elsewhere the name is a stranger's
        unset PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_NO_INDEX
        export PIP_CONFIG_FILE=/dev/null
    fi
    {
        "$python" -m venv "$made"
        what=${wheel:-mlctl}${extras:+[$extras]}
        [ -n "$wheel" ] || what="$what==$version"
        "$made/bin/python" -m pip --disable-pip-version-check --quiet install ${index:+--index-url "$index"} "$what"
        "$made/bin/mlctl" --version >/dev/null
    } >&2
    rm "$made/.draft"
    [ -e "$link" ] || rm -f "$link" # of an environment that somebody removed
    if ln -sn "$made" "$link" 2>/dev/null && [ "$(readlink "$link")" = "$made" ]; then
        trap - EXIT
    fi # else another build was faster, and ours goes
fi
echo "$link/bin"
