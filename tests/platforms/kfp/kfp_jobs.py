"""Runs the task of a pipeline as KFP's launcher would: its placeholders resolved by kfp's own code, its command as a process with a
file system of its own for /tmp and /mnt, its lines in the pod's log.

No container is started: the programs are this machine's. What that can't show: the image, its user, resources, nodes.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from kfp.local import executor_input_utils, placeholder_utils
from kfp.pipeline_spec import pipeline_spec_pb2 as pipelines
from kfp_standin import Run, StandIn

_GRACE = 3.0  # seconds from SIGTERM to SIGKILL
_VARIABLE = re.compile(r"\$\$\(|\$\(([A-Za-z_][\w.-]*)\)")


class Runner:
    """What becomes of the runs of one stand-in; `folder` holds the claims, and what each pod has of its own.

    `python` is a virtual environment that each pod has, this one unless said: what is installed there stays. It is mounted, as a
    pod's /tmp hides what is below this machine's.
    """

    def __init__(self, folder: Path, python: Path | None = None) -> None:
        self.folder, self.python = folder, python or Path(sys.prefix)

    def claim(self, name: str) -> Path:
        """The content of a PersistentVolumeClaim."""
        made = self.folder / "claims" / name
        made.mkdir(parents=True, exist_ok=True)
        return made

    def __call__(self, standin: StandIn, run: Run) -> None:
        try:
            self._execute(standin, run)
        except Exception as error:
            run.end("FAILED", f"The stand-in failed: {error!r}")

    def _execute(self, standin: StandIn, run: Run) -> None:
        spec = pipelines.PipelineSpec()
        json_format.ParseDict(run.body["pipeline_spec"].get("pipeline_spec") or run.body["pipeline_spec"], spec)
        words, label = _words(spec, run, self.folder / "pipeline-root")
        native = _native(run.body["pipeline_spec"], label)
        own = self.folder / "pods" / run.run_id
        (own / "tmp").mkdir(parents=True)
        env = {"PATH": "/mnt/.python/bin:/usr/bin:/bin", "HOME": "/tmp"}
        env |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        for each in native.get("secretAsEnv", []):
            for pair in each["keyToEnv"]:
                if (each["secretName"], pair["secretKey"]) not in standin.secrets:
                    run.end("FAILED", f'CreateContainerConfigError: secret "{each["secretName"]}" not found')
                    return
                env[pair["envVar"]] = standin.secrets[each["secretName"], pair["secretKey"]]
        words = [_VARIABLE.sub(lambda match: env.get(match[1], match[0]) if match[1] else "$(", word) for word in words]
        mounts = ["mount -t tmpfs none /mnt"]
        volumes = [(self.claim(each["constant"]), each["mountPath"]) for each in native.get("pvcMount", [])]
        for source, place in [*volumes, (self.python, "/mnt/.python")]:
            at = shlex.quote(place)
            mounts.append(f"mkdir -p {at} && mount --bind {shlex.quote(str(source))} {at}")
        mounts.append(f"mount --bind {shlex.quote(str(own / 'tmp'))} /tmp")
        if not run.begin():
            run.end("FAILED")
            return
        inside = f'{" && ".join(mounts)} && cd / && exec "$@"'
        process = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", inside, "pod", *words], env=env,
            stdin=subprocess.DEVNULL, stdout=(log := (own / "log").open("w+b")), stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        with log:
            code = _wait(process, run, own / "log")
        with contextlib.suppress(ProcessLookupError):  # whatever the container had beside its first process
            os.killpg(process.pid, signal.SIGKILL)
        run.log[:] = (own / "log").read_bytes()
        if code:
            run.end("FAILED", f"Error (exit code {code})")
        else:
            run.end("SUCCEEDED")


def _wait(process: subprocess.Popen[bytes], run: Run, log: Path) -> int:
    told = 0.0
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(0.02)
        run.log[:] = log.read_bytes()
        if run.stopping.is_set() and not told:
            told = time.monotonic()
            process.terminate()
        elif told and time.monotonic() > told + _GRACE:
            os.killpg(process.pid, signal.SIGKILL)


def _words(spec: Any, run: Run, root: Path) -> tuple[list[str], str]:
    """The command of the one task, its placeholders resolved; and its executor's label."""
    ((name, task),) = spec.root.dag.tasks.items()
    component = spec.components[task.component_ref.name]
    deployment = json_format.ParseDict(
        json_format.MessageToDict(spec.deployment_spec), pipelines.PipelineDeploymentConfig()
    )
    container = deployment.executors[component.executor_label].container
    given = executor_input_utils.construct_executor_input(
        component_spec=component, arguments=dict(run.body["runtime_config"]["parameters"]),
        task_root=str(root / run.run_id / name), block_input_artifact=False,
    )  # fmt: skip
    words = placeholder_utils.replace_placeholders(
        full_command=[*container.command, *container.args],
        executor_input_dict=executor_input_utils.executor_input_to_dict(given, component),
        pipeline_resource_name=spec.pipeline_info.name, task_resource_name=name, pipeline_root=str(root),
        unique_pipeline_id=run.run_id,
    )  # fmt: skip
    return words, component.executor_label


def _native(given: Mapping[str, Any], label: str) -> dict[str, Any]:
    platforms = (given.get("platform_spec") or {}).get("platforms") or {}
    executors = ((platforms.get("kubernetes") or {}).get("deploymentSpec") or {}).get("executors") or {}
    return dict(executors.get(label, {}))
