"""What a run on Kubernetes costs by mlctl, beside `kubectl create` and `kubectl wait`; and what waiting for a thousand does.

    tools/env.sh platforms && .envs/platforms/bin/python bench/kubernetes.py [--quick]

On a real cluster of one node, which it starts and ends: see tools/services/cluster.py; wants `kubectl` on PATH. One job at a time,
the subjects by turns. The job notes its start and its end as files on a volume of this machine. Those that are waited for are
real Jobs, each with a pod, whose scheduler is stopped: so nothing but the waiting takes this machine's time. Nothing is asserted;
the figures go to the console, and in full to bench/kubernetes.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from measure import ROOT, Sample, about, keep, report, scratch, show, take_turns

sys.path.pop(0)  # this file is called as what it measures

from mlctl import backend, jobfile, lifecycle, watch
from mlctl.backend import Settings
from mlctl.backends.kubernetes import polling, states
from mlctl.backends.kubernetes.request import ALL
from mlctl.runs import Key, Run, State, Status

sys.path.insert(0, str(ROOT / "tools/services"))
import base_image
import cluster

IMAGE = "mlctl-bench:1"  # of a tag: the newest would be pulled
SCRIPT = "touch /out/began; sleep 0.2; touch /out/ended"
PATIENCE = 120.0
RUNS = 1_000
numbers = itertools.count(time.time_ns())


class Bench:
    """A cluster, and mlctl's way to it."""

    def __init__(self, own: cluster.Cluster, folder: Path) -> None:
        self.own, self.folder, self.config = own, folder, own.kubeconfig()
        self.volume = folder / "volume"
        (folder / "home").mkdir()
        values = {
            "kubeconfig": str(self.config), "image": IMAGE, "volumes": {"data": {"host": str(self.volume)}},
            "storage": "volume://data/mlctl",
        }  # fmt: skip
        self.backend: Any = backend.load("kubernetes", Settings("bench", values, folder / "home"))

    def times(self, at: Path, call: float) -> Sample:
        """What the job's own files say, between the call and now, all in seconds since 1970."""
        known = time.time()
        began, ended = ((at / name).stat().st_mtime for name in ("began", "ended"))
        return {
            "call_to_start_ms": (began - call) * 1000,
            "end_to_known_ms": (known - ended) * 1000,
            "whole_ms": (known - call) * 1000,
        }

    def execution(self, **fields: Any) -> lifecycle.Execution:
        """A job that nobody started."""
        job = jobfile.load({"kind": "process", "name": "bench", "command": ["true"], **fields})
        return lifecycle.Execution(job, self.backend, self.backend.settings, Key(str(next(numbers)), "bench"))

    def by_mlctl(self) -> Iterator[Sample]:
        script = SCRIPT.replace("/out", '"$MLCTL_OUTPUT_AT"')
        call = time.time()
        execution = self.execution(command={"shell": script}, outputs={"at": {}})
        outcome = execution.wait(execution.start(), PATIENCE)
        assert outcome.status and outcome.status.state is State.SUCCEEDED, outcome
        stem = outcome.run.name.rpartition("-")[0]
        yield self.times(self.volume / f"mlctl/runs/{stem}/0/outputs/at", call)

    def by_command(self) -> Iterator[Sample]:
        name = f"plain-{next(numbers)}"
        container = {
            "name": "job", "image": IMAGE, "command": ["/bin/sh", "-c", SCRIPT], "imagePullPolicy": "IfNotPresent",
            "volumeMounts": [{"name": "out", "mountPath": "/out"}],
        }  # fmt: skip
        volumes = [{"name": "out", "hostPath": {"path": str(self.volume / name), "type": "DirectoryOrCreate"}}]
        pod = {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "containers": [container],
            "volumes": volumes,
        }
        job = {
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
            "spec": {"backoffLimit": 0, "template": {"spec": pod}},
        }  # fmt: skip
        kubectl = ["kubectl", "--kubeconfig", str(self.config)]
        call = time.time()
        subprocess.run(
            [*kubectl, "create", "-f", "-"], input=json.dumps(job), text=True, check=True, stdout=subprocess.PIPE
        )
        words = ["wait", "--for=condition=complete", f"job/{name}", f"--timeout={PATIENCE:.0f}s"]
        subprocess.run([*kubectl, *words], check=True, stdout=subprocess.PIPE)
        yield self.times(self.volume / name, call)


class Waiting:
    """Ways to wait for many runs of one backend. Each call of the API is counted."""

    def __init__(self, made: Any, runs: list[Run], seconds: float) -> None:
        self.backend, self.runs, self.seconds, self.calls, self.bytes = made, runs, seconds, 0, 0
        answer = made._api._answer

        def counted(*words: Any, **more: Any) -> Any:
            self.calls += 1
            found = answer(*words, **more)
            if not more.get("silent"):
                self.bytes += len(found.data)
            return found

        made._api._answer = counted

    def by_mlctl(self) -> None:
        """Its own loop, at its own pace, for `seconds`."""
        deadline = time.monotonic() + self.seconds
        for answer in watch.rounds(self.backend, lambda: self.runs, self.backend.interval, deadline):
            known = [one for one in answer.values() if isinstance(one, Status) and one.state is State.QUEUED]
            assert len(known) == len(self.runs), next(iter(answer.values()))
            if time.monotonic() >= deadline:
                return

    def by_list(self) -> None:
        """One round, with a list of Jobs and one of pods."""
        api = self.backend._api
        jobs, own = api.listed("jobs", api.namespace, ALL), polling.pods_of(api, api.namespace, ALL)
        for job in jobs:
            states.status_of(job, own.get(job["metadata"]["name"], []), (), api.now())

    def by_question(self) -> None:
        """One round, with a question for each run, as Airflow's KubernetesJobOperator asks."""
        api = self.backend._api
        for run in self.runs:
            api.call("GET", api.path("jobs", run.scope, run.name))

    def measured(self, what: Callable[[], None], lasts: float) -> Iterator[Sample]:
        """One call of `what`, which stands for `lasts` seconds of waiting."""
        self.calls = self.bytes = 0
        used = time.process_time()
        what()
        used = time.process_time() - used
        yield {
            "calls_a_minute": self.calls * 60 / lasts,
            "mb_a_minute": self.bytes * 60 / lasts / 1e6,
            "cpu_percent": used / lasts * 100,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works; nothing is written")
    quick = parser.parse_args().quick
    if not shutil.which("kubectl"):
        raise SystemExit("bench: no kubectl on PATH, which is what mlctl is measured beside")
    archive, changes = base_image.archive()
    tables = {}
    with scratch() as folder, cluster.running(folder / "c", archive) as own:
        own.load_image(IMAGE, archive, *changes)
        bench = Bench(own, folder)
        title = "one job, which takes 200 ms"
        tables[title] = take_turns(3 if quick else 20, {"kubectl": bench.by_command, "mlctl": bench.by_mlctl})
        show(title, tables[title])
        own.stop("kube-scheduler")
        runs = [bench.execution().start().run for _ in range(150 if quick else RUNS)]
        lasts = 15.0 if quick else 60.0
        waiting, interval = Waiting(bench.backend, runs, lasts), bench.backend.interval
        title = f"waiting for {len(runs):,} runs"
        tables[title] = take_turns(
            1 if quick else 3,
            {
                "mlctl": lambda: waiting.measured(waiting.by_mlctl, lasts),
                "a list a round": lambda: waiting.measured(waiting.by_list, interval),
                "one question a run": lambda: waiting.measured(waiting.by_question, interval),
            },
        )
        show(title, tables[title])
        server = str(own.call("GET", "/version")["gitVersion"])
    if not quick:
        facts = about({"kubernetes": version("kubernetes"), "server": server})
        keep(ROOT / "bench/kubernetes.json", report(facts, tables))


if __name__ == "__main__":
    main()
