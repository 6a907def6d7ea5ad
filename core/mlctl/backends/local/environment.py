"""The Python that a local job gets: one built from its requirements, else the project's .venv, else the one that runs
mlctl.

A built environment is cached by the digest of its requirements and its interpreter. It is made in its final place,
because an environment can't be moved, and is complete once `.complete` is in it; what a crash left is made anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlctl.errors import InvalidJob, Unavailable, refused
from mlctl.job import Job

from .folder import together

__all__ = ["choose", "ensure"]

log = logging.getLogger(__name__)

BUILD_SECONDS = 1800


def choose(job: Job, home: Path) -> dict[str, Any]:
    """Which Python `job` gets: {"from": requirements|.venv|interpreter, "path": its executable, ...}. Builds nothing.

    Raises InvalidJob where it asks for a version that isn't here.
    """
    if job.requirement_lines:
        base = _interpreter(job)
        about = ["1", base["version"], platform.system(), platform.machine(), *job.requirement_lines]
        digest = hashlib.sha256("\n".join(about).encode()).hexdigest()[:32]
        path = home / "envs" / digest / "bin" / "python"
        return {"from": "requirements", "path": str(path), "base": base["path"], "lines": list(job.requirement_lines)}
    venv = _project_venv(job.code or Path(job.document.source).absolute().parent)
    if venv and (not job.python or _version_of(venv).startswith(job.python + ".")):
        return {"from": ".venv", "path": str(venv / "bin" / "python")}
    if not job.python:
        return {"from": "interpreter", "path": sys.executable}
    return {"from": "interpreter", "path": _interpreter(job)["path"]}


def _interpreter(job: Job) -> dict[str, str]:
    here = platform.python_version()
    if not job.python or here.startswith(job.python + "."):
        return {"path": sys.executable, "version": here}
    for name in (f"python{job.python}", "python3", "python"):
        path = shutil.which(name)
        version = path and _asked(path)
        if path and version and version.startswith(job.python + "."):
            return {"path": path, "version": version}
    if uv := shutil.which("uv"):
        done = subprocess.run(
            [uv, "python", "find", job.python], capture_output=True, text=True, check=False, timeout=60
        )
        if done.returncode == 0:
            return {"path": done.stdout.strip(), "version": _asked(done.stdout.strip()) or job.python}
    raise job.fail(
        ("python",), f"no Python {job.python} on this machine; mlctl runs on {here}; install it, or leave the field out"
    )


def _asked(path: str) -> str | None:
    """The version that an interpreter says it has; None where it doesn't run, as a version manager's empty shim."""
    code = "import platform; print(platform.python_version())"
    try:
        done = subprocess.run([path, "-S", "-c", code], capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _project_venv(folder: Path) -> Path | None:
    """The nearest .venv from `folder` upwards, no further than the repository."""
    for place in (folder, *folder.parents):
        if (place / ".venv" / "bin" / "python").exists():
            return place / ".venv"
        if (place / ".git").exists():
            return None
    return None


def _version_of(venv: Path) -> str:
    with contextlib.suppress(OSError):
        found = re.search(r"^version(?:_info)?\s*=\s*(\S+)", (venv / "pyvenv.cfg").read_text(), re.MULTILINE)
        return found[1] if found else ""
    return ""


def ensure(chosen: Mapping[str, Any]) -> None:
    """Builds the environment that `choose` chose, unless it is there. Two callers at once build it once.

    Raises InvalidJob for requirements that can't be met; Unavailable where the index can't be reached or the disk is
    full.
    """
    if chosen["from"] != "requirements":
        return
    folder = Path(chosen["path"]).parent.parent
    if _use(folder):
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_suffix(".lock")) as lock:
            if not _complete(folder):
                shutil.rmtree(folder, ignore_errors=True)
                _build(folder, chosen["base"], chosen["lines"], lock)
            (folder / ".complete").touch()
    except OSError as reason:
        raise refused(reason.filename or folder, reason) from None


def _use(folder: Path) -> bool:
    """Marks it as used now: a gc may come before the run has its name. False where it isn't there, or is being built or removed."""
    if not _complete(folder):
        return False
    try:
        with together(folder.with_suffix(".lock"), fcntl.LOCK_SH):
            (folder / ".complete").touch()
    except (BlockingIOError, FileNotFoundError):
        return False
    except OSError:  # another user's; this one's gc can't remove it either
        pass
    return True


def _complete(folder: Path) -> bool:
    """True where all was installed, and the Python that it was made with is still there."""
    return (folder / ".complete").exists() and (folder / "bin" / "python").exists()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield stream.fileno()


def _build(folder: Path, base: str, lines: list[str], lock: int) -> None:
    """Installs `lines` into a new environment. The installers hold the lock too: one that goes on after its caller was
    killed is waited for, not met in the same folder."""
    wanted = folder.with_suffix(".txt")
    wanted.write_text("\n".join(lines) + "\n", encoding="utf-8")
    python = str(folder / "bin" / "python")
    if uv := shutil.which("uv"):
        steps = [
            [uv, "venv", "--quiet", "--python", base, str(folder)],
            [uv, "pip", "install", "--quiet", "--python", python, "-r", str(wanted)],
        ]
    else:
        quiet = ["--quiet", "--disable-pip-version-check", "--no-input"]
        steps = [[base, "-m", "venv", str(folder)], [python, "-m", "pip", "install", *quiet, "-r", str(wanted)]]
        if not _has(
            base, "ensurepip"
        ):  # a Debian without python3-venv; pip itself can install into another environment
            steps = [
                [base, "-m", "venv", "--without-pip", str(folder)],
                [sys.executable, "-m", "pip", "--python", python, "install", *quiet, "-r", str(wanted)],
            ]
    log.info("building a Python environment for %d requirements; kept for the next run", len(lines))
    clean = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    }
    for step in steps:
        try:
            done = subprocess.run(
                step, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False,
                timeout=BUILD_SECONDS, env=clean, pass_fds=(lock,),
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise Unavailable(f"requirements: not installed within {BUILD_SECONDS} s: {' '.join(step)}") from None
        if done.returncode:
            raise _failure((done.stdout + done.stderr).replace(str(wanted), "the list"), step)


def _has(base: str, module: str) -> bool:
    return (
        subprocess.run([base, "-c", f"import {module}"], capture_output=True, check=False, timeout=60).returncode == 0
    )


def _failure(output: str, step: list[str]) -> InvalidJob | Unavailable:
    lines = [line.strip() for line in output.splitlines() if line.strip(" ^~") and not line.startswith("hint:")]
    first = next((at for at, line in enumerate(lines) if re.match(r"(?i)error", line)), -1)
    text = f"requirements: {' '.join(lines[first:] or ['no output'])[:400]}"
    network = re.search(
        r"(?i)retrying|timed? ?out|connection|temporary failure|name resolution|no space left|read-only", output
    )
    if network:
        return Unavailable(f"{text}; the package index or the disk failed")
    return InvalidJob(f"{text}; tried: {Path(step[0]).name} {' '.join(step[1:4])} ...")
