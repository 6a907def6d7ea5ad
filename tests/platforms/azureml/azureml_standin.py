"""Azure ML for tests: one TLS server that answers for Resource Manager, the run history, the datastore's blobs, a vault and
the endpoint of managed identities.

Bodies are checked by azure-ai-ml's own model. A name that is taken is an update where only what may change differs, and an
error otherwise, in the service's words. A job is run for real, as a process (azureml_jobs.py). It knows nothing of the
backend under test.
"""

from __future__ import annotations

import json
import re
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import azureml_model as model
from azureml_blobs import Answer, Blobs, ranged, refused
from standin import Served

SUBSCRIPTION = "00000000-1111-2222-3333-444444444444"
GROUP, WORKSPACE, LOCATION = "ml", "churn", "westeurope"
HOME = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/Microsoft.MachineLearningServices/workspaces/{WORKSPACE}"
PROVIDER = f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.MachineLearningServices/locations/{LOCATION}"
MUTABLE = ("description", "tags", "displayName", "properties", "isArchived")
PAGE = 30
_EXPIRED = "The access token expiry UTC time '11/25/2026 1:00:00 PM' is earlier than current UTC time"
_EARLY = "The access token is not yet valid: the current time is earlier than its 'nbf'"


class Refused(Exception):
    """An error of Resource Manager's."""

    def __init__(self, status: int, code: str, message: str, inner: str = "", after: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.inner, self.after = status, code, message, inner, after

    def answer(self) -> Answer:
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.inner:
            error["innererror"] = {"code": "Immutable", "innerError": {"code": self.inner}}
        headers = {"Retry-After": self.after} if self.after else {}
        return self.status, headers, json.dumps({"error": error}).encode()


FAULTS: dict[str, Refused] = {
    "throttled": Refused(429, "TooManyRequests", "The request rate is too large."),
    "patience": Refused(429, "TooManyRequests", "The request rate is too large.", after="3600"),
    "internal": Refused(500, "InternalServerError", "An internal server error occurred. Please try again later."),
    "forbidden": Refused(
        403, "AuthorizationFailed", "The client 'x' does not have authorization to perform action over scope '/y'."
    ),
    "tenant": Refused(
        401, "InvalidAuthenticationTokenTenant", "The access token is from the wrong issuer. It must match the tenant."
    ),
    "expired": Refused(401, "ExpiredAuthenticationToken", _EXPIRED),
}


@dataclass
class Job:
    """A job, as the service knows it."""

    name: str
    properties: dict[str, Any]
    number: int
    status: str = "NotStarted"
    started: datetime | None = None
    ended: datetime | None = None
    error: dict[str, Any] | None = None
    logs: dict[str, bytes] = field(default_factory=dict)
    stopping: threading.Event = field(default_factory=threading.Event)
    lock: Any = field(default_factory=threading.Lock)

    def shown(self) -> dict[str, Any]:
        """As Resource Manager shows it."""
        studio = {"Studio": {"jobServiceType": "Studio", "endpoint": f"https://ml.azure.com/runs/{self.name}"}}
        return {
            "id": f"{HOME}/jobs/{self.name}",
            "name": self.name,
            "type": "Microsoft.MachineLearningServices/workspaces/jobs",
            "properties": {**self.properties, "status": self.status, "services": studio},
        }

    def begin(self) -> None:
        self.status, self.started = "Running", datetime.now(timezone.utc)

    def end(self, status: str, message: str = "", code: str = "UserError") -> None:
        with self.lock:
            self.error = {"error": {"code": code, "message": message}} if message else None
            self.ended = datetime.now(timezone.utc)
            self.status = status

    def stop(self) -> bool:
        """Asks for its end; False where that came first, by the thread that runs it: an ended job comes to life no more."""
        with self.lock:
            if self.status in ("Completed", "Failed", "Canceled"):
                return False
            self.status = "CancelRequested"
        self.stopping.set()
        return True


class StandIn(Served):
    """The server. `run` is what becomes of a job that was taken; without it, jobs stay as they are."""

    usual = "arm|history"

    def __init__(self, context: ssl.SSLContext, run: Callable[[StandIn, Job], None] | None = None) -> None:
        super().__init__(run)
        self.jobs: dict[str, Job] = {}
        self.environments: dict[str, dict[str, Any]] = {}
        self.computes: dict[str, dict[str, Any]] = {
            "cpus": {"provisioningState": "Succeeded", "properties": {"vmSize": "Standard_DS3_v2"}},
            "broken": {"provisioningState": "Failed", "properties": {"vmSize": "Standard_DS3_v2"}},
        }
        self.sizes = ["Standard_DS2_v2", "Standard_DS3_v2", "Standard_E4s_v3"]
        self.usages = {"standardDSv2Family": (100, 4), "standardESv3Family": (100, 4)}
        self.datastores = {"workspaceblobstore": "blobstore", "nowhere": "gone"}
        self.secrets: dict[tuple[str, str], str] = {}
        self.blobs = Blobs("mlstore", "blobstore")
        self.outcomes: list[tuple[str, tuple[str, str, str]]] = []
        """Part of a name -> (status, message, code) that such a job ends with, instead of being run."""
        self.early = False
        """Whether the callers' clock is so far off that their tokens aren't valid yet."""
        self.tokens: dict[str, str] = {}
        server = _Server(("127.0.0.1", 0), _handler(self))
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = server.server_port
        self.url = f"https://127.0.0.1:{self.port}"
        self.serve(server)

    def expire(self) -> None:
        """Every token that was given out is refused from now on."""
        self.tokens.clear()

    # HTTP

    def answer(self, method: str, target: str, headers: Any, body: bytes) -> Answer | None:
        """Of one request; None where it is to be lost."""
        url = urlsplit(target)
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        host = str(headers.get("Host", "")).partition(":")[0]
        sort, act = self._sort(host, url.path)
        with self._lock:
            self.calls[f"{method} {sort}"] += 1
        try:
            broken = self.broken(f"{method} {sort} {url.path}")
            if broken in FAULTS:
                raise FAULTS[broken]
            if sort != "identity" and sort != "logs" and sort != "discovery":
                self._known(headers, sort)
            found = act(method, url.path, query, headers, body)
        except Refused as error:
            return _blob_words(error) if sort == "blob" else error.answer()
        return None if broken == "lost" else found

    def _sort(self, host: str, path: str) -> tuple[str, Callable[..., Answer]]:
        if host.endswith(".blob.localhost"):
            return "blob", self.blobs.answer
        for start, sort, act in (
            ("/msi", "identity", self._identity), ("/discovery", "discovery", self._discovery), ("/logs/", "logs", self._log),
            ("/history/", "history", self._history), ("/vault/", "vault", self._vault),
        ):  # fmt: skip
            if path.startswith(start):
                return sort, act
        return "arm", self._arm

    def _known(self, headers: Any, sort: str) -> None:
        """Raises for a token that is none, is over, or is for something else."""
        token = str(headers.get("Authorization", "")).removeprefix("Bearer ")
        resource = self.tokens.get(token)
        if self.early:
            raise Refused(401, "InvalidAuthenticationToken", _EARLY)
        if resource is None:
            raise FAULTS["expired"]
        wanted = {
            "blob": ("storage.azure.com",), "history": ("ml.azure.com",), "vault": ("vault.azure.net",),
            "arm": (self.url, "management.azure.com"),
        }  # fmt: skip
        if not any(each in resource for each in wanted[sort]):
            raise Refused(
                401, "InvalidAuthenticationTokenAudience", f"The access token is for the wrong audience '{resource}'."
            )

    def _identity(self, method: str, path: str, query: dict[str, str], headers: Any, body: bytes) -> Answer:
        if headers.get("secret") != "of-this-machine":
            raise Refused(401, "Unauthorized", "no secret")
        with self._lock:
            token = f"token-{len(self.tokens)}-{time.monotonic_ns()}"
            self.tokens[token] = query["resource"]
        later = int(time.time() + 3600)
        answer = {
            "access_token": token,
            "expires_on": str(later),
            "resource": query["resource"],
            "token_type": "Bearer",
        }
        return 200, {}, json.dumps(answer).encode()

    def _discovery(self, *_: Any) -> Answer:
        return 200, {}, json.dumps({"api": self.url, "history": self.url}).encode()

    def _vault(self, method: str, path: str, query: dict[str, str], headers: Any, body: bytes) -> Answer:
        _, _, host, _, name = path.split("/")
        value = self.secrets.get((host.partition(".")[0], name))
        if value is None:
            raise Refused(404, "SecretNotFound", f"A secret with (name/id) {name} was not found in this key vault.")
        return 200, {}, json.dumps({"value": value, "id": f"https://{host}/secrets/{name}/1"}).encode()

    def _log(self, method: str, path: str, query: dict[str, str], headers: Any, body: bytes) -> Answer:
        if query.get("sig") != "grants-access":
            return refused(403, "AuthenticationFailed", "Server failed to authenticate the request.")
        _, _, name, file = path.split("/", 3)
        content = self.jobs[name].logs.get(file)
        return refused(404, "BlobNotFound", "none") if content is None else ranged(content, headers)

    def _history(self, method: str, path: str, query: dict[str, str], headers: Any, body: bytes) -> Answer:
        match = re.fullmatch(re.escape(f"/history/v1.0{HOME}/runs/") + r"([^/]+)/details", path)
        job = self.jobs.get(match[1]) if match else None
        if job is None:
            raise Refused(404, "UserError", f"Run {path.split('/')[-2]} was not found")
        files = {file: f"{self.url}/logs/{job.name}/{file}?sig=grants-access&se=soon" for file in job.logs}
        times = {"startTimeUtc": job.started, "endTimeUtc": job.ended}
        shown = {name: each.isoformat().replace("+00:00", "0Z") for name, each in times.items() if each}
        found = {"runId": job.name, "status": job.status, "logFiles": files, "error": job.error, **shown}
        return 200, {}, json.dumps(found).encode()

    # Resource Manager

    def _arm(self, method: str, path: str, query: dict[str, str], headers: Any, body: bytes) -> Answer:
        if not query.get("api-version"):
            raise Refused(400, "MissingApiVersionParameter", "The api-version query parameter is required.")
        subscription = path.split("/")[2] if path.startswith("/subscriptions/") else ""
        if subscription != SUBSCRIPTION:
            raise Refused(404, "SubscriptionNotFound", f"The subscription '{subscription}' could not be found.")
        if path.startswith(PROVIDER):
            return self._location(path[len(PROVIDER) :])
        if not path.startswith(f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/"):
            raise Refused(404, "ResourceGroupNotFound", f"Resource group '{path.split('/')[4]}' could not be found.")
        if path != HOME and not path.startswith(f"{HOME}/"):
            name = f"Microsoft.MachineLearningServices/workspaces/{path.split('/')[8]}"
            raise Refused(
                404, "ResourceNotFound", f"The Resource '{name}' under resource group '{GROUP}' was not found."
            )
        parts = path[len(HOME) :].strip("/").split("/")
        with self._lock:
            status, answer = self._resource(method, parts, query, json.loads(body or b"{}"))
        place = {"Location": f"{self.url}{path}/operations/1"} if status == 202 else {}
        return status, place, json.dumps(answer).encode()

    def _location(self, rest: str) -> Answer:
        if rest == "/vmSizes":
            value: list[Any] = [{"name": name} for name in self.sizes]
        else:
            value = [
                {"name": {"value": name}, "limit": limit, "currentValue": used}
                for name, (limit, used) in self.usages.items()
            ]
        return 200, {}, json.dumps({"value": value}).encode()

    def _resource(self, method: str, parts: list[str], query: dict[str, str], body: Any) -> tuple[int, Any]:
        match [method, *parts]:
            case ["GET", ""]:
                return 200, {"location": LOCATION, "properties": {"discoveryUrl": f"{self.url}/discovery"}}
            case ["GET", "datastores", name] if name in self.datastores:
                shown = {
                    "datastoreType": "AzureBlob", "accountName": "mlstore", "containerName": self.datastores[name],
                    "endpoint": f"localhost:{self.port}", "protocol": "https",
                }  # fmt: skip
                return 200, {"name": name, "properties": shown}
            case ["GET", "datastores", "lake"]:
                return 200, {"properties": {"datastoreType": "AzureDataLakeGen2"}}
            case ["GET", "computes", name] if name in self.computes:
                return 200, {"name": name, "properties": self.computes[name]}
            case [_, "environments", name, "versions", version]:
                return self._environment(method, f"{HOME}/environments/{name}/versions/{version}", body)
            case ["GET", "jobs"]:
                return 200, self._page(int(query.get("$skip", "0")))
            case ["PUT", "jobs", name]:
                return self._put(name, body)
            case ["GET", "jobs", name] if name in self.jobs:
                return 200, self.jobs[name].shown()
            case ["POST", "jobs", name, "cancel"] if name in self.jobs:
                return self._cancel(self.jobs[name])
            case [_, "jobs", name, *_]:
                raise Refused(404, "UserError", f"Job {name} not found.")
        raise Refused(404, "UserError", f"{'/'.join(parts)} was not found")

    def _page(self, at: int) -> dict[str, Any]:
        active = [
            job for job in self.jobs.values() if not job.properties.get("isArchived")
        ]  # what is listed unless asked
        jobs = sorted(active, key=lambda job: -job.number)
        page: dict[str, Any] = {"value": [job.shown() for job in jobs[at : at + PAGE]]}
        if at + PAGE < len(jobs):
            page["nextLink"] = f"{self.url}{HOME}/jobs?api-version=2025-12-01&$skip={at + PAGE}"
        return page

    def _environment(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        if method == "GET":
            if path not in self.environments:
                raise Refused(404, "UserError", f"Environment {path.split('/')[-3]} was not found")
            return 200, self.environments[path]
        if wrong := model.environment(body):
            raise Refused(400, "ValidationError", f"{len(wrong)} validation errors: {'; '.join(wrong)}")
        if path in self.environments and self.environments[path]["properties"] != body["properties"]:
            raise Refused(409, "Conflict", "A version of that name already exists, and versions can't be changed")
        created = path not in self.environments
        self.environments[path] = {"id": path, "properties": body["properties"]}
        return 201 if created else 200, self.environments[path]

    def _put(self, name: str, body: Any) -> tuple[int, Any]:
        if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_-]{0,254}", name):
            raise Refused(400, "UserError", f"Job name '{name}' is invalid")
        if wrong := model.job(body):
            raise Refused(400, "ValidationError", f"{len(wrong)} validation errors: {'; '.join(wrong)}")
        asked = body["properties"]
        if name in self.jobs:
            return 200, self._update(self.jobs[name], asked)
        self._checked(asked)
        job = self.jobs[name] = Job(name, asked, len(self.jobs))
        outcome = next((end for part, end in self.outcomes if part in name), None)
        if outcome:
            job.begin()
            job.end(*outcome)
        else:
            self.start(job)
        return 201, job.shown()

    def _update(self, job: Job, asked: dict[str, Any]) -> dict[str, Any]:
        names = {*asked, *job.properties} - set(MUTABLE)
        if other := sorted(name for name in names if asked.get(name) != job.properties.get(name)):
            text = (
                "A job with this name already exists. If you are trying to create a new job, use a different name. If you are "
                f"trying to update an existing job, the existing job's {', '.join(other)} cannot be changed. Only description, "
                "tags, displayName, properties, and isArchived can be updated."
            )
            raise Refused(400, "UserError", text, "JobPropertyImmutable")
        for name in MUTABLE:
            if isinstance(asked.get(name), dict):
                job.properties[name] = {**job.properties.get(name, {}), **asked[name]}
            elif name in asked:
                job.properties[name] = asked[name]
        return job.shown()

    def _checked(self, asked: dict[str, Any]) -> None:
        """What the service finds wrong that no model says."""
        environment = str(asked["environmentId"])
        if environment.startswith("/") and environment not in self.environments:
            raise Refused(400, "UserError", f"Environment {environment.split('/')[-3]} was not found")
        compute = str(asked.get("computeId", ""))
        if compute and compute.rpartition("/")[2] not in self.computes:
            raise Refused(400, "UserError", f"The specified compute target {compute.rpartition('/')[2]} was not found")
        size = (asked.get("resources") or {}).get("instanceType")
        if not compute and size not in self.sizes:
            raise Refused(400, "UserError", f"The requested VM size {size} is not available in {LOCATION}")

    def _cancel(self, job: Job) -> tuple[int, Any]:
        if not job.stop():
            raise Refused(400, "UserError", f"Job {job.name} is in terminal state {job.status} and cannot be canceled.")
        if self._run is None:
            job.end("Canceled")
        return 202, {}


def _blob_words(error: Refused) -> Answer:
    """The same fault in the words of the blobs' protocol."""
    codes = {
        429: (503, "ServerBusy"),
        403: (403, "AuthorizationPermissionMismatch"),
        401: (401, "InvalidAuthenticationInfo"),
    }
    status, code = codes.get(error.status, (error.status, "InternalError"))
    return refused(status, code, error.message)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is none of the tests' business."""


def _handler(standin: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60
        disable_nagle_algorithm = True  # an answer is two writes, and the second would wait for word of the first

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            found = standin.answer(self.command, self.path, self.headers, body)
            if found is None:
                self.close_connection = True
                self.connection.close()
                return
            status, headers, content = found
            self.send_response(status)
            told = {"Content-Type": "application/json", "Content-Length": str(len(content)), **headers}
            for name, value in told.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve  # noqa: N815

        def log_message(self, *_: Any) -> None:
            """Says nothing of requests."""

    return Handler
