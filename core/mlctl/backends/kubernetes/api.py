"""One cluster: its client, its calls, and what their errors mean. Everything that needs the SDK is here, and imported when
it is used."""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlencode, urlsplit

from mlctl import __version__
from mlctl.backend import Settings
from mlctl.backends._pods import Clock
from mlctl.errors import InvalidConfig, MlctlError, Unauthorized, Unavailable, one_line

__all__ = ["Api", "Conflict", "Expired", "Forbidden", "Missing"]

PAGE = 500  # objects in an answer to a list
Keep = Callable[[dict[str, Any]], dict[str, Any]]
_INSIDE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_PREFIX = {"jobs": "/apis/batch/v1", "selfsubjectaccessreviews": "/apis/authorization.k8s.io/v1"}


class Missing(MlctlError):
    """What was asked for isn't there. Always caught: whoever asks knows what it means."""


class Conflict(MlctlError):
    """The name is taken, or the object was changed meanwhile. Always caught."""


class Expired(MlctlError):
    """The version to go on from is too old. Always caught."""


class Forbidden(Unauthorized):
    """The credentials are known, and lack a right."""


class Api:
    """The cluster that a target names: by its kubeconfig and context, else the pod's own that this runs in."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._made: tuple[Any, Any, str] | None = None
        self.clock = Clock()

    def _client(self) -> tuple[Any, Any, str]:
        """The SDK's configuration, its connections, and the namespace: made once, and anew after credentials were refused.

        Not the SDK's client itself: it changed with its version 36, its classes drop what they don't know, and it takes
        a log that happens to be JSON for JSON.
        """
        with self._lock:
            if self._made is None:
                self._made = self._connect()
            return self._made

    def _connect(self) -> tuple[Any, Any, str]:
        from kubernetes import client, config
        from kubernetes.client.rest import RESTClientObject
        from kubernetes.config.config_exception import ConfigException

        values, made = self.settings.values, client.Configuration()
        context, namespace = values.get("context"), ""
        file = values.get("kubeconfig") or os.environ.get("KUBECONFIG")  # which the SDK reads but once, at its import
        try:
            try:
                config.load_kube_config(file, context, client_configuration=made)
                contexts, active = config.list_kube_config_contexts(file)
                wanted = next((each for each in contexts if each["name"] == context), active)
                namespace = wanted["context"].get("namespace", "")
            except ConfigException:
                if values.get("kubeconfig") or context or not _INSIDE.exists():
                    raise
                config.load_incluster_config(client_configuration=made)
                namespace = _INSIDE.read_text().strip()
        except (ConfigException, OSError, ValueError, TypeError, KeyError) as reason:
            name = "context" if context else "kubeconfig"
            text = f"no way to a cluster: {one_line(str(reason), 200)}; set KUBECONFIG, or kubeconfig and context here"
            raise self.settings.fail(name, text) from None
        return made, RESTClientObject(made).pool_manager, values.get("namespace") or namespace or "default"

    @property
    def namespace(self) -> str:
        """The target's, else its context's."""
        return self._client()[2]

    @property
    def account(self) -> str:
        """The cluster as a run's URL names it: the target's word for it, else its address, whose path may be what tells it from
        another that is reached by the same host."""
        where = urlsplit(str(self._client()[0].host))
        return str(self.settings.values.get("cluster") or f"{where.netloc}{where.path}".rstrip("/"))

    def call(
        self, method: str, path: str, body: Any = None, patch: str = "", **query: Any
    ) -> dict[str, Any]:  # fmt: skip
        """One call, its answer as it came: the SDK's classes drop what they don't know.

        Raises Missing, Conflict, Unavailable, Unauthorized, InvalidConfig.
        """
        data = self._raw(method, path, body, patch, query)
        try:
            answer: dict[str, Any] = json.loads(data)
        except ValueError:
            raise Unavailable(f"{self._at()}: answered with what is no JSON: {one_line(data[:80])}") from None
        return answer

    def text(self, path: str, **query: Any) -> str:
        """One call, its answer as text."""
        return self._raw("GET", path, None, "", query).decode("utf-8", "replace")

    def _raw(self, method: str, path: str, body: Any, patch: str, query: Mapping[str, Any]) -> bytes:
        data: bytes = self._answer(method, path, body, patch, query).data
        return data

    def _answer(
        self, method: str, path: str, body: Any, patch: str, query: Mapping[str, Any], silent: float = 0
    ) -> Any:  # fmt: skip
        """An answer that is no error; its body is not read yet where it may be `silent`, for that many seconds."""
        headers = {"Accept": "application/json, */*", "User-Agent": f"mlctl/{__version__}"}
        if body is not None:
            headers["Content-Type"] = f"application/{f'{patch}-patch+' if patch else ''}json"
        asked = urlencode({name: value for name, value in query.items() if value not in (None, "")})
        content = None if body is None else json.dumps(body).encode()
        from urllib3 import Timeout

        for last in (False, True):
            configuration, connections, _ = self._client()
            with self._translated():
                answer = connections.request(
                    method, f"{configuration.host.rstrip('/')}{path}{'?' if asked else ''}{asked}", body=content,
                    headers={**headers, **_credentials(configuration)}, timeout=Timeout(connect=10, read=silent or 60),
                    retries=False, preload_content=not silent,
                )  # fmt: skip
                if silent and not 200 <= answer.status < 300:
                    answer.read(cache_content=True)
            self.clock.hear(answer.headers)
            if answer.status == 401 and not last:
                with self._lock:  # a token that was renewed, in a file or by a plugin
                    self._made = None
                continue
            if not 200 <= answer.status < 300:
                self._refused(answer.status, answer.data)
            return answer
        raise AssertionError("unreachable")

    def _at(self) -> str:
        return f"targets.{self.settings.target}"

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        from urllib3.exceptions import HTTPError

        try:
            yield
        except (HTTPError, OSError) as reason:
            raise Unavailable(f"{self._at()}: {self.account}: {' '.join(str(reason).split())[:300]}") from None

    def _refused(self, status: int, body: bytes) -> NoReturn:
        """What an answer that is an error means. A message keeps the server's own words."""
        try:
            text = str(json.loads(body)["message"])
        except (ValueError, TypeError, KeyError):
            text = body[:200].decode("utf-8", "replace")
        text = f"{status}: {' '.join(text.split())[:500]}"
        if status == 401:
            mend = "log in again, or look at the kubeconfig"
            raise Unauthorized(f"{self._at()}: {self.account} refused the credentials: {text}; {mend}")
        if status == 403 and "exceeded quota" in text:
            raise Unavailable(f"{self._at()}: {text}; try later, or ask for more")
        if status == 403 and "is being terminated" in text:
            mend = "name another, or wait until it is gone and make it anew"
            raise InvalidConfig(f"{self._at()}.namespace: {text}; {mend}")
        denied = re.search("denied (the )?request", text)  # a policy's word, which comes as 400 and 422 as well
        if status == 403 and not denied:
            raise Forbidden(f"{self._at()}: {text}; docs/kubernetes.md has the Role that is needed")
        if status == 404:
            raise Missing(text)
        if status == 409:
            raise Conflict(text)
        if status == 410:
            raise Expired(text)
        if status in (408, 429) or status >= 500:
            raise Unavailable(f"{self._at()}: {self.account}: {text}")
        raise InvalidConfig(f"{self._at()}: {self.account} refused the request: {text}")

    def path(self, kind: str, namespace: str, name: str = "", part: str = "") -> str:
        """The path of objects of a kind such as jobs, of one of them, or of a part of it."""
        whole = f"{_PREFIX.get(kind, '/api/v1')}/namespaces/{namespace}/{kind}"
        return "/".join(each for each in (whole, name, part) if each)

    def listed(self, kind: str, namespace: str, selector: str = "", fields: str = "") -> list[dict[str, Any]]:
        """All objects of a kind that match, page by page; from the start once where a page came too late."""
        return self.snapshot(kind, namespace, selector, fields)[0]

    def snapshot(
        self, kind: str, namespace: str, selector: str = "", fields: str = "", keep: Keep = dict
    ) -> tuple[list[dict[str, Any]], str]:
        """What `listed` gives, of each what `keep` leaves of it, and the version at which it was so."""
        for last in (False, True):
            found: list[dict[str, Any]] = []
            token = ""
            try:
                while True:
                    page = self.call(
                        "GET", self.path(kind, namespace), limit=PAGE, labelSelector=selector, fieldSelector=fields,
                        **({"continue": token} if token else {}),
                    )  # fmt: skip
                    found += map(keep, page.get("items") or [])
                    metadata = page.get("metadata") or {}
                    token = metadata.get("continue") or ""
                    if not token:
                        return found, str(metadata.get("resourceVersion") or "")
            except Expired as reason:
                if last:
                    raise Unavailable(f"{self._at()}: {reason}") from None
        raise AssertionError("unreachable")

    def changes(
        self, kind: str, namespace: str, selector: str, fields: str, version: str, seconds: int, silent: float
    ) -> Generator[tuple[str, dict[str, Any]]]:
        """One watch: each change after `version`, ADDED, MODIFIED, DELETED or BOOKMARK, with the object, as it comes.

        The server ends it after `seconds`; one that is silent for `silent` seconds is held to be broken: Unavailable.
        Raises Expired where the version is too old, and what `call` does.
        """
        query = {
            "watch": "true", "allowWatchBookmarks": "true", "resourceVersion": version, "timeoutSeconds": seconds,
            "labelSelector": selector, "fieldSelector": fields,
        }  # fmt: skip
        answer = self._answer("GET", self.path(kind, namespace), None, "", query, silent=silent)
        blocks, rest = answer.stream(), b""
        try:
            while True:
                with self._translated():
                    block = next(blocks, b"")
                if not block:
                    return
                *lines, rest = (rest + block).split(b"\n")
                for line in filter(None, lines):
                    yield self._change(line)
        finally:
            answer.close()  # a connection with something unread can't be used again

    def _change(self, line: bytes) -> tuple[str, dict[str, Any]]:
        try:
            change = json.loads(line)
            kind, thing = change["type"], change["object"]
        except (ValueError, KeyError, TypeError):
            raise Unavailable(f"{self._at()}: answered with what is no change: {one_line(line[:80])}") from None
        if kind == "ERROR":
            self._refused(int(thing.get("code") or 500), json.dumps(thing).encode())
        return kind, thing


def _credentials(configuration: Any) -> dict[str, str]:
    """The header that the SDK sends; it renews what it knows to have expired."""
    found = configuration.auth_settings().get("BearerToken")
    return {"Authorization": found["value"]} if found and found["value"] else {}
