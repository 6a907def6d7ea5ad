"""Calls to one API server, and what their errors mean: the one place where KFP's answers become mlctl's errors.

Requests go out by kfp-server-api, the client that KFP generates from the published v2beta1 API; answers are read as they came, for
its classes drop what they don't know.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

from mlctl import __version__
from mlctl.backend import Settings
from mlctl.backends._pods import Clock
from mlctl.errors import InvalidConfig, MlctlError, Unauthorized, Unavailable, one_line

__all__ = ["Conflict", "Missing", "Service"]

PAGE = 100  # runs in an answer; each has its whole specification in it
_TIMEOUT = (10, 60)  # seconds to connect, to read
_SETTINGS = (("namespace", "namespace"), ("service account", "service_account"), ("experiment", "experiment"))
"""What a refusal of KFP's is about -> the setting to change; the first that matches."""


class Missing(MlctlError):
    """What was asked for isn't there. Always caught: whoever asks knows what it means."""


class Conflict(Unavailable):
    """It is there already, or another changed it at the same moment."""


class Service:
    """The API server of a target."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.host = str(settings.values["host"]).rstrip("/")
        self._lock = threading.Lock()
        self._made: Any = None
        self.clock = Clock()

    def _client(self) -> Any:
        """The client, made once, and anew after a token was refused."""
        with self._lock:
            if self._made is None:
                self._made = self._connect()
            return self._made

    def _connect(self) -> Any:
        import kfp_server_api as api

        values = self.settings.values
        configuration = api.Configuration(host=self.host)
        configuration.retries = False
        if source := values.get("token"):
            configuration.api_key = {"authorization": self.settings.secret("token", source, "")}
            configuration.api_key_prefix = {"authorization": "Bearer"}
        if authorities := values.get("ca"):
            path = Path(authorities).expanduser()
            if not path.is_file():
                raise self.settings.fail("ca", f"{path}: no such file")
            configuration.ssl_ca_cert = str(path)

        class Client(api.ApiClient):  # type: ignore[misc]
            def request(self, *words: Any, **options: Any) -> Any:
                """Without what its caller can't take: an error that is no answer, or whose body is no UTF-8."""
                try:
                    return super().request(*words, **options)
                except api.ApiException as reason:
                    if not reason.status:  # of TLS
                        raise (reason.__context__ or reason) from None
                    reason.body = (reason.body or b"").decode("utf-8", "replace").encode()
                    raise

        client = Client(configuration)
        client.user_agent = f"mlctl/{__version__}"
        return client

    def call(self, method: str, path: str, body: Any = None, **query: Any) -> dict[str, Any]:
        """One call of the API below /apis/v2beta1, its answer as it came.

        Raises Missing, Conflict, Unavailable, Unauthorized, and InvalidConfig that names a setting.
        """
        data = self._send(method, f"/apis/v2beta1/{path}", body, query).data
        try:
            answer = json.loads(data)
        except ValueError:
            if not data.lstrip().startswith(
                b"<"
            ):  # a part of an answer, or nothing: it may have been done all the same
                text = (
                    f"{method} v2beta1/{path}: the answer is no JSON: {one_line(data[:80].decode('utf-8', 'replace'))}"
                )
                raise Unavailable(f"{self._at()}: {self.host}: {text}; try again later") from None
            raise self.foreign(data[:80].decode("utf-8", "replace")) from None
        if not isinstance(answer, dict):
            raise self.foreign(answer)
        return answer

    def foreign(self, answer: Any) -> InvalidConfig:
        """That what answers is none of KFP's servers."""
        text = f"{self.host} answers with what is none of KFP's: {one_line(answer)}"
        return self.settings.fail("host", f"{text}; name the address of the API, and a token where it asks for a login")

    def log(self, run_id: str, node: str, limit: int) -> bytes:
        """The log of a pod from its start, or of what KFP archived of it: `limit` bytes at most.

        The published API has no log; this is the address at which the server has given it since the first version, and
        nothing else is asked of it. Raises Missing where there is none, yet or any more, and what `call` does.
        """
        path = f"/apis/v1alpha1/runs/{quote(run_id, safe='')}/nodes/{quote(node, safe='')}/log"
        answer = self._send("GET", path, None, {}, log=True)
        try:
            with self._translated():
                content = bytes(answer.read(limit, decode_content=True))
        finally:
            answer.close()
        if "html" in (answer.headers.get("Content-Type") or ""):  # KFP says that a log is plain text, whatever is in it
            raise self.foreign(content[:80].decode("utf-8", "replace"))
        return content

    def _send(self, method: str, path: str, body: Any, query: Mapping[str, Any], log: bool = False) -> Any:
        asked = [(name, value) for name, value in query.items() if value not in (None, "")]
        for last in (False, True):
            client = self._client()
            headers, to = {"Accept": "application/json", "Content-Type": "application/json"}, ""
            from kfp_server_api.exceptions import ApiException

            try:
                with self._translated():
                    answer = client.call_api(
                        path, method, {}, asked, headers, body=body, post_params=[], files={}, auth_settings=["Bearer"],
                        _return_http_data_only=True, _preload_content=False, _request_timeout=_TIMEOUT,
                    )  # fmt: skip
                    status = answer.status
                    self.clock.hear(answer.headers)
                    if log and status < 300:
                        return answer
                    content = answer.data
            except ApiException as reason:
                status, content = int(reason.status), reason.body
                to = str((reason.headers or {}).get("Location") or "")
            if status == 401 and not last:
                with self._lock:  # a token that was renewed, in a file
                    self._made = None
                continue
            if not 200 <= status < 300:
                self._refused(f"{method} {path.rpartition('/apis/')[2]}", status, content, log, to)
            return answer
        raise AssertionError("unreachable")

    def _at(self) -> str:
        return f"targets.{self.settings.target}"

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        from urllib3.exceptions import HTTPError, SSLError

        try:
            yield
        except (HTTPError, OSError) as reason:
            text = " ".join(str(reason).split())[:300]
            mend = "is host right, and reached from here?"
            if isinstance(reason, SSLError):
                mend = f"is host right, and {self._at()}.ca what it is signed by?"
            raise Unavailable(f"{self._at()}: {self.host}: {text}; {mend}") from None

    def _refused(self, what: str, status: int, body: Any, log: bool, to: str) -> NoReturn:
        """What an answer that is an error means, or leads `to` another place. A message keeps the server's own words."""
        raw = body.decode("utf-8", "replace") if isinstance(body, bytes) else str(body)
        own = gone = False
        try:
            found = json.loads(raw)
            own = log and "error_message" in found  # of what reads logs: there is no such pod, or it starts yet
            said = found.get("message") or found.get("error_message") or found.get("error")
            gone = status == 404 and bool(said)  # and not the page of a proxy, which knows of no run
            text = str(said or raw)
        except (ValueError, AttributeError):
            text = re.sub(r"(?is)<(style|script)\b.*?</\1>|<[^>]*>", " ", raw)
        text = ": ".join(filter(None, (what, str(status), " ".join(text.split())[:500])))
        target, values = self._at(), self.settings.values
        if 300 <= status < 400:
            raise Unauthorized(
                f"{text}: {self.host} leads to {to.partition('?')[0] or 'nowhere'}; set {target}.token where that is a login, "
                f"else {target}.host to the address of the API itself"
            )
        if status == 401:
            mend = "is refused; get a new one" if values.get("token") else "is not set; set it"
            raise Unauthorized(f"{text}; {target}.token {mend}")
        if status == 403:
            space = f"namespace {values['namespace']}" if values.get("namespace") else "what is there"
            raise Unauthorized(f"{text}; the token of {target} needs the right to runs in {space}: docs/kfp.md has it")
        if gone or own or (log and status == 404):
            raise Missing(text)
        if status == 404:
            raise Unavailable(f"{target}: {self.host}: {text}; is host the address of the API?")
        if status == 409:
            raise Conflict(f"{target}: {self.host}: {text}; try again")
        if status in (408, 429) or status >= 500:
            raise Unavailable(f"{target}: {self.host}: {text}; try again later")
        lower = text.lower()
        name = next((name for word, name in _SETTINGS if word in lower), "")
        raise self.settings.fail(name, text) if name else InvalidConfig(f"{target}: {self.host} refused: {text}")

    def listed(self, kind: str, **query: Any) -> Iterator[dict[str, Any]]:
        """All runs, or experiments, that match, page by page. `where` is one predicate, `operation key value`."""
        where = query.pop("where", None)
        if where:
            operation, key, value = where
            field = "string_values" if operation == "IN" else "string_value"
            text = {"values": list(value)} if operation == "IN" else value
            query["filter"] = json.dumps({"predicates": [{"operation": operation, "key": key, field: text}]})
        token = ""
        while True:
            page = self.call("GET", kind, page_size=PAGE, page_token=token, **query)
            if page and not page.keys() & {kind, "total_size", "next_page_token"}:
                raise self.foreign(page)
            yield from page.get(kind) or []
            token = page.get("next_page_token") or ""
            if not token:
                return
