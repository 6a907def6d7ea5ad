"""Runs a job of the stand-in's as SageMaker would: channels copied from S3, the entry point as a process, its lines in
CloudWatch, what it leaves back in S3.

No container is started: /opt/ml is a folder of this machine, and its name is put in its place in what the entry point
names. What that can't show: the image, its user, its network.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path
from typing import IO, Any

import boto3
import processes
from sagemaker_standin import Job, StandIn

_ROOT = "/opt/ml"


class Runner:
    """What becomes of the jobs of one stand-in; `folder` holds each host's /opt/ml, `image` the programs of every image."""

    def __init__(self, folder: Path, image: Path | None = None) -> None:
        self.folder, self.image = folder, image or Path(sys.executable).parent

    def __call__(self, standin: StandIn, job: Job) -> None:
        try:
            _Process(self.folder / job.name, self.image, standin, job).run()
        except Exception as error:
            job.end("Failed", reason=f"InternalServerError: {error!r}")


class Attempt:
    """A job, with what whoever runs it needs: its own folder of this machine, its logs, S3."""

    def __init__(self, folder: Path, standin: StandIn, job: Job) -> None:
        self.folder, self.job = folder, job
        self.training = job.kind == "Training"
        self.s3 = boto3.client("s3", endpoint_url=standin.url, region_name=job.region)
        self.logs = boto3.client("logs", endpoint_url=standin.url, region_name=job.region)
        self.group = f"/aws/sagemaker/{job.kind}Jobs"

    def _log(self, host: str, stream: IO[bytes] | None) -> None:
        assert stream is not None
        name = f"{self.job.name}/{host}-{int(time.time())}"
        for make, what in ((self.logs.create_log_group, {}), (self.logs.create_log_stream, {"logStreamName": name})):
            with contextlib.suppress(self.logs.exceptions.ResourceAlreadyExistsException):
                make(logGroupName=self.group, **what)
        held: list[dict[str, Any]] = []
        sent = 0.0
        with stream:
            for line in stream:
                held.append(
                    {"timestamp": int(time.time() * 1000), "message": line.decode("utf-8", "replace").rstrip("\n")}
                )
                if time.monotonic() - sent > 0.1:
                    self._send(name, held)
                    held, sent = [], time.monotonic()
        self._send(name, held)

    def _send(self, name: str, events: list[dict[str, Any]]) -> None:
        events = [
            {**event, "message": event["message"] or " "} for event in events
        ]  # CloudWatch takes no empty message
        for at in range(0, len(events), 5000):
            self.logs.put_log_events(logGroupName=self.group, logStreamName=name, logEvents=events[at : at + 5000])

    def _upload(self, folder: Path, address: str) -> None:
        bucket, _, prefix = address.removeprefix("s3://").partition("/")
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            self.s3.upload_file(str(file), bucket, f"{prefix.rstrip('/')}/{file.relative_to(folder).as_posix()}")


class _Process(Attempt):
    def __init__(self, folder: Path, image: Path, standin: StandIn, job: Job) -> None:
        super().__init__(folder, standin, job)
        self.image = image

    def run(self) -> None:
        job, request = self.job, self.job.request
        cluster = request["ResourceConfig"] if self.training else request["ProcessingResources"]["ClusterConfig"]
        hosts = [f"algo-{number + 1}" for number in range(cluster["InstanceCount"])]
        job.phase = "Downloading"
        for host in hosts:
            if missing := self._prepare(host, hosts):
                said = f'Data download failed:No S3 objects found under S3 URL "{missing}" given in input data source'
                job.end("Failed", reason=f"ClientError: {said}")
                return
        if job.stopping.is_set():
            job.end("Stopped")
            return
        job.begin()
        running = [(host, self._start(host)) for host in hosts]
        readers = [threading.Thread(target=self._log, args=(host, process.stdout)) for host, process in running]
        for reader in readers:
            reader.start()
        limit = request["StoppingCondition"]["MaxRuntimeInSeconds"]
        late = processes.wait([process for _, process in running], self.job.stopping, time.monotonic() + limit)
        for reader in readers:
            reader.join(60)
        code = max(abs(process.wait()) for _, process in running)
        if self.training:
            job.phase = "Uploading"
        self._leave(hosts)
        message = self._said()
        if late:
            job.end("Stopped", "MaxRuntimeExceeded")
        elif job.stopping.is_set():
            job.end("Stopped")
        elif code:
            job.end("Failed", reason=f"AlgorithmError: {message}, exit code: {code}", message=message or None)
        else:
            job.end("Completed", message=message or None)

    def _prepare(self, host: str, hosts: list[str]) -> str:
        """Fills a host's folder; the address of an input that has nothing in it."""
        at, request = self.folder / host, self.job.request
        config = at / ("input/config" if self.training else "config")
        config.mkdir(parents=True)
        text = json.dumps({"current_host": host, "hosts": hosts, "network_interface_name": "eth0"})
        (config / "resourceconfig.json").write_text(text)
        if self.training:
            (config / "hyperparameters.json").write_text(json.dumps(request.get("HyperParameters", {})))
            sources = [
                (one["DataSource"]["S3DataSource"]["S3Uri"], f"{_ROOT}/input/data/{one['ChannelName']}")
                for one in request["InputDataConfig"]
            ]
            if "CheckpointConfig" in request:
                self._fetch(request["CheckpointConfig"]["S3Uri"], request["CheckpointConfig"]["LocalPath"], at)
        else:
            sources = [(one["S3Input"]["S3Uri"], one["S3Input"]["LocalPath"]) for one in request["ProcessingInputs"]]
            for one in request["ProcessingOutputConfig"]["Outputs"]:
                self._inside(one["S3Output"]["LocalPath"], at).mkdir(parents=True, exist_ok=True)
        return next((address for address, path in sources if not self._fetch(address, path, at)), "")

    def _inside(self, path: str, at: Path) -> Path:
        assert path.startswith(_ROOT + "/"), path
        return at / path[len(_ROOT) + 1 :]

    def _fetch(self, address: str, path: str, at: Path) -> int:
        """Copies what begins with an address, as S3Prefix does; how many objects."""
        bucket, _, prefix = address.removeprefix("s3://").partition("/")
        target, count = self._inside(path, at), 0
        for page in self.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for each in page.get("Contents", []):
                file = target / each["Key"][len(prefix.rpartition("/")[0]) :].lstrip("/")
                file.parent.mkdir(parents=True, exist_ok=True)
                self.s3.download_file(bucket, each["Key"], str(file))
                count += 1
        return count

    def _start(self, host: str) -> subprocess.Popen[bytes]:
        at, request = self.folder / host, self.job.request
        asked = request["AlgorithmSpecification"] if self.training else request["AppSpecification"]
        words = [*asked["ContainerEntrypoint"], *asked.get("ContainerArguments", [])]
        argv = [word.replace(_ROOT, str(at)) for word in words]
        for path in (Path(word) for word in argv if word.startswith(str(at))):
            path.write_text(path.read_text().replace(_ROOT, str(at)))
        env = {
            "PATH": f"{self.image}:/usr/bin:/bin",
            "HOME": str(at),
            "AWS_REGION": self.job.region,
            **{name: os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL")},
            **{name: value for name, value in os.environ.items() if name.startswith("PIP_")},
            **request.get("Environment", {}),
        }
        return subprocess.Popen(
            argv, env=env, cwd=at, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip

    def _leave(self, hosts: list[str]) -> None:
        """What SageMaker uploads at the end."""
        request, at = self.job.request, self.folder / hosts[0]
        if not self.training:
            for host in hosts:
                for one in request["ProcessingOutputConfig"]["Outputs"]:
                    self._upload(
                        self._inside(one["S3Output"]["LocalPath"], self.folder / host), one["S3Output"]["S3Uri"]
                    )
            return
        store = f"{request['OutputDataConfig']['S3OutputPath'].rstrip('/')}/{self.job.name}/output"
        for folder, archive in ((at / "model", "model.tar.gz"), (at / "output" / "data", "output.tar.gz")):
            if folder.is_dir() and any(folder.iterdir()):
                packed = self.folder / archive
                with tarfile.open(packed, "w:gz") as tar:
                    for each in sorted(folder.iterdir()):
                        tar.add(each, each.name)
                bucket, _, key = f"{store}/{archive}".removeprefix("s3://").partition("/")
                self.s3.upload_file(str(packed), bucket, key)
        if checkpoint := request.get("CheckpointConfig"):
            self._upload(self._inside(checkpoint["LocalPath"], at), checkpoint["S3Uri"])

    def _said(self) -> str:
        path = self.folder / "algo-1" / "output" / ("failure" if self.training else "message")
        return path.read_text()[:1024] if path.exists() else ""
