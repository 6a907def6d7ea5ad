"""A controller's remote API, as far as clients see it: crumbs, jobs in folders, a queue, builds, logs in chunks.

It answers /api/json in JSON and /api/python in Python's literals, as a controller does. Builds go as a test says: an
item waits in the queue until its plan lets it go on.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import threading
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree as ET

USER, TOKEN, PREFIX = "bob", "token-of-bob", "/ci"
_KINDS = {"StringParameterDefinition": str, "BooleanParameterDefinition": str, "ChoiceParameterDefinition": str}


@dataclass
class Item:
    """What is in the queue, and the build that comes of it. Each poll of the item is a step: `waits` of them pass."""

    id: int
    job: str
    params: dict[str, str]
    waits: int = 1
    fate: str = "build"  # or: cancelled; vanished, with its build; lost, without one
    result: str = "SUCCESS"
    log: tuple[bytes, ...] = (b"first\nsec", b"ond \xc3", b"\xbc\n", b"third\n")
    """In chunks as they are written: a character may be cut in two."""
    number: int = 0
    shown: int = 0


@dataclass
class Controller:
    """The state; `next` are the plans of the items to come."""

    jobs: dict[str, str] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    items: dict[int, Item] = field(default_factory=dict)
    plans: list[dict[str, Any]] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    broken: int = 0
    crumbs: dict[str, str] | None = field(default_factory=dict)
    """Session -> crumb; None: this controller wants none."""
    forgets: bool = False
    """A crumb is good once: as if the session ended after each request."""
    believes: str = ""
    """The URL that it thinks it has, where a proxy gives it another."""
    lock: Any = field(default_factory=threading.RLock)
    url: str = ""

    def parameters(self, job: str) -> list[dict[str, Any]]:
        found = []
        for one in ET.fromstring(self.jobs[job]).iter("parameterDefinitions"):
            for each in one:
                kind = each.tag.rpartition(".")[2]
                assert kind in _KINDS, kind
                value = each.findtext("defaultValue") or each.findtext("choices/a/string") or ""
                found.append({"name": each.findtext("name"), "type": kind, "defaultParameterValue": {"value": value}})
        return found

    def builds(self, job: str) -> list[Item]:
        return sorted(
            (one for one in self.items.values() if one.job == job and one.number), key=lambda one: -one.number
        )

    def start(self, item: Item) -> None:
        item.number = item.number or 1 + len(self.builds(item.job))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"  # a connection a request: not every client closes what it kept
    controller: Controller

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        with self.controller.lock:
            self.route("GET", b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.controller.lock:
            self.route("POST", body)

    def answer(self, code: int, body: Any = "", headers: dict[str, str] | None = None) -> None:
        data = body.encode() if isinstance(body, str) else body
        self.send_response(code)
        for name, value in {"Content-Length": str(len(data)), "X-Jenkins": "2.479.1", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def data(self, value: Any, flavour: str, headers: dict[str, str] | None = None) -> None:
        """/api/python has double-quoted strings like JSON, and Python's words."""
        text = json.dumps(value)
        if flavour == "python":
            text = re.sub(r'"(?:[^"\\]|\\.)*"|\btrue\b|\bfalse\b|\bnull\b', lambda m: _WORDS.get(m[0], m[0]), text)
        kind = "application/json" if flavour == "json" else "text/x-python"
        self.answer(200, text, {"Content-Type": kind, **(headers or {})})

    def route(self, verb: str, body: bytes) -> None:
        state, parts = self.controller, urlsplit(self.path)
        state.seen.append(f"{verb} {parts.path}")
        if state.broken:
            state.broken -= 1
            return self.answer(503, "starting")
        expected = "Basic " + base64.b64encode(f"{USER}:{TOKEN}".encode()).decode()
        if self.headers.get("Authorization") != expected:
            return self.answer(401 if self.headers.get("Authorization") else 403, "Authentication required")
        path, query = parts.path.rstrip("/"), {name: value[0] for name, value in parse_qs(parts.query).items()}
        if not path.startswith(PREFIX):
            return self.answer(404)
        path = path.removeprefix(PREFIX)
        session = SimpleCookie(self.headers.get("Cookie", "")).get("JSESSIONID")
        if verb == "POST" and state.crumbs is not None:
            crumb = state.crumbs.get(session.value) if session else None
            if state.forgets:
                state.crumbs.clear()
            if crumb is None or self.headers.get("Jenkins-Crumb") != crumb:
                return self.answer(403, "No valid crumb was included in the request")
        if match := re.fullmatch(r"/crumbIssuer/api/(json|python)", path):
            if state.crumbs is None:
                return self.answer(404)
            own = session.value if session else secrets.token_hex(8)
            state.crumbs[own] = secrets.token_hex(8)
            value = {"_class": "hudson.security.csrf.DefaultCrumbIssuer", "crumb": state.crumbs[own]}
            return self.data(
                {**value, "crumbRequestField": "Jenkins-Crumb"}, match[1], {"Set-Cookie": f"JSESSIONID={own}; Path=/"}
            )
        if path == "/pipeline-model-converter/validate":
            return self.validate(parse_qs(body.decode()).get("jenkinsfile", [""])[0])
        if match := re.fullmatch(r"/queue/item/(\d+)/api/(json|python)", path):
            return self.item(int(match[1]), match[2])
        if match := re.fullmatch(r"/api/(json|python)", path):
            jobs = [
                {"_class": "WorkflowJob", "name": name, "url": self.job_url(name), "color": "blue"}
                for name in state.jobs
            ]
            return self.data(
                {"_class": "hudson.model.Hudson", "jobs": jobs, "useCrumbs": True, "description": None}, match[1]
            )
        if match := re.fullmatch(r"(/job/.+)?/createItem", path):
            return self.create(_name(match[1] or ""), query["name"], body.decode())
        if match := re.fullmatch(r"(/job/[^/]+(?:/job/[^/]+)*)/(\d+)(/.*)", path):
            return self.build(_name(match[1]), int(match[2]), match[3], query)
        if match := re.fullmatch(r"(/job/[^/]+(?:/job/[^/]+)*)(/.*)", path):
            return self.job(verb, _name(match[1]), match[2], body)
        return self.answer(404)

    def job_url(self, name: str) -> str:
        return f"{self.controller.url}/" + "".join(f"job/{part}/" for part in name.split("/"))

    def validate(self, text: str) -> None:
        if "pipeline {" not in text:
            return self.answer(200, "Jenkinsfile content 'node {' did not contain the 'pipeline' step\n")
        if "stages" not in text:
            return self.answer(
                200,
                'Errors encountered validating Jenkinsfile:\nWorkflowScript: 1: Missing required section "stages" @ line 1\n',
            )
        return self.answer(200, "Jenkinsfile successfully validated.\n")

    def item(self, number: int, flavour: str) -> None:
        one = self.controller.items.get(number)
        if one is None:
            return self.answer(404)
        if one.waits:
            one.waits -= 1
        elif one.fate in ("vanished", "lost"):
            if one.fate == "vanished":
                self.controller.start(one)
            return self.answer(404)
        elif one.fate == "build":
            self.controller.start(one)
        cancelled = one.fate == "cancelled" and not one.waits
        value: dict[str, Any] = {
            "_class": "hudson.model.Queue$LeftItem" if one.number or cancelled else "hudson.model.Queue$WaitingItem",
            "id": one.id, "why": None if one.number else "waits", "blocked": False, "buildable": False, "stuck": False,
            "cancelled": cancelled, "actions": [], "inQueueSince": 1,
            "task": {"name": one.job.rpartition("/")[2], "url": self.job_url(one.job)}, "url": f"queue/item/{one.id}/",
        }  # fmt: skip
        if one.number:
            kind = "org.jenkinsci.plugins.workflow.job.WorkflowRun"
            value["executable"] = {"_class": kind, "number": one.number, "url": f"{self.job_url(one.job)}{one.number}/"}
        return self.data(value, flavour)

    def create(self, folder: str, name: str, config: str) -> None:
        state = self.controller
        full = f"{folder}/{name}" if folder else name
        if folder and folder not in state.folders:
            return self.answer(404)
        if full in state.jobs:
            return self.answer(400, "", {"X-Error": f"A job already exists with the name '{name}'"})
        state.jobs[full] = kept(config)
        return self.answer(200)

    def job(self, verb: str, name: str, rest: str, body: bytes) -> None:
        state = self.controller
        if name not in state.jobs:
            return self.answer(404)
        if rest == "/config.xml":
            if verb == "GET":
                text = f"<?xml version='1.1' encoding='UTF-8'?>\n{state.jobs[name]}"
                return self.answer(200, text, {"Content-Type": "application/xml"})
            state.jobs[name] = kept(body.decode())
            return self.answer(200)
        if match := re.fullmatch(r"/api/(json|python)", rest):
            builds = [
                {"number": one.number, "url": f"{self.job_url(name)}{one.number}/", "queueId": one.id}
                for one in state.builds(name)
            ]
            declared = state.parameters(name)
            wanted = [{"_class": "hudson.model.ParametersDefinitionProperty", "parameterDefinitions": declared}]
            value = {
                "_class": "org.jenkinsci.plugins.workflow.job.WorkflowJob", "name": name.rpartition("/")[2], "fullName": name,
                "url": self.job_url(name), "buildable": True, "inQueue": False, "queueItem": None, "color": "blue",
                "builds": builds, "firstBuild": builds[-1] if builds else None, "lastBuild": builds[0] if builds else None,
                "property": [{}, *(wanted if declared else ())], "description": None,
                "actions": [{}, *(wanted if declared else ())], "nextBuildNumber": len(builds) + 1,
            }  # fmt: skip
            return self.data(value, match[1])
        if rest in ("/build", "/buildWithParameters") and verb == "POST":
            given = {key: value[0] for key, value in parse_qs(body.decode(), keep_blank_values=True).items()}
            given |= {
                key: value[0] for key, value in parse_qs(urlsplit(self.path).query, keep_blank_values=True).items()
            }
            declared = {one["name"]: one["defaultParameterValue"]["value"] for one in state.parameters(name)}
            if rest == "/build" and declared:
                return self.answer(400, "", {"X-Error": "This job is parameterized"})
            plan = state.plans.pop(0) if state.plans else {}
            params = {
                key: given.get(key, value) for key, value in declared.items()
            }  # others are dropped, without a word
            item = Item(len(state.items) + 1, name, params, **plan)
            state.items[item.id] = item
            return self.answer(201, "", {"Location": f"{state.believes or state.url}/queue/item/{item.id}/"})
        return self.answer(404)

    def build(self, name: str, number: int, rest: str, query: dict[str, str]) -> None:
        one = next((item for item in self.controller.builds(name) if item.number == number), None)
        if one is None:
            return self.answer(404)
        one.shown = min(one.shown + 1, len(one.log))  # each poll is a step of the build
        if rest == "/logText/progressiveText":
            data = b"".join(one.log[: one.shown])
            more = {**_TEXT, **({"X-More-Data": "true"} if one.shown < len(one.log) else {})}
            return self.answer(200, data[int(query.get("start", 0)) :], {"X-Text-Size": str(len(data)), **more})
        if rest == "/consoleText":
            return self.answer(200, b"".join(one.log), _TEXT)
        if match := re.fullmatch(r"/api/(json|python)", rest):
            building = one.shown < len(one.log)
            value = {
                "_class": "org.jenkinsci.plugins.workflow.job.WorkflowRun", "number": number, "building": building,
                "result": None if building else one.result, "url": f"{self.job_url(name)}{number}/", "queueId": one.id,
                "fullDisplayName": f"{name} #{number}", "displayName": f"#{number}", "description": None, "artifacts": [],
                "actions": [{"_class": "hudson.model.ParametersAction", "parameters": [
                    {"_class": "hudson.model.StringParameterValue", "name": key, "value": value}
                    for key, value in one.params.items()
                ]}],
                "duration": 1, "estimatedDuration": -1, "timestamp": 1700000000000, "builtOn": "", "id": str(number),
            }  # fmt: skip
            return self.data(value, match[1])
        return self.answer(404)


def kept(config: str) -> str:
    """A job's configuration as a controller writes it down: in its own way, with what its plugins add."""
    root = ET.fromstring(config)
    root.set("plugin", "workflow-job@1571.vb_423c255d6d9")
    root.insert(0, ET.Element("actions"))
    for one in root.iter("definition"):
        one.set("plugin", "workflow-cps@4151.v5406e29e3c90")
    for one in root.iter("properties"):
        one.insert(0, ET.Element("org.jenkinsci.plugins.workflow.job.properties.DisableConcurrentBuildsJobProperty"))
    ET.SubElement(root, "triggers")
    ET.indent(root)
    return ET.tostring(root, encoding="unicode")


_TEXT = {"Content-Type": "text/plain;charset=UTF-8"}
_WORDS = {"true": "True", "false": "False", "null": "None"}


def _name(path: str) -> str:
    """/job/a/job/b as a/b."""
    return "/".join(unquote(part) for part in path.split("/job/") if part)


def serve() -> tuple[Controller, ThreadingHTTPServer]:
    """A controller on a free port of this machine; the caller ends the server."""
    state = Controller()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"controller": state}))
    state.url = f"http://127.0.0.1:{server.server_address[1]}{PREFIX}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return state, server
