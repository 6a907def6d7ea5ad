"""A step of a pipeline in the controller's stand-in: from its call to its process, from its process's end to its return."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from pipelines import Pipelines

import latency

pytestmark = pytest.mark.timeout(900)
PIPELINE = """node {{ stage('One') {{
    long began = System.currentTimeMillis()
    {step}
    echo "times ${{began}} ${{System.currentTimeMillis()}}"
}} }}"""


def test_latency(pipelines: Pipelines, tmp_path: Path) -> None:
    for subject, notes in latency.turns(["sh", "mlctlProcess"], tmp_path):
        path = latency.job(pipelines.workspace, notes)
        words = json.dumps(shlex.join(latency.command(notes))).replace("$", "\\$")
        step = f"mlctlProcess(job: '{path.name}')" if subject == "mlctlProcess" else f"sh {words}"
        build = pipelines.run(PIPELINE.format(step=step), number=len(pipelines.builds) + 1)
        (times,) = (line.split()[1:] for line in build.log if line.startswith("times "))
        latency.tell(subject, notes, int(times[0]) / 1000 - 0.001, int(times[1]) / 1000 + 0.001)  # they are cut to 1 ms
