#!/bin/sh
# Builds the programs of a Kubernetes server from Debian's own source package, and prints their folder. Six minutes on
# two cores, once: they are kept in the user's cache. Debian 12, root (for apt-get), nothing but its packages.
# Idempotent, and safe to interrupt: a folder has its name once its SHA256SUMS is right; what an interrupted build left is
# removed by the next. Two callers at once build once. GOFLAGS=-p=1 and GOMAXPROCS=1 keep it to one core.
set -eu
cache=${XDG_CACHE_HOME:-$HOME/.cache}/mlctl
programs="kube-apiserver kube-controller-manager kube-scheduler kubelet"
built=+mlctl1 # what of the build is ours; another number where that changes
fail() { echo "kubernetes: $*" >&2; exit 1; }

mkdir -p "$cache"
exec 9>"$cache/kubernetes.lock"
flock 9

for made in "$cache"/kubernetes-*"$built"; do
    if [ -e "$made/SHA256SUMS" ] && (cd "$made" && sha256sum --check --quiet SHA256SUMS >&2); then
        echo "$made"
        exit 0
    fi
done

. /etc/os-release
[ "${VERSION_CODENAME:-}" = bookworm ] || fail "built on Debian 12 only, and this is ${PRETTY_NAME:-another}; set MLCTL_TEST_KUBECONFIG to a cluster's"
[ "$(id -u)" = 0 ] || fail "needs root, for Debian's packages; set MLCTL_TEST_KUBECONFIG to a cluster's"

work=$cache/kubernetes.building
rm -rf "$work" && mkdir -p "$work/lists/partial" "$work/source" "$work/out"
needed=
for pair in go:golang-go dpkg-source:dpkg-dev rsync:rsync make:make; do
    command -v "${pair%%:*}" >/dev/null || needed="$needed ${pair##*:}"
done
if [ -n "$needed" ]; then
    echo "kubernetes: installing$needed" >&2
    { apt-get update -q && apt-get install -q -y --no-install-recommends $needed; } >/dev/null
fi

# The sources of the archives that this machine's packages are from, in lists of our own: apt checks their signatures.
key=/usr/share/keyrings/debian-archive-keyring.gpg
apt-get indextargets --format '$(SITE) $(RELEASE)' 'Created-By: Packages' 'Component: main' | sort -u |
    sed -n "s|^\\([^ ]* bookworm[^ ]*\\)\$|deb-src [signed-by=$key] \\1 main|p" >"$work/sources.list"
[ -s "$work/sources.list" ] || fail "apt knows no archive of Debian 12; run apt-get update"
apt() {
    apt-get -q -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$work/lists" \
        -o APT::Sandbox::User=root "$@" >>"$work/log" 2>&1 || fail "apt-get $1 failed; see $work/log"
}
apt update
cd "$work/source"
apt source --only-source kubernetes
set -- kubernetes_*.dsc
version=$(sed -n 's/^Version: //p' "$1")

tree=$work/go/src/k8s.io/kubernetes
mkdir -p "${tree%/*}"
mv "$work/source"/kubernetes-*/ "$tree"
cat >"$work/version" <<EOF
KUBE_GIT_COMMIT=debian
KUBE_GIT_TREE_STATE=archive
KUBE_GIT_VERSION=v$(echo "$version" | sed 's/.*really//; s/-.*//')
KUBE_GIT_MAJOR=1
KUBE_GIT_MINOR=$(echo "$version" | sed 's/.*really//; s/^1\.//; s/\..*//')
EOF
echo "kubernetes: building $version; some minutes" >&2
cd "$tree"

# Its reflect2, 1.0.1, calls reflect.mapiterinit as it was before Go 1.18, without the iterator that is to be filled: what the stack
# has in its place is written to, and one day a server dies of it. This is what 1.0.2 does.
cd vendor/github.com/modern-go/reflect2
sed -i 's/^func mapiterinit(.*/func mapiterinit(rtype unsafe.Pointer, m unsafe.Pointer, it *hiter)/
/^\t\/\/ rest fields are ignored$/c\
\tt, h, buckets, bptr, overflow, oldoverflow unsafe.Pointer\
\tstartBucket uintptr\
\toffset, wrapped, b, i uint8\
\tbucket, checkBucket uintptr' unsafe_link.go
sed -i 's/^\(func .* UnsafeIterate(.*\)$/\1\
\tvar it hiter\
\tmapiterinit(type2.rtype, *(*unsafe.Pointer)(obj), \&it)/
s/^\(\t\thiter: *\)mapiterinit(.*/\1\&it,/' unsafe_map.go
grep -q 'checkBucket uintptr' unsafe_link.go && grep -q 'hiter: .*&it,' unsafe_map.go || fail "its reflect2 is another than 1.0.1"
cd "$tree"
env GOPATH="$work/go" GO111MODULE=off GOPROXY=off CGO_ENABLED=0 FORCE_HOST_GO=y \
    KUBE_GIT_VERSION_FILE="$work/version" \
    make WHAT="$(for each in $programs; do printf 'cmd/%s ' "$each"; done)" >>"$work/log" 2>&1 9>&- ||
    fail "it does not build; see $work/log"
for each in $programs; do cp "_output/local/bin/linux/"*"/$each" "$work/out/"; done
(cd "$work/out" && sha256sum $programs >SHA256SUMS)
sync "$work/out"/*
made=$cache/kubernetes-$version$built
rm -rf "$made"
mv "$work/out" "$made"
rm -rf "$work"
echo "$made"
