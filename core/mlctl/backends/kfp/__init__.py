"""Kubeflow Pipelines as a platform: a run is a pipeline of one task, in the intermediate representation, on an API server.

Nothing of ours is in the user's image or in the cluster: the task starts with a script that is in the run (launch.py), and so are
code and small inputs; data stays on volumes that the target names. What mlctl knows of a run is its one parameter.

KFP has no name that only one run can have, and no other idempotency. So a submit looks whether the name is taken, makes the
run, and looks again; of two that were made at once the older counts, for everybody who looks, and the other is ended by
whoever sees it: the two submits themselves, a cancel, a poll. What is left of the race: until then both may run; and where the
clocks of a server's replicas differ by more than that moment, the one that counts may be the one that was made later.

Settings: see docs/kfp.md.
"""

from __future__ import annotations

import contextlib
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from importlib.util import find_spec
from typing import Any

from mlctl import contract, data
from mlctl.backend import Base, Facts, Features, Finding, Settings
from mlctl.backends._pods import local_facts, metric_lines
from mlctl.errors import InvalidConfig, MlctlError, RunExists, RunNotFound, Unavailable
from mlctl.job import Job
from mlctl.policy import Admitted
from mlctl.runs import Found, Key, Logs, Plan, Result, Run, Stamp, State, Status, Upload

from . import doctor, logs, request, states
from .service import Conflict, Missing, Service
from .settings import NAMES, check, place

__all__ = ["KFP"]

log = logging.getLogger(__name__)

_ASKED = 50
"""Runs that a list is asked for: their names are in its URL, of which a proxy takes 8 KB unless told."""


class KFP(Base):
    """Runs jobs in one experiment of an API server."""

    name = "kfp"
    interval = 10.0
    takes = NAMES
    features = Features(
        kinds=frozenset({"process", "train", "batch-inference"}),
        honours=frozenset(
            {
                "code", "image", "python", "requirements", "command.shell", "params", "inputs", "inputs.mode.download",
                "inputs.mode.mount", "outputs", "outputs.uri", "outputs.mode.upload", "outputs.mode.mount", "env", "secrets",
                "resources.cpu", "resources.memory", "resources.accelerators", "resources.shm", "timeout", "labels", "tags",
            }
        ),
        loses={
            "queue_timeout": "KFP lets a run wait until there is room for its pod",
            "resources.disk": "the pod has what its node gives it",
            "resources.spot": "the pod runs where the target's node_selector allows it",
        },
        proven="stand-in",
        unproven=frozenset(  # checked in the request only: the stand-in starts no images, and has no nodes
            {
                "image", "python", "resources.cpu", "resources.memory", "resources.accelerators", "resources.shm", "labels", "tags",
            }
        ),
    )  # fmt: skip

    def __init__(self, settings: Settings) -> None:
        if find_spec("kfp_server_api") is None:
            raise ImportError("kfp_server_api", name="kfp_server_api")
        super().__init__(settings)
        check(settings)
        self._service = Service(settings)
        self._account, self._scope = place(settings)
        self._known = ""  # the experiment's id

    def resolve(self, job: Job) -> Facts:
        """The digests and sizes of the inputs that are on this machine."""
        data.reached(job, {"file": "upload", "volume": "mount"}, "a job on KFP")
        return local_facts(job, "a run of KFP has no empty folder in it")

    def plan(self, job: Job, facts: Facts, name: str) -> Plan:
        """The run with its pipeline, but for its files and what only the submit knows."""
        return request.make(job, facts, name, self.settings, self.features.losses(self.name, job))

    def put(self, upload: Upload) -> None:
        """Nothing: files travel in the run itself."""

    def _experiment(self, make: bool = False) -> str:
        """The experiment's id; empty where there is none, unless it is to be made."""
        if self._known:
            return self._known
        values = self.settings.values
        name, namespace = str(values.get("experiment", "mlctl")), str(values.get("namespace", ""))
        body = {"display_name": name, "description": "Runs that mlctl started.", "namespace": namespace}
        try:
            for _ in range(2):
                for each in self._service.listed(
                    "experiments", namespace=namespace, where=("EQUALS", "display_name", name)
                ):
                    if each.get("display_name") == name:
                        self._known = str(each["experiment_id"])
                        return self._known
                if not make:
                    return ""
                with contextlib.suppress(Conflict):  # another was faster: look again
                    made = self._service.call("POST", "experiments", {key: each for key, each in body.items() if each})
                    if "experiment_id" not in made:
                        raise self._service.foreign(made)
                    self._known = str(made["experiment_id"])
                    return self._known
        except Missing as error:  # an older server, which answers for all that it doesn't know
            raise self.settings.fail("host", f"{error}; expected KFP's API of version v2beta1") from None
        raise Unavailable(
            f"targets.{self.settings.target}.experiment: '{name}' is neither there nor can it be made; try again"
        )

    def _listed(self, where: tuple[str, str, Any] | None) -> dict[str, list[dict[str, Any]]]:
        """The experiment's runs that match, by name."""
        found = defaultdict(list)
        for last in (False, True):
            experiment = self._experiment()
            if not experiment:
                break
            try:
                for run in self._service.listed("runs", experiment_id=experiment, where=where):
                    found[str(run.get("display_name"))].append(run)
                break
            except Missing:  # the experiment was removed, and may have been made anew
                self._known = ""
                if last:
                    break
                found.clear()
        return dict(found)

    def _named(self, run: Run) -> list[dict[str, Any]]:
        """The runs of a name, the one that counts first. Raises RunNotFound; Unavailable for a run of another server."""
        self._placed(run)
        found = self._listed(("EQUALS", "display_name", run.name)).get(run.name)
        if not found:
            raise RunNotFound(f"{run}: there is no such run in the experiment; it may have been deleted")
        return self._sorted(found)

    def _sorted(self, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        first = states.chosen(found)
        return [dict(first), *(each for each in found if each is not first)]

    def reaches(self, run: Run) -> bool:
        """Whether it is of this server, in this experiment."""
        return (run.account, run.scope) == (self._account, self._scope)

    def _placed(self, run: Run) -> None:
        if not self.reaches(run):
            text = f"lives on the server {run.account}, in the experiment {run.scope}"
            raise Unavailable(
                f"{run}: {text}; targets.{self.settings.target} is {self._account}, {self._scope}: use a target of those"
            )

    def _run(self, name: str) -> Run:
        return Run(self.name, self._account, self._scope, name)

    def find(self, key: Key) -> list[Found]:
        """One list of the runs that have the name's stem in theirs."""
        stem, answer = key.stem(self.name_limit), []
        for name, found in self._listed(("IS_SUBSTRING", "display_name", stem)).items():
            number = key.attempt(name, self.name_limit)
            if number is None:
                continue
            run, first = self._run(name), states.chosen(found)
            try:
                stamp = request.stamp_of(first)
            except ValueError:
                text = "a run of that name is there that mlctl did not start; choose another key"
                raise InvalidConfig(f"{run}: {text}") from None
            answer.append(Found(run, number, stamp, self._told(run, first)))
        return sorted(answer, key=lambda one: one.number)

    def submit(self, plan: Admitted, stamp: Stamp) -> Run:
        """Looks, makes the run, and looks again: see above for what that leaves open.

        Raises InvalidConfig that names the setting which KFP refuses.
        """
        run = self._run(plan.plan.name)
        with contextlib.suppress(RunNotFound):
            self._end_others(self._named(run))
            raise RunExists(run)
        for last in (False, True):
            body = request.stamped(plan.plan, self._experiment(make=True), stamp)
            lost: Unavailable | None = None
            try:
                self._service.call("POST", "runs", body)
            except Unavailable as error:  # it may have been made all the same
                lost = error
            except Missing:
                self._known = ""  # the experiment was removed meanwhile
                if last:
                    raise Unavailable(f"{run}: its experiment comes and goes; try again") from None
                continue
            break
        try:
            found = self._named(run)
        except RunNotFound:
            raise lost or Unavailable(f"{run}: KFP made it, and does not list it; try again") from None
        self._end_others(found)
        if not _ours(found[0]) or request.stamp_of(found[0]).nonce != stamp.nonce:
            raise RunExists(run)
        return run

    def _end_others(self, found: Sequence[Mapping[str, Any]]) -> None:
        """Ends the runs of a name that don't count. Where that fails, whoever looks next tries again."""
        for each in found[1:]:
            if states.STATES.get(str(each.get("state") or "")) in (State.QUEUED, State.RUNNING):
                name, run_id = each.get("display_name"), str(each["run_id"])
                try:
                    self._terminate(run_id)
                    log.warning("%s: it was made twice at once; the later one, %s, is ended", name, run_id)
                except MlctlError as error:
                    log.warning("%s: it was made twice at once, and %s can't be ended: %s", name, run_id, error)

    def _terminate(self, run_id: str) -> None:
        """A no-op for a run that is over, which KFP refuses to terminate."""
        try:
            self._service.call("POST", f"runs/{run_id}:terminate")
        except Missing:
            return
        except InvalidConfig:
            with contextlib.suppress(Missing):
                native = str(self._service.call("GET", f"runs/{run_id}").get("state") or "")
                if states.STATES.get(native) in (State.QUEUED, State.RUNNING):
                    raise

    def status(self, runs: Sequence[Run]) -> Mapping[Run, Status | MlctlError]:
        """A list for each fifty runs; beyond that, for each that failed its log's end, which says why."""
        answer: dict[Run, Status | MlctlError] = {}
        wanted = []
        for run in runs:
            try:
                self._placed(run)
                wanted.append(run)
            except MlctlError as error:
                answer[run] = error
        for start in range(0, len(wanted), _ASKED):
            some = wanted[start : start + _ASKED]
            try:
                found = self._listed(("IN", "display_name", [run.name for run in some]))
            except MlctlError as error:
                answer |= dict.fromkeys(wanted[start:], error)
                break
            for run in some:
                try:
                    if run.name not in found:
                        raise RunNotFound(f"{run}: there is no such run in the experiment; it may have been deleted")
                    known = self._sorted(found[run.name])
                    self._end_others(known)
                    answer[run] = self._told(run, known[0])
                except MlctlError as error:
                    answer[run] = error
        return answer

    def _told(self, run: Run, found: Mapping[str, Any]) -> Status:
        """The record's status; of a run that failed, with what its log says of it."""
        status = states.status_of(run, found, self._service.host)
        if status.state is not State.FAILED:
            return status
        whole = self._whole(found)
        text = logs.whole(self._service, whole)
        if text is None and states.untold(whole, self._service.clock.now()):
            raise Unavailable(f"{run}: it failed, and KFP has not told of its task yet; ask again")
        return states.failure(status, whole, text)

    def _whole(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """A run with its tasks, which a list may leave out."""
        try:
            return self._service.call("GET", f"runs/{found['run_id']}")
        except Missing:
            raise RunNotFound(f"{self._run(str(found.get('display_name')))}: it was deleted just now") from None

    def logs(self, run: Run, since: str = "") -> Logs:
        """The log of the task's pod, or what KFP archived of it."""
        found = self._whole(self._named(run)[0])
        return logs.read(self._service, found, states.state_of(run, found).terminal, since)

    def result(self, run: Run) -> Result:
        """Addresses from the run's record; metrics from its log's end."""
        found = self._whole(self._named(run)[0])
        try:
            outputs = request.outputs_of(found)
        except ValueError:
            return Result()
        text = logs.whole(self._service, found) or ""
        return Result(outputs, contract.metrics(metric_lines(text)))

    def cancel(self, run: Run) -> None:
        """Terminates the run: its pod gets a SIGTERM, and KFP promises no grace. The record and the archived log stay."""
        found = self._named(run)
        self._end_others(found)
        state = states.state_of(run, found[0])
        if state.terminal or state is State.STOPPING:
            return
        self._terminate(str(found[0]["run_id"]))

    def check(self) -> Iterator[Finding]:
        """The server, the credentials, the experiment, the right to list runs: each by a call."""
        return doctor.findings(self._service, self.settings)

    def prune(self, before: float, dry: bool) -> Iterator[str]:
        """Archives runs that ended before: they leave KFP's lists, and keep their names."""
        limit = datetime.fromtimestamp(before, timezone.utc)
        ours = [run for found in self._listed(None).values() for run in found if _ours(run)]
        for run in ours:
            finished = states.time_of(run.get("finished_at"))
            native = states.STATES.get(str(run.get("state") or ""))
            if (
                run.get("storage_state") == "ARCHIVED"
                or not native
                or not native.terminal
                or not finished
                or finished >= limit
            ):
                continue
            if not dry:
                try:
                    self._service.call("POST", f"runs/{run['run_id']}:archive")
                except Missing:
                    continue
            yield f"run {run.get('display_name')}, archived"


def _ours(run: Mapping[str, Any]) -> bool:
    try:
        return bool(request.stamp_of(run).key)
    except ValueError:
        return False
