#!/bin/sh
# The three jobs of 01-local, unchanged, in containers:  ./run.sh [docker|kubernetes] [--param epochs=30]
# Their metrics are those of this machine. Wants mlctl[docker] or mlctl[kubernetes], and brings up what `make services` does.
set -e
here=$(cd "$(dirname "$0")" && pwd)
services=$here/../../tools/services
case ${1:-docker} in
    -*) profile=docker ;;
    *) profile=${1:-docker}; [ $# = 0 ] || shift ;;
esac
python "$services" up "$profile"
unset CLUSTER_DOCKER_HOST # another cluster's, perhaps
eval "$(python "$services" env "$profile")"
export MLCTL_CONFIG="$here/mlctl.yaml" MLCTL_PROFILE="$profile"
if [ "$profile" = kubernetes ]; then
    export KUBECONFIG="${MLCTL_TEST_KUBECONFIG:-$KUBECONFIG}"
    if [ -n "$CLUSTER_DOCKER_HOST" ]; then # the node's own engine: what is built there, the node has
        export DOCKER_HOST="$CLUSTER_DOCKER_HOST"
    else
        eval "$(python "$services" env docker)"
    fi
fi
python "$services/base_image.py" mlctl-example
if [ "$profile" = kubernetes ]; then # a pod should not have to install anything
    image=mlctl-example-jobs:1
    builds=$(python "$services/buildkit.py")
    PATH="$builds:$PATH" mlctl image build "$here/../01-local/jobs/train.yaml" --without-code --tag "$image"
    kind=$(sed -n 's/^current-context: *"\{0,1\}kind-\([^"]*\)"\{0,1\}$/\1/p' "$KUBECONFIG")
    [ -z "$kind" ] || kind load docker-image "$image" --name "$kind"
fi
exec "$here/../01-local/run.sh" "$@"
