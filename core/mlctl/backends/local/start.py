"""What a job starts with: its variables, its program, its folder."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlctl import data
from mlctl.backend import Settings
from mlctl.errors import InvalidJob
from mlctl.runs import Stamp

from . import folder

__all__ = ["environment", "fill", "passable", "program"]


def environment(request: Mapping[str, Any], settings: Settings) -> dict[str, str]:
    """The variables of the job: those it inherits, its Python, the contract's, its own, its secrets.

    Raises InvalidConfig for a secret that isn't where the target says.
    """
    env = {name: os.environ[name] for name in request["inherit_env"] if name in os.environ}
    bin_folder = str(Path(request["python"]["path"]).parent)
    env["PATH"] = f"{bin_folder}{os.pathsep}{env.get('PATH', os.defpath)}"
    if request["python"]["from"] != "interpreter":
        env["VIRTUAL_ENV"] = str(Path(bin_folder).parent)
    env.update(request["env"])
    for name, source in request["secrets"].items():
        env[name] = settings.secret(name, source)
    return env


def program(word: str, env: Mapping[str, str]) -> str:
    """The path of the program, so that no shell's own word is run in its place. Raises InvalidJob where it isn't there."""
    if "/" in word:
        return word
    if path := shutil.which(word, path=env["PATH"]):
        return path
    raise InvalidJob(f"command: '{word}' is no program on the job's PATH, {env['PATH']}")


def fill(draft: Path, request: Mapping[str, Any], stamp: Stamp, home: Path) -> None:
    """Writes all that the run starts with to `draft`, which is to become its folder. Raises OSError; InvalidJob for an
    input that can't be copied."""
    record = {
        "request": request, "stamp": vars(stamp), "host": socket.gethostname(), "created": time.time(),
        "oom_kills": folder.oom_kills(),
    }  # fmt: skip
    (draft / "plan.json").write_text(json.dumps(record))
    (draft / "params.json").write_text(json.dumps(request["params"]))
    if request["code"]:
        from mlctl.package import unpack

        unpack(home / "packages" / f"{request['code']}.tar.gz", request["code"], draft / "code")
    else:
        (draft / "code").mkdir()
    at = Path(request["folder"])
    for name, each in request["inputs"].items():
        if each["copied"]:
            target = draft / "inputs" / name
            target.mkdir(parents=True)
            try:
                data.copy(Path(each["from"]), target / Path(each["from"]).name)
            except ValueError as reason:
                mend = "mend that, or read it in place, without mode: download"
                raise InvalidJob(f"inputs.{name}: {reason}; {mend}") from None
    (at.parent / "checkpoints").mkdir(exist_ok=True)
    for path in request["outputs"].values():
        inside = Path(path).is_relative_to(at)
        (draft / Path(path).relative_to(at) if inside else Path(path)).mkdir(parents=True, exist_ok=True)
    if "layout" in request:
        from . import sagemaker_layout

        sagemaker_layout.fill(draft, request)


def passable(text: str) -> bool:
    """True for what can be a word or a variable of a process."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False
