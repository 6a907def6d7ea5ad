"""A Docker engine as a platform, or whatever answers as one: a run is a container of its name, which stays until `mlctl gc`.

Nothing of ours is in the image; /bin/sh has to be. A run is made as a draft, under another name: code and secrets are put into
it, all else is in its body; then it gets its name, which is the claim, and is started. Who dies before that leaves a draft, which
nobody takes for a run. Who dies between name and start leaves a container with a deadline, after which it doesn't begin (entry.py)
and is judged to be an attempt that never began (states.py). The deadline is in the body, so it is there before the claim, and
never moves; a draft that took too long to fill is not claimed.

The engine may be on another machine: all goes over its API, and the paths of inputs and outputs are that machine's.

Settings: docs/docker.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from shlex import quote
from typing import Any

from mlctl import contract
from mlctl.backend import Base, Facts, Features, Finding, Settings
from mlctl.errors import InvalidConfig, InvalidJob, MlctlError, RunExists, RunNotFound, Unavailable, one_line, refused
from mlctl.job import Job
from mlctl.policy import Admitted
from mlctl.runs import Found, Key, Logs, Plan, Result, Run, Stamp, Status

from . import doctor, entry, environment, logs, prune, request, states
from .engine import Engine, Entry, Missing, Refused, Taken, archive

__all__ = ["Docker"]

LEASE = 30
"""Seconds from the making of a container, and the time for its code, to the last at which it may begin. Half of them are for
filling it, half are left for its start."""
PACE = 1 << 18
"""Bytes a second at which code reaches the engine at least, or no run comes of it."""
_LOSSES = {
    "inputs.mode.download": "mounted in place, to be read only",
    "outputs.mode.upload": "written in place",
    "resources.disk": "a container has what the engine's disk has",
    "resources.spot": "the engine's machine is not taken back",
    "resources.nodes": "runs as one container, as one node",
    "distribution": "runs as one process, rank 0 of 1",
    "queue_timeout": "nothing is queued here",
}


class Docker(Base):
    """Runs jobs as containers of one engine."""

    name = "docker"
    interval = 1.0
    takes = frozenset({"host", "root", "image", "pull", "network", "user", "read_only", "grace", "secrets"})
    features = Features(
        kinds=frozenset({"process", "train", "batch-inference"}),
        honours=frozenset(
            {
                "code", "image", "python", "requirements", "command.shell", "params", "inputs", "inputs.mode.mount", "outputs",
                "outputs.uri", "outputs.mode.mount", "env", "secrets", "resources.cpu", "resources.memory",
                "resources.accelerators", "resources.shm", "timeout", "labels", "tags",
            }
        ),
        loses=_LOSSES,
        proven="real",
        unproven=frozenset({"resources.accelerators"}),  # asked for as documented; no engine with a GPU was met
    )  # fmt: skip

    def __init__(self, settings: Settings) -> None:
        if find_spec("docker") is None:
            raise ImportError("docker", name="docker")
        super().__init__(settings)
        values = settings.values
        for name, expected in (
            ("host", "the engine's address, such as unix:///run/docker.sock, tcp://gpu-1:2376 or ssh://me@gpu-1"),
            ("root", "a folder of the engine's machine"),
            ("image", "the name of an image, such as python:{python}-slim"),
            ("network", "the name of a network, host or none"),
        ):
            if name in values and not (isinstance(values[name], str) and values[name]):
                raise settings.fail(name, f"got {one_line(values[name])}, expected {expected}")
        if values.get("pull", "missing") not in ("missing", "always", "never"):
            raise settings.fail("pull", f"got {one_line(values['pull'])}, expected missing, always or never")
        if not isinstance(values.get("read_only", False), bool):
            raise settings.fail("read_only", f"got {one_line(values['read_only'])}, expected true or false")
        if not re.fullmatch(r"[A-Za-z0-9_.-]+(:[A-Za-z0-9_.-]+)?", str(values.get("user", "0"))):
            raise settings.fail(
                "user", f"got {one_line(values['user'])}, expected USER or USER:GROUP, names or numbers"
            )
        grace = values.get("grace", 10)
        if not isinstance(grace, int) or isinstance(grace, bool) or not 0 <= grace <= 3600:
            raise settings.fail("grace", f"got {one_line(grace)}, expected seconds from 0 to 3600")
        self._engine = Engine(settings)

    def _root(self) -> str:
        """The folder of the engine's machine for what runs leave. Raises InvalidConfig where it has to be said and isn't."""
        if root := self.settings.values.get("root"):
            if not str(root).startswith("/") or ":" in root:
                raise self.settings.fail(
                    "root", f"got '{root}', expected an absolute path of the engine's machine without ':'"
                )
            return str(root).rstrip("/")
        host = str(self.settings.values.get("host") or os.environ.get("DOCKER_HOST", ""))
        if host and not host.startswith(("unix://", "/")):
            text = (
                f"the engine at {host} is another machine; name a folder of it for what runs leave, such as /srv/mlctl"
            )
            raise self.settings.fail("root", text)
        if ":" in str(self.settings.home):
            raise self.settings.fail(
                "root", f"{self.settings.home} has a ':', which the engine can't mount; name a folder"
            )
        return f"{self.settings.home}/docker"

    def resolve(self, job: Job) -> Facts:
        """Which engine it is."""
        host, engine = self._engine.identity
        return {"host": host, "engine": engine, "root": self._root(), "grace": self._grace()}

    def _grace(self) -> int:
        return int(self.settings.values.get("grace", 10))

    def plan(self, job: Job, facts: Facts, name: str) -> Plan:
        """The body of POST /containers/create, and what is put into the container."""
        return request.make(job, facts, name, self.settings, self.features.losses(self.name, job))

    def _run(self, name: str) -> Run:
        return Run(self.name, *self._engine.identity, name)

    def reaches(self, run: Run) -> bool:
        """Whether it is this engine's, which is asked once who it is."""
        return run.scope == self._engine.identity[1]

    def _container(self, run: Run) -> str:
        """Its name. Raises Unavailable where it is another engine's."""
        if not self.reaches(run):
            here = self._engine.identity
            text = f"lives in the engine {run.scope} on {run.account}, and targets.{self.settings.target} is {here[1]} on {here[0]}"
            raise Unavailable(f"{run}: {text}")
        return run.name

    def _record(self, run: Run) -> dict[str, Any]:
        """What the engine knows of a run's container."""
        try:
            record = self._engine.inspect(self._container(run))
        except Missing:
            text = f"{run}: the engine has no such container; it was removed, by mlctl gc or by hand"
            raise RunNotFound(text) from None
        if request.LABEL_STAMP not in (record["Config"].get("Labels") or {}):
            raise RunNotFound(f"{run}: the container of that name is none of mlctl's")
        return record

    def _whole(self, run: Run) -> dict[str, Any]:
        """The same, of a container that can be looked into."""
        record = self._record(run)
        if record["State"]["Status"] == "dead":
            raise RunNotFound(f"{run}: {states.HALF_REMOVED}; its log and its metrics are lost with that")
        return record

    def _look(self, run: Run, closely: bool = False) -> Status:
        """The status that a container's record tells and, where that isn't enough, the marks in it. To read those is dear: whether
        a container that runs was asked to stop is looked for only `closely`, and of a success only that it was noted."""
        record, now = self._record(run), 0.0
        marks: Collection[str] = ()
        if record["State"]["Status"] == "created" and not states.ended(record):
            now = self._engine.clock()
            record = self._record(run)  # what it is now, and not before, says whether it may still begin
            marks = self._marked(record, entry.CANCEL)
        elif closely and record["State"]["Status"] in states.LIVE:
            marks = self._marks(run, record)
            record = self._record(run)  # it may have ended since
        if record["State"]["Status"] != "exited":
            return states.status_of(record, marks, now)
        noted = self._marked(record, entry.SUCCESS) if record["State"].get("ExitCode") == 0 else ()
        return states.status_of(record, noted or self._marks(run, record))

    def _marked(self, record: Mapping[str, Any], mark: str) -> tuple[str, ...]:
        return (Path(mark).name,) if self._engine.has(record["Id"], mark) else ()

    def _marks(self, run: Run, record: Mapping[str, Any]) -> dict[str, bytes]:
        try:
            return self._engine.files(record["Id"], entry.STATE)
        except Missing:
            raise RunNotFound(f"{run}: was removed just now") from None

    def find(self, key: Key) -> list[Found]:
        """One call lists the key's containers; each is looked at."""
        stem = key.stem(self.name_limit)
        found = []
        for line in self._engine.containers(label=[f"{request.LABEL_STEM}={stem}"]):
            name = line["Names"][0].lstrip("/")
            number = key.attempt(name, self.name_limit)
            if number is not None:  # else a draft
                run = self._run(name)
                with contextlib.suppress(RunNotFound):  # removed meanwhile
                    stamp = Stamp.of_json(line["Labels"][request.LABEL_STAMP])
                    found.append(Found(run, number, stamp, self._look(run, closely=True)))
        return sorted(found, key=lambda one: one.number)

    def submit(self, plan: Admitted, stamp: Stamp) -> Run:
        """Gets the image, fills a draft, gives it its name, starts it.

        Raises InvalidJob for an image that isn't there, requirements that can't be met, an input that the engine's machine
        doesn't have, limits that it can't give; Unauthorized where the registry refuses; Unavailable where code takes too long.
        """
        asked, run = plan.plan.request, self._run(plan.plan.name)
        secrets = "".join(
            f"export {name}={quote(self.settings.secret(name, source))}\n" for name, source in asked["secrets"].items()
        )
        image, user = environment.ensure(self._engine, asked)
        user = asked["container"].get("User", user)
        deadline = int(self._engine.time()) + LEASE + asked["code_bytes"] // PACE
        body = request.dated(asked, image, user, stamp, deadline)
        draft = self._created(body, f"{run.name}.{os.urandom(8).hex()}")
        try:
            self._fill(draft, asked, user, secrets)
            if self._engine.time() > deadline - LEASE / 2:
                text = f"{asked['code_bytes']} bytes of code" if asked["code"] else "its container"
                raise Unavailable(
                    f"{run}: {text} took the engine longer than a run may; nothing was started; try later"
                )
            self._engine.rename(draft, run.name)
        except Taken:
            self._engine.remove(draft)
            self._check_free(run)
            raise Unavailable(f"{run}: its name was taken, and is free again; try later") from None
        except BaseException:  # an interrupted submit leaves no draft, where that can be helped
            with contextlib.suppress(MlctlError):
                self._engine.remove(draft)
            raise
        self._engine.start(draft)
        return run

    def _check_free(self, run: Run) -> None:
        """Raises RunExists where the name is taken by a run, InvalidConfig where by something else."""
        try:
            record = self._engine.inspect(run.name)
        except Missing:
            return
        if request.LABEL_STAMP in (record["Config"].get("Labels") or {}):
            raise RunExists(run)
        raise InvalidConfig(f"{run}: a container of that name is there that mlctl did not start; choose another key")

    def _created(self, body: Mapping[str, Any], name: str) -> str:
        try:
            return self._engine.create(body, name)
        except Missing as reason:
            raise InvalidJob(f"image: {reason}; it was removed just now") from None
        except Refused as reason:
            if path := re.search(r"bind source path does not exist: (.*)", str(reason)):
                raise InvalidJob(f"inputs: {path[1]}: no such file or folder on the engine's machine") from None
            raise InvalidJob(f"the engine refuses the container: {reason}") from None

    def _fill(self, draft: str, asked: Mapping[str, Any], user: str, secrets: str) -> None:
        """Puts into it what isn't in its body: code; secrets, which must not be in its record; parameters that are too long for
        it; and folders, for a user who can't make them."""
        entries: list[Entry] = []
        if user.partition(":")[0] not in ("", "0", "root"):
            entries += [(folder, 0o777, None) for folder in asked["folders"]]
        if asked["params"]:
            entries.append((entry.PARAMS, 0o644, asked["params"].encode()))
        if secrets:
            entries.append((entry.SECRETS, 0o444, secrets.encode("utf-8", "surrogateescape")))
        if entries:
            self._put(draft, entries)
        if asked["code"]:
            try:
                with Path(asked["code"]).open("rb") as stream:
                    self._engine.put(draft, entry.CODE, stream)
            except OSError as reason:
                raise refused(asked["code"], reason) from None

    def _put(self, container: str, entries: list[Entry]) -> None:
        """Into the container's volume, or what is mounted in it: its only place that can always be written to, and is there before
        its first process has made the folders."""
        folders: list[Entry] = [(folder, 0o777, None) for folder in entry.FOLDERS]
        below = [(path.removeprefix(f"{entry.ROOT}/"), mode, data) for path, mode, data in (*folders, *entries)]
        self._engine.put(container, entry.ROOT, archive(below))

    def status(self, runs: Sequence[Run]) -> dict[Run, Status | MlctlError]:
        """One call for all that are running, and a look at each that isn't among them."""
        answer: dict[Run, Status | MlctlError] = {}
        left = list(runs)
        try:
            if len(left) > 1:
                lines = self._engine.containers(label=[request.LABEL_STEM], status=list(states.LIVE))
                here = self._engine.identity[1]
                live = {line["Names"][0].lstrip("/"): line for line in lines}
                for run in runs:
                    if run.scope == here and run.name in live:
                        left.remove(run)
                        answer[run] = states.of_line(live[run.name])
        except MlctlError as error:
            return dict.fromkeys(runs, error)
        for run in left:
            try:
                answer[run] = self._look(run)
            except MlctlError as error:
                answer[run] = error
        return answer

    def logs(self, run: Run, since: str = "") -> Logs:
        """From the engine; see logs.py for the cursor."""
        record = self._whole(run)
        return logs.read(self._engine, record["Id"], since, states.ended(record))

    def result(self, run: Run) -> Result:
        """The addresses that the container's label has; the metrics file in it."""
        record = self._whole(run)
        outputs = json.loads(record["Config"]["Labels"][request.LABEL_OUTPUTS])
        text = b"".join(self._engine.files(record["Id"], entry.METRICS).values()).decode("utf-8", "replace")
        return Result(outputs, contract.metrics(text.splitlines()))

    def cancel(self, run: Run) -> None:
        """SIGTERM to all processes of the container, SIGKILL after the grace, both by its first process. Where that doesn't
        end it, and it is asked again, the engine kills it."""
        record = self._record(run)
        if states.ended(record):
            return
        container = record["Id"]
        asked = self._marks(run, record).get("cancel")
        if asked is None:
            self._put(container, [(entry.CANCEL, 0o644, str(self._engine.time()).encode())])
            record = self._record(run)
        if record["State"]["Status"] == "paused":
            self._engine.unpause(container)
        if record["State"]["Status"] in states.LIVE:
            late = asked is not None and self._engine.time() - float(asked or 0) > self._grace() + 5
            self._engine.kill(container, "KILL" if late else "TERM")

    def check(self) -> Iterator[Finding]:
        """The engine, its version, its disk, the image, the folder: each by a call."""
        return doctor.findings(self._engine, self.settings, self._root)

    def pause(self, runs: Sequence[Run], seconds: float) -> None:
        """Of one run, returns as soon as its container ends."""
        if len(runs) != 1:
            return super().pause(runs, seconds)
        return self._engine.until_ended(runs[0].name, seconds)

    def prune(self, before: float, dry: bool) -> Iterator[str]:
        """Removes runs that ended before, with their files; drafts, and layers that no container uses."""
        return prune.prune(self._engine, self._root(), before, dry)
