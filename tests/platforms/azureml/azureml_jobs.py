"""Runs a job of the stand-in's as Azure ML would: inputs and outputs put in place, the command as a process of a shell, its
lines in the run's log, what it leaves back in the datastore.

No container is started: what the job has in /tmp is a folder of its own, whose name is put in its place in the script. A
mount is a copy, which is written back at the end. What that can't show: the image, its user, mounts, the network.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

import processes
from azureml_standin import Job, StandIn

_PATHS = "/paths/"
_BUILDING = threading.Lock()


class Runner:
    """What becomes of the jobs of one stand-in; `folder` holds what each job has of its own."""

    def __init__(self, folder: Path, authority: Path) -> None:
        self.folder, self.authority = folder, authority

    def __call__(self, standin: StandIn, job: Job) -> None:
        try:
            _Attempt(self.folder / job.name, self.authority, standin, job).run()
        except Exception as error:
            job.end("Failed", f"The stand-in failed: {error!r}", "SystemError")


class _Attempt:
    def __init__(self, folder: Path, authority: Path, standin: StandIn, job: Job) -> None:
        self.folder, self.authority, self.standin, self.job = folder, authority, standin, job
        self.bin = Path()

    def run(self) -> None:
        job, asked = self.job, self.job.properties
        job.status = "Preparing"
        nodes = range(int((asked.get("resources") or {}).get("instanceCount", 1)))
        if missing := next(filter(None, (self._prepare(node) for node in nodes)), ""):
            job.end("Failed", f"Unable to access data: {missing} was not found in the datastore", "UserError")
            return
        try:
            self.bin = self._environment()
        except subprocess.CalledProcessError as error:
            job.end("Failed", f"Image build failed: {error.stderr[-300:]}", "UserError")
            return
        if job.stopping.is_set():
            job.end("Canceled")
            return
        job.begin()
        running = [self._start(node, len(nodes)) for node in nodes]
        readers = []
        for node, process in enumerate(running):
            name = "user_logs/std_log.txt" if len(nodes) == 1 else f"user_logs/std_log_process_{node}.txt"
            readers.append(threading.Thread(target=self._log, args=(name, process.stdout)))
            readers[-1].start()
        match = re.fullmatch(r"PT(\d+)S", (asked.get("limits") or {}).get("timeout", "PT999999S"))
        assert match
        late = processes.wait(running, self.job.stopping, time.monotonic() + int(match[1]))
        for reader in readers:
            reader.join(60)
        code = max(each.wait() if each.wait() >= 0 else 128 - each.wait() for each in running)
        job.status = "Finalizing" if not job.stopping.is_set() else job.status
        self._leave(nodes)
        if late or job.stopping.is_set():
            job.end("Canceled", "Job timed out" if late and not job.stopping.is_set() else "")
        elif code:
            text = f"Execution failed. User process 'sh' exited with status code {code}. Please check log file"
            job.end("Failed", f"{text} 'user_logs/std_log.txt' for error details.", "UserError")
        else:
            job.end("Completed")

    def _environment(self) -> Path:
        """Where the job's programs are: of an environment with packages, one that is built here, once."""
        environment = self.standin.environments.get(self.job.properties["environmentId"], {}).get("properties", {})
        needs = json.loads(environment.get("condaFile", "{}")).get("dependencies", [])
        packages = [line for each in needs if isinstance(each, dict) for line in each["pip"]]
        own = Path(sys.executable).parent
        if not packages:
            return own
        at = self.folder.parent / self.job.properties["environmentId"].split("/")[-3]
        with _BUILDING:
            if not (at / "built").exists():
                subprocess.run([sys.executable, "-m", "venv", "--without-pip", at], check=True, capture_output=True)
                uv = [shutil.which("uv") or "uv", "pip", "install", "--quiet", "--python", at / "bin/python", *packages]
                subprocess.run(uv, check=True, capture_output=True, text=True)
                (at / "built").touch()
        return at / "bin"

    def _path(self, uri: str) -> str:
        assert _PATHS in uri, uri
        return uri.partition(_PATHS)[2]

    def _at(self, node: int, sort: str, name: str) -> Path:
        return self.folder / str(node) / sort / name

    def _prepare(self, node: int) -> str:
        """Fills a node's folders; the address of an input that isn't there."""
        blobs = self.standin.blobs
        for name, each in self.job.properties["inputs"].items():
            at, path = self._at(node, "inputs", name), self._path(each["uri"])
            if each["jobInputType"] == "uri_file":
                found = {path.rpartition("/")[2]: blobs.files[path]} if path in blobs.files else {}
            else:
                found = blobs.below(path)
            if not found:
                return str(each["uri"])
            self._write(at, found)
        for name, each in self.job.properties["outputs"].items():
            kept = blobs.below(self._path(each["uri"])) if each["mode"] == "ReadWriteMount" else {}
            self._write(self._at(node, "outputs", name), kept)
        return ""

    def _write(self, folder: Path, files: dict[str, bytes]) -> None:
        folder.mkdir(parents=True)
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)

    def _start(self, node: int, nodes: int) -> subprocess.Popen[bytes]:
        properties, own = self.job.properties, self.folder / str(node)

        def place(match: re.Match[str]) -> str:
            sort, name = match.groups()
            at = self._at(node, sort, name)
            single = sort == "inputs" and properties["inputs"][name]["jobInputType"] == "uri_file"
            return str(next(at.iterdir()) if single else at)

        command = re.sub(r"\$\{\{(inputs|outputs)\.(\w+)\}\}", place, properties["command"])
        vault = f"127.0.0.1:{self.standin.port}/vault/"
        for script in own.glob("inputs/*/launch.sh"):
            text = script.read_text().replace("/tmp/mlctl-", f"{own}/mlctl-")
            script.write_text(re.sub(r"([\w-]+\.vault\.azure\.net)", rf"{vault}\1", text))
        env = {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "HOME": str(own),
            "SSL_CERT_FILE": str(self.authority),
            "AZUREML_RUN_ID": self.job.name,
            **(properties.get("environmentVariables") or {}),
        }
        if (properties.get("identity") or {}).get("identityType") == "Managed":
            env |= {"MSI_ENDPOINT": f"{self.standin.url}/msi", "MSI_SECRET": "of-this-machine"}
        if properties.get("distribution"):
            env |= {
                "NODE_RANK": str(node), "RANK": str(node), "WORLD_SIZE": str(nodes), "LOCAL_RANK": "0",
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500",
            }  # fmt: skip
        (own / "wd").mkdir()
        return subprocess.Popen(
            ["/bin/bash", "-c", command], env=env, cwd=own / "wd", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def _log(self, name: str, stream: IO[bytes] | None) -> None:
        assert stream is not None
        self.job.logs[name] = b""
        with stream:
            while content := os.read(stream.fileno(), 1 << 16):
                self.job.logs[name] += content

    def _leave(self, nodes: range) -> None:
        """What is uploaded at the end, or was written to a mount."""
        for node in nodes:
            for name, each in self.job.properties["outputs"].items():
                folder = self._at(node, "outputs", name)
                for file in sorted(path for path in folder.rglob("*") if path.is_file()):
                    path = f"{self._path(each['uri']).rstrip('/')}/{file.relative_to(folder).as_posix()}"
                    self.standin.blobs.put(path, file.read_bytes())
