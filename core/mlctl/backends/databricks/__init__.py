"""Databricks: each run is a one-time run (`runs/submit`) with one task, a launcher that runs the job (launcher.py).

Everything is below `root`, a folder of a Volume: `launcher/`, `packages/`, `data/` and `jobs/` by digest;
`runs/STEM/ATTEMPT/` what an attempt left. The run's name is its idempotency token: Databricks answers a token that it
knows with the run that has it, so a name never starts two. A nonce in the stamp, the task's description, tells which
of the two it was.

A run can't be looked up by its name, and listing a workspace's runs of 60 days costs a call for every 24. So whoever
learns a run's id notes it beside the attempt, `runs/STEM/ATTEMPT.ID`, and `find` lists that folder. Who died before
noting it left a run that `find` doesn't see; the next submit is told its id, notes it, and raises RunExists.

Settings: `root`; `host`, `profile` (else the SDK's own chain); `cluster` (an id) or `new_cluster` (as the API has
it), else serverless; `environment_version`, `budget_policy`; `secrets` (dbx-secret:SCOPE/KEY).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from mlctl import contract, data
from mlctl.backend import Base, Facts, Features, Finding, Settings
from mlctl.errors import MlctlError, RunExists, RunNotFound, Unauthorized, Unavailable, one_line, refused
from mlctl.job import Job
from mlctl.policy import Admitted
from mlctl.runs import Found, Key, Logs, Plan, Reason, Result, Run, Stamp, Status, Upload

from . import prune, request, states
from .workspace import Missing, Workspace

__all__ = ["Databricks"]

PAGE = 24  # runs that a page of runs/list has at most
_CUSTOM_TAGS = 45  # that a cluster may have
CHUNK = 1 << 20  # bytes of log after which a batch is handed out
_COMPUTE = "the target's compute has what it has; choose a target whose cluster fits"
_LOSSES = {
    "resources.cpu": _COMPUTE,
    "resources.memory": _COMPUTE,
    "resources.accelerators": _COMPUTE,
    "resources.disk": _COMPUTE,
    "resources.shm": _COMPUTE,
    "resources.spot": "whether a cluster is spot is for the target's new_cluster to say",
    "queue_timeout": "Databricks keeps a run queued for 48 hours at most",
    "labels": "a one-time run has no tags; they are in the job's file",
    "tags": "a one-time run has no tags; they are in the job's file",
}


class Databricks(Base):
    """Runs jobs in a Databricks workspace."""

    name = "databricks"
    remembers = timedelta(days=60)
    interval = 15.0
    takes = frozenset(
        {"root", "host", "profile", "cluster", "new_cluster", "environment_version", "budget_policy", "secrets"}
    )
    features = Features(
        kinds=frozenset({"process", "train", "batch-inference"}),
        honours=frozenset(
            {
                "code", "python", "requirements", "command.shell", "params", "inputs", "inputs.mode.download", "inputs.mode.mount",
                "outputs", "outputs.uri", "outputs.mode.upload", "outputs.mode.mount", "env", "secrets", "timeout",
            }
        ),
        loses=_LOSSES,
        proven="emulator",
    )  # fmt: skip

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        values = settings.values
        for name, kind, expected in (
            ("host", str, "the workspace's address, such as https://adb-123.4.azuredatabricks.net"),
            ("profile", str, "the name of a profile in ~/.databrickscfg"),
            ("cluster", str, "the id of a cluster, such as 0923-164208-meows279"),
            ("new_cluster", Mapping, "a mapping, as the API of clusters has it"),
            ("budget_policy", str, "the id of a budget policy"),
        ):
            if name in values and not (isinstance(values[name], kind) and values[name]):
                raise settings.fail(name, f"got {one_line(values[name])}, expected {expected}")
        if "cluster" in values and "new_cluster" in values:
            raise settings.fail("new_cluster", "there is cluster: too; choose one")
        tags = values.get("new_cluster", {}).get("custom_tags")
        if isinstance(tags, Mapping) and len(tags) > _CUSTOM_TAGS:
            raise settings.fail("new_cluster", f"custom_tags are {len(tags)}, and Databricks takes {_CUSTOM_TAGS}")
        if not re.fullmatch(r"[0-9]+", str(values.get("environment_version", "4"))):
            text = f"got {one_line(values['environment_version'])}, expected a number such as 4"
            raise settings.fail("environment_version", text)
        self._workspace = Workspace(settings)

    def resolve(self, job: Job) -> Facts:
        """The workspace's address, the launcher's digest, and those of the inputs that are on this machine."""
        launcher = Path(__file__).with_name("launcher.py")
        digest = hashlib.sha256(launcher.read_bytes()).hexdigest()
        return {
            "account": self._workspace.account,
            "launcher": {"path": str(launcher), "sha256": digest},
            "inputs": data.local_inputs(job),
        }

    def plan(self, job: Job, facts: Facts, name: str) -> Plan:
        """The body of runs/submit, but for the stamp, and the job's own file."""
        losses = self.features.losses(self.name, job)
        spec = request.spec(job, facts, name, self.settings)
        native = {"submit": request.body(job, facts, spec, self.settings), "job": spec}
        return Plan(name, self.name, self.settings.target, native, request.uploads(job, facts, spec["root"]), losses)

    def put(self, upload: Upload) -> None:
        """Writes to the Volume."""
        source = Path(upload.source)
        try:
            self._workspace.write(unquote(upload.address), source)
        except (FileNotFoundError, PermissionError) as reason:  # others are the network's
            raise refused(source, reason) from None

    def _run(self, name: str, run_id: int) -> Run:
        return Run(self.name, self._workspace.account, f"{request.root_of(self.settings).lstrip('/')}/{run_id}", name)

    def _note(self, name: str, run_id: int) -> Run:
        """Notes the id where `find` looks for it."""
        run, (stem, _, attempt) = self._run(name, run_id), name.rpartition("-")
        path = f"{request.root_of(self.settings)}/runs/{stem}/{attempt}.{run_id}"
        self._workspace.write(path, f"{run}\n".encode())
        return run

    def submit(self, plan: Admitted, stamp: Stamp) -> Run:
        """Puts the job's file, submits, and reads the run's stamp: whose nonce is another's was there before.

        Raises InvalidJob for what Databricks refuses.
        """
        native = plan.plan.request
        body = request.stamped(native["submit"], stamp)
        content, path = request.file_of(native["job"])
        self._workspace.write(path, content)
        try:
            run_id = int(self._workspace.call("POST", "runs/submit", body)["run_id"])
            record = self._workspace.call("GET", "runs/get", run_id=run_id)
        except Missing as reason:
            raise Unavailable(f"targets.{self.settings.target}: submitted, and not there yet: {reason}") from None
        run = self._note(plan.plan.name, run_id)
        found = request.described(record)
        if found is None or found.nonce != stamp.nonce:
            raise RunExists(run)
        return run

    def find(self, key: Key) -> list[Found]:
        """Lists the folder of the key's attempts, and asks for each of them once."""
        stem = key.stem(self.name_limit)
        found = []
        for name in self._workspace.listed(f"{request.root_of(self.settings)}/runs/{stem}"):
            if match := re.fullmatch(r"(\d+)\.(\d+)", name):
                run = self._run(f"{stem}-{match[1]}", int(match[2]))
                try:
                    record = self._record(run)
                except RunNotFound:  # Databricks forgot it, or somebody deleted it
                    continue
                if stamp := request.described(record):
                    found.append(Found(run, int(match[1]), stamp, self._status(run, record)))
        return sorted(found, key=lambda each: each.number)

    def reaches(self, run: Run) -> bool:
        """Whether it is of this workspace."""
        return bool(run.account == self._workspace.account)

    def _place(self, run: Run) -> tuple[str, int]:
        """The attempt's folder and the run's id. Raises RunNotFound, Unavailable."""
        if not self.reaches(run):
            here = f"targets.{self.settings.target} is {self._workspace.account}"
            raise Unavailable(
                f"{run}: lives in the workspace {run.account}, and {here}; use a target of that workspace"
            )
        root, _, run_id = run.scope.rpartition("/")
        stem, _, attempt = run.name.rpartition("-")
        if not run_id.isdigit() or not attempt.isdigit():
            raise RunNotFound(f"{run}: no such run")
        return f"/{root}/runs/{stem}/{attempt}", int(run_id)

    def _record(self, run: Run) -> dict[str, Any]:
        """What Databricks knows of a run."""
        try:
            record = self._workspace.call("GET", "runs/get", run_id=self._place(run)[1])
        except Missing:
            text = f"{run}: Databricks knows no such run; it keeps them for 60 days, or somebody deleted it"
            raise RunNotFound(text) from None
        if record.get("run_name") != run.name:
            raise RunNotFound(f"{run}: the run of that id is called {record.get('run_name')}")
        return record

    def _status(self, run: Run, record: Mapping[str, Any]) -> Status:
        """The record's status; where the job itself failed, with what the launcher noted of its end."""
        status = states.status_of(record)
        if not states.failed_by_itself(status):
            return status
        at, _ = self._place(run)
        try:
            end = json.loads(self._workspace.read(f"{at}/exit.json"))
            code, reason = int(end["code"]), Reason(end["reason"])
        except (Missing, ValueError, KeyError, TypeError):
            try:
                self._workspace.read(f"{at}/started")
            except Missing:  # it failed before the job began
                return status
            return replace(status, reason=Reason.INFRA, message=f"the job was killed from outside: {status.message}")
        text = "timed out" if reason is Reason.TIMEOUT else f"exit code {code}"
        return replace(status, reason=reason, exit_code=code, message=text)

    def status(self, runs: Sequence[Run]) -> dict[Run, Status | MlctlError]:
        """Pages of the active runs as long as each page has one of ours; one call for each of the rest."""
        answer: dict[Run, Status | MlctlError] = {}
        left = {(run.account, run.scope.rpartition("/")[2], run.name): run for run in runs}
        try:
            token = ""
            while len(left) > 1:
                page = self._workspace.call(
                    "GET", "runs/list", active_only="true", limit=PAGE, page_token=token or None
                )
                before = len(left)
                for record in page.get("runs") or []:
                    own = (self._workspace.account, str(record.get("run_id")), str(record.get("run_name")))
                    if own in left:
                        run = left.pop(own)
                        try:
                            answer[run] = self._status(run, record)
                        except MlctlError as error:
                            answer[run] = error
                token = page.get("next_page_token") or ""
                if not token or len(left) == before:
                    break
        except Unauthorized:  # to list takes more than to look at one's own
            pass
        except MlctlError as error:
            return dict.fromkeys(runs, error)
        for run in left.values():
            try:
                answer[run] = self._status(run, self._record(run))
            except MlctlError as error:
                answer[run] = error
        return answer

    def logs(self, run: Run, since: str = "") -> Logs:
        """The parts that the launcher wrote, each whole; the cursor is the number of the last one.

        Where there is none, the run ended before the launcher began: then what Databricks kept of its output, 5 MB at most.
        """
        at, _ = self._place(run)
        lines: list[str] = []
        cursor, size = since, 0
        ended: dict[str, Any] | None = None
        names = [name for name in self._workspace.listed(f"{at}/log") if name.isdigit()]
        if not names and since != "output":
            record = self._record(run)
            if states.status_of(record).state.terminal:
                ended = record
                names = [
                    name for name in self._workspace.listed(f"{at}/log") if name.isdigit()
                ]  # the last came meanwhile
        for name in names:
            if since == "output" or int(name) <= int(since or 0):
                continue
            text = self._workspace.read(f"{at}/log/{name}").decode("utf-8", "replace")
            lines += text.removesuffix("\n").split("\n")
            cursor, size = str(int(name)), size + len(text)
            if size > CHUNK:
                break
        if ended is not None and not names:
            return Logs(tuple(self._output(ended)), "output")
        return Logs(tuple(lines), cursor)

    def _output(self, record: Mapping[str, Any]) -> list[str]:
        """What Databricks itself kept of the task's output, for a run without a log of the launcher's."""
        try:
            task = (record.get("tasks") or [{}])[0].get("run_id") or record.get("run_id")
            output = self._workspace.call("GET", "runs/get-output", run_id=task)
        except Missing:
            return []
        text = "\n".join(
            str(output[name]).rstrip("\n") for name in ("logs", "error", "error_trace") if output.get(name)
        )
        return text.split("\n") if text else []

    def result(self, run: Run) -> Result:
        """The addresses that the job's file has, and the metrics beside it."""
        at, _ = self._place(run)
        task = (self._record(run).get("tasks") or [{}])[0]
        try:
            spec = json.loads(self._workspace.read(task["spark_python_task"]["parameters"][0]))
            outputs = dict(spec["addresses"])
        except (Missing, KeyError, IndexError, TypeError, ValueError):
            raise RunNotFound(f"{run}: its job's file is gone from the Volume, or it was no run of mlctl's") from None
        with contextlib.suppress(Missing):
            text = self._workspace.read(f"{at}/metrics.jsonl").decode("utf-8", "replace")
            return Result(outputs, contract.metrics(text.splitlines()))
        return Result(outputs)

    def cancel(self, run: Run) -> None:
        """Asks Databricks, which ends the task's process."""
        status = states.status_of(self._record(run))
        if not status.state.terminal:
            with contextlib.suppress(Missing):
                self._workspace.call("POST", "runs/cancel", {"run_id": self._place(run)[1]})

    def prune(self, before: float, dry: bool) -> Iterator[str]:
        """Uploads that no run uses, logs and checkpoints, once older than FLOOR; outputs stay."""
        before = min(before, time.time() - prune.FLOOR.total_seconds())
        yield from prune.prune(self._workspace, request.root_of(self.settings), before, dry)

    def check(self) -> Iterator[Finding]:
        """Who we are, a file written to the Volume, the Jobs API, the compute."""
        at, space = f"targets.{self.settings.target}", self._workspace
        try:
            with space.translated():
                yield Finding("credentials", True, f"{space.client.current_user.me().user_name} in {space.account}")
        except MlctlError as error:
            mend = "set DATABRICKS_HOST and DATABRICKS_TOKEN, run `databricks auth login`, or mend host and profile"
            yield Finding("credentials", False, str(error), mend)
            return
        try:
            root = request.root_of(self.settings)
            probe = f"{root}/doctor/{hashlib.sha256(repr(id(self)).encode()).hexdigest()[:16]}"
            space.write(probe, b"mlctl\n")
            space.remove(probe)
            yield Finding("root", True, f"{root} can be written")
        except MlctlError as error:
            yield Finding(
                "root", False, str(error), f"{at}.root: name a Volume, and grant READ VOLUME and WRITE VOLUME on it"
            )
        try:
            space.call("GET", "runs/list", limit=1)
            yield Finding("jobs", True, "runs can be listed")
        except MlctlError as error:
            yield Finding("jobs", False, str(error), "ask for the right to use the Jobs API")
        yield self._compute(at)

    def _compute(self, at: str) -> Finding:
        values, space = self.settings.values, self._workspace
        try:
            if "cluster" in values:
                with space.translated():
                    state = space.client.clusters.get(values["cluster"]).state
                return Finding("cluster", True, f"{values['cluster']} is {state.value if state else 'there'}")
            if "new_cluster" not in values:
                return Finding("serverless", True, "not tried: only a run tells whether the workspace has it")
            with space.translated():
                versions = {each.key for each in space.client.clusters.spark_versions().versions or []}
                types = {each.node_type_id for each in space.client.clusters.list_node_types().node_types or []}
            for name, known in (("spark_version", versions), ("node_type_id", types)):
                wanted = values["new_cluster"].get(name)
                if wanted and wanted not in known:
                    text = f"{wanted} is none of this workspace's, such as {', '.join(sorted(filter(None, known))[:3])}"
                    return Finding("new_cluster", False, text, f"{at}.new_cluster.{name}: choose one of them")
            return Finding("new_cluster", True, "the workspace has its version and its type of node")
        except Missing as error:
            return Finding("cluster", False, str(error), f"{at}.cluster: name a cluster of this workspace")
        except (Unauthorized, MlctlError) as error:
            return Finding("compute", False, str(error), f"{at}: ask for the right to use the cluster")
