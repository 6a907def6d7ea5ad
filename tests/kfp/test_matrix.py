"""KFP's row of the matrix: the component's own command, resolved as KFP's executor does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from kfp_harness import Steps

from matrix import Ask, MatrixContract


class TestMatrix(MatrixContract):
    row = "kfp"

    @pytest.fixture
    def ask(self, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ask]:
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        steps = Steps(project, tmp_path / "pipeline-root")

        def run(job: Path) -> tuple[str, Mapping[str, float]]:
            ended = steps.run({"job": str(job.relative_to(project))})
            assert ended.code == 0, ended.errors
            return ended.outputs["run"], ended.outputs["metrics"].metadata

        yield run
        for step in steps.started:
            if step.process.poll() is None:
                step.kill()
