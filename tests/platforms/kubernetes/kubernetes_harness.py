"""How the tests make the backend, break the way to the cluster, and look at it by other means than the backend: the SDK's own
classes, and a proxy in front of the server."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import boto3
import requests
from kubernetes import client, config
from kubernetes.client.rest import RESTClientObject
from moto.server import ThreadedMotoServer
from urllib3.exceptions import HTTPError

from mlctl import backend, jobfile, lifecycle
from mlctl.backend import Backend, Settings
from mlctl.runs import Key, Run
from mlctl.testing import Harness, Native

NAMESPACE = "mlctl-test"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
DEFAULT = "3.12"  # of a job that names no Python
OLD = "1.20"
STAGE = "mlctl-test/stage:1"


class Proxy:
    """Passes everything on to the server, unless it is told to break: throttled, forbidden, lost_response, down, expired;
    quiet: watches say nothing and don't end; short: they end as they begin; denied: as by a webhook's policy, which ends the
    tests' own API server."""

    def __init__(self, kubeconfig: Path) -> None:
        made = client.Configuration()
        config.load_kube_config(str(kubeconfig), client_configuration=made)
        made.retries = False
        self.configuration, self.connections = made, RESTClientObject(made).pool_manager
        self.fault = ""
        self.asked: list[tuple[str, str]] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except (OSError, HTTPError):  # either side of it is gone
                    self.close_connection = True

            def do_any(self) -> None:
                proxy.answer(self)

            do_GET = do_POST = do_PATCH = do_DELETE = do_any  # noqa: N815 - as http.server calls them

            def log_message(self, *words: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.connections.clear()

    def answer(self, request: Any) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0)) or None
        self.asked.append((request.command, request.path))
        if self.fault == "throttled":
            return self._say(request, 429, json.dumps({"message": "too many requests"}).encode())
        if self.fault == "denied":
            said = 'admission webhook "policy.example.org" denied the request: no team label'
            return self._say(request, 403, json.dumps({"message": said, "reason": "Forbidden"}).encode())
        if self.fault == "down":
            request.close_connection = True
            return None
        headers = {name: request.headers[name] for name in ("Accept", "Content-Type") if name in request.headers}
        token = self.configuration.auth_settings().get("BearerToken", {}).get("value", "")
        if request.headers.get("Authorization", "Bearer proxied") != "Bearer proxied":
            token = request.headers["Authorization"]
        if self.fault == "expired":
            token = "Bearer expired"
        if self.fault == "forbidden":  # asked as somebody who may do nothing
            headers["Impersonate-User"] = "nobody"
        if token:
            headers["Authorization"] = token
        url = f"{self.configuration.host.rstrip('/')}{request.path}"
        if "watch=true" in request.path:
            return self._stream(request, url, headers)
        answer = self.connections.request(request.command, url, body=body, headers=headers, retries=False, timeout=60)
        if (
            self.fault == "lost_response"
            and request.command == "POST"
            and request.path.partition("?")[0].endswith("/jobs")
        ):
            self.fault = ""
            request.close_connection = True
            return None
        return self._say(request, answer.status, answer.data, answer.headers.get("Content-Type", ""))

    def _stream(self, request: Any, url: str, headers: dict[str, str]) -> None:
        """A watch: each part of the answer as it comes."""
        answer = self.connections.request("GET", url, headers=headers, retries=False, timeout=90, preload_content=False)
        request.send_response(answer.status)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        try:
            for part in answer.stream() if self.fault != "short" else ():
                while self.fault == "quiet":
                    time.sleep(0.1)
                request.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            request.wfile.write(b"0\r\n\r\n")
        finally:
            answer.close()

    def _say(self, request: Any, status: int, data: bytes, kind: str = "application/json") -> None:
        request.send_response(status)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)


class Store:
    """An S3 at an address that pods reach, which checks who asks; with one bucket, `bucket`."""

    def __init__(self, host: str) -> None:
        self.server = ThreadedMotoServer(host, 0)

    def __enter__(self) -> Store:
        self.server.start()
        self.url = "http://{}:{}".format(*self.server.get_host_and_port())
        requests.post(f"{self.url}/moto-api/reset-auth", data=b"3", timeout=60)
        known = {"endpoint_url": self.url, "region_name": "us-east-1"}
        first = {**known, "aws_access_key_id": "first", "aws_secret_access_key": "first"}
        iam = boto3.client("iam", **first)
        iam.create_user(UserName="stage")
        policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
        iam.put_user_policy(UserName="stage", PolicyName="all", PolicyDocument=json.dumps(policy))
        key = iam.create_access_key(UserName="stage")["AccessKey"]
        self.credential = {"id": key["AccessKeyId"], "key": key["SecretAccessKey"]}
        own = {"aws_access_key_id": key["AccessKeyId"], "aws_secret_access_key": key["SecretAccessKey"]}
        self.client = boto3.client("s3", **known, **own)
        self.client.create_bucket(Bucket="bucket")
        return self

    def __exit__(self, *error: object) -> None:
        self.server.stop()

    def stage(self, **values: Any) -> dict[str, Any]:
        """The setting of a target."""
        secrets = {"AWS_ACCESS_KEY_ID": "k8s-secret:store/id", "AWS_SECRET_ACCESS_KEY": "k8s-secret:store/key"}
        env = {"AWS_ENDPOINT_URL": self.url, "AWS_DEFAULT_REGION": "us-east-1"}
        return {"image": STAGE, "env": env, "secrets": secrets, **values}

    def names(self, prefix: str) -> list[str]:
        """Of the objects below it."""
        found = self.client.list_objects_v2(Bucket="bucket", Prefix=prefix)
        return [each["Key"].removeprefix(prefix) for each in found.get("Contents", [])]

    def text(self, name: str) -> str:
        """What an object holds."""
        content: bytes = self.client.get_object(Bucket="bucket", Key=name)["Body"].read()
        return content.decode()


@dataclass
class Place:
    """A cluster to test on: one of our own (`cluster`), or that of a kubeconfig."""

    kubeconfig: Path
    image: str
    volume: Path
    """On the node."""
    cluster: Any = None

    def __post_init__(self) -> None:
        self.client = config.new_client_from_config(str(self.kubeconfig))
        self.core, self.batch = client.CoreV1Api(self.client), client.BatchV1Api(self.client)
        self.proxy = Proxy(self.kubeconfig)
        version = client.VersionApi(self.client).get_code()
        self.version = f"{version.major}.{version.minor.rstrip('+')}"

    @property
    def old(self) -> bool:
        """Whether the server lacks Indexed Jobs, suspend and podFailurePolicy."""
        return self.version == OLD

    def close(self) -> None:
        self.proxy.close()
        self.client.close()

    def target(self, folder: Path, **values: Any) -> dict[str, Any]:
        """The settings of a target that goes by way of the proxy."""
        path = folder / "kubeconfig"
        whole = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": self.proxy.url}}],
            "users": [{"name": "test", "user": {"token": "proxied"}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": NAMESPACE}}],
            "current-context": "test",
        }
        path.write_text(json.dumps(whole))
        return {
            "kubeconfig": str(path),
            "image": self.image,
            "volumes": {"data": {"host": str(self.volume)}},
            "storage": "volume://data/mlctl",
            "grace": "5s",
            "secrets": {"TOKEN": "k8s-secret:hub/token"},
            "accelerators": {"A10G": {"resource": "nvidia.com/gpu"}},
            "spot": {"node_selector": {"spot": "true"}},
            **values,
        }


class KubernetesHarness(Harness):
    """Asks with the SDK's own classes."""

    patience = 180.0
    faults = frozenset({"throttled", "forbidden", "lost_response"})
    samples: ClassVar = {"outputs.uri": {"outputs": {"model": {"uri": "volume://data/models"}}}}

    def __init__(self, place: Place, home: Path, **values: Any) -> None:
        home.mkdir(exist_ok=True)
        self.place, self.home = place, home
        self.values = place.target(home, **values)

    def make(self) -> Backend:
        made = backend.load("kubernetes", Settings("batch", self.values, self.home))
        made.interval = 0.5
        return made

    def native(self, run: Run) -> Native:
        jobs = [job for job in self.place.batch.list_namespaced_job(run.scope).items if job.metadata.name == run.name]
        return Native(len(jobs), any(self.alive(pod) for pod in self.pods(run)))

    def alive(self, pod: Any) -> bool:
        """Whether a container of it runs: of our own cluster as its engine says, for that kubelet forgets to."""
        if own := self.place.cluster:
            words = [
                "docker",
                "-H",
                own.engine.address,
                "ps",
                "-q",
                "--filter",
                f"label=io.kubernetes.pod.uid={pod.metadata.uid}",
            ]
            words += ["--filter", "label=io.kubernetes.container.name=job"]
            return bool(subprocess.run(words, capture_output=True, check=True).stdout.strip())
        return pod.status.phase in ("Pending", "Running")

    def pods(self, run: Run) -> list[Any]:
        """The run's pods, as the SDK has them."""
        found: list[Any] = self.place.core.list_namespaced_pod(run.scope, label_selector=f"job-name={run.name}").items
        return found

    @contextlib.contextmanager
    def inject(self, fault: str) -> Iterator[None]:
        self.place.proxy.fault = fault
        try:
            yield
        finally:
            self.place.proxy.fault = ""


def execution(harness: KubernetesHarness, **fields: Any) -> lifecycle.Execution:
    made = harness.make()
    base = {"kind": "process", "name": "faults", "command": ["true"]}
    settings: Settings = made.settings  # type: ignore[attr-defined]
    key = Key(f"{time.time_ns()}", "faults")
    return lifecycle.Execution(jobfile.load({**base, **fields}), made, settings, key)


def with_target(place: Place, tmp_path: Path, **values: Any) -> KubernetesHarness:
    return KubernetesHarness(place, tmp_path / "home", **values)
