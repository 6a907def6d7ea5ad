"""my-project as a platform of mlctl. Each method is one bounded step; mlctl.backend.Backend says what each must promise."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from mlctl import contract
from mlctl.backend import Base, Facts, Features, Finding
from mlctl.errors import InvalidConfig, MlctlError, RunExists, RunNotFound, Unavailable
from mlctl.job import Job
from mlctl.policy import Admitted
from mlctl.runs import Found, Key, Logs, Plan, Reason, Result, Run, Stamp, State, Status

from .service import NameTaken, Record, Service, Unknown

STATES = {"RUNNING": State.RUNNING, "STOPPING": State.STOPPING, "COMPLETED": State.SUCCEEDED, "FAILED": State.FAILED,
          "STOPPED": State.CANCELLED}
"""The platform's words for ours. A word that is not here is an error, never a guess."""


class Platform(Base):
    """Settings: `folder`, where the service keeps what jobs leave; a folder in mlctl's home unless said."""

    name = "my-project"
    remembers = timedelta(0)      # how long the platform keeps a finished run; None: until somebody removes it
    interval = 0.2                # seconds between two polls
    takes = frozenset({"folder", "secrets"})      # a target's settings; another is an error, never ignored
    features = Features(
        kinds=frozenset({"process", "train", "batch-inference"}),
        honours=frozenset({"command.shell", "params", "outputs", "env", "secrets"}),
        loses={"labels": "the service has no labels", "tags": "the service has no tags"},
    )

    @property
    def service(self) -> Service:
        """The client. A real one is what is dear: make it once, and late."""
        return Service.at(Path(self.settings.values.get("folder", self.settings.home / self.name)))

    def resolve(self, job: Job) -> Facts:
        """All that plan may know besides the job: read here, as JSON."""
        return {"folder": str(self.service.folder)}

    def plan(self, job: Job, facts: Facts, name: str) -> Plan:
        """The exact request. Pure: the same job, facts and name give the same plan, wherever."""
        losses = self.features.losses(self.name, job)
        at = f"{facts['folder']}/{name}"
        places = contract.Places(
            inputs={},
            outputs={each: f"{at}/outputs/{each}" for each in job.outputs},
            params_file=f"{at}/params.json",
            metrics_file=f"{at}/metrics.jsonl",
            checkpoints=f"{facts['folder']}/checkpoints/{name.rpartition('-')[0]}",
        )
        run = Run(self.name, "here", facts["folder"].lstrip("/"), name)
        request = {
            "argv": contract.argv(job, places),
            "env": contract.environment(job, places, str(run)),
            "params": job.values(),
            "outputs": places.outputs,
            "secrets": {each: self.settings.values.get("secrets", {}).get(each, f"env:{each}") for each in job.secrets},
        }
        return Plan(name, self.name, self.settings.target, request, losses=losses)

    def submit(self, plan: Admitted, stamp: Stamp) -> Run:
        """One call that takes the name and starts the job, or does neither."""
        request, name = plan.plan.request, plan.plan.name
        run = self._run(name)
        secrets = {each: self._secret(each, source) for each, source in request["secrets"].items()}
        folders = [request["env"]["MLCTL_CHECKPOINT_DIR"], *request["outputs"].values()]
        env = {"PATH": os.environ.get("PATH", os.defpath), **request["env"], **secrets}
        tags = {"stamp": stamp.to_json(), "outputs": json.dumps(dict(request["outputs"]))}
        try:
            self.service.create(name, request["argv"], env, folders, json.dumps(request["params"]), tags)
        except NameTaken:
            raise RunExists(run) from None
        return run

    def _secret(self, name: str, source: str) -> str:
        kind, _, where = source.partition(":")
        if kind != "env" or where not in os.environ:
            raise self.settings.fail(f"secrets.{name}", f"got '{kind}:...', expected env: and a variable that is set")
        return os.environ[where]

    def _run(self, name: str) -> Run:
        return Run(self.name, "here", str(self.service.folder).lstrip("/"), name)

    def reaches(self, run: Run) -> bool:
        """Where two targets may be two accounts, whether the run is in this one's; here two folders."""
        return run.scope == str(self.service.folder).lstrip("/")

    def _record(self, run: Run) -> Record:
        if not self.reaches(run):
            raise Unavailable(f"{run}: lives in /{run.scope}, and targets.{self.settings.target} is {self.service.folder}")
        try:
            return self.service.describe(run.name)
        except Unknown:
            raise RunNotFound(f"{run}: the service knows no such run") from None

    def find(self, key: Key) -> list[Found]:
        """The attempts are numbered without gaps, so asking ends at the first that isn't there."""
        found: list[Found] = []
        while True:
            run = self._run(key.name(len(found), self.name_limit))
            try:
                record = self._record(run)
            except RunNotFound:
                return found
            found.append(Found(run, len(found), Stamp.of_json(record.tags["stamp"]), _status(record)))

    def status(self, runs: Sequence[Run]) -> Mapping[Run, Status | MlctlError]:
        """Many in few calls, where the platform has such a call."""
        answer: dict[Run, Status | MlctlError] = {}
        for run in runs:
            try:
                answer[run] = _status(self._record(run))
            except MlctlError as error:
                answer[run] = error
        return answer

    def logs(self, run: Run, since: str = "") -> Logs:
        """The cursor is whatever the platform needs to go on; here a number of lines."""
        lines = self._record(run).log_lines()
        return Logs(tuple(lines[int(since or 0):]), str(len(lines)))

    def result(self, run: Run) -> Result:
        """Where the outputs are, and the metrics."""
        record = self._record(run)
        return Result(json.loads(record.tags["outputs"]), contract.metrics(record.metric_lines()))

    def cancel(self, run: Run) -> None:
        """Asks; a later status tells. A no-op for a run that has ended."""
        self._record(run)
        self.service.stop(run.name)

    def check(self) -> Iterator[Finding]:
        """What mlctl doctor shows: each a real call."""
        yield Finding("service", True, f"{len(self.service.names())} runs in {self.service.folder}")


def _status(record: Record) -> Status:
    if record.state not in STATES:
        raise InvalidConfig(f"the service says '{record.state}', which mlctl-my-project doesn't know; update it")
    state = STATES[record.state]
    status = Status(state, exit_code=record.exit_code)
    if state is State.FAILED:
        return dataclasses.replace(status, reason=Reason.ERROR, message=f"exit code {record.exit_code}")
    if state is State.CANCELLED:
        return dataclasses.replace(status, reason=Reason.CANCELLED, message="cancelled")
    return status
