#!/bin/sh
# Puts CodeNarc and the Groovy it runs on to .envs/codenarc, and prints the folder. They ship inside a package of npm's;
# its jars alone are taken, and nothing of it is run. locks/codenarc.txt has its sha512 and its name, NAME-VERSION.tgz.
# Idempotent, and safe to interrupt: the folder counts once its .ready holds the lock's checksum.
set -eu
cd "$(dirname "$0")/.."
lock=locks/codenarc.txt to=.envs/codenarc
fail() { echo "codenarc: $*" >&2; exit 1; }
wanted=$(cksum <"$lock")
if [ "$(cat "$to/.ready" 2>/dev/null)" != "$wanted" ]; then
    command -v npm >/dev/null || fail "no npm to fetch it with; install npm"
    file=$(sed 's/.* //' "$lock") && name=${file%.tgz}
    mkdir -p .envs
    draft=$(mktemp -d .envs/codenarc.XXXXXX)
    trap 'rm -rf "$draft"' EXIT
    trap 'exit 143' TERM INT
    (cd "$draft" && npm pack --silent --ignore-scripts --fetch-retries=1 "${name%-*}@${name##*-}") >/dev/null || fail "npm has no $name for us"
    sum=$(command -v sha512sum || echo shasum -a 512)
    (cd "$draft" && $sum -c --status) <"$lock" 2>/dev/null || fail "$file is not what $lock names"
    tar -xzf "$draft/$file" -C "$draft" package/lib/java
    echo "$wanted" >"$draft/package/lib/java/.ready"
    rm -rf "$to"
    mv "$draft/package/lib/java" "$to"
fi
echo "$PWD/$to"
