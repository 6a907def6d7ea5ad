"""Calls to Azure, and what their errors mean: the one place where its answers become mlctl's errors.

Requests go out as planned, through azure-core. The SDK's own layer for machine learning, azure-ai-ml, builds other requests
than those it is given, and takes three seconds to import; the tests hold ours against its models.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn
from urllib.parse import quote

from mlctl import __version__
from mlctl.backend import Settings
from mlctl.errors import InvalidConfig, MlctlError, RunNotFound, Unauthorized, Unavailable

from .settings import Place

__all__ = ["Service", "Taken"]

VERSION = "2025-12-01"
MANAGER = "https://management.azure.com"
_DATA = "https://ml.azure.com"
_WAITS = (0.3, 1.5)  # seconds before another try of a call; after that, mlctl itself tries later
_SETTINGS = (  # what a message of Azure's is about -> the setting to change; the first that matches
    (r"SubscriptionNotFound|InvalidSubscriptionId|subscription '?[0-9a-f-]{36}'? (could not|was not)", "subscription"),
    (r"ResourceGroupNotFound", "resource_group"),
    (r"workspaces/[^/'\" ]+'? .*not found|WorkspaceNotFound", "workspace"),
    (r"compute", "compute"),
    (r"vm ?size|instance ?type|sku", "instance_type"),
    (r"datastore|container", "datastore"),
    (r"identity", "identity"),
    (r"environment|image", "environment"),
)


class Taken(MlctlError):
    """The name is taken."""


class Service:
    """One workspace, by the credentials that azure-identity finds; made anew once when a token is refused as expired."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self.at = settings, Place(settings)
        self._manager = str(settings.values.get("resource_manager", MANAGER))
        self._lock = threading.Lock()
        self._credential: Any = None
        self._client: Any = None
        self._api = ""

    def credential(self) -> Any:
        """DefaultAzureCredential, made once: environment, workload identity, managed identity, az login."""
        with self._lock:
            if self._credential is None:
                from azure.identity import DefaultAzureCredential

                self._credential = DefaultAzureCredential()
            return self._credential

    def forget(self) -> None:
        """Drops the credentials, so that the next call fetches a token anew."""
        with self._lock:
            self._credential = None

    def _token(self, audience: str) -> str:
        with self.translated("credentials"):
            return str(self.credential().get_token(f"{audience}/.default").token)

    def _pipeline(self) -> Any:
        from azure.core import PipelineClient
        from azure.core.pipeline.policies import UserAgentPolicy

        with self._lock:
            if self._client is None:
                agent = UserAgentPolicy(base_user_agent=f"mlctl/{__version__}")
                self._client = PipelineClient(self._manager, policies=[agent], connection_timeout=10, read_timeout=60)
            return self._client

    def arm(self, method: str, path: str, body: Mapping[str, Any] | None = None, **query: str) -> dict[str, Any]:
        """One call of Azure Resource Manager: of a path, or of a whole address such as the next page's.

        Raises Taken, RunNotFound for what isn't there, Unavailable, Unauthorized, and InvalidConfig that names a setting.
        """
        whole = path.startswith("https://")
        if whole and not path.startswith(self._manager + "/"):
            raise Unavailable(f"{method}: Azure leads to another host than {self._manager}")
        asked = {} if whole else {"api-version": VERSION, **query}
        return self._json(self._send(method, path if whole else self._manager + path, self._manager, body, asked))

    def details(self, name: str) -> dict[str, Any]:
        """What the run history has of a job: times, the error, addresses of logs, which grant access: never to be shown."""
        scope = f"{self.at.arm}/runs/{quote(name, safe='')}"
        return self._json(self._send("GET", f"{self._history()}/history/v1.0{scope}/details", _DATA))

    def _history(self) -> str:
        """The address of the workspace's region, which its discovery service tells."""
        if not self._api:
            workspace = self.arm("GET", self.at.arm)
            found = str(workspace.get("properties", {}).get("discoveryUrl") or "")
            if not found.startswith("https://"):
                raise Unavailable(f"{self.at.workspace}: Azure names no address of the workspace's run history")
            answer = self._json(self._send("GET", found, ""))
            self._api = str(answer.get("api", "")).rstrip("/")
            if not self._api.startswith("https://"):
                self._api = ""
                raise Unavailable(f"{self.at.workspace}: Azure names no address of the workspace's run history")
        return self._api

    def part(self, address: str, start: int, size: int) -> bytes:
        """Bytes of a file at an address that grants access by itself; none where there are no more."""
        answer = self._send(
            "GET", address, "", headers={"Range": f"bytes={start}-{start + size - 1}"}, empty=(404, 416)
        )
        if answer.status_code in (404, 416):
            return b""
        content = bytes(answer.body())
        return content if answer.status_code == 206 else content[start : start + size]

    def _send(
        self, method: str, url: str, audience: str, body: Any = None, query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None, empty: tuple[int, ...] = (),
    ) -> Any:  # fmt: skip
        """A call, tried again a little later where Azure was busy, and once with another token where that was refused."""
        from azure.core.rest import HttpRequest

        waits, renewed = list(_WAITS), False
        what = _what(method, url)
        while True:
            given = {"Accept": "application/json", **(headers or {})}
            if audience:
                given["Authorization"] = f"Bearer {self._token(audience)}"
            asked = HttpRequest(method, url, params=dict(query or {}), headers=given, json=body)
            try:
                with self.translated(what):
                    answer = self._pipeline().send_request(asked)
                    answer.read()
            except Unavailable:
                if not waits:
                    raise
                time.sleep(waits.pop(0))
                continue
            code = answer.status_code
            if code < 300 or code in empty:
                return answer
            if code == 401 and audience and not renewed:
                renewed = True
                self.forget()
            elif (code == 429 or code >= 500) and waits and _soon(answer):
                time.sleep(waits.pop(0))
            else:
                self._refused(what, answer)

    def _json(self, answer: Any) -> dict[str, Any]:
        try:
            found = json.loads(answer.text() or "{}")
        except ValueError:
            raise Unavailable(f"{_what('', answer.request.url)}: Azure's answer is no JSON") from None
        return found if isinstance(found, dict) else {}

    @contextlib.contextmanager
    def translated(self, what: str) -> Iterator[None]:
        """Raises what azure-core and azure-identity raise as mlctl's."""
        from azure.core import exceptions as known

        target = self._settings.target
        try:
            yield
        except known.ClientAuthenticationError as reason:
            mend = "log in (az login), or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET"
            raise Unauthorized(f"targets.{target}: {what}: {_said(reason)}; {mend}") from None
        except (known.ServiceRequestError, known.ServiceResponseError, known.IncompleteReadError, OSError) as reason:
            raise Unavailable(f"targets.{target}: {what}: {_said(reason)}; is resource_manager right?") from None

    def _refused(self, what: str, answer: Any) -> NoReturn:
        """What an answer that is an error means. A message keeps Azure's own words."""
        try:
            error = json.loads(answer.text())["error"]
            code, message = str(error.get("code", "")), " ".join(str(error.get("message") or "").split())
        except (ValueError, KeyError, TypeError, AttributeError):
            error, code, message = {}, "", ""
        self.refuse(what, answer.status_code, code, message, json.dumps(error))

    def refuse(self, what: str, status: int, code: str, message: str, whole: str = "") -> NoReturn:
        """Raises what an error of that status and code means."""
        target = self._settings.target
        text = f"{what}: {message[:500].rstrip('.') or code or status}"
        if "JobPropertyImmutable" in whole or "already exists" in message or status == 409:
            raise Taken(text)
        if status == 429 or status >= 500:
            raise Unavailable(f"{text}; Azure is busy, try again later")
        if re.search(r"not yet valid|issued in the future|clock|too (old|new)|RequestTimeTooSkewed", message):
            raise Unauthorized(f"{text}; set this machine's clock")
        if status == 401:
            raise Unauthorized(f"{text}; log in again (az login) for targets.{target}")
        if status == 403:
            raise Unauthorized(f"{text}; the credentials of targets.{target} need that role: docs/azureml.md has those")
        name = next((name for pattern, name in _SETTINGS if re.search(pattern, f"{code} {message}", re.IGNORECASE)), "")
        if status == 404 and name not in ("subscription", "resource_group", "workspace"):
            raise RunNotFound(text)
        raise self._settings.fail(name, text) if name else InvalidConfig(f"targets.{target}: {text}")


def _what(method: str, url: str) -> str:
    """A call's name, without a query, which may hold a signature."""
    path = url.partition("?")[0].partition("://")[2].partition("/")[2]
    return f"{method} {'/'.join(path.split('/')[-2:])}".strip()


def _soon(answer: Any) -> bool:
    """Whether Azure asks for no more patience than a call has."""
    after = str(answer.headers.get("Retry-After", "0"))
    return after.isdigit() and int(after) <= 2


def _said(reason: BaseException) -> str:
    """An exception's first lines, without the queries of addresses."""
    text = re.sub(r"\?[^\s'\")]+", "", " ".join(str(reason).split()))
    return text[:300] or type(reason).__name__
