"""A Databricks workspace for tests: minilake, which keeps files and secrets and truly executes Python tasks, behind a
proxy of ours.

The proxy has what minilake lacks: tokens, the life of a run (QUEUED, PENDING, RUNNING, TERMINATING, TERMINATED,
`status` beside `state`), a cancel that kills, paged lists, Volumes that must exist, requests checked by the SDK's own
classes, and faults. It knows nothing of mlctl but that a task's first parameter is a text file: there is no mount of
Volumes here, so it writes where they really are into that text.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from databricks.sdk.service import jobs
from databricks_minilake import Minilake
from databricks_model import Refused, checked

TOKEN, JOB_TOKEN, USER = "dapi-test", "dapi-of-the-job", "ml@example.com"
VOLUME = "/Volumes/main/ml/mlctl"
UNINSTALLABLE = 97


class Standin:
    """One workspace. `hold` names a state that no run leaves; `fault` breaks calls, or the ends of runs.

    Without `executes` there is no minilake: runs are what a caller puts into `runs`.
    """

    def __init__(self, folder: Path, executes: bool = True) -> None:
        self.folder, self.data, self.nodes = folder, folder / "data", folder / "nodes"
        for path in (self.data, self.nodes):
            path.mkdir()
        self.lock = threading.RLock()
        self.runs: dict[int, dict[str, Any]] = {}
        self.tokens: dict[str, int] = {}
        self.secrets: dict[tuple[str, str], str] = {}
        self.requests: list[dict[str, Any]] = []
        self.calls: list[str] = []
        self.hidden: set[int] = set()
        self.hold = self.fault = ""
        self.slow = 0.0
        self.ended = threading.Event()
        self._lives: list[threading.Thread] = []
        self.disk(VOLUME).mkdir(parents=True)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.lake = Minilake(folder, self.data, self.nodes, self.url, JOB_TOKEN) if executes else None

    def close(self) -> None:
        self.ended.set()
        for run_id in list(self.runs):
            self._kill(run_id)
        for life in self._lives:  # before what they ask is gone
            life.join(60)
        self.server.shutdown()
        self.server.server_close()
        if self.lake:
            self.lake.close()

    def disk(self, path: str) -> Path:
        """Where a path of a Volume really is."""
        return self.data / "dbfs" / path.lstrip("/")

    # runs

    def submit(self, body: dict[str, Any]) -> dict[str, Any]:
        checked(body)
        with self.lock:
            token = body["idempotency_token"]
            if token in self.tokens:
                if self.tokens[token] not in self.runs:
                    raise Refused(400, "INVALID_STATE", f"the run of idempotency_token {token} was deleted")
                return {"run_id": self.tokens[token]}
            run_id = 10**14 + 7 * len(self.tokens) + 1
            self.tokens[token] = run_id
            self.requests.append(body)
            self.runs[run_id] = {
                "run_id": run_id, "run_name": body["run_name"], "body": body, "start_time": int(time.time() * 1000),
                "state": "QUEUED", "cancel": False, "code": None, "result": None, "message": "", "end_time": 0, "minilake": None,
            }  # fmt: skip
            self._lives.append(threading.Thread(target=self._live, args=(run_id,), daemon=True))
            self._lives[-1].start()
        return {"run_id": run_id}

    def _live(self, run_id: int) -> None:
        run = self.runs[run_id]
        for state in ("QUEUED", "PENDING"):
            run["state"] = state
            while self.hold == state and not run["cancel"] and not self.ended.is_set():
                time.sleep(0.02)
            if run["cancel"]:
                return self._end(run, "USER_CANCELED", "CANCELED", "Run cancelled.")
        if self.fault.startswith("end:"):  # such as end:CLOUD_FAILURE: the platform fails before the task
            return self._end(run, self.fault[4:], "FAILED", "as the test asked")
        try:
            run["minilake"] = self._execute(run)
        except FileNotFoundError as reason:
            return self._end(run, "RUN_EXECUTION_ERROR", "FAILED", f"Cannot read the python file {reason.filename}.")
        run["state"] = "RUNNING"
        limit = run["body"].get("timeout_seconds")
        began = 0.0  # when there was a process: before that, the limit would find none to end
        while True:
            if self.ended.wait(0.1):
                return None
            native = self.lake.json("GET", f"/api/2.2/jobs/runs/get?run_id={run['minilake']}")
            if native["state"]["life_cycle_state"] == "TERMINATED":
                break
            if not began and (self.nodes / f"{run_id}.pid").exists():
                began = time.monotonic()
            if limit and began and time.monotonic() - began > limit:
                self._kill(run_id)
                return self._end(run, "CANCELED", "TIMEDOUT", "Run timed out.")
            if run["cancel"]:
                run["state"] = "TERMINATING"
                self._kill(run_id)
        if run["cancel"]:
            return self._end(run, "USER_CANCELED", "CANCELED", "Run cancelled.")
        task = native["tasks"][0]["state"]
        if task.get("result_state") == "SUCCESS":
            return self._end(run, "SUCCESS", "SUCCESS", "")
        uninstallable = f"code {UNINSTALLABLE}" in (task.get("state_message") or "")
        code = "LIBRARY_INSTALLATION_ERROR" if uninstallable else "RUN_EXECUTION_ERROR"
        return self._end(
            run, code, "FAILED", task.get("state_message") or "Workload failed, see run output for details"
        )

    def _execute(self, run: Mapping[str, Any]) -> int:
        task = run["body"]["tasks"][0]
        python = task["spark_python_task"]
        script = self.disk(python["python_file"])
        name = f"/Workspace/standin/{script.name}"
        self.lake.ask("POST", f"/api/2.0/workspace-files/import-file{name}?overwrite=true", script.read_bytes())
        parameters = [each.replace("{{job.run_id}}", str(run["run_id"])) for each in python["parameters"]]
        mounted = self.nodes / f"{run['run_id']}.spec"  # a Volume is mounted at /Volumes; here at another folder
        text = self.disk(parameters[0]).read_text()
        mounted.write_text(re.sub(r"(?<![\w:.%-])/Volumes/", lambda match: f"{self.disk('/Volumes')}/", text))
        environments = run["body"].get("environments") or [{"spec": {}}]
        libraries = [each["pypi"]["package"] for each in task.get("libraries") or []]
        (self.nodes / f"{run['run_id']}.json").write_text(
            json.dumps(environments[0]["spec"].get("dependencies", []) + libraries)
        )
        sent = {
            "task_key": task["task_key"],
            "spark_python_task": {"python_file": name, "parameters": [str(mounted), *parameters[1:]]},
        }
        return int(
            self.lake.json("POST", "/api/2.2/jobs/runs/submit", {"run_name": run["run_name"], "tasks": [sent]})[
                "run_id"
            ]
        )

    def _end(self, run: dict[str, Any], code: str, result: str, message: str) -> None:
        with self.lock:
            run |= {
                "code": code,
                "result": result,
                "message": message,
                "end_time": int(time.time() * 1000),
                "state": "TERMINATED",
            }

    def _kill(self, run_id: int) -> None:
        """SIGTERM to the task's process group; SIGKILL five seconds later."""
        try:
            group = int((self.nodes / f"{run_id}.pid").read_text())
        except FileNotFoundError:
            return
        for sign in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(group, sign)
            except ProcessLookupError:
                return
            for _ in range(50):
                if not Path(f"/proc/{group}").exists():
                    return
                time.sleep(0.1)

    def shown(self, run: Mapping[str, Any]) -> dict[str, Any]:
        """A run as `runs/get` shows it."""
        ended = run["state"] == "TERMINATED"
        old: dict[str, Any] = {
            "life_cycle_state": run["state"],
            "state_message": run["message"],
            "user_cancelled_or_timedout": False,
        }
        new: dict[str, Any] = {"state": run["state"]}
        if ended:
            old["result_state"] = run["result"]
            kind = "SUCCESS" if run["code"] == "SUCCESS" else "CLIENT_ERROR"
            new["termination_details"] = {"code": run["code"], "type": kind, "message": run["message"]}
        if run["state"] == "QUEUED":
            new["queue_details"] = {"code": "ACTIVE_RUNS_LIMIT_REACHED", "message": "waiting for its turn"}
        about = {"start_time": run["start_time"], "end_time": run["end_time"], "state": old, "status": new}
        task = {**run["body"]["tasks"][0], "run_id": run["run_id"] + 1, "attempt_number": 0, **about}
        whole = {
            "run_id": run["run_id"], "run_name": run["run_name"], "creator_user_name": USER, "run_type": "SUBMIT_RUN",
            "run_page_url": f"{self.url}/?o=1#job/1/run/{run['run_id']}", "tasks": [task], **about,
        }  # fmt: skip
        assert jobs.Run.from_dict(whole).as_dict().keys() == whole.keys()
        return whole

    def one(self, query: Mapping[str, str]) -> dict[str, Any]:
        run_id = int(query["run_id"])
        if run_id not in self.runs:
            raise Refused(400, "INVALID_PARAMETER_VALUE", f"Run {run_id} does not exist.")
        if run_id in self.hidden:
            raise Refused(403, "PERMISSION_DENIED", f"{USER} does not have View permissions on run {run_id}")
        return self.runs[run_id]

    def page(self, query: Mapping[str, str]) -> dict[str, Any]:
        limit = int(query.get("limit", 20))
        if not 0 < limit < 25:
            raise Refused(400, "INVALID_PARAMETER_VALUE", "limit must be greater than 0 and less than 25")
        with self.lock:
            seen = [run for run in self.runs.values() if run["run_id"] not in self.hidden]
            found = [run for run in seen if query.get("active_only") != "true" or run["state"] != "TERMINATED"]
        found.sort(key=lambda run: -run["run_id"])
        start, expand = int(query.get("page_token") or 0), query.get("expand_tasks") == "true"
        shown = [
            {name: value for name, value in self.shown(run).items() if name != "tasks" or expand}
            for run in found[start : start + limit]
        ]
        more = start + limit < len(found)
        return {"runs": shown, "has_more": more, **({"next_page_token": str(start + limit)} if more else {})}

    def output(self, query: Mapping[str, str]) -> dict[str, Any]:
        run = next((run for run in self.runs.values() if run["run_id"] + 1 == int(query["run_id"])), None)
        if run is None:
            raise Refused(400, "INVALID_PARAMETER_VALUE", "the run of a task is wanted: Run does not exist.")
        found = (
            self.lake.json("GET", f"/api/2.2/jobs/runs/get-output?run_id={run['minilake']}") if run["minilake"] else {}
        )
        return {"metadata": self.shown(run), "logs": found.get("logs") or "", "error": run["message"]}

    # calls

    def answer(
        self, method: str, path: str, query: dict[str, str], body: dict[str, Any], token: str
    ) -> dict[str, Any] | None:
        """What the proxy itself answers; None: minilake's to answer."""
        called = f"{method} {path}"
        if called == "POST /api/2.2/jobs/runs/submit":
            return self.submit(body)
        if called == "GET /api/2.2/jobs/runs/get":
            return self.shown(self.one(query))
        if called == "GET /api/2.2/jobs/runs/list":
            return self.page(query)
        if called == "GET /api/2.2/jobs/runs/get-output":
            return self.output(query)
        if called == "POST /api/2.2/jobs/runs/cancel":
            self.one({"run_id": str(body["run_id"])})["cancel"] = True
            return {}
        if called == "POST /api/2.2/jobs/runs/delete":
            del self.runs[int(body["run_id"])]
            return {}
        if called == "GET /api/2.0/secrets/get" and token == JOB_TOKEN:
            key = query["scope"], query["key"]
            if key not in self.secrets:
                raise Refused(
                    404, "RESOURCE_DOES_NOT_EXIST", f"Secret does not exist with scope: {key[0]} and key: {key[1]}"
                )
            return {"key": key[1], "value": base64.b64encode(self.secrets[key].encode()).decode()}
        if called == "POST /api/2.0/secrets/put":
            self.secrets[body["scope"], body["key"]] = body["string_value"]
        return None

    def check_volume(self, method: str, path: str) -> None:
        """Refuses a Volume that isn't there, and a file whose folder isn't: minilake would make both."""
        match = re.fullmatch(r"/api/2\.0/fs/(files|directories)(/.*)", path)
        if not match:
            return
        where = unquote(match[2])
        if not where.startswith(f"{VOLUME}/"):
            raise Refused(404, "NOT_FOUND", f"Volume '{'.'.join(where.split('/')[2:5])}' does not exist.")
        if method == "PUT" and match[1] == "files" and not self.disk(where).parent.is_dir():
            raise Refused(404, "NOT_FOUND", f"The parent directory of {where} does not exist.")

    @contextlib.contextmanager
    def broken(self, fault: str = "", slow: float = 0.0, hold: str = "") -> Iterator[None]:
        self.fault, self.slow, self.hold = fault, slow, hold
        try:
            yield
        finally:
            self.fault, self.slow, self.hold = "", 0.0, ""


def _handler(standin: Standin) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # head and body are sent apart

        def _do(self) -> None:
            parts = urlsplit(self.path)
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            standin.calls.append(f"{self.command} {parts.path}")
            submits = parts.path.endswith("/runs/submit")
            try:
                inside = token == JOB_TOKEN  # the job's own calls are left in peace
                if parts.path.startswith("/.well-known/"):  # asked without a token, of what may be none
                    raise Refused(404, "NOT_FOUND", "no such page")
                if not inside:
                    time.sleep(standin.slow)
                    self._fail(token)
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                is_json = "json" in (self.headers.get("Content-Type") or "")
                standin.check_volume(self.command, parts.path)
                answer = standin.answer(
                    self.command, parts.path, query, json.loads(content or b"{}") if is_json else {}, token
                )
                if submits and standin.fault == "lost_response":
                    self.close_connection = True
                    self.connection.close()
                    return
                if answer is not None:
                    self._send(200, {"Content-Type": "application/json"}, json.dumps(answer).encode())
                    return
                keep = {
                    name: self.headers[name] for name in ("Content-Type", "Accept", "Range") if name in self.headers
                }
                self._send(*standin.lake.ask(self.command, self.path, content, keep))
            except Refused as refused:
                extra = {"Retry-After": "1"} if refused.status == 429 else {}
                self._send(
                    refused.status, {"Content-Type": "application/json", **extra}, json.dumps(refused.body).encode()
                )

        def _fail(self, token: str) -> None:
            if token != TOKEN or standin.fault == "forbidden":
                raise Refused(403, "PERMISSION_DENIED", "Invalid access token.")
            if standin.fault == "expired":
                raise Refused(401, "UNAUTHENTICATED", "ExpiredJwt: the token expired.")
            if standin.fault == "throttled":
                raise Refused(429, "REQUEST_LIMIT_EXCEEDED", "the workspace exceeded its rate limit")
            if standin.fault == "error":
                raise Refused(500, "INTERNAL_ERROR", "an internal error")

        def _send(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                    self.send_header(name, value)
            length = headers.get("content-length") or headers.get("Content-Length")
            self.send_header("Content-Length", str(length if self.command == "HEAD" and length else len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = _do  # noqa: N815 - http.server's names

        def log_message(self, *_: object) -> None:
            pass

    return Handler
