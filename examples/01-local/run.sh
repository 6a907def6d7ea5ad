#!/bin/sh
# Process, train, batch inference: three jobs, each fed with what the one before it left. Arguments go to the training,
# such as --param epochs=30. Each job is found by its name: the newest run of it.
set -e
cd "$(dirname "$0")"
mlctl run jobs/process.yaml
mlctl run jobs/train.yaml --input data="$(mlctl outputs digits-process data)" "$@"
mlctl run jobs/batch-inference.yaml --input data="$(mlctl outputs digits-process data)" \
    --input model="$(mlctl outputs digits-train model)"
echo
mlctl list --limit 3
echo "the model is in $(mlctl outputs digits-train model)"
