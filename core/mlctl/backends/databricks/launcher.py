"""Runs one job inside Databricks: the task's Python file. It stands alone: standard library, Python 3.8 and newer.

    launcher.py SPEC RUN_ID

SPEC is the job's own file, which request.py describes. Beside it, below `at`, this leaves what the backend reads:
`started`; `log/`, numbered parts of the output; `metrics.jsonl`; `exit.json`, how it ended. Files are written on the driver's
own disk and moved, because a Volume takes neither appends nor changes.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from typing import TYPE_CHECKING, Any, Dict

PART = 512 * 1024  # bytes of output after which a part is written at once
EVERY = 3.0  # seconds after which one is written, where there is output
GRACE = 10.0  # seconds between SIGTERM and SIGKILL
METRIC = "mlctl.metric "
if TYPE_CHECKING:
    Spec = Dict[str, Any]


class Log:
    """The job's output: shown as the task's own, and kept in numbered parts. Called from one thread at a time."""

    def __init__(self, folder: str, secrets: list[str]) -> None:
        self.folder, self.shown, self.number, self.written = folder, sys.stdout, 0, time.monotonic()
        self.secrets = hidden(secrets)
        self.pending: list[str] = []
        self.size = 0
        self.metrics: set[str] = set()
        self.lock = threading.Lock()

    def line(self, text: str) -> None:
        """Takes a line, or a piece of a long one."""
        for secret in self.secrets:
            text = text.replace(secret, "[secret]")
        if text.startswith(METRIC):
            self.metrics.add(text[len(METRIC) :].strip())
        with self.lock:
            self.shown.write(text)
            self.pending.append(text)
            self.size += len(text)

    def flush(self, last: bool = False) -> None:
        """Writes the next part where it is time to. A disk that fails costs the log, not the job."""
        with self.lock:
            due = last or self.size > PART or time.monotonic() - self.written > EVERY
            if not self.pending or not due:
                return
            text, self.pending, self.size, self.written = "".join(self.pending), [], 0, time.monotonic()
            self.number += 1
            self.shown.flush()
        with contextlib.suppress(OSError):
            publish(os.path.join(self.folder, f"{self.number:08d}"), text)


class Tee(io.TextIOBase):
    """A standard stream of a program that runs in this process."""

    def __init__(self, log: Log) -> None:
        self.log = log

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if text:
            self.log.line(text)
        return len(text)


def hidden(secrets: list[str]) -> list[str]:
    """What of secrets is not to be shown: each of their lines, as a log is read by lines; the longest first."""
    lines = {line.strip() for secret in secrets for line in secret.splitlines()}
    return sorted((line for line in lines if len(line) > 3), key=len, reverse=True)


def publish(path: str, text: str) -> None:
    """Writes a file that is whole or not there."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    draft = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}")
    with open(draft, "w", encoding="utf-8", errors="surrogateescape") as stream:
        stream.write(text)
    os.replace(draft, path)


def copy(source: str, target: str) -> None:
    """A file or a folder, contents only: a Volume keeps no times and no modes."""
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
        for name in sorted(os.listdir(source)):
            copy(os.path.join(source, name), os.path.join(target, name))
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copyfile(source, target)


def unpack(archive: str, folder: str) -> None:
    with tarfile.open(archive) as tar:
        if hasattr(tarfile, "data_filter"):
            tar.extractall(folder, filter="tar")
        else:
            tar.extractall(folder)  # packed by mlctl, which lets nothing lead outside


def secrets(wanted: Spec) -> dict[str, str]:
    """Each secret, by its name, from the scope that the target names."""
    if not wanted:
        return {}
    from databricks.sdk.runtime import dbutils  # every Databricks runtime has it

    found = {}
    for name, (scope, key) in wanted.items():
        try:
            found[name] = dbutils.secrets.get(scope, key)
        except Exception as reason:
            raise SystemExit(f"secrets.{name}: can't read {key} of the scope {scope}: {reason}") from None
    return found


def oom_kills() -> int:
    with contextlib.suppress(OSError, ValueError), open("/proc/vmstat") as stream:
        for line in stream:
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def guard(process: subprocess.Popen[bytes], here: str) -> subprocess.Popen[bytes]:
    """Ends the job's process group and removes its folder when the launcher is gone, however it went: a shared cluster lives on."""
    script = 'read -r _; kill -s KILL -- "-$1"; rm -rf -- "$2"'  # its stdin ends with the launcher
    return subprocess.Popen(
        ["/bin/sh", "-c", script, "sh", str(process.pid), here], stdin=subprocess.PIPE, start_new_session=True
    )


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to all that the job started in its group, SIGKILL after the grace."""
    for sign, seconds in ((signal.SIGTERM, GRACE), (signal.SIGKILL, GRACE)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return


def run_process(spec: Spec, env: dict[str, str], log: Log) -> tuple[int, str]:
    """The words as a process of their own; (exit code, reason)."""
    argv = list(spec["argv"])
    if argv[0] in ("python", "python3"):
        argv[0] = sys.executable
    kills = oom_kills()
    kept = told = False

    def stopped(*_: object) -> None:
        nonlocal told
        told = True
        if kept:
            end(process)
            raise SystemExit(143)

    with contextlib.suppress(ValueError):  # not in the main thread: then the platform's own end has to do
        signal.signal(signal.SIGTERM, stopped)  # before there is a job: to end between the two would leave it
    try:
        process = subprocess.Popen(
            argv, cwd=spec["here"] + "/code", env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    except OSError as reason:
        log.line(f"{argv[0]}: {reason.strerror}\n")
        return 127 if reason.errno == 2 else 126, "error"

    keeper = guard(process, spec["here"])
    kept = True
    if told:
        stopped()
    output = process.stdout
    assert output is not None  # noqa: S101 - a pipe, as asked for

    def read() -> None:
        for line in iter(lambda: output.readline(PART), b""):
            log.line(line.decode("utf-8", "replace"))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    deadline = time.monotonic() + spec["timeout"] if spec["timeout"] else None
    timed_out = False
    while True:
        late = deadline and time.monotonic() > deadline  # before the look: a machine may stand still between the two
        if process.poll() is not None:
            break
        if late:
            timed_out = True
            end(process)
            break
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
        log.flush()
    code = process.wait()
    keeper.kill()
    keeper.wait()
    with contextlib.suppress(ProcessLookupError):  # what the job left behind in its group
        os.killpg(process.pid, signal.SIGKILL)
    reader.join(GRACE)
    if timed_out:
        return 124, "timeout"
    code = 128 - code if code < 0 else code
    return code, "oom" if code == 137 and oom_kills() > kills else "error"


def run_here(spec: Spec, env: dict[str, str], log: Log) -> tuple[int, str]:
    """The Python program in this process, which has the Spark session; (exit code, reason)."""
    words = spec["argv"][1:]
    os.environ.update(env)
    os.chdir(spec["here"] + "/code")

    def stopped(*_: object) -> None:
        raise SystemExit(143)

    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, stopped)
    streams = sys.stdout, sys.stderr
    sys.stdout = sys.stderr = Tee(log)
    done = threading.Event()

    def keep() -> None:
        while not done.wait(1):
            log.flush()

    threading.Thread(target=keep, daemon=True).start()
    try:
        if words[0] == "-m":
            sys.path.insert(0, os.getcwd())
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, os.path.dirname(os.path.abspath(words[0])))
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
        return 0, "error"
    except SystemExit as reason:
        if isinstance(reason.code, int) or reason.code is None:
            return (reason.code or 0) & 255, "error"
        log.line(f"{reason.code}\n")
        return 1, "error"
    except BaseException:
        import traceback

        log.line(traceback.format_exc())
        return 1, "error"
    finally:
        done.set()
        sys.stdout, sys.stderr = streams


def prepare(spec: Spec, run_id: str) -> tuple[dict[str, str], list[str]]:
    """The folders, the code, the inputs, the variables; (environment, secrets)."""
    here = spec["here"]
    shutil.rmtree(here, ignore_errors=True)
    os.makedirs(here + "/code")
    if spec["python"] and not sys.version.startswith(spec["python"] + "."):
        raise SystemExit(f"python: the job asks for {spec['python']}, and this compute has {sys.version.split()[0]}")
    with open(here + "/params.json", "w", encoding="utf-8") as stream:
        json.dump(spec["params"], stream)
    if spec["code"]:
        unpack(spec["code"], here + "/code")
    for each in spec["inputs"]:
        copy(each["from"], each["to"])
    for folder in [spec["checkpoints"], *spec["folders"]]:
        os.makedirs(folder, exist_ok=True)
    found = secrets(spec["secrets"])
    env = {
        name: value.replace("{run_id}", run_id) if name == "MLCTL_RUN" else value for name, value in spec["env"].items()
    }
    return {**env, **found}, list(found.values())


def main(path: str, run_id: str) -> int:
    with open(path, encoding="utf-8") as stream:
        spec = json.load(stream)
    at, log = spec["at"], Log(spec["at"] + "/log", [])
    publish(at + "/started", run_id)
    try:
        try:
            env, found = prepare(spec, run_id)
        except (SystemExit, OSError, tarfile.TarError) as error:
            log.line(f"mlctl: {error}\n")
            code, reason = 1, "error"
        else:
            log.secrets = hidden(found)
            path = f"{os.path.dirname(sys.executable)}:{os.environ.get('PATH', os.defpath)}"
            whole = {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", **env}
            code, reason = run_here(spec, env, log) if spec["spark"] else run_process(spec, whole, log)
        metrics = spec["here"] + "/metrics.jsonl"
        if os.path.exists(metrics):
            with open(metrics, encoding="utf-8", errors="replace") as stream:
                lines = stream.read()
            for line in lines.splitlines():
                if line.strip() and line.strip() not in log.metrics:
                    log.line(f"{METRIC}{line.strip()}\n")
            publish(at + "/metrics.jsonl", lines)
        try:
            for each in spec["outputs"]:
                if os.path.exists(each["from"]):
                    copy(each["from"], each["to"])
        except OSError as error:
            log.line(f"mlctl: outputs can't be written: {error}\n")
            code, reason = 74, "infra"
        log.flush(last=True)
        publish(at + "/exit.json", json.dumps({"code": code, "reason": reason}))
        return code
    finally:
        os.chdir("/")
        shutil.rmtree(spec["here"], ignore_errors=True)


if __name__ == "__main__":
    ended = main(sys.argv[1], re.sub(r"\D", "", sys.argv[2]))
    if ended:
        raise SystemExit(ended)  # a return is a success; Databricks takes `sys.exit(0)` for a failure in some runtimes
