#!/bin/sh
# The three jobs of 01-local, unchanged, in containers:  ./run.sh [docker] [--param epochs=30]
# Their metrics are those of this machine. Wants mlctl[docker], and brings up what `make services` does.
set -e
here=$(cd "$(dirname "$0")" && pwd)
services=$here/../../tools/services
case ${1:-docker} in
    -*) profile=docker ;;
    *) profile=${1:-docker}; [ $# = 0 ] || shift ;;
esac
python "$services" up "$profile"
eval "$(python "$services" env "$profile")"
python "$services/base_image.py" mlctl-example
MLCTL_CONFIG=$here/mlctl.yaml MLCTL_PROFILE=$profile exec "$here/../01-local/run.sh" "$@"
