#!/bin/sh
# Resolves locks/*.txt anew, for every Python that mlctl supports. By hand: codenarc.txt, by sha512sum of what `npm pack` gets.
set -eu
cd "$(dirname "$0")/.."
compile() {
    output=$1
    shift
    uv pip compile --quiet --upgrade --universal --python-version 3.10 --generate-hashes --no-annotate \
        --custom-compile-command 'make lock' -o "$output" "$@"
}
compile locks/core.txt pyproject.toml --group build
compile locks/dev.txt pyproject.toml --group dev
compile locks/airflow.txt pyproject.toml --extra airflow --group build --group test --group airflow-server
compile locks/kfp.txt pyproject.toml --extra kfp --group build --group test --group docker
compile locks/jenkins.txt pyproject.toml --extra jenkins --group build --group test --group jenkins-clients
compile locks/platforms.txt pyproject.toml --extra sagemaker --extra databricks --group build --group test --group platforms
compile locks/prefect.txt pyproject.toml --extra prefect --group build --group test
compile locks/bench-airflow.txt pyproject.toml --extra airflow --group build --group bench-airflow
