"""Amazon SageMaker as a platform: `train` is a training job, `process` and `batch-inference` are processing jobs.

Nothing of ours runs in AWS: a job starts with a script that is mounted (launch.py), and its record, the stamp and the
addresses of what it leaves, is in its own environment variables.

Settings: see docs/sagemaker.md.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mlctl import contract, data
from mlctl.backend import Base, Facts, Features, Finding, Settings
from mlctl.backends import _record
from mlctl.errors import InvalidConfig, MlctlError, RunExists, RunNotFound, Unauthorized, Unavailable
from mlctl.job import Job
from mlctl.policy import Admitted
from mlctl.runs import Found, Key, Logs, Plan, Result, Run, Stamp, State, Status, Upload

from . import cloudwatch, doctor, prune, request
from .aws import Aws, Taken
from .settings import check
from .states import status_of
from .store import Store

__all__ = ["SageMaker"]

_KINDS = {"training": ("training_job", "Training"), "processing": ("processing_job", "Processing")}
_TRAINING_HAS = ("inputs.mode.mount", "resources.spot", "queue_timeout")
_PAGE = 100  # jobs in an answer of List*


class SageMaker(Base):
    """Runs jobs in one account and region."""

    name = "sagemaker"
    interval = 15.0
    as_root = True  # /opt/ml is root's, and only root's to write
    takes = frozenset(
        {
            "region", "profile", "role", "bucket", "prefix", "instance_type", "image", "volume", "kms_key", "vpc",
            "network_isolation", "encrypt_traffic", "max_runtime", "tags", "secrets",
        }
    )  # fmt: skip
    features = Features(
        kinds=frozenset({"process", "train", "batch-inference"}),
        honours=frozenset(
            {
                "code", "image", "python", "requirements", "command.shell", "params", "inputs", "inputs.mode.download",
                "outputs", "outputs.uri", "outputs.mode.upload", "env", "secrets", "resources.cpu", "resources.memory",
                "resources.accelerators", "resources.disk", "resources.nodes", "distribution", "timeout", "labels", "tags",
            }
        ),
        loses={
            "inputs.mode.mount": "a processing job's inputs are copied before it starts; a training job streams them",
            "outputs.mode.mount": "uploaded while the job writes (processing), or packed at its end (training)",
            "resources.shm": "SageMaker has no such setting; /dev/shm is the instance's",
            "resources.spot": "a processing job runs on demand; a training job has spot",
            "queue_timeout": "a processing job doesn't wait: it fails where there is no capacity",
        },
        proven="stand-in",
        unproven=frozenset(  # checked in the request only: the stand-in starts no images, and has no instances
            {"image", "python", "resources.cpu", "resources.memory", "resources.accelerators", "resources.disk"}
        ),
    )  # fmt: skip

    def __init__(self, settings: Settings) -> None:
        if find_spec("boto3") is None:
            raise ImportError("boto3", name="boto3")
        super().__init__(settings)
        check(settings)
        self._aws = Aws(settings)
        self._store = Store(self._aws, str(settings.values.get("kms_key", "")))

    def resolve(self, job: Job) -> Facts:
        """The account, region, role and bucket, each looked for; what each input is; local inputs' digests."""
        region, account = self._aws.region(), self._aws.account()
        bucket = self._bucket()
        self._store.checked(bucket, self.settings.fail)
        data.reached(job, {"s3": "download", "file": "upload"}, self.name)
        local = data.local_inputs(job, "SageMaker takes no empty input")
        inputs: dict[str, dict[str, Any]] = {}
        for name, each in job.inputs.items():
            if name in local:
                inputs[name] = {"single": local[name]["single"], "local": local[name]}
                continue
            address = request.split_member(each.uri)[0]
            single = not address.endswith("/") and self._store.has(address)
            if not single and not self._store.has_below(address):
                raise job.fail(("inputs", name), f"{address}: nothing is there, or these credentials can't see it")
            inputs[name] = {"single": single}
        return {
            "account": account,
            "region": region,
            "bucket": bucket,
            "role": doctor.role(self._aws, self.settings),
            "inputs": inputs,
        }

    def _bucket(self) -> str:
        return str(self.settings.values.get("bucket") or f"sagemaker-{self._aws.region()}-{self._aws.account()}")

    def plan(self, job: Job, facts: Facts, name: str) -> Plan:
        """The request of CreateTrainingJob or CreateProcessingJob, and the files that it mounts."""
        losses = self.features.losses(self.name, job)
        if job.kind.name == "train":
            losses = tuple(loss for loss in losses if loss.field not in _TRAINING_HAS)
        return request.make(job, facts, name, self.settings, losses)

    def put(self, upload: Upload) -> None:
        """To S3, unless it is there."""
        self._store.upload(Path(upload.source), upload.address)

    def find(self, key: Key) -> list[Found]:
        """Lists both sorts of jobs by the name's stem, and describes each attempt, for its stamp."""
        region = self._aws.region()
        found = []
        for scope in _KINDS:
            listed = self._list(region, scope, NameContains=key.stem(self.name_limit))
            for line in (line for page in listed for line in page):
                name = line[f"{_KINDS[scope][1]}JobName"]
                number = key.attempt(name, self.name_limit)
                if number is None:
                    continue
                run = Run(self.name, self._aws.account(), f"{region}/{scope}", name)
                try:
                    answer = self._describe(run)
                    stamp = _stamp(answer)
                except RunNotFound:  # removed meanwhile
                    continue
                except ValueError:
                    raise InvalidConfig(
                        f"{run}: a job of that name is there that mlctl did not start; choose another key"
                    ) from None
                found.append(Found(run, number, stamp, status_of(run, answer)))
        return sorted(found, key=lambda one: one.number)

    def _list(self, region: str, scope: str, **asked: Any) -> Iterator[list[dict[str, Any]]]:
        """Pages of List*."""
        operation, noun = _KINDS[scope]
        while True:
            answer = self._aws.call("sagemaker", f"list_{operation}s", region, MaxResults=_PAGE, **asked)
            yield answer[f"{noun}JobSummaries"]
            if not answer.get("NextToken"):
                return
            asked["NextToken"] = answer["NextToken"]

    def _describe(self, run: Run) -> dict[str, Any]:
        region, scope = self._place(run)
        operation, noun = _KINDS[scope]
        try:
            return self._aws.call("sagemaker", f"describe_{operation}", region, **{f"{noun}JobName": run.name})
        except RunNotFound as reason:
            raise RunNotFound(f"{run}: {reason}") from None

    def reaches(self, run: Run) -> bool:
        """Whether it is of the account of these credentials, in whatever region."""
        return run.account == self._aws.account()

    def _place(self, run: Run) -> tuple[str, str]:
        """Region and sort of a run. Raises Unavailable where these credentials are another account's."""
        region, _, scope = run.scope.partition("/")
        if scope not in _KINDS:
            raise RunNotFound(f"{run}: no run of SageMaker's; its scope is REGION/training or REGION/processing")
        if not self.reaches(run):
            text = f"lives in account {run.account}, and these credentials are of {self._aws.account()}"
            raise Unavailable(f"{run}: {text}; change targets.{self.settings.target}.profile")
        return region, scope

    def submit(self, plan: Admitted, stamp: Stamp) -> Run:
        """Puts the files that are mounted, then creates the job: its name is taken, or it is ours, with its stamp.

        Raises InvalidConfig that names the setting which SageMaker refuses.
        """
        asked = plan.plan.request
        scope = "training" if asked["operation"] == "create_training_job" else "processing"
        run = Run(self.name, self._aws.account(), f"{asked['region']}/{scope}", plan.plan.name)
        try:
            kept = request.record(asked, stamp)
        except ValueError as reason:
            raise InvalidConfig(f"{run}: {reason}") from None
        for address, text in asked["files"].items():
            self._store.put(address, text)
        if scope == "processing":  # an input that is empty would fail the job
            self._store.put(f"{asked['state']}job/.keep", "")
        parameters = {**asked["parameters"], "Environment": kept}
        try:
            self._aws.call("sagemaker", str(asked["operation"]), asked["region"], **parameters)
        except Taken:
            # The answer to our own first try may have been lost on the way, and botocore have tried again.
            try:
                if _stamp(self._describe(run)).nonce == stamp.nonce:
                    return run
            except ValueError:
                pass
            raise RunExists(run) from None
        return run

    def status(self, runs: Sequence[Run]) -> Mapping[Run, Status | MlctlError]:
        """Pages of those in progress, never more than there are runs, and a description of each that isn't among them."""
        answer: dict[Run, Status | MlctlError] = {}
        groups: dict[tuple[str, str], dict[str, Run]] = defaultdict(dict)
        for run in runs:
            try:
                groups[self._place(run)][run.name] = run
            except MlctlError as error:
                answer[run] = error
        for (region, scope), wanted in groups.items():
            try:
                self._poll(region, scope, wanted, answer)
            except (Unavailable, Unauthorized) as error:
                answer |= {run: error for run in wanted.values() if run not in answer}
        return answer

    def _poll(self, region: str, scope: str, wanted: Mapping[str, Run], answer: dict[Run, Status | MlctlError]) -> None:
        left = dict(wanted)
        if len(left) > 1:
            pages = self._list(region, scope, StatusEquals="InProgress", SortBy="CreationTime", SortOrder="Descending")
            with contextlib.suppress(Unauthorized):  # to list takes a right of its own
                for number, page in enumerate(pages, 1):
                    for line in page:
                        if run := left.pop(line[f"{_KINDS[scope][1]}JobName"], None):
                            answer[run] = _told(run, line)
                    if not left or number >= len(wanted):
                        break
        for run in left.values():
            try:
                answer[run] = _told(run, self._describe(run))
            except MlctlError as error:
                answer[run] = error

    def logs(self, run: Run, since: str = "") -> Logs:
        """From CloudWatch, which may have the last lines a little after the end."""
        region, _ = self._place(run)
        found = cloudwatch.lines(self._aws, region, run, since)
        if found is None:
            self._describe(run)
            return Logs((), since)
        return found

    def result(self, run: Run) -> Result:
        """Addresses from the run's record; metrics from the file that SageMaker uploads, else from the log's lines."""
        try:
            kept = request.recorded(self._describe(run).get("Environment", {}))
        except ValueError:
            return Result()
        try:
            return Result(kept["outputs"], contract.metrics(self._store.lines(kept["metrics"])))
        except RunNotFound:
            return Result(kept["outputs"], cloudwatch.metrics(self._aws, self._place(run)[0], run))

    def cancel(self, run: Run) -> None:
        """Stop*: SIGTERM, and SIGKILL two minutes later. SageMaker keeps the record."""
        if self._over(run):
            return
        operation, noun = _KINDS[self._place(run)[1]]
        try:
            self._aws.call("sagemaker", f"stop_{operation}", self._place(run)[0], **{f"{noun}JobName": run.name})
        except InvalidConfig:  # SageMaker's word for a job that ended just now
            if not self._over(run):
                raise

    def _over(self, run: Run) -> bool:
        state = status_of(run, self._describe(run)).state
        return state.terminal or state is State.STOPPING

    def prune(self, before: float, dry: bool) -> Iterator[str]:
        """Uploads that no job of this account uses, and checkpoints, once older than FLOOR; results stay."""
        region, account = self._aws.region(), self._aws.account()
        before = min(before, time.time() - prune.FLOOR.total_seconds())
        bucket, prefix = self._bucket(), self.settings.values.get("prefix", "mlctl")
        self._store.checked(bucket, self.settings.fail)

        def jobs() -> Iterator[tuple[str, list[str]]]:
            since = datetime.fromtimestamp(before, timezone.utc)
            for scope, (_, noun) in _KINDS.items():
                asked: tuple[dict[str, Any], ...] = (
                    {"StatusEquals": "InProgress"}, {"StatusEquals": "Stopping"}, {"LastModifiedTimeAfter": since},
                )  # fmt: skip
                for name in {
                    line[f"{noun}JobName"]
                    for one in asked
                    for page in self._list(region, scope, **one)
                    for line in page
                }:
                    with contextlib.suppress(RunNotFound):  # removed meanwhile
                        answer = self._describe(Run(self.name, account, f"{region}/{scope}", name))
                        yield name, request.sources(answer)

        yield from prune.prune(self._store, f"s3://{bucket}/{prefix}", before, dry, jobs())

    def check(self) -> Iterator[Finding]:
        """Region, credentials, role, bucket, the right to list jobs, the quota of the instance: each by a call."""
        return doctor.findings(self._aws, self._store, self.settings)


def _told(run: Run, answer: Mapping[str, Any]) -> Status | MlctlError:
    try:
        return status_of(run, answer)
    except MlctlError as error:
        return error


def _stamp(answer: Mapping[str, Any]) -> Stamp:
    return _record.stamp_of(request.recorded(answer.get("Environment", {})))
