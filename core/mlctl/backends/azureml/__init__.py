"""Azure Machine Learning as a platform: every kind is a command job.

Nothing of ours runs in Azure: a job starts with a script that is an input (launch.py), and its record, the stamp and the
addresses of what it leaves, is in the job's own properties. Names are the workspace's: a PUT of a name that is taken is an
update of its tags and properties where all else is the same, and an error otherwise. So each submit has a variable of its
own in the job, its nonce, and can only make a job or be refused.

Settings: see docs/azureml.md.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mlctl import contract, data
from mlctl.backend import Base, Facts, Features, Finding, Settings
from mlctl.backends import _record
from mlctl.errors import InvalidConfig, MlctlError, RunExists, RunNotFound, Unauthorized, Unavailable
from mlctl.job import Job
from mlctl.policy import Admitted
from mlctl.runs import Found, Key, Logs, Plan, Result, Run, Stamp, State, Status, Upload

from . import archive, doctor, logs, request, states
from .fields import LIMIT
from .service import Service, Taken
from .settings import check
from .store import Store

__all__ = ["AzureML"]

_PATIENCE = 3  # runs in a row that Azure doesn't answer for, after which the others of a poll aren't asked for


class AzureML(Base):
    """Runs jobs in one workspace."""

    name = "azureml"
    interval = 15.0
    takes = frozenset(
        {
            "subscription", "resource_group", "workspace", "resource_manager", "datastore", "prefix", "compute",
            "instance_type", "environment", "identity", "identity_client_id", "experiment", "max_runtime", "tags", "secrets",
        }
    )  # fmt: skip
    features = Features(
        kinds=frozenset({"process", "train", "batch-inference"}),
        honours=frozenset(
            {
                "code", "image", "python", "requirements", "command.shell", "params", "inputs", "inputs.mode.download",
                "inputs.mode.mount", "outputs", "outputs.uri", "outputs.mode.upload", "outputs.mode.mount", "env", "secrets",
                "resources.cpu", "resources.memory", "resources.accelerators", "resources.shm", "resources.spot",
                "resources.nodes", "distribution", "timeout", "labels", "tags",
            }
        ),
        loses={
            "resources.disk": "Azure ML has no such setting; the disk is the machine's",
            "queue_timeout": "Azure ML keeps a job queued until there is a machine",
        },
        proven="stand-in",
        unproven=frozenset(  # checked in the request only: the stand-in starts no images, has no machines and no mounts
            {
                "image", "python", "resources.cpu", "resources.memory", "resources.accelerators",
                "resources.shm", "resources.spot", "inputs.mode.mount", "outputs.mode.mount",
            }
        ),
    )  # fmt: skip

    def __init__(self, settings: Settings) -> None:
        for package in ("azure.core", "azure.identity", "azure.storage.blob"):
            if not _there(package):
                raise ImportError(package, name=package)
        super().__init__(settings)
        check(settings)
        self._service = Service(settings)
        self._store = Store(self._service, settings)
        self._at = self._service.at

    def resolve(self, job: Job) -> Facts:
        """What each input is; local inputs' digests; the size of the machines of a compute. The datastore is looked for."""
        data.reached(job, request.REACHED, self.name)
        local = data.local_inputs(job, "Azure ML takes no empty input")
        self._store.described()
        inputs: dict[str, dict[str, Any]] = {}
        for name, each in job.inputs.items():
            if name in local:
                inputs[name] = {"single": local[name]["single"], "local": local[name]}
                continue
            if self._store.owns(each.uri):
                single = self._store.single(each.uri)
                if single is None:
                    raise job.fail(("inputs", name), f"{each.uri}: nothing is there, or these credentials can't see it")
            else:  # another account's, which these credentials need not see: an address says what it is
                last = each.uri.partition("?")[0].rpartition("/")[2]
                single = data.scheme(each.uri) == "https" or "." in last
            inputs[name] = {"single": single}
        compute = str(job.platforms.get("azureml", {}).get("compute") or self.settings.values.get("compute", ""))
        size = doctor.compute(self._service, self.settings, compute) if compute else ""
        return {"inputs": inputs, "size": size}

    def plan(self, job: Job, facts: Facts, name: str) -> Plan:
        """The bodies of the job and of its environment, and the files that it mounts."""
        return request.make(job, facts, name, self.settings, self.features.losses(self.name, job))

    def put(self, upload: Upload) -> None:
        """To the datastore, unless it is there."""
        self._store.put(upload.address, Path(upload.source))

    def _run(self, name: str) -> Run:
        return Run(self.name, self._at.subscription, self._at.scope, name)

    def find(self, key: Key) -> list[Found]:
        """Asks for each attempt by its name, from the first on, until two in a row aren't there: no listing lags behind."""
        found: list[Found] = []
        stem, number, missed = key.stem(self.name_limit), 0, 0
        while missed < 2:
            run = self._run(f"{stem}-{number}")
            try:
                job = self._job(run)
                missed = 0
                stamp = _stamp(job)
                found.append(Found(run, number, stamp, self._told(run, job)))
            except RunNotFound:
                missed += 1
            except ValueError:
                raise InvalidConfig(
                    f"{run}: a job of that name is there that mlctl did not start; choose another key"
                ) from None
            number += 1
        return found

    def _address(self, run: Run) -> str:
        return f"{self._at.arm}/jobs/{quote(run.name, safe='')}"

    def reaches(self, run: Run) -> bool:
        """Whether it is of this workspace, whose name Azure reads in whatever case."""
        return (run.account, run.scope.lower()) == (self._at.subscription, self._at.scope.lower())

    def _job(self, run: Run) -> dict[str, Any]:
        """The job's record. Raises RunNotFound; Unavailable for a run of another workspace."""
        if not self.reaches(run):
            text = f"lives in the workspace {run.scope} of the subscription {run.account}"
            raise Unavailable(
                f"{run}: {text}; targets.{self.settings.target} is {self._at.scope}: use a target of that workspace"
            )
        try:
            return self._service.arm("GET", self._address(run))
        except RunNotFound as reason:
            raise RunNotFound(f"{run}: {reason}") from None

    def submit(self, plan: Admitted, stamp: Stamp) -> Run:
        """Puts the files that are mounted, registers the environment, creates the job; then looks whose nonce it has.

        Raises InvalidConfig that names the setting which Azure ML refuses.
        """
        asked, run = plan.plan.request, self._run(plan.plan.name)
        try:
            body = request.stamped(asked, stamp)
        except ValueError as reason:
            raise InvalidConfig(f"{run}: {reason}") from None
        try:  # a name that is taken needs no files
            self._job(run)
        except RunNotFound:
            pass
        else:
            raise RunExists(run)
        for address, text in asked["files"].items():
            self._store.put(address, text)
        if environment := asked["environment"]:
            try:
                self._service.arm("GET", environment["id"])
            except RunNotFound:
                with contextlib.suppress(Taken):  # another was faster: its name is its content's digest
                    self._service.arm("PUT", environment["id"], environment["body"])
        with contextlib.suppress(Taken):  # perhaps by ourselves, where the answer to a first try was lost
            self._service.arm("PUT", asked["id"], body)
        if _nonce(self._job(run)) != stamp.nonce:
            raise RunExists(run)
        return run

    def status(self, runs: Sequence[Run]) -> Mapping[Run, Status | MlctlError]:
        """Pages of the workspace's jobs as long as each has one of ours; one call for each of the rest."""
        answer: dict[Run, Status | MlctlError] = {}
        left = {run.name: run for run in runs if self.reaches(run)}
        try:
            path = f"{self._at.arm}/jobs" if len(left) > 1 else ""
            query: dict[str, Any] = {"jobType": "Command"}
            while path and left:
                page = self._service.arm("GET", path, **query)
                before = len(left)
                for job in page.get("value", []):
                    if run := left.pop(str(job.get("name", "")), None):
                        answer[run] = self._said(run, job)
                path, query = str(page.get("nextLink") or "") if len(left) < before else "", {}
        except (RunNotFound, Unauthorized):  # each is asked for by itself, and has its own error
            pass
        except Unavailable as error:
            return {run: answer.get(run, error) for run in runs}
        refused: list[Unavailable] = []
        for run in runs:
            if run in answer:
                continue
            if len(refused) == _PATIENCE:  # Azure is busy: no use in asking for a thousand more
                answer[run] = refused[-1]
                continue
            try:
                answer[run] = self._said(run, self._job(run))
                refused.clear()
            except MlctlError as error:
                answer[run] = error
                if isinstance(error, Unavailable) and run.name in left:
                    refused.append(error)
        return answer

    def _said(self, run: Run, job: Mapping[str, Any]) -> Status | MlctlError:
        try:
            return self._told(run, job)
        except MlctlError as error:
            return error

    def _told(self, run: Run, job: Mapping[str, Any]) -> Status:
        """The record's status; of one that ended badly, with what the run history knows of it."""
        status = states.status_of(run, job)
        if status.state not in (State.FAILED, State.CANCELLED):
            return status
        try:
            details = self._service.details(run.name)
        except RunNotFound:
            details = {}
        limits = job.get("properties", {}).get("limits") or {}
        return states.failure(status, details, states.seconds(limits.get("timeout")) or LIMIT)

    def logs(self, run: Run, since: str = "") -> Logs:
        """The files of the job's log, as far as whole lines are there."""
        self._job(run)
        try:
            return logs.read(self._service, self._service.details(run.name), since)
        except RunNotFound:  # a job that was queued just now
            return Logs((), since)

    def result(self, run: Run) -> Result:
        """Addresses from the run's record; metrics from the file that the job leaves, else from the log's lines."""
        try:
            kept = request.recorded(self._job(run))
        except ValueError:
            return Result()
        try:
            return Result(kept["outputs"], contract.metrics(self._store.lines(kept["metrics"])))
        except RunNotFound:
            return Result(kept["outputs"], contract.metrics(self._printed(run)))

    def _printed(self, run: Run) -> Iterator[str]:
        """What follows `mlctl.metric` in the log."""
        cursor = ""
        while True:
            part = self.logs(run, cursor)
            for line in part.lines:
                if contract.METRIC in line:
                    yield line.partition(contract.METRIC)[2]
            if not part.lines:
                return
            cursor = part.cursor

    def cancel(self, run: Run) -> None:
        """Asks Azure ML, which answers before the job has ended. The record stays."""
        state = states.status_of(run, self._job(run)).state
        if state.terminal or state is State.STOPPING:
            return
        try:
            self._service.arm("POST", f"{self._address(run)}/cancel")
        except (InvalidConfig, Taken):  # Azure's word for a job that ended just now
            if not states.status_of(run, self._job(run)).state.terminal:
                raise

    def check(self) -> Iterator[Finding]:
        """Credentials, workspace, compute, datastore, the right to list jobs, the quota: each by a call."""
        return doctor.findings(self._service, self._store, self.settings)

    def prune(self, before: float, dry: bool) -> Iterator[str]:
        """Archives jobs that ended before. Files in the datastore stay."""
        return archive.archive(self._service, before, dry)


def _there(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def _stamp(job: Mapping[str, Any]) -> Stamp:
    return _record.stamp_of(request.recorded(job))


def _nonce(job: Mapping[str, Any]) -> str:
    """Of the submit that made the job: its properties a later one might change."""
    return str((job.get("properties", {}).get("environmentVariables") or {}).get(request.NONCE, ""))
