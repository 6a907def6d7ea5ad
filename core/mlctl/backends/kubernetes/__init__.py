"""Kubernetes as a platform: a run is one Job of batch/v1, named by the run's name.

Nothing of ours is in the user's image or in the cluster: a container starts with a script that is in the Job (launch.py),
code and inputs of this machine travel as ConfigMaps (request.py), data stays on volumes that the target names.

A run is ended without its record being lost: its pods are given a deadline of a second, as somebody who deletes or suspends
a Job loses its logs. Why it was ended is an annotation, set first. What waits for too long is ended by whoever asks for its
status: the Job of a run that nobody asks for waits on, unless it has a timeout, for Kubernetes has no such limit.

Settings: see docs/kubernetes.md.
"""

from __future__ import annotations

import base64
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mlctl import contract, data
from mlctl.backend import Base, Facts, Features, Finding, Settings
from mlctl.backends._pods import local_facts
from mlctl.errors import InvalidConfig, MlctlError, RunExists, Unauthorized, Unavailable, refused
from mlctl.job import Job
from mlctl.policy import Admitted
from mlctl.runs import Found, Key, Logs, Plan, Reason, Result, Run, Stamp, Status, Upload

from . import doctor, logs, prune, request, staging, states
from .api import Api, Conflict, Missing
from .polling import Polling, gone, pods_of
from .request import DOMAIN
from .settings import NAMES, check, duration

__all__ = ["Kubernetes"]

log = logging.getLogger(__name__)

_TOLD = {"spec.podFailurePolicy", "spec.ttlSecondsAfterFinished"}
"""What a server may drop: the pod says itself that it was evicted, and `mlctl gc` removes what has no TTL."""

_OVERDUE = 60  # seconds beyond a pod's grace after which the Job itself is given a deadline, and its logs are lost


class Kubernetes(Base):
    """Runs jobs in one namespace of a cluster."""

    name = "kubernetes"
    name_limit = 58  # and four characters for a node's number, in the name of a host
    interval = 5.0
    takes = NAMES
    features = Features(
        kinds=frozenset({"process", "train", "batch-inference"}),
        honours=frozenset(
            {
                "code", "image", "python", "requirements", "command.shell", "params", "inputs", "inputs.mode.download",
                "inputs.mode.mount", "outputs", "outputs.uri", "outputs.mode.upload", "outputs.mode.mount", "env", "secrets",
                "resources.cpu", "resources.memory", "resources.accelerators", "resources.disk", "resources.shm",
                "resources.spot", "resources.nodes", "distribution", "timeout", "queue_timeout", "labels", "tags",
            }
        ),
        loses={},
        proven="real",
        unproven=frozenset(  # the tests' own cluster has no accelerators, no Indexed Jobs, no package index, no limit of disk
            {
                "requirements", "resources.accelerators", "resources.disk", "resources.spot", "resources.nodes", "distribution",
            }
        ),
    )  # fmt: skip

    def __init__(self, settings: Settings) -> None:
        if find_spec("kubernetes") is None:
            raise ImportError("kubernetes", name="kubernetes")
        super().__init__(settings)
        check(settings)
        self.remembers = timedelta(seconds=duration(settings, "ttl", "7d"))
        self._api = Api(settings)
        self._polling = Polling(self._api, self._given_up)

    def resolve(self, job: Job) -> Facts:
        """The cluster and the namespace; the digests and sizes of the inputs that are on this machine."""
        ways = {"file": "upload", "volume": "mount", **dict.fromkeys(staging.STORES, "download")}
        data.reached(job, ways, "a job on Kubernetes")
        local = local_facts(job, "Kubernetes mounts no empty input")
        return {"account": self._api.account, "namespace": self._api.namespace, **local}

    def plan(self, job: Job, facts: Facts, name: str) -> Plan:
        """The Job, and the Service of one with several nodes."""
        return request.make(job, facts, name, self.settings, self.features.losses(self.name, job))

    def put(self, upload: Upload) -> None:
        """Into a ConfigMap that never changes; its name has its digest in it."""
        try:
            content = Path(upload.source).read_bytes()
        except OSError as reason:
            raise refused(upload.source, reason) from None
        self._make("configmaps", request.configmap(upload, base64.b64encode(content).decode()))

    def _make(self, kind: str, thing: Mapping[str, Any]) -> None:
        """Makes what isn't there yet."""
        namespace = thing["metadata"]["namespace"]
        try:
            self._api.call("POST", self._api.path(kind, namespace), thing)
        except Conflict:
            pass
        except Missing:
            raise self._no_namespace(namespace) from None

    def _no_namespace(self, namespace: str) -> InvalidConfig:
        return self.settings.fail("namespace", f"there is no namespace '{namespace}' in {self._api.account}; make it")

    def submit(self, plan: Admitted, stamp: Stamp) -> Run:
        """Makes the Service, then the Job: its name is taken, or it is ours, with its stamp.

        A server that dropped a field of it which changes what runs would be a lie: then the run is ended, and says so.
        Raises InvalidConfig for what the server refuses.
        """
        asked = plan.plan.request
        job = request.stamped(asked["job"], stamp)
        namespace = job["metadata"]["namespace"]
        run = Run(self.name, self._api.account, namespace, plan.plan.name)
        if "service" in asked:
            self._make("services", asked["service"])
        try:
            made = self._api.call("POST", self._api.path("jobs", namespace), job, fieldValidation="Strict")
        except Conflict:
            raise RunExists(run) from None
        except Missing:
            raise self._no_namespace(namespace) from None
        if lost := set(request.missing(job["spec"], made["spec"], "spec")) - _TOLD:
            self._end(run, states.dropped(lost))
        try:
            self._own(made, plan.plan)
        except MlctlError as error:
            log.warning("%s: what it needs is left when its Job is removed, until mlctl gc: %s", run.name, error)
        return run

    def _own(self, job: Mapping[str, Any], plan: Plan) -> None:
        """Has the ConfigMaps and the Service removed with the Job, and makes those anew that were, with another's, meanwhile."""
        metadata = job["metadata"]
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": metadata["name"], "uid": metadata["uid"]}
        uploads = {upload.address.rpartition("/")[2]: upload for upload in plan.uploads}
        service: Mapping[str, Any] = plan.request.get("service", {})
        owned = [("configmaps", name) for name in uploads]
        if service:
            owned.append(("services", service["metadata"]["name"]))
        for kind, name in owned:
            path = self._api.path(kind, metadata["namespace"], name)
            for _ in range(3):
                try:
                    self._api.call("PATCH", path, {"metadata": {"ownerReferences": [owner]}}, "strategic-merge")
                    break
                except Missing:
                    if kind == "configmaps":
                        self.put(uploads[name])
                    else:
                        self._make(kind, service)

    def _run(self, job: Mapping[str, Any]) -> Run:
        return Run(self.name, self._api.account, job["metadata"]["namespace"], job["metadata"]["name"])

    def find(self, key: Key) -> list[Found]:
        """One list of the Jobs that have the name's stem as their label, one of their pods."""
        stem, namespace = key.stem(self.name_limit), self._api.namespace
        selector = f"{DOMAIN}/stem={stem}"
        jobs = self._api.listed("jobs", namespace, selector)
        pods = pods_of(self._api, namespace, selector) if jobs else {}
        found = []
        for job in jobs:
            run = self._run(job)
            number = key.attempt(run.name, self.name_limit)
            if number is None:
                continue
            try:
                stamp = request.stamp_of(job)
            except ValueError:
                text = "a Job of that name is there that mlctl did not start; choose another key"
                raise InvalidConfig(f"{run}: {text}") from None
            status = states.status_of(job, pods.get(run.name, []), (), self._api.clock.now())
            found.append(Found(run, number, stamp, status))
        return sorted(found, key=lambda one: one.number)

    def reaches(self, run: Run) -> bool:
        """Whether it is of this cluster, in whatever namespace."""
        return run.account == self._api.account

    def _place(self, run: Run) -> str:
        """The namespace of a run. Raises Unavailable for one of another cluster."""
        if not self.reaches(run):
            text = f"lives in the cluster {run.account}, and targets.{self.settings.target} is {self._api.account}"
            raise Unavailable(f"{run}: {text}; use a target of that cluster")
        return run.scope

    def _get(self, run: Run) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The Job of a run, and its pods."""
        namespace = self._place(run)
        try:
            job = self._api.call("GET", self._api.path("jobs", namespace, run.name))
        except Missing:
            raise gone(run) from None
        return job, pods_of(self._api, namespace, f"{DOMAIN}/run={run.name}").get(run.name, [])

    def status(self, runs: Sequence[Run]) -> Mapping[Run, Status | MlctlError]:
        """For each namespace one list of Jobs and one of pods, or for many runs a watch of each that goes on between calls; and
        a list of warnings where only they say why a run waits."""
        answer: dict[Run, Status | MlctlError] = {}
        groups: dict[str, list[Run]] = defaultdict(list)
        for run in runs:
            try:
                groups[self._place(run)].append(run)
            except MlctlError as error:
                answer[run] = error
        for namespace, wanted in groups.items():
            try:
                answer |= self._polling.statuses(namespace, wanted)
            except (Unavailable, Unauthorized) as error:
                answer |= dict.fromkeys(wanted, error)
        return answer

    def _given_up(self, run: Run, status: Status, ending: states.Ending) -> Status:
        """Ends a run that waited for too long. Who may only look sees it wait."""
        try:
            return self._end(run, ending) or status
        except Unauthorized as error:
            log.warning("%s: %s, and can't be ended: %s", run.name, ending[1], error)
            return status

    def pause(self, runs: Sequence[Run], seconds: float) -> None:
        """Sleeps, but where few runs are waited for only until a Job of theirs changes."""
        self._polling.pause(runs, seconds)

    def logs(self, run: Run, since: str = "") -> Logs:
        """What the kubelet keeps of each pod's log: 10 MiB, unless the cluster says otherwise."""
        _, pods = self._get(run)
        return logs.read(self._api, self._place(run), pods, since)

    def result(self, run: Run) -> Result:
        """Addresses from the run's record; metrics from its log's end."""
        job, pods = self._get(run)
        outputs = request.record(job).get("outputs", {})
        return Result(outputs, contract.metrics(logs.metric_lines(self._api, self._place(run), pods)))

    def cancel(self, run: Run) -> None:
        """SIGTERM, and SIGKILL after the target's `grace`; the Job and the logs stay."""
        self._end(run, (Reason.CANCELLED, "cancelled"))

    def _end(self, run: Run, ending: states.Ending) -> Status | None:
        """Says why in an annotation, then ends what runs; the status then. Nothing where it is over.

        The annotation is set on the Job as it was read only: so no run that ended by itself is called cancelled.
        """
        namespace = self._place(run)
        for _ in range(5):
            job, pods = self._get(run)
            now = self._api.clock.now()
            if states.status_of(job, pods, (), now).state.terminal:
                return None
            why = states.ended(job)
            annotations = {} if why else {states.ENDED: states.told(*ending, now)}
            patch: dict[str, Any] = {
                "metadata": {"annotations": annotations, "resourceVersion": job["metadata"]["resourceVersion"]}
            }
            placed = [pod for pod in states.live(pods, now) if pod["spec"].get("nodeName")]  # a kubelet ends them
            late = why and (now - why[2]).total_seconds() > duration(self.settings, "grace", "30s") + _OVERDUE
            if job["spec"].get("suspend"):  # has no pods: taken from its queue, it never gets any
                patch["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": None}
                patch["spec"] = {"parallelism": 0}
            elif not placed or late:
                patch["spec"] = {"activeDeadlineSeconds": 1}
                if not job.get("status", {}).get("startTime"):  # no pod could be made: older servers would go on to try
                    patch["spec"]["parallelism"] = 0
            try:
                job = self._api.call("PATCH", self._api.path("jobs", namespace, run.name), patch, "merge")
                for pod in placed:
                    path = self._api.path("pods", namespace, pod["metadata"]["name"])
                    self._api.call("PATCH", path, {"spec": {"activeDeadlineSeconds": 1}}, "merge")
            except (Conflict, Missing):  # changed, or gone, meanwhile: look again
                continue
            return states.status_of(job, pods, (), now)
        raise Unavailable(f"{run}: it changes all the time; try again")

    def check(self) -> Iterator[Finding]:
        """The cluster, the credentials, and each right that is needed, asked of the server itself."""
        return doctor.findings(self._api, self.settings)

    def prune(self, before: float, dry: bool) -> Iterator[str]:
        """ConfigMaps and Services whose Job was never made or didn't get to own them, and ended Jobs without a TTL."""
        jobs = self._api.listed("jobs", self._api.namespace, request.ALL)
        return prune.removed(self._api, jobs, pods_of(self._api, self._api.namespace, request.ALL), before, dry)
