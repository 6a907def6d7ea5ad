"""A KFP API server for tests: the part of v2beta1 over HTTP that has to do with experiments and runs, and the log's address.

Every body is checked by the published API's models (kfp_model.py), and so is every answer. As KFP does, it takes any number of
runs of one name, keeps times in whole seconds, knows no idempotency, refuses to terminate what has ended, and gives a log by its
pod. A run is executed by what it is made with (kfp_jobs.py). It knows nothing of the backend under test.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import kfp_model as model
from standin import Served

TOKEN = "of-this-test"
LIVE = ("", "PENDING", "RUNNING", "PAUSED", "RUNTIME_STATE_UNSPECIFIED")
_CODES = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 429: 8, 500: 13, 503: 14}
_LONGEST = 6000
"""Bytes of a request's first line. nginx refuses 8192, and what is before it may have put a path in front."""
_EPOCH = "1970-01-01T00:00:00Z"


class Refused(Exception):
    """An error of the API's: its status, its words."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


FAULTS: Mapping[str, Refused] = {
    "throttled": Refused(429, "too many requests"),
    "internal": Refused(500, "Internal Server Error: failed to list runs: dial tcp: i/o timeout"),
    "busy": Refused(503, "upstream connect error or disconnect/reset before headers"),
    "forbidden": Refused(403, "User 'x' is not authorized with reason: (request: list runs in kubeflow)"),
    "unknown": Refused(404, "Not Found"),
    "conflict": Refused(409, "Operation cannot be fulfilled: the object has been modified"),
}

PAGES: Mapping[str, tuple[int, bytes, Mapping[str, str]]] = {
    "login": (302, b"", {"Location": "https://login.example.com/?state=hidden"}),
    "page": (200, b"<!doctype html><title>Log in</title>", {"Content-Type": "text/html"}),
    "gateway": (
        502,
        b"<html><head><style>h1 {top: 0}</style><title>502 Bad Gateway</title></head></html>",
        {"Content-Type": "text/html"},
    ),
    "foreign words": (503, "Dienst nicht verfügbar".encode("latin-1"), {"Content-Type": "text/plain"}),
    "elsewhere": (404, b"404 page not found", {"Content-Type": "text/plain"}),
    "void": (200, b"", {}),
    "other": (200, b'{"status": "ok"}', {}),
    "list": (200, b"[]", {}),
    "crowded": (
        414,
        b"<html><head><title>414 Request-URI Too Large</title></head></html>",
        {"Content-Type": "text/html"},
    ),
}
"""What a proxy answers in the server's place: nothing was done."""


@dataclass
class Run:
    """A run, as the server knows it."""

    body: dict[str, Any]
    run_id: str
    created: str
    state: str = "PENDING"
    finished: str = _EPOCH
    storage: str = "AVAILABLE"
    error: str = ""
    pod: str = ""
    pod_state: str = "RUNNING"
    log: bytearray = field(default_factory=bytearray)
    log_gone: bool = False
    history: list[str] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)
    lock: threading.RLock = field(default_factory=threading.RLock)
    """Held while its state changes: what runs it and who terminates it are two threads."""

    @property
    def name(self) -> str:
        return str(self.body["display_name"])

    def to_json(self, tasks: bool) -> dict[str, Any]:
        """As the API tells it; `tasks` where one run is asked for."""
        with self.lock:
            return self._json(tasks)

    def _json(self, tasks: bool) -> dict[str, Any]:
        found = {
            **self.body, "run_id": self.run_id, "storage_state": self.storage, "created_at": self.created,
            "scheduled_at": self.created, "finished_at": self.finished,
            "state_history": [{"update_time": self.created, "state": state} for state in self.history],
        }  # fmt: skip
        if self.state:
            found["state"] = self.state
        if self.error:
            found["error"] = {"code": 13, "message": self.error}
        if tasks and self.pod:
            found["run_details"] = {"task_details": self._tasks()}
        assert not (wrong := model.problems("V2beta1Run", found)), wrong
        return found

    def _tasks(self) -> list[dict[str, Any]]:
        """Argo's nodes, by their ids: those of drivers, and the pod that is the task's."""
        head, _, number = self.pod.replace("-system-container-impl", "").rpartition("-")
        return [
            {"run_id": self.run_id, "task_id": str(uuid.uuid5(uuid.NAMESPACE_URL, name)), "display_name": name, "state": state,
             "pod_name": f"{head}-{int(number) + offset}"}
            for offset, (name, state) in enumerate((("executor", self.pod_state), ("root-driver", "SUCCEEDED")))
        ]  # fmt: skip

    def begin(self) -> bool:
        """The run is under way, unless it was terminated before."""
        with self.lock:
            if not self.stopping.is_set():
                self.state = "RUNNING"
                self.history.append("RUNNING")
            return not self.stopping.is_set()

    def stop(self) -> None:
        """It is to end. Refused for what has ended."""
        with self.lock:
            if self.state not in LIVE:
                raise Refused(400, f"Failed to terminate a run {self.run_id}. Row not found")
            self.state = "CANCELING"
            self.history.append("CANCELING")
            self.stopping.set()

    def end(self, state: str, error: str = "") -> None:
        """The run is over. The workflow of one that is terminated fails; that it was, is in the history of its states."""
        with self.lock:
            state = "FAILED" if self.stopping.is_set() else state
            self.pod_state, self.error, self.finished = state, error, _now()
            self.state = state
            self.history.append(state)


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


class StandIn(Served):
    """The server. `run` is what becomes of a run that was taken; without it, runs stay PENDING. Faults are FAULTS, PAGES, and
    `half`: done, and half of the answer arrives."""

    def __init__(self, run: Callable[[StandIn, Run], None] | None = None, namespaces: bool = False) -> None:
        super().__init__(run)
        self.runs: dict[str, Run] = {}
        self.experiments: dict[str, dict[str, Any]] = {}
        self.bodies: list[dict[str, Any]] = []
        self.token = TOKEN
        self.secrets: dict[tuple[str, str], str] = {}
        self.namespaces = namespaces
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *words: Any) -> None:
                pass

            def do_GET(self) -> None:
                outer._answer(self)

            do_POST = do_DELETE = do_GET  # noqa: N815

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        self.url = f"http://127.0.0.1:{server.server_port}"
        self.serve(server)

    def named(self, name: str) -> list[Run]:
        """The runs of a name, in the order in which they were made."""
        return [run for run in self.runs.values() if run.name == name]

    # HTTP

    def _answer(self, http: BaseHTTPRequestHandler) -> None:
        whole = urlsplit(http.path)
        query = {name: values[0] for name, values in parse_qs(whole.query).items()}
        raw = http.rfile.read(int(http.headers.get("Content-Length") or 0))
        call = f"{http.command} {whole.path.removeprefix('/apis/v2beta1')}"
        self.calls[re.sub(r"[0-9a-f-]{36}", "ID", call)] += 1
        kind = self.broken(call)
        headers, content = {"Content-Type": "application/json"}, b""
        try:
            if kind in FAULTS:
                raise FAULTS[kind]
            if kind not in PAGES and len(http.requestline) > _LONGEST:
                kind = "crowded"
            if kind in PAGES:
                status, content, more = PAGES[kind]
                headers |= more
            else:
                if http.headers.get("Authorization") != f"Bearer {self.token}":
                    raise Refused(401, "Unauthorized: the token is not valid")
                with self._lock:
                    found = self._call(http.command, whole.path, query, raw)
                status = 200
                if isinstance(found, bytes):
                    content, headers["Content-Type"] = found, "text/plain"
                else:
                    content = json.dumps(found).encode()
        except Refused as refused:
            status = refused.status
            error: dict[str, Any] = {
                "error": refused.message,
                "code": _CODES[status],
                "message": refused.message,
                "details": [],
            }
            if whole.path.endswith("/log") and kind not in FAULTS and status in (404, 500):
                status, error = 500, {"error_message": refused.message, "error_details": refused.message}
            content = json.dumps(error).encode()
        if kind == "lost":
            http.close_connection = True
            http.connection.shutdown(2)
            return
        if kind == "half":
            content = content[: len(content) // 2]
        http.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            http.send_header(name, value)
        with contextlib.suppress(OSError):  # who asks for a log may have enough of it
            http.end_headers()
            http.wfile.write(content)

    def _call(self, method: str, path: str, query: Mapping[str, str], raw: bytes) -> Any:
        if match := re.fullmatch(r"/apis/v1alpha1/runs/([^/]+)/nodes/([^/]+)/log", path):
            return self._log(*map(unquote, match.groups()))
        match = re.fullmatch(r"/apis/v2beta1/(healthz|experiments|runs)(?:/([^/:]+))?(?::(\w+))?", path)
        if not match:
            raise Refused(404, "Not Found")
        kind, thing, verb = match.groups()
        what = " ".join(filter(None, (method, kind, "ID" if thing else "", verb)))
        known: dict[str, Callable[[], Any]] = {
            "GET healthz": self._health,
            "GET experiments": lambda: self._list("experiments", list(self.experiments.values()), query),
            "POST experiments": lambda: self._make_experiment(_json(raw)),
            "GET runs": lambda: self._list_runs(query),
            "POST runs": lambda: self._make_run(_json(raw)),
            "GET runs ID": lambda: self._known(thing).to_json(True),
            "POST runs ID terminate": lambda: self._terminate(self._known(thing)),
            "POST runs ID archive": lambda: self._archive(self._known(thing)),
            "DELETE runs ID": lambda: self.runs.pop(self._known(thing).run_id) and {},
        }
        if what not in known:
            raise Refused(404, "Not Found")
        return known[what]()

    def _health(self) -> dict[str, Any]:
        return {"commit_sha": "0", "tag_name": "2.17.0", "multi_user": self.namespaces, "pipeline_store": "database"}

    def _known(self, run_id: str) -> Run:
        if run_id not in self.runs:
            raise Refused(404, f"Failed to fetch run {run_id}: ResourceNotFoundError: Run {run_id} not found")
        return self.runs[run_id]

    def _make_experiment(self, body: Any) -> dict[str, Any]:
        if wrong := model.problems("V2beta1Experiment", body, "experiment"):
            raise Refused(400, f"proto: syntax error: {wrong}")
        if self.namespaces and not body.get("namespace"):
            raise Refused(400, "Invalid input error: an experiment must have a namespace in multi-user mode")
        if not self.namespaces and body.get("namespace"):
            raise Refused(400, "Invalid input error: In single-user mode, experiment cannot have a namespace")
        if any((each["display_name"], each.get("namespace")) == (body["display_name"], body.get("namespace"))
               for each in self.experiments.values()):  # fmt: skip
            raise Refused(409, f"AlreadyExistError: the experiment name {body['display_name']} already exists")
        made = {**body, "experiment_id": str(uuid.uuid4()), "created_at": _now(), "storage_state": "AVAILABLE"}
        self.experiments[made["experiment_id"]] = made
        return made

    def _make_run(self, body: Any) -> dict[str, Any]:
        self.bodies.append(body)
        if wrong := model.run(body):
            raise Refused(400, f"Invalid input error: {wrong}")
        if body.get("experiment_id") not in self.experiments:
            raise Refused(404, f"ResourceNotFoundError: Experiment {body.get('experiment_id')} not found")
        if body.get("service_account") == "nobody":
            raise Refused(400, "Invalid input error: the service account nobody does not exist")
        run = Run(body, str(uuid.uuid4()), _now(), pod=f"{body['display_name']}-{len(self.runs) + 1000}")
        run.pod = "" if self._run is None else f"x{run.run_id[:5]}-system-container-impl-{len(self.runs) + 1000}"
        self.runs[run.run_id] = run
        self.start(run)
        return run.to_json(False)

    def _list_runs(self, query: Mapping[str, str]) -> dict[str, Any]:
        wanted = query.get("experiment_id")
        if wanted and wanted not in self.experiments:
            raise Refused(404, f"ResourceNotFoundError: Experiment {wanted} not found")
        runs = [run.to_json(False) for run in self.runs.values() if run.body["experiment_id"] == wanted or not wanted]
        return self._list("runs", runs, query)

    def _list(self, kind: str, things: list[dict[str, Any]], query: Mapping[str, str]) -> dict[str, Any]:
        known = {"page_token", "page_size", "sort_by", "filter", "namespace", "experiment_id"}
        if unknown := query.keys() - known:
            raise Refused(400, f"unknown query {sorted(unknown)}")
        predicates = _json(query.get("filter", "{}").encode())
        if wrong := model.problems("V2beta1Filter", predicates, "filter"):
            raise Refused(400, f"Invalid input error: {wrong}")
        things = [each for each in things if all(_matches(each, one) for one in predicates.get("predicates", []))]
        if kind == "experiments" and self.namespaces:
            things = [each for each in things if each.get("namespace") == query.get("namespace")]
        start, size = int(query.get("page_token") or 0), min(int(query.get("page_size") or 20), 200)
        answer: dict[str, Any] = {kind: things[start : start + size], "total_size": len(things)}
        if start + size < len(things):
            answer["next_page_token"] = str(start + size)
        return {name: each for name, each in answer.items() if each}

    def _terminate(self, run: Run) -> dict[str, Any]:
        run.stop()
        if self._run is None:
            run.end("FAILED")
        return {}

    def _archive(self, run: Run) -> dict[str, Any]:
        if run.state in (*LIVE, "CANCELING"):
            raise Refused(400, "Failed to archive a run. Only finished runs can be archived")
        run.storage = "ARCHIVED"
        return {}

    def _log(self, run_id: str, node: str) -> bytes:
        run = self._known(run_id)
        if run.log_gone or node != run.pod:  # what it wants is the pod's name, and not the node's
            raise Refused(500, f'Failed to read logs for run {run_id}: pods "{node}" not found')
        return bytes(run.log)


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw or b"{}")
    except ValueError as error:
        raise Refused(400, f"proto: syntax error: {error}") from None


def _matches(thing: Mapping[str, Any], predicate: Mapping[str, Any]) -> bool:
    if predicate["key"] not in ("display_name", "run_id", "state", "storage_state", "experiment_id", "description"):
        raise Refused(400, f"Invalid input error: no such field: {predicate['key']}")
    got, operation = str(thing.get(predicate["key"], "")), predicate["operation"]
    if operation == "EQUALS":
        return got.lower() == predicate["string_value"].lower()  # as MySQL compares
    if operation == "IS_SUBSTRING":
        return predicate["string_value"].lower() in got.lower()
    if operation == "IN":
        return got in predicate["string_values"]["values"]
    raise Refused(400, f"Invalid input error: {operation}")
