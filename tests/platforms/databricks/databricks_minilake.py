"""minilake as a process: what keeps the stand-in's files and secrets, and executes its tasks."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ports

HERE = Path(__file__).parent


class Minilake:
    """Started below `folder`; the tasks that it executes talk to the workspace at `url` with `token`."""

    def __init__(self, folder: Path, data: Path, nodes: Path, url: str, token: str) -> None:
        (folder / "bin").mkdir()
        shim = folder / "bin" / "python3"
        shim.write_text(f'#!/bin/sh\nexec {sys.executable} {HERE}/databricks_node.py "$@"\n')
        shim.chmod(0o755)
        self._kept = contextlib.ExitStack()
        [self.port] = self._kept.enter_context(ports.kept())
        uv = HERE.parents[2] / ".venv" / "bin" / "uv"
        builder = str(uv if uv.exists() else shutil.which("uv"))
        env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("DATABRICKS_", "MLCTL_", "TOKEN"))},
            "PATH": f"{folder}/bin:{os.environ['PATH']}",
            "MINILAKE_JOB_EXECUTOR": "subprocess", "MINILAKE_PORT": str(self.port), "MINILAKE_DATA_DIR": str(data),
            "MINILAKE_NOTEBOOK": "0", "MINILAKE_SERVICES": "jobs,workspace,files,dbfs,secrets,identity,scim,clusters",
            "STANDIN_NODES": str(nodes), "STANDIN_PYTHON": sys.executable, "STANDIN_UV": builder,
            "DATABRICKS_HOST": url, "DATABRICKS_TOKEN": token,
        }  # fmt: skip
        with (folder / "minilake.log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "minilake", "--port", str(self.port)], env=env, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True, cwd=folder,
            )  # fmt: skip
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.1)
        self.close()
        raise AssertionError(f"minilake did not start:\n{(folder / 'minilake.log').read_text()[-2000:]}")

    def close(self) -> None:
        """Ends it, and what it executes."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(30)
        self._kept.close()

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """One call."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def json(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """One call that has to go well."""
        status, _, content = self.ask(
            method, path, json.dumps(body).encode() if body else None, {"Content-Type": "application/json"}
        )
        assert status < 300, f"minilake: {method} {path}: {status} {content[:300]!r}"
        return json.loads(content or b"{}")
