"""Prefect's row of the matrix: a task in a flow, on a real server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from prefect import flow

from matrix import Ask, MatrixContract
from mlctl_prefect import MlctlResult, mlctl_train


class TestMatrix(MatrixContract):
    row = "prefect"

    @pytest.fixture
    def ask(self) -> Ask:
        def run(job: Path) -> tuple[str, Mapping[str, float]]:
            train = mlctl_train(job)

            @flow
            def nightly() -> MlctlResult:
                return train()

            result = nightly()
            return result.run, result.metrics

        return run
