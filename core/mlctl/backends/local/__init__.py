"""This machine as a platform: real processes, no server, no supervisor but a shell (see folder.py).

A run outlives its caller. Nothing is queued: what is submitted starts. What this machine may lack (an accelerator,
nodes, spot) is a listed loss, so that one job file serves a laptop and production.

Settings: `inherit_env` (names of variables that jobs get from the caller's environment, beside the usual few), `grace`
(seconds between SIGTERM and SIGKILL, 10), `secrets` (env:NAME or file:PATH), `layout: sagemaker` (SM_* and an
/opt/ml-like folder).
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import fcntl
import json
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mlctl import contract
from mlctl.backend import Base, Facts, Features, Finding, Settings
from mlctl.errors import InvalidJob, MlctlError, RunExists, RunNotFound, Unavailable, Unsupported, one_line, refused
from mlctl.job import Job
from mlctl.policy import Admitted
from mlctl.runs import Found, Key, Logs, Plan, Result, Run, Stamp, Status, Upload

from . import environment, folder, start

__all__ = ["Local"]

_INHERITED = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH",
    "CUDA_HOME", "CUDA_VISIBLE_DEVICES", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE",
)  # fmt: skip
_CHUNK = 1 << 20
_CROWD = 100
_LOSSES = {
    "image": "runs in a Python of this machine, not in the image",
    "resources.cpu": "not limited: the job sees the whole machine",
    "resources.memory": "not limited: the job sees the whole machine",
    "resources.accelerators": "the job sees what this machine has",
    "resources.disk": "the job sees what this machine has",
    "resources.shm": "the job sees what this machine has",
    "resources.spot": "this machine is not taken back",
    "resources.nodes": "runs on this one machine, as one node",
    "distribution": "runs as one process, rank 0 of 1",
    "queue_timeout": "nothing is queued here",
    "inputs.mode.mount": "read in place, which is what mount asks for",
    "outputs.mode.mount": "written in place, which is what mount asks for",
    "outputs.mode.upload": "written in place",
}


class Local(Base):
    """Runs jobs as processes of this machine, below `home`/runs."""

    name = "local"
    interval = 0.5
    takes = frozenset({"inherit_env", "grace", "secrets", "layout"})
    features = Features(
        kinds=frozenset({"process", "train", "batch-inference"}),
        honours=frozenset(
            {
                "code", "python", "requirements", "command.shell", "params", "inputs", "inputs.mode.download", "outputs",
                "outputs.uri", "env", "secrets", "timeout", "labels", "tags",
            }
        ),
        loses=_LOSSES,
        proven="real",
    )  # fmt: skip

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._seen: dict[Run, folder.Seen] = {}  # what the last call for states saw

    @property
    def _runs(self) -> Path:
        return self.settings.home / "runs"

    def resolve(self, job: Job) -> Facts:
        """Looks for the inputs and the Python; reads nothing else."""
        for name, each in job.inputs.items():
            if "://" in each.uri:
                text = f"{each.uri}: this platform reads paths of this machine; give a copy: --input {name}=PATH"
                raise Unsupported(str(job.fail(("inputs", name), text)))
            if not os.path.exists(each.uri):  # noqa: PTH110 - a path with a null byte is only false here
                raise job.fail(("inputs", name), f"{each.uri}: no such file or folder")
        return {
            "home": str(self.settings.home),
            "host": socket.gethostname(),
            "python": environment.choose(job, self.settings.home),
            "folders": [name for name, each in job.inputs.items() if os.path.isdir(each.uri)],  # noqa: PTH112
        }

    def plan(self, job: Job, facts: Facts, name: str) -> Plan:
        """The words, the variables and the folders of the process to be."""
        losses = list(self.features.losses(self.name, job))
        if job.image and job.code is None:
            raise Unsupported(
                str(job.fail(("image",), "the code is in the image, and local runs no images; give code:"))
            )
        stem, _, attempt = name.rpartition("-")
        run = Run(self.name, facts["host"], facts["home"].lstrip("/"), name)
        at = f"{facts['home']}/runs/{stem}/{attempt}"
        inputs = {
            key: f"{at}/inputs/{key}/{Path(each.uri).name}" if each.mode == "download" else each.uri
            for key, each in job.inputs.items()
        }
        outputs = {
            key: f"{each.uri}/{name}/{key}" if each.uri else f"{at}/outputs/{key}" for key, each in job.outputs.items()
        }
        if remote := next((key for key, each in job.outputs.items() if "://" in each.uri), None):
            text = f"{job.outputs[remote].uri}: this platform writes to paths of this machine; leave it out"
            raise Unsupported(str(job.fail(("outputs", remote), text)))
        places = contract.Places(
            inputs, outputs, f"{at}/params.json", f"{at}/metrics.jsonl", f"{facts['home']}/runs/{stem}/checkpoints"
        )
        argv, env = contract.argv(job, places), contract.environment(job, places, str(run))
        if argv[0] in ("python", "python3"):
            argv[0] = facts["python"]["path"]
        request: dict[str, Any] = {
            "argv": argv,
            "env": {"PYTHONUNBUFFERED": "1", **env},
            "inherit_env": [*_INHERITED, *self._names("inherit_env")],
            "secrets": {name: self.settings.secret_source(name) for name in job.secrets},
            "python": facts["python"],
            "code": job.package.sha256 if job.package else None,
            "params": job.values(),
            "inputs": {
                key: {"from": each.uri, "at": inputs[key], "copied": each.mode == "download"}
                for key, each in job.inputs.items()
            },
            "outputs": outputs,
            "folder": at,
            "labels": dict(job.labels),
            "tags": list(job.tags),
            "timeout": job.timeout,
            "grace": self._grace(),
        }
        layout = job.platforms.get("local", {}).get("layout", self.settings.values.get("layout"))
        if layout == "sagemaker":
            from . import sagemaker_layout

            sagemaker_layout.add(request, job, at, facts["folders"])
        elif layout is not None:
            raise self.settings.fail("layout", f"got '{layout}', expected sagemaker")
        if unknown := job.platforms.get("local", {}).keys() - {"layout"}:
            raise job.fail(("platforms", "local", min(unknown)), "unknown field; expected layout")
        words = [
            *((("command",), word) for word in argv),
            *((("env", key), text) for key, text in request["env"].items()),
        ]
        for keys, word in words:
            if not start.passable(word):
                raise job.fail(keys, "a null byte, or half a character, can't be passed to a process")
        uploads: tuple[Upload, ...] = ()
        if job.package:
            address = Path(facts["home"], "packages", f"{job.package.sha256}.tar.gz").as_uri()
            uploads = (Upload(str(job.package.path), job.package.sha256, address),)
        return Plan(name, self.name, self.settings.target, request, uploads, tuple(losses))

    def _names(self, setting: str) -> list[str]:
        value = self.settings.values.get(setting, [])
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise self.settings.fail(setting, "expected a list of variables' names")
        return value

    def _grace(self) -> int:
        value = self.settings.values.get("grace", 10)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 3600:
            raise self.settings.fail("grace", f"got {one_line(value)}, expected seconds from 0 to 3600")
        return value

    def find(self, key: Key) -> list[Found]:
        """Lists one folder: the attempts are numbered in it."""
        try:
            numbers = sorted(int(name) for name in os.listdir(self._runs / key.stem(self.name_limit)) if name.isdigit())  # noqa: PTH208
        except FileNotFoundError:
            return []
        except OSError as reason:
            raise refused(reason.filename or self._runs, reason) from None
        found = []
        for number in numbers:
            run = self._run(key.name(number, self.name_limit))
            at = self._folder(run)
            try:
                found.append(
                    Found(run, number, Stamp.of_json(json.dumps(folder.plan_of(at)["stamp"])), folder.read(at))
                )
            except FileNotFoundError:  # pruned meanwhile
                continue
            except OSError as reason:
                raise refused(reason.filename or at, reason) from None
        return found

    def _run(self, name: str) -> Run:
        return Run(self.name, socket.gethostname(), str(self.settings.home).lstrip("/"), name)

    def _place(self, run: Run) -> str:
        stem, _, attempt = run.name.rpartition("-")
        if not attempt.isdigit() or stem in ("", ".", "..") or "/" in stem or "\0" in stem or "\0" in run.scope:
            raise self._not_here(run)
        return f"/{run.scope}/runs/{stem}/{attempt}"

    def _folder(self, run: Run) -> Path:
        return Path(self._place(run))

    def submit(self, plan: Admitted, stamp: Stamp) -> Run:
        """Builds what the job needs in Python, takes the name by renaming a folder, and starts the shim.

        A caller that dies on the way leaves a name that was never started (`abandoned`), or none at all.
        Raises InvalidJob for a command that isn't there, and for an input that can't be copied; InvalidConfig for a secret that
        isn't where the target says.
        """
        request = plan.plan.request
        environment.ensure(request["python"])
        env = start.environment(request, self.settings)
        argv = [start.program(request["argv"][0], env), *request["argv"][1:]]
        run, at = self._run(plan.plan.name), Path(request["folder"])
        with contextlib.ExitStack() as stack:
            try:
                at.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(folder.together(at.parent, fcntl.LOCK_SH))
                draft = Path(tempfile.mkdtemp(prefix=".new-", dir=at.parent))
            except BlockingIOError:
                raise Unavailable(f"{run}: mlctl gc is removing its earlier attempts; try again") from None
            except OSError as reason:
                raise refused(reason.filename or at.parent, reason) from None
            stack.callback(shutil.rmtree, draft, ignore_errors=True)  # nothing is there once it has its name
            try:
                lock = stack.enter_context(folder.locked(draft / "lock"))
                start.fill(draft, request, stamp, self.settings.home)
                draft.rename(at)
            except OSError as reason:
                if at.exists():
                    raise RunExists(run) from None
                raise refused(reason.filename or at, reason) from None
            try:
                args = [str(at), str(run), str(request["timeout"] or ""), str(request["grace"]), f"{at}/code", *argv]
                folder.spawn(folder.SHIM, args, env, lock, at / "log")
            except OSError as reason:  # the name stays taken: `find` tells whether the job runs after all
                if reason.errno == errno.E2BIG:
                    text = "its words and variables are longer than this system takes; read them from MLCTL_PARAMS_FILE"
                    raise InvalidJob(f"command: {text}") from None
                raise refused(reason.filename or at, reason) from None
        return run

    def status(self, runs: Sequence[Run]) -> dict[Run, Status | MlctlError]:
        """Reads one folder's listing a run; of one that hasn't changed since the last call only its time and its lock, and of
        one of a crowd its lock in one call of four."""
        folder.reap()
        trust = 3 if len(runs) > _CROWD else 0
        answer: dict[Run, Status | MlctlError] = {}
        seen: dict[Run, folder.Seen] = {}
        for run in runs:
            try:
                seen[run] = now = folder.see(self._place(run), self._seen.get(run), trust)
                answer[run] = now.status
            except FileNotFoundError:
                answer[run] = self._not_here(run)
            except MlctlError as error:
                answer[run] = error
            except OSError as reason:
                answer[run] = refused(reason.filename or self._folder(run), reason)
        self._seen = seen
        return answer

    def reaches(self, run: Run) -> bool:
        """Whether it is of this machine, or its folder on a disk that this one has, too."""
        return run.account == socket.gethostname() or self._folder(run).is_dir()

    def _not_here(self, run: Run) -> MlctlError:
        here = socket.gethostname()
        if run.account != here:
            return Unavailable(f"{run}: lives on {run.account}, and this is {here}; ask there")
        return RunNotFound(f"{run}: no such run in /{run.scope}; it was pruned by mlctl gc, or its folder removed")

    def logs(self, run: Run, since: str = "") -> Logs:
        """Lines of the run's log; the cursor is a byte offset. A line without its end is given once the run has
        ended."""
        at = self._folder(run)
        offset = int(since or 0)
        try:
            ended = folder.read(at).state.terminal  # before the reading, so that nothing is added after it
            with (at / "log").open("rb") as stream:
                stream.seek(offset)
                data = stream.read(_CHUNK)
        except FileNotFoundError:
            if not at.exists():
                raise self._not_here(run) from None
            return Logs((), since)
        except OSError as reason:
            raise refused(reason.filename or at, reason) from None
        whole = data.rfind(b"\n") + 1
        if whole == 0 and (len(data) == _CHUNK or ended):
            decoder = codecs.getincrementaldecoder("utf-8")("replace")
            decoder.decode(data, final=len(data) < _CHUNK)
            whole = len(data) - len(decoder.getstate()[0])  # a longer line comes in pieces, cut between characters
        lines = data[:whole].decode("utf-8", "replace").split("\n")
        return Logs(tuple(lines[:-1] if lines[-1] == "" else lines), str(offset + whole))

    def result(self, run: Run) -> Result:
        """The outputs' folders, and the metrics file."""
        at = self._folder(run)
        try:
            outputs = folder.plan_of(at)["request"]["outputs"]
        except FileNotFoundError:
            raise self._not_here(run) from None
        except OSError as reason:
            raise refused(reason.filename or at, reason) from None
        try:
            with (at / "metrics.jsonl").open(encoding="utf-8", errors="replace") as stream:
                return Result(outputs, contract.metrics(stream))
        except FileNotFoundError:
            return Result(outputs)
        except OSError as reason:
            raise refused(reason.filename or at, reason) from None

    def cancel(self, run: Run) -> None:
        """SIGTERM to the whole process group, SIGKILL after the grace, and to what has left the group (on Linux)."""
        at = self._folder(run)
        try:
            plan = folder.plan_of(at)
            if plan["host"] != socket.gethostname() and not folder.read(at).state.terminal:
                raise Unavailable(f"{run}: its processes are on {plan['host']}; cancel it there")
            folder.cancel(at, str(run), plan["request"]["grace"])
        except FileNotFoundError:
            raise self._not_here(run) from None
        except OSError as reason:
            raise refused(reason.filename or at, reason) from None

    def check(self) -> Iterator[Finding]:
        """A folder that can be written, a lock that holds, a shell, a way to build environments."""
        home = self.settings.home
        try:
            home.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=home) as probe:
                fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield Finding("home", True, f"{home} can be written and locked")
        except OSError as reason:
            yield Finding("home", False, f"{home}: {reason.strerror}", "set MLCTL_HOME to a folder on a local disk")
            return
        free = shutil.disk_usage(home).free
        yield Finding("disk", free > 1 << 30, f"{free >> 30} GiB free", "mlctl gc removes old runs; or move MLCTL_HOME")
        shell = shutil.which("sh", path="/bin")
        yield Finding("shell", bool(shell), shell or "no /bin/sh", "install a POSIX shell as /bin/sh")
        builder = shutil.which("uv")
        text = f"environments are built with {builder or sys.executable + ' -m venv and pip'}"
        yield Finding("python", True, text)

    def pause(self, runs: Sequence[Run], seconds: float) -> None:
        """On Linux returns as soon as the shim of one of the first runs ends; elsewhere sleeps."""
        if not hasattr(os, "pidfd_open"):
            return super().pause(runs, seconds)
        return folder.sleep_until_end([self._folder(run) for run in runs[:256]], seconds)

    def prune(self, before: float, dry: bool) -> Iterator[str]:
        """Removes runs that ended before, and the packages and environments that no run has used since."""
        from . import prune

        return prune.prune(self.settings.home, before, dry)
