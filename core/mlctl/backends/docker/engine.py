"""The engine's API: a client for a target, its errors as ours, files in and out of containers as archives.

The SDK is imported when the first call is made.
"""

from __future__ import annotations

import contextlib
import io
import tarfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from mlctl.backend import Settings
from mlctl.errors import InvalidConfig, InvalidJob, MlctlError, RunNotFound, Unauthorized, Unavailable

from . import states

__all__ = ["Engine", "Entry", "Missing", "Refused", "Taken", "archive"]

Entry = tuple[str, int, bytes | None]
"""Of an archive: name, mode, content; None for a folder."""

QUICK = 60.0
"""Seconds that an answer may take, or a pause within one."""
SLOW = 1800.0
"""The same where an image, a layer or a package goes over the wire."""


class Missing(RunNotFound):
    """404: no such container, image or file."""


class Taken(MlctlError):
    """409: the name is taken, or the container is in a state that doesn't allow it."""


class Refused(InvalidJob):
    """400: the engine doesn't take what was asked."""


class Engine:
    """What answers at the target's `host`, else at DOCKER_HOST, else at Docker's own socket."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._clients: dict[float, Any] = {}
        self._identity: tuple[str, str] | None = None
        self._heard: tuple[float, float] | None = None  # the engine's time of its last answer, and ours
        self._lock = threading.Lock()

    def _client(self, timeout: float = QUICK) -> Any:
        """Connected, its API's version agreed on."""
        import docker
        from docker.utils import kwargs_from_env

        with self._lock:
            if timeout not in self._clients:
                options = kwargs_from_env()
                if host := self._settings.values.get("host"):
                    options["base_url"] = host
                client = docker.APIClient(version="auto", timeout=timeout, use_ssh_client=True, **options)
                client.hooks["response"].append(self._hear)
                self._clients[timeout] = client
            return self._clients[timeout]

    def _hear(self, answer: Any, **_: Any) -> None:
        if date := answer.headers.get("Date"):
            self._heard = parsedate_to_datetime(date).timestamp(), time.monotonic()

    def time(self) -> float:
        """The engine's time, in seconds since 1970, by its last answer: a second and the answer's way behind, and never ahead,
        unless somebody between us and it answers by another clock."""
        if self._heard is None:  # somebody in between leaves dates out
            return self.clock()
        date, heard = self._heard
        return date + time.monotonic() - heard

    def clock(self) -> float:
        """The same as the engine itself says it, which takes a call that isn't cheap."""
        return states.seconds(str(self.info().get("SystemTime", "")))

    @contextlib.contextmanager
    def _asked(self, timeout: float = QUICK) -> Iterator[Any]:
        """The client, for one call; its errors become ours."""
        import urllib3.exceptions
        from docker import errors
        from requests.exceptions import RequestException

        target = f"targets.{self._settings.target}"
        try:
            yield self._client(timeout)
        except errors.APIError as reason:
            text, status = str(reason.explanation or reason), reason.status_code
            if status in (401, 403):
                raise Unauthorized(f"{target}: the engine refuses: {text}") from None
            known = {400: Refused, 404: Missing, 409: Taken}.get(status or 500, Unavailable)
            raise known(text if known is not Unavailable else f"{target}: the engine failed: {text}") from None
        except errors.TLSParameterError as reason:
            raise InvalidConfig(f"{target}.host: {reason}") from None
        except (errors.DockerException, RequestException, urllib3.exceptions.HTTPError, OSError) as reason:
            text = str(reason)
            if "Permission denied" in text or isinstance(reason, PermissionError):
                mend = "be in the group of the engine's socket, or set host:"
                raise Unauthorized(f"{target}: the engine's socket can't be opened: {text}; {mend}") from None
            raise Unavailable(f"{target}: no engine answers: {text}") from None

    @property
    def identity(self) -> tuple[str, str]:
        """The engine's host, and twelve characters of its own id, which it keeps over restarts."""
        if self._identity is None:
            info = self.info()
            self._identity = (
                str(info.get("Name") or "engine"),
                str(info.get("ID")).replace(":", "").replace("-", "")[:12],
            )
        return self._identity

    def info(self) -> dict[str, Any]:
        """What `docker info` says."""
        with self._asked() as api:
            return dict(api.info())

    def version(self) -> dict[str, Any]:
        """What `docker version` says of the engine."""
        with self._asked() as api:
            return dict(api.version())

    # containers

    def inspect(self, name: str) -> dict[str, Any]:
        """All that is known of a container. Raises Missing."""
        with self._asked() as api:
            return dict(api.inspect_container(name))

    def containers(self, **filters: Any) -> list[dict[str, Any]]:
        """A line each, in one call; also of those that have ended, unless `status` says otherwise."""
        with self._asked() as api:
            return list(api.containers(all=True, filters=filters))

    def create(self, body: Mapping[str, Any], name: str) -> str:
        """Its id. Raises Missing for an image that isn't there, Taken, Refused."""
        with self._asked() as api:
            return str(api.create_container_from_config(body, name)["Id"])

    def rename(self, container: str, name: str) -> None:
        """Raises Taken where another has that name."""
        with self._asked() as api:
            api.rename(container, name)

    def start(self, container: str) -> None:
        """Where the engine can't, the container's record says why, which is told by who looks at it; raises anything else."""
        try:
            with self._asked() as api:
                api.start(container)
        except MlctlError:
            if not states.ended(self.inspect(container)):
                raise

    def kill(self, container: str, signal: str) -> None:
        """Sends a signal to the first process; a no-op where there is none any more."""
        with contextlib.suppress(Taken), self._asked() as api:
            api.kill(container, signal)

    def unpause(self, container: str) -> None:
        with contextlib.suppress(Taken), self._asked() as api:
            api.unpause(container)

    def remove(self, container: str, force: bool = False) -> None:
        """With the volumes that have no name. A no-op where it is gone."""
        with contextlib.suppress(Missing), self._asked() as api:
            api.remove_container(container, v=True, force=force)

    def until_ended(self, container: str, seconds: float) -> None:
        """Returns after `seconds`, or as soon as the container isn't running."""
        began = time.monotonic()
        try:
            with self._asked() as api:
                api.wait(container, timeout=max(seconds, 0.01), condition="not-running")
            left = 0.05 if time.monotonic() - began < 0.01 else 0.0  # one that wasn't running at all
        except MlctlError:  # the time is over; or nobody answers
            left = seconds
        time.sleep(max(0.0, min(left, seconds - (time.monotonic() - began))))

    def put(self, container: str, path: str, data: Any) -> None:
        """Unpacks an archive in a folder of a container, whether or not it runs. Dear: the engine mounts all that the container
        has, and starts a process of its own."""
        with self._asked(SLOW) as api:
            api.put_archive(container, path, data)

    def files(self, container: str, path: str) -> dict[str, bytes]:
        """Name -> content of a file, or of the files in a folder; none where there is no such path. Raises Missing, Unavailable."""
        try:
            with self._asked() as api:
                data = io.BytesIO(b"".join(api.get_archive(container, path)[0]))
        except Missing as reason:
            self.inspect(container)
            if "no such container" in str(reason).lower():  # an engine that starts says so of one that it has
                raise Unavailable(f"targets.{self._settings.target}: the engine is starting: {reason}") from None
            return {}
        with tarfile.open(fileobj=data) as tar:
            return {
                member.name.rpartition("/")[2]: stream.read() for member in tar if (stream := tar.extractfile(member))
            }

    def has(self, container: str, path: str) -> bool:
        """Whether a container has that file or folder. An eighth of what reading it costs."""
        with self._asked() as api:
            url = f"{api.base_url}/v{api.api_version}/containers/{container}/archive"
            answer = api.head(url, params={"path": path}, timeout=QUICK)
            if answer.status_code != 404:
                _check(answer)
            return bool(answer.status_code != 404)

    def frames(self, container: str, since: int) -> Iterator[tuple[int, bytes]]:
        """The log from the second `since` on, message by message as it was written: 1 for stdout or 2 for stderr, and the
        message after its time. The SDK's own way forgets which of the two it was, and a long line comes in several."""
        asked = {"stdout": 1, "stderr": 1, "timestamps": 1, "since": since}
        with self._asked() as api:
            url = f"{api.base_url}/v{api.api_version}/containers/{container}/logs"
            with api.get(url, params=asked, stream=True, timeout=QUICK) as answer:
                if answer.status_code == 404:
                    raise Missing(f"no such container: {container}")
                _check(answer)
                while len(head := _read(answer.raw, 8)) == 8:
                    yield head[0], _read(answer.raw, int.from_bytes(head[4:], "big"))

    # volumes

    def unused_volumes(self, label: str) -> list[dict[str, Any]]:
        """A line each of the volumes with that label that no container has."""
        with self._asked() as api:
            return list(api.volumes(filters={"label": [label], "dangling": ["true"]})["Volumes"] or [])

    def remove_volume(self, name: str) -> None:
        """A no-op where it is gone, or a container has it."""
        with contextlib.suppress(Missing, Taken), self._asked() as api:
            api.remove_volume(name)

    # images

    def image(self, name: str) -> dict[str, Any] | None:
        """All that is known of an image, or None where the engine has none of that name."""
        try:
            with self._asked() as api:
                return dict(api.inspect_image(name))
        except Missing:
            return None

    def images(self, label: str) -> list[dict[str, Any]]:
        """A line each of the images with that label."""
        with self._asked() as api:
            return list(api.images(filters={"label": [label]}))

    def pull(self, name: str) -> str:
        """Gets an image from its registry; what went wrong, or nothing."""
        try:
            with self._asked(SLOW) as api:
                for line in api.pull(name, stream=True, decode=True, tag=None if _tagged(name) else "latest"):
                    if "error" in line:
                        return str(line["error"])
        except (Missing, Unavailable, Refused) as reason:
            return str(reason)
        return ""

    def commit(self, container: str, repository: str, tag: str, user: str) -> None:
        """Makes an image of a container that has ended: whole, under its tag, or not at all."""
        with self._asked(SLOW) as api:
            api.commit(container, repository=repository, tag=tag, changes=[f"USER {user or 'root'}"])

    def remove_image(self, name: str) -> bool:
        """False where a container needs it, or it is gone."""
        try:
            with self._asked() as api:
                api.remove_image(name)
        except (Missing, Taken):
            return False
        return True


def _check(answer: Any) -> None:
    """Raises the SDK's own error for one, with the engine's words, as the SDK does where it makes the call itself."""
    from docker import errors
    from requests.exceptions import HTTPError

    try:
        answer.raise_for_status()
    except HTTPError as reason:
        errors.create_api_error_from_http_exception(reason)


def _read(raw: Any, size: int) -> bytes:
    """That many bytes, or as many as there are."""
    data = b""
    while len(data) < size and (more := raw.read(size - len(data))):
        data += more
    return data


def _tagged(name: str) -> bool:
    return "@" in name or ":" in name.rpartition("/")[2]


def archive(entries: Iterable[Entry]) -> bytes:
    """A tar of them, all of it root's."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, mode, content in entries:
            member = tarfile.TarInfo(name)
            member.mode, member.mtime = mode, int(time.time())
            if content is None:
                member.type = tarfile.DIRTYPE
            else:
                member.size = len(content)
            tar.addfile(member, io.BytesIO(content or b""))
    return data.getvalue()
