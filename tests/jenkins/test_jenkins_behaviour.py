"""The contract of behaviour in Jenkins: scripted pipelines over the shared library, a real sh, real jobs."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from pipelines import STARTED, Pipelines

from behaviour import PLUGIN, SECRET, TOKEN, BehaviourContract, Call, Ended, Harness, Started


def groovy_of(value: Any) -> str:
    """A value as a Jenkinsfile spells it."""
    if isinstance(value, Mapping):
        return f"[{', '.join(f'{groovy_of(name)}: {groovy_of(one)}' for name, one in value.items()) or ':'}]"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(groovy_of, value))}]"
    if not isinstance(value, str):
        return json.dumps(value)
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\t", "\\t") + "'"


class Jenkins(Harness):
    def __init__(self, pipelines: Pipelines, home: Path) -> None:
        self.pipelines, self.folder, self.home = pipelines, pipelines.workspace, home

    def start(self, call: Call, number: int = 1) -> Started:
        return Pipeline(self, call, number)


class Pipeline(Started):
    """A build; a stage each task, in it the orchestrator's own `retry` and `timeout`."""

    def __init__(self, harness: Jenkins, call: Call, number: int) -> None:
        self.harness, self.call, self.number = harness, call, number
        self.answer = harness.pipelines.at / f"answer-{number}.json"
        stages, before = "", ""
        for name, one in (("first", call), ("then", call.then)):
            if one:
                stages += self.stage(name, one, before)
                before = ", inputs: [before: answer.outputs.model]"
        text = f"def answer\nnode {{\n{stages}writeFile(file: '{self.answer}', text: groovy.json.JsonOutput.toJson(answer))\n}}"
        self.build = harness.pipelines.start(text, number, started=STARTED + number, forgetful=True)

    def stage(self, name: str, call: Call, inputs: str) -> str:
        asked = f"job: {groovy_of(call.job.name)}, target: {groovy_of(call.target)}, params: {groovy_of(call.params)}"
        task = f"answer = mlctlTrain({asked}{inputs})"
        if call.limit:
            task = f"timeout(time: {int(call.limit)}, unit: 'SECONDS') {{ {task} }}"
        return f"stage('{name}') {{ retry({call.retries + 1}) {{ {task} }} }}\n"

    def log(self) -> str:
        return self.build.text

    def kill(self) -> None:
        self.build.signal(signal.SIGKILL)

    def cancel(self) -> None:
        self.build.abort()

    def ended(self) -> Ended:
        good = self.build.end()["result"] == "SUCCESS"
        found = json.loads(self.answer.read_text()) if good else {"run": "", "outputs": {}, "metrics": {}}
        tries = len(self.build.steps(f"mlctl {self.call.job.name}"))
        return Ended(good, self.log(), tries, found["run"], found["outputs"], found["metrics"])

    def rerun(self) -> Started:
        return Pipeline(self.harness, self.call, self.number + 1)


class TestBehaviour(BehaviourContract):
    column = "jenkins"

    @pytest.fixture
    def harness(self, pipelines: Pipelines, home: Path, monkeypatch: pytest.MonkeyPatch) -> Harness:
        monkeypatch.setenv("PYTHONPATH", str(PLUGIN))
        monkeypatch.setenv(TOKEN, SECRET)
        return Jenkins(pipelines, home)
