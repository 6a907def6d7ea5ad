"""A Kubernetes cluster of one node on this machine, for the tests: a real one, of what kubernetes.sh builds, etcd and dockerd.

    with cluster.running(folder, image) as made: ...    # made.kubeconfig(), made.load_image(...), made.stop("kube-apiserver")

    python tools/services/cluster.py COMMAND...         # runs it with one, for as long as it takes: MLCTL_TEST_KUBECONFIG,
                                                        # and DOCKER_HOST, the node's engine: what is built there, the node has
    python tools/services/cluster.py                    # only builds its programs, minutes, and says where they are

Everything is below the folder, listens on this machine only, and ends with the context. Needs root, Debian's etcd-server and
docker.io, and a bridge of its own; its containers reach the host and each other, and nothing else. A kill -9 leaves dockerd.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from ssl import CERT_NONE, SSLContext, create_default_context

import docker_engine
import ports
import system

__all__ = ["CACHE", "Cluster", "built", "programs", "running"]

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlctl"
PAUSE = "mlctl-pause:1"
WAITS = "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done"  # what only sleeps, as process 1, has to be killed
START = 180.0  # seconds that each part may take to answer; a machine may be busy

# Kubernetes gives its own containers a better chance than others to survive a lack of memory, which the kernel refuses to
# whoever has none of the rights of a real root.
RUNTIME = """\
#!/bin/sh
bundle= last=
for word in "$@"; do
    [ "$last" = --bundle ] && bundle=$word
    last=$word
done
[ -z "$bundle" ] || sed -i 's/"oomScoreAdj":-[0-9]*/"oomScoreAdj":0/' "$bundle/config.json"
exec runc "$@"
"""

# A kubelet links its pods' logs at a fixed place of the machine, and removes what is there of pods that it doesn't know: another
# cluster's. So each sees places of its own there, below the cluster's folder, $0. What it mounts for pods is below a mount that is
# shared, so that its engine sees it.
OWN_LOGS = """\
set -e
folder=$0
for each in pods containers; do
    mkdir -p "/var/log/$each" "$folder/logs/$each"
    mount --make-private "$(findmnt --noheadings --output TARGET --target /var/log)"
    mount --bind "$folder/logs/$each" "/var/log/$each"
done
exec "$@"
"""


def built() -> bool:
    """Whether the programs are there already."""
    return any(CACHE.glob("kubernetes-*+mlctl*/SHA256SUMS"))


def programs() -> Path:
    """The folder of a Kubernetes server's programs, built and kept where they aren't yet, which takes minutes; and what else a
    cluster needs, installed. Raises system.Missing, RuntimeError."""
    if os.geteuid() != 0:
        raise RuntimeError("a cluster of our own needs root; set MLCTL_TEST_KUBECONFIG to another's")
    os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    needed = {"dockerd": "docker.io", "etcd": "etcd-server", "ip": "iproute2", "openssl": "openssl"}
    for program, package in needed.items():
        system.need(program, package)
    built = subprocess.run([HERE / "kubernetes.sh"], stdout=subprocess.PIPE, text=True, check=False)
    if built.returncode:
        raise RuntimeError("the programs of Kubernetes can't be built; see above")
    return Path(built.stdout.strip())


@dataclass
class Cluster:
    """A cluster that runs. `tokens` has a user of the group system:masters; `kubeconfig` is that one's."""

    folder: Path
    programs: Path
    engine: docker_engine.Dockerd
    bridge: str
    subnet: str
    port: int
    """The API server's."""
    etcd: int
    admin: str = field(default_factory=lambda: secrets.token_hex(16))
    user: str = field(default_factory=lambda: secrets.token_hex(16))
    """The token of a user without any right: `mlctl-user`."""
    commands: dict[str, list[str]] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def server(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def kubeconfig(self, token: str = "", namespace: str = "default") -> Path:
        """The path of a kubeconfig with that token, the administrator's unless another is given."""
        token = token or self.admin
        path = self.folder / f"kubeconfig-{token[:6]}-{namespace}"
        own = self.folder / "certs/apiserver.crt"  # which the server makes when it starts, signed by its own authority
        trust = {"certificate-authority": str(own)} if own.exists() else {"insecure-skip-tls-verify": True}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": self.server, **trust}}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
            "current-context": "test",
        }
        path.write_text(json.dumps(config))
        return path

    def call(self, method: str, path: str, body: object = None, token: str = "") -> dict[str, object]:
        """One call of the API, as the administrator unless another token is given."""
        request = urllib.request.Request(self.server + path, method=method)
        request.add_header("Authorization", f"Bearer {token or self.admin}")
        data = None if body is None else json.dumps(body).encode()
        request.add_header("Content-Type", "application/merge-patch+json" if method == "PATCH" else "application/json")
        with urllib.request.urlopen(request, data, timeout=30, context=_trusting()) as answer:
            found: dict[str, object] = json.loads(answer.read() or b"{}")
            return found

    def load_image(self, name: str, archive: bytes, *changes: str) -> None:
        """Has the engine know an image, of a tar of its files."""
        words = [
            "docker",
            "-H",
            self.engine.address,
            "import",
            *(word for each in changes for word in ("--change", each)),
            "-",
            name,
        ]
        subprocess.run(words, input=archive, check=True, stdout=subprocess.DEVNULL)

    def start(self, name: str) -> None:
        """Starts one of `commands`, which ends with this process, too, however that ends."""
        words = ["setpriv", "--pdeathsig", "TERM", *self.commands[name]]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                words, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, cwd=self.folder
            )

    def stop(self, name: str) -> None:
        """Ends it, and waits for that."""
        process = self.processes.pop(name, None)
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def answers(self) -> bool:
        """Whether the API server says that it is ready."""
        with contextlib.suppress(OSError, ValueError):
            request = urllib.request.Request(f"{self.server}/readyz")
            request.add_header("Authorization", f"Bearer {self.admin}")
            with urllib.request.urlopen(request, timeout=5, context=_trusting()) as answer:
                return bool(answer.status == 200)
        return False

    def until(self, what: str, done: Callable[[], bool]) -> None:
        """Waits for it. Raises RuntimeError, with the end of a log, where it doesn't come or a part has ended."""
        deadline = time.monotonic() + START
        while not done():
            dead = next((name for name, process in self.processes.items() if process.poll() is not None), "")
            if dead or time.monotonic() > deadline:
                log = self.folder / f"{dead or what}.log"
                text = log.read_text(errors="replace")[-1500:] if log.exists() else ""
                raise RuntimeError(f"{dead or what} does not start: {text}")
            time.sleep(0.1)


def _trusting() -> SSLContext:
    context = create_default_context()
    context.check_hostname, context.verify_mode = False, CERT_NONE  # its certificate is its own
    return context


@contextlib.contextmanager
def running(folder: Path, pause: bytes) -> Iterator[Cluster]:
    """A cluster, once its node takes pods; `pause` is a tar of an image with /bin/sh. Builds its programs where they
    aren't cached, which takes minutes. Raises RuntimeError."""
    built = programs()
    with contextlib.ExitStack() as ends:  # in reverse; each is tried, whatever became of the one before
        bridge, subnet = ends.enter_context(_bridged())
        options = (
            f"--config-file={folder}/daemon.json",
            f"--bridge={bridge}",
            "--iptables=false",
            "--ip-masq=false",
            "--ip-forward=false",
        )
        engine = docker_engine.Dockerd(folder / "docker", options)
        port, etcd, *others = ends.enter_context(ports.kept(6))
        made = Cluster(folder, built, engine, bridge, subnet, port, etcd)
        _files(made)
        _commands(made, *others)
        ends.callback(_unmount, made)
        for words in (["--bind", f"{folder}/kubelet"], ["--make-shared"]):
            subprocess.run(["mount", *words, f"{folder}/kubelet"], check=True)
        ends.callback(engine.stop)
        engine.start(START)
        ends.callback(_remove_containers, made)
        made.load_image(PAUSE, pause, f"CMD {json.dumps(['/bin/sh', '-c', WAITS])}")
        for name in ("etcd", "kube-apiserver"):
            ends.callback(made.stop, name)
            made.start(name)
        made.until("kube-apiserver", made.answers)
        for name in ("kube-controller-manager", "kube-scheduler", "kubelet"):
            ends.callback(made.stop, name)
            made.start(name)
        made.until("kubelet", lambda: _ready(made))
        made.until("kube-controller-manager", lambda: _accounts(made))
        yield made


def _ready(made: Cluster) -> bool:
    with contextlib.suppress(OSError, ValueError, KeyError):
        node = made.call("GET", "/api/v1/nodes/localhost")
        conditions = {each["type"]: each["status"] for each in node["status"]["conditions"]}  # type: ignore[index]
        return conditions.get("Ready") == "True"
    return False


def _accounts(made: Cluster) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return bool(made.call("GET", "/api/v1/namespaces/default/serviceaccounts/default").get("secrets"))
    return False


@contextlib.contextmanager
def _bridged() -> Iterator[tuple[str, str]]:
    """A bridge and the subnet that goes with its name, so that no two clusters have one; what a kill left is passed over. Raises
    RuntimeError."""
    for number in range(20, 250):
        bridge, subnet = f"mlctl{number}", f"172.29.{number}"
        made = subprocess.run(
            ["ip", "link", "add", bridge, "type", "bridge"], capture_output=True, text=True, check=False
        )
        if "File exists" not in made.stderr:
            break
    if made.returncode:
        raise RuntimeError(f"no bridge can be made: {made.stderr.strip()}")
    try:
        for words in (["addr", "add", f"{subnet}.1/24", "dev"], ["link", "set", "up", "dev"]):
            subprocess.run(["ip", *words, bridge], check=True)
        yield bridge, subnet
    finally:
        subprocess.run(["ip", "link", "delete", bridge], check=False, stderr=subprocess.DEVNULL)


def _files(made: Cluster) -> None:
    made.folder.mkdir(parents=True, exist_ok=True)
    for name in ("etcd", "certs", "kubelet", "kubelet-certs"):
        (made.folder / name).mkdir()
    subprocess.run(
        ["openssl", "genrsa", "-out", made.folder / "accounts.key", "2048"], check=True, stderr=subprocess.DEVNULL
    )
    tokens = f'{made.admin},admin,admin,"system:masters"\n{made.user},mlctl-user,mlctl-user\n'
    (made.folder / "tokens.csv").write_text(tokens)
    runtime = made.folder / "runtime"
    runtime.write_text(RUNTIME)
    runtime.chmod(0o755)
    daemon = {"runtimes": {"clamped": {"path": str(runtime)}}, "default-runtime": "clamped"}
    (made.folder / "daemon.json").write_text(json.dumps(daemon))


def _commands(made: Cluster, peers: int, controllers: int, scheduler: int, kubelet: int) -> None:
    at, programs, config = made.folder, made.programs, made.kubeconfig()
    etcd = f"http://127.0.0.1:{made.etcd}"
    gates = "--feature-gates=TTLAfterFinished=true"
    made.commands = {
        "etcd": [
            "etcd", f"--data-dir={at}/etcd", f"--listen-client-urls={etcd}", f"--advertise-client-urls={etcd}",
            f"--listen-peer-urls=http://127.0.0.1:{peers}", "--unsafe-no-fsync",
        ],
        "kube-apiserver": [
            f"{programs}/kube-apiserver", f"--etcd-servers={etcd}", f"--secure-port={made.port}", "--insecure-port=0",
            "--bind-address=127.0.0.1", f"--cert-dir={at}/certs", "--service-cluster-ip-range=10.234.0.0/24",
            "--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={at}/accounts.key",
            f"--service-account-signing-key-file={at}/accounts.key", f"--token-auth-file={at}/tokens.csv",
            "--authorization-mode=RBAC", "--endpoint-reconciler-type=none", "--allow-privileged=true",
            "--disable-admission-plugins=TaintNodesByCondition", "--kubelet-preferred-address-types=Hostname", gates,
        ],
        "kube-controller-manager": [
            f"{programs}/kube-controller-manager", f"--kubeconfig={config}", "--leader-elect=false", "--port=0",
            f"--secure-port={controllers}", "--bind-address=127.0.0.1", f"--cert-dir={at}/certs",
            f"--service-account-private-key-file={at}/accounts.key", "--controllers=*,-nodelifecycle",
            "--concurrent-gc-syncs=2", gates,
        ],
        "kube-scheduler": [
            f"{programs}/kube-scheduler", f"--kubeconfig={config}", "--leader-elect=false", "--port=0",
            f"--secure-port={scheduler}", "--bind-address=127.0.0.1", f"--cert-dir={at}/certs",
        ],
        "kubelet": [
            "unshare", "--mount", "--propagation=unchanged", "/bin/sh", "-c", OWN_LOGS, str(at),
            f"{programs}/kubelet", f"--kubeconfig={config}", "--hostname-override=localhost", f"--root-dir={at}/kubelet",
            f"--cert-dir={at}/kubelet-certs", "--container-runtime=docker", f"--docker-endpoint={made.engine.address}",
            "--cgroup-driver=cgroupfs", "--cgroups-per-qos=false", "--enforce-node-allocatable=", "--fail-swap-on=false",
            f"--pod-infra-container-image={PAUSE}", "--eviction-hard=memory.available<1Mi", "--address=127.0.0.1",
            f"--port={kubelet}", "--healthz-port=0", "--read-only-port=0", "--anonymous-auth=true",
            "--authorization-mode=AlwaysAllow", "--image-gc-high-threshold=100",
            f"--resolv-conf={at}/resolv.conf", "--cluster-dns=10.234.0.10", "--node-status-update-frequency=2s",
        ],
    }  # fmt: skip
    (at / "resolv.conf").write_text("nameserver 127.0.0.1\n")


def _remove_containers(made: Cluster) -> None:
    engine = ["docker", "-H", made.engine.address]
    listed = subprocess.run([*engine, "ps", "-aq"], capture_output=True, text=True, check=False).stdout.split()
    if listed:
        words = [*engine, "rm", "-f", *listed]
        subprocess.run(words, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _unmount(made: Cluster) -> None:
    """What kubelet and engine mounted, and left."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for path in sorted((each for each in mounts if each.startswith(f"{made.folder}/")), reverse=True):
        subprocess.run(["umount", "-l", path], check=False, stderr=subprocess.DEVNULL)


def main() -> int:
    """The command's own exit code; 1 where there can be no cluster, 130 after Ctrl-C."""
    import base_image

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the cluster ends, too
    try:
        if not sys.argv[1:]:
            print(programs())
            return 0
        with (
            tempfile.TemporaryDirectory(prefix="mlctl-", dir="/tmp", ignore_cleanup_errors=True) as folder,
            running(Path(folder, "c"), base_image.archive()[0]) as made,
        ):
            env = {"MLCTL_TEST_KUBECONFIG": str(made.kubeconfig()), "DOCKER_HOST": made.engine.address}
            with subprocess.Popen(sys.argv[1:], env={**os.environ, **env}, start_new_session=True) as command:
                try:
                    return command.wait()
                finally:
                    if command.poll() is None:  # with all that it started, as there is no cluster for it any more
                        os.killpg(command.pid, signal.SIGTERM)
    except (system.Missing, RuntimeError) as reason:
        print(f"cluster: {reason}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
