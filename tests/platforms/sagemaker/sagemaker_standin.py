"""SageMaker for tests: an HTTP server that answers for SageMaker itself, and has moto answer for S3, IAM, STS and logs.

What it has that moto lacks: a job's life from InProgress to its end, names that are taken, Stop*, the environment of a
job, paged lists, and every request checked against botocore's model. A job is run for real, as a process with /opt/ml
in a folder of its own (sagemaker_jobs.py). It knows nothing of the backend under test.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

import sagemaker_model as model
from moto.iam.models import get_account_id_from, iam_backends
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from moto.s3.models import s3_backends
from standin import Served
from werkzeug.serving import make_server

_OPERATION = re.compile(r"SageMaker\.(Create|Describe|Stop|List)(Training|Processing)Jobs?\Z")
_SCOPE = re.compile(r"Credential=([^/,]+)/\d+/([a-z0-9-]+)/([a-z0-9-]+)/aws4_request")


class Refused(Exception):
    """An error of the service's own: its code, its words."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code, self.message, self.status = code, message, status


FAULTS: dict[str, Refused] = {
    "throttled": Refused("ThrottlingException", "Rate exceeded"),
    "internal": Refused("InternalFailure", "The request processing has failed because of an unknown error.", 500),
    "forbidden": Refused(
        "AccessDeniedException", "User: arn:aws:sts::123456789012:x is not authorized to perform this action"
    ),
    "expired": Refused("ExpiredTokenException", "The security token included in the request is expired"),
}


@dataclass
class Job:
    """A job, as the service knows it."""

    kind: str
    account: str
    region: str
    request: dict[str, Any]
    created: datetime
    status: str = "InProgress"
    phase: str = "Starting"
    started: datetime | None = None
    ended: datetime | None = None
    reason: str | None = None
    message: str | None = None
    stopping: threading.Event = field(default_factory=threading.Event)

    @property
    def name(self) -> str:
        return str(self.request[f"{self.kind}JobName"])

    def described(self) -> dict[str, Any]:
        """All that Describe* and List* may show."""
        kind = self.kind
        store = self.request.get("OutputDataConfig", {}).get("S3OutputPath", "")
        return {
            **self.request,
            "ModelArtifacts": {"S3ModelArtifacts": f"{store}/{self.name}/output/model.tar.gz"},
            f"{kind}JobArn": f"arn:aws:sagemaker:{self.region}:{self.account}:{kind.lower()}-job/{self.name}",
            f"{kind}JobStatus": self.status,
            "SecondaryStatus": self.phase,
            "CreationTime": self.created,
            "LastModifiedTime": self.ended or self.started or self.created,
            f"{kind}StartTime": self.started,
            f"{kind}EndTime": self.ended,
            "FailureReason": self.reason,
            "ExitMessage": self.message,
        }

    def begin(self) -> None:
        self.phase, self.started = "Training", datetime.now(timezone.utc)

    def end(self, status: str, phase: str | None = None, reason: str | None = None, message: str | None = None) -> None:
        self.reason, self.message, self.phase = reason, message, phase or status
        self.ended = datetime.now(timezone.utc)
        self.status = status


class StandIn(Served):
    """The server. `run` is what becomes of a job that was taken; without it, jobs stay InProgress."""

    usual = "sagemaker"

    def __init__(self, run: Callable[[StandIn, Job], None] | None = None) -> None:
        super().__init__(run)
        self.jobs: dict[tuple[str, str, str, str], Job] = {}
        self.quotas: dict[str, tuple[int, int]] = {}
        """Instance type -> its quota, and how many are in use."""
        self.outcomes: list[tuple[str, tuple[str, str, str]]] = []
        """Part of a name -> (status, phase, reason) that such a job ends with, instead of being run."""
        self.skew = timedelta()
        """How far the service's clock is from the caller's."""
        self.knows: Callable[[str, str], bool] = lambda access, token: True
        """Whether an access key, with the session token that came with it, is in force."""
        self._moto = DomainDispatcherApplication(create_backend_app)
        server = make_server("127.0.0.1", 0, self._answer, True, request_handler=_Quiet)
        self.url = f"http://127.0.0.1:{server.server_port}"
        self.serve(server)

    def job(self, name: str) -> Job:
        """The job of that name. Raises KeyError."""
        return next(job for key, job in self.jobs.items() if key[3] == name)

    # HTTP

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        target = environ.get("HTTP_X_AMZ_TARGET", "")
        scope = _SCOPE.search(environ.get("HTTP_AUTHORIZATION", ""))
        access, region, service = scope.groups() if scope else ("", "", "")
        operation = target.rpartition(".")[2]
        self.calls[operation or service] += 1
        broken = self.broken(f"{service} {operation}")
        try:
            if broken in FAULTS:
                raise FAULTS[broken]
            if not self.knows(access, environ.get("HTTP_X_AMZ_SECURITY_TOKEN", "")):
                raise FAULTS["expired"]
            if service != "sagemaker" and not target.startswith("ServiceQuotas"):
                return self._moto(environ, start_response)
            sent = datetime.strptime(environ["HTTP_X_AMZ_DATE"], "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)
            if abs(datetime.now(timezone.utc) + self.skew - sent) > timedelta(minutes=5):
                raise Refused(
                    "InvalidSignatureException",
                    f"Signature expired: {sent:%Y%m%dT%H%M%SZ} is now earlier than the clock's",
                    403,
                )
            body = json.loads(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)) or b"{}")
            found = (
                self._quotas(body)
                if target.startswith("ServiceQuotas")
                else self._sagemaker(target, access, region, body)
            )
            status, answer = 200, found
        except Refused as refused:
            if service in ("s3", "sts", "iam"):  # which speak XML
                text = f"<Error><Code>{refused.code}</Code><Message>{refused.message}</Message></Error>"
                text = text if service == "s3" else f"<ErrorResponse>{text}</ErrorResponse>"
                status = {"ThrottlingException": 503, "AccessDeniedException": 403}.get(refused.code, refused.status)
                start_response(f"{status} Refused", [("Content-Type", "text/xml")])
                return [text.encode()]
            status = refused.status
            answer = {"__type": refused.code, "message": refused.message}
        if broken == "lost":
            environ["werkzeug.socket"].shutdown(2)
            raise ConnectionResetError
        start_response(f"{status} x", [("Content-Type", "application/x-amz-json-1.1")])
        return [json.dumps(answer).encode()]

    def _quotas(self, body: dict[str, Any]) -> dict[str, Any]:
        quotas = [
            {"QuotaName": f"{instance} for {kind} job usage", "Value": float(limit), "ServiceCode": body["ServiceCode"]}
            for instance, (limit, _) in {"ml.m5.xlarge": (15, 0), **self.quotas}.items()
            for kind in ("training", "processing")
        ]
        return {"Quotas": quotas}

    def _sagemaker(self, target: str, access: str, region: str, body: dict[str, Any]) -> dict[str, Any]:
        found = _OPERATION.match(target)
        if not found:
            raise Refused("UnknownOperationException", f"{target} is not what this stand-in has")
        operation = target.partition(".")[2]
        wrong = list(model.problems(model.input_of(operation), body))
        if wrong:
            raise Refused("ValidationException", f"{len(wrong)} validation error detected: {'; '.join(wrong)}")
        verb, kind = found.groups()
        account = get_account_id_from(access)
        with self._lock:
            answer = getattr(self, f"_{verb.lower()}")(kind, account, region, body)
        shown = model.answer(operation, answer) if model.output_of(operation) else {}
        if shown and (wrong := list(model.problems(model.output_of(operation), shown))):
            raise Refused("StandInError", f"its own answer is wrong: {wrong}", 400)
        return shown

    # SageMaker

    def _create(self, kind: str, account: str, region: str, body: dict[str, Any]) -> dict[str, Any]:
        key = (account, region, kind, body[f"{kind}JobName"])
        if key in self.jobs:
            raise Refused(
                "ResourceInUse", f"{kind} job names must be unique within an AWS account and region; {key[3]} is taken"
            )
        self._checked(kind, account, body)
        job = self.jobs[key] = Job(kind, account, region, body, datetime.now(timezone.utc) + self.skew)
        outcome = next((end for part, end in self.outcomes if part in job.name), None)
        if outcome:
            job.begin()
            job.end(*outcome)
        else:
            self.start(job)
        return job.described()

    def _checked(self, kind: str, account: str, body: dict[str, Any]) -> None:
        """What the service finds wrong that no model says."""
        if body["RoleArn"] not in {role.arn for role in iam_backends[account]["aws"].roles.values()}:
            raise Refused(
                "ValidationException", f"Could not assume role {body['RoleArn']}. Please ensure that the role exists"
            )
        cluster = body["ResourceConfig"] if kind == "Training" else body["ProcessingResources"]["ClusterConfig"]
        instance, count = cluster["InstanceType"], cluster["InstanceCount"]
        limit, used = self.quotas.get(instance, (10**6, 0))
        if used + count > limit:
            text = (
                f"The account-level service limit '{instance} for {kind.lower()} job usage' is {limit} Instances, with current "
                f"utilization of {used} Instances and a request delta of {count} Instances."
            )
            raise Refused("ResourceLimitExceeded", text)
        stopping = body.get("StoppingCondition", {})
        if body.get("EnableManagedSpotTraining") and "MaxWaitTimeInSeconds" not in stopping:
            raise Refused(
                "ValidationException", "MaxWaitTimeInSeconds must be specified when EnableManagedSpotTraining is true"
            )
        if stopping.get("MaxWaitTimeInSeconds", 10**9) < stopping.get("MaxRuntimeInSeconds", 0):
            raise Refused(
                "ValidationException", "MaxWaitTimeInSeconds must be equal to or greater than MaxRuntimeInSeconds"
            )
        if kind == "Training":
            stores = [body["OutputDataConfig"]["S3OutputPath"]]
        else:
            stores = [one["S3Output"]["S3Uri"] for one in body["ProcessingOutputConfig"]["Outputs"]]
        for store in stores:
            bucket = store.split("/")[2]
            if bucket not in s3_backends[account]["aws"].buckets:
                raise Refused("ValidationException", f"The S3 bucket {bucket} does not exist")

    def _found(self, kind: str, account: str, region: str, body: dict[str, Any]) -> Job:
        name = body[f"{kind}JobName"]
        job = self.jobs.get((account, region, kind, name))
        if job is None:
            if kind == "Training":
                raise Refused("ValidationException", "Requested resource not found.")
            raise Refused("ResourceNotFound", f"Could not find requested job with name: {name}")
        return job

    def _describe(self, kind: str, account: str, region: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._found(kind, account, region, body).described()

    def _stop(self, kind: str, account: str, region: str, body: dict[str, Any]) -> dict[str, Any]:
        job = self._found(kind, account, region, body)
        if job.status != "InProgress":
            raise Refused("ValidationException", f"The request was rejected because the job is in status {job.status}.")
        job.status = job.phase = "Stopping"
        job.stopping.set()
        if self._run is None:
            job.end("Stopped")
        return {}

    def _list(self, kind: str, account: str, region: str, body: dict[str, Any]) -> dict[str, Any]:
        jobs = [
            job
            for (owner, place, sort, name), job in self.jobs.items()
            if (owner, place, sort) == (account, region, kind)
            and body.get("NameContains", "") in name
            and body.get("StatusEquals", job.status) == job.status
            and body.get("LastModifiedTimeAfter", 0) <= (job.ended or job.started or job.created).timestamp()
        ]
        jobs.sort(key=lambda job: job.created, reverse=body.get("SortOrder", "Descending") == "Descending")
        at = int(base64.b64decode(body["NextToken"]).decode().partition(":")[2]) if "NextToken" in body else 0
        size = body.get("MaxResults", 10)
        answer: dict[str, Any] = {f"{kind}JobSummaries": [job.described() for job in jobs[at : at + size]]}
        if at + size < len(jobs):
            answer["NextToken"] = base64.b64encode(f"at:{at + size}".encode()).decode()
        return answer


class _Quiet(MotoRequestHandler):
    """Says nothing of requests."""

    def log(self, type: str, message: str, *args: Any) -> None:
        pass
