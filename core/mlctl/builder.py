"""Builds and pushes images with the `docker` command and BuildKit, unless they are there.

A tag says everything that went in (image.py), so an image that has it is never built again. Nothing is remembered:
secrets go from where they are to BuildKit, and the context is a folder that goes with the build. It is a new one each
time, so that BuildKit compares no file by its time and size with what it was sent before. A build that is killed leaves
it, small and hidden beside the packages, until `mlctl gc`; and what BuildKit caches.
"""

from __future__ import annotations

import collections
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from . import masking
from .errors import Interrupted, InvalidConfig, InvalidJob, Unauthorized, Unavailable
from .image import Image
from .package import Package

__all__ = ["Docker"]

_ASK = 60.0  # seconds for a question to the engine or a registry
_WORK = 2 * 3600.0  # for a build or a push
_LAST = 12  # lines of a failed build that are told

_ABSENT = r"no such manifest|manifest unknown|name unknown|not found|does not exist|NAME_UNKNOWN|MANIFEST_UNKNOWN"
_REFUSED = r"unauthorized|denied|authentication required|no basic auth|forbidden"
_DOWN = (
    r"dial tcp|connection refused|i/o timeout|TLS handshake|no such host|name resolution|network is unreachable|"
    r"Cannot connect to the Docker daemon|toomanyrequests|50[0234] |no space left|connection reset"
)


_NO_BASE = r"failed to (create LLB definition|resolve source metadata|load metadata)|pull access denied"


class Docker:
    """The engine that the `docker` command reaches. `say` gets each line of a build or a push; `stopped` ends one."""

    def __init__(self, say: Callable[[str], None] = lambda line: None, stopped: threading.Event | None = None) -> None:
        self._say, self._stopped = say, stopped or threading.Event()

    def ensure(self, image: Image, package: Package | None, push: bool, rebuild: bool = False) -> str:
        """Makes sure that the image is here, or with `push` in its registry: "found", "built" or "pushed".

        Raises InvalidConfig for a base or a secret that isn't there, and where Docker or BuildKit is missing;
        InvalidJob where the build fails; Unavailable, Unauthorized; Interrupted.
        """
        name = image.reference
        if push and not rebuild and self.remote(name):
            return "found"
        here = not rebuild and self.local(name)
        if not push and (here or (not rebuild and "/" in name and self.remote(name))):
            return "found"
        if not here:
            self.build(image, package, rebuild)
        if push:
            self.push(name)
        return "pushed" if push else "built"

    def local(self, name: str) -> bool:
        """Whether the engine has it. Raises Unavailable where no engine answers."""
        code, text = self._ask("image", "inspect", "--format", "{{.Id}}", name)
        if code and not re.search("No such image|no such image", text):
            raise _error(text, f"docker image inspect ended with {code}")
        return code == 0

    def remote(self, name: str) -> bool:
        """Whether its registry has it, asked with Docker's own credentials."""
        insecure = ["--insecure"] if re.match(r"(localhost|127\.[0-9.]+)(:\d+)?/", name) else []  # as Docker has it
        code, text = self._ask("manifest", "inspect", *insecure, name)
        if code and not (re.search(_ABSENT, text) and not re.search(_DOWN, text)):
            raise _error(text, f"{name}: its registry could not be asked")
        return code == 0

    def tag(self, name: str, other: str) -> None:
        """Gives the image another name, too."""
        code, text = self._ask("tag", name, other)
        if code:
            raise InvalidConfig(f"--tag: got '{other}': {_last(text)}")

    def pull(self, name: str) -> None:
        """Gets it from its registry."""
        code, lines = self._work(["pull", name], str)
        if code:
            raise _error("\n".join(lines), f"{name}: docker pull ended with {code}")

    def push(self, name: str) -> None:
        """Uploads it; layers that the registry has are not sent again."""
        if "/" not in name:
            raise InvalidConfig(
                f"{name}: has no registry to go to; give build.repository, such as registry.example.org/ml"
            )
        if not self.local(name):
            raise InvalidJob(f"{name}: is not on this machine; mlctl image build makes it")
        code, lines = self._work(["push", name], str)
        if code:
            raise _error("\n".join(lines), f"{name}: docker push ended with {code}")

    def build(self, image: Image, package: Package | None, rebuild: bool = False) -> None:
        """Builds it, whether it is there or not; with `rebuild`, from nothing that is cached and a base pulled anew."""
        words = ["build", "--progress=plain", "--platform", image.build.platform, "--tag", image.reference]
        if image.build.network != "default":
            words += ["--network", image.build.network]
        words += ["--no-cache", "--pull"] if rebuild else []
        for name, source in image.build.secrets.items() if image.requirements else ():
            words += ["--secret", _secret(name, source)]
        hide = masking.mask(image.build.secrets, {"secrets": image.build.secrets})
        where = package.path.parent if package else None
        with tempfile.TemporaryDirectory(prefix=".", suffix=".partial", dir=where) as context:
            _fill(Path(context), image, package)
            code, lines = self._work([*words, context], hide)
        if code:
            raise _failed(code, lines, image)

    def _ask(self, *words: str) -> tuple[int, str]:
        try:
            done = subprocess.run(
                [_docker(), *words], capture_output=True, text=True, errors="replace", timeout=_ASK, check=False,
                env=_environment(), stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise Unavailable(f"docker {words[0]} {words[1]}: no answer after {_ASK:.0f} s") from None
        return done.returncode, done.stdout + done.stderr

    def _work(self, words: Sequence[str], hide: Callable[[str], str]) -> tuple[int, Sequence[str]]:
        """Its exit code and its last lines."""
        process = subprocess.Popen(
            [_docker(), *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", env=_environment(),
        )  # fmt: skip
        last: collections.deque[str] = collections.deque(maxlen=200)
        deadline = time.monotonic() + _WORK
        guard = threading.Thread(target=_guard, args=(process, self._stopped, deadline), daemon=True)
        guard.start()
        try:
            for line in process.stdout or ():
                last.append(hide(line.rstrip()))
                self._say(last[-1])
            code = process.wait()
        finally:
            if process.poll() is None:
                _end(process)
            if process.stdout:
                process.stdout.close()
        if self._stopped.is_set():
            raise Interrupted(f"interrupted while docker {words[0]} ran: nothing was started")
        if time.monotonic() >= deadline:
            raise Unavailable(f"docker {words[0]}: ended after {_WORK / 3600:.0f} h without an end")
        return code, last


def _guard(process: subprocess.Popen[str], stopped: threading.Event, deadline: float) -> None:
    while process.poll() is None:
        if stopped.wait(0.2) or time.monotonic() > deadline:
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()


def _docker() -> str:
    found = shutil.which("docker")
    if not found:
        raise InvalidConfig("docker: not on the PATH, and images are built with it; install Docker, with BuildKit")
    return found


def _environment() -> Mapping[str, str]:
    return {**os.environ, "DOCKER_BUILDKIT": "1", "DOCKER_CLI_EXPERIMENTAL": "enabled", "BUILDKIT_COLORS": ""}


def _secret(name: str, source: str) -> str:
    kind, _, where = source.partition(":")
    if kind == "env":
        if not os.environ.get(where):
            raise InvalidConfig(f"build.secrets.{name}: the variable {where} is not set")
        return f"id={name},env={where}"
    path = Path(where).expanduser().absolute()
    if not path.is_file() or "," in str(path):
        raise InvalidConfig(f"build.secrets.{name}: {path}: expected a file, and no comma in its path")
    return f"id={name},src={path}"


def _fill(context: Path, image: Image, package: Package | None) -> None:
    """The Dockerfile, the requirements, and the very package that jobs ship. Those written here have the
    same modes and times everywhere."""
    for name, data in image.files.items():
        path = context / name
        path.write_bytes(data)
        path.chmod(0o644)
        os.utime(path, (0, 0))
    if image.code and package:
        archive = context / "code.tar.gz"
        try:
            archive.hardlink_to(package.path)
        except OSError:  # a file system without them
            shutil.copyfile(package.path, archive)


# ---- What went wrong, in a line


def _failed(code: int, lines: Sequence[str], image: Image) -> Exception:
    text = "\n".join(lines)
    if re.search(r"buildx component is missing|BuildKit is enabled but|requires BuildKit|legacy builder", text):
        return InvalidConfig(
            "docker: BuildKit is missing; install docker-buildx (or Docker Engine's docker-buildx-plugin)"
        )
    last = _last(text)
    ours = re.search(r"^(?:#\d+ [\d.]+ )mlctl: (the base .*)$", text, re.MULTILINE)
    if ours:
        return InvalidConfig(f"build.base: got '{image.build.base}', and {ours[1]}")
    if re.search(r"Cannot connect to the Docker daemon|no space left", text):
        return Unavailable(f"{image.reference}: docker build: {last}")
    if re.search(_NO_BASE, text):
        kind = Unavailable if re.search(_DOWN, text) else InvalidConfig
        return kind(f"build.base: got '{image.build.base}', which could not be had: {last}")
    told = " | ".join(_told(lines))
    return InvalidJob(f"{image.reference}: docker build ended with {code}: {told}")


def _told(lines: Sequence[str]) -> list[str]:
    """The last lines that what failed said itself; BuildKit's own last line where nothing did."""
    said = [match[1].strip() for line in lines if (match := re.match(r"#\d+ \d+\.\d+ (.+)", line))]
    return said[-_LAST:] or [_last("\n".join(lines))]


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def _error(text: str, what: str) -> Exception:
    kind = Unavailable
    if not re.search(_DOWN, text) and re.search(_REFUSED, text, re.IGNORECASE):
        kind = Unauthorized  # type: ignore[assignment]
    return kind(f"{what}: {_last(text)}")
