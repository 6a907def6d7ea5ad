"""Jenkins' row of the matrix: the library's step in a scripted pipeline."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from pipelines import Pipelines

from matrix import Ask, MatrixContract


class TestMatrix(MatrixContract):
    row = "jenkins"

    @pytest.fixture
    def folder(self, pipelines: Pipelines) -> Path:
        return pipelines.workspace

    @pytest.fixture
    def ask(self, pipelines: Pipelines) -> Ask:
        answer = pipelines.at / "answer.json"
        write = f"writeFile(file: '{answer}', text: groovy.json.JsonOutput.toJson([run: found.run, metrics: found.metrics]))"

        def run(job: Path) -> tuple[str, Mapping[str, float]]:
            step = f"mlctlTrain(job: '{job.relative_to(pipelines.workspace)}')"
            pipelines.run(f"node {{ stage('train') {{ def found = {step}\n{write} }} }}")
            found = json.loads(answer.read_text())
            return found["run"], found["metrics"]

        return run
