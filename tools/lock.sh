#!/bin/sh
# Resolves locks anew, for every Python that mlctl supports; all, or those named:  tools/lock.sh [NAME...]
# By hand: codenarc.txt, by sha512sum of what `npm pack` gets.
set -eu
cd "$(dirname "$0")/.."
only=" $* "
compile() {
    output=locks/$1.txt
    case $only in "  " | *" $1 "*) ;; *) return 0 ;; esac
    shift
    uv pip compile --quiet --upgrade --universal --python-version 3.10 --generate-hashes --no-annotate \
        --custom-compile-command 'make lock' -o "$output" pyproject.toml "$@"
}
sdks="--extra azureml --extra databricks --extra docker --extra kubernetes --extra sagemaker" # of the platforms that each orchestrator's tests reach
compile core --group build
compile dev --group dev
compile airflow --extra airflow $sdks --group build --group test --group airflow-server
compile airflow-3.1 --extra airflow $sdks --group build --group test --group airflow-server --group airflow-3.1
compile airflow-3.2 --extra airflow $sdks --group build --group test --group airflow-server --group airflow-3.2
compile kfp --extra kfp $sdks --group build --group test --group docker --group kfp
compile jenkins --extra jenkins $sdks --group build --group test --group jenkins-clients
compile platforms $sdks --group build --group test --group platforms
compile sagemaker-local --group build --group sagemaker-local
compile stage --group build --group stage
compile prefect --extra prefect $sdks --group build --group test
compile bench-airflow --extra airflow --group build --group bench-airflow
