"""A Jenkins controller, by jenkinsapi's session: its authentication, crumbs and retries.

Answers are read as JSON. jenkinsapi reads /api/python, whose True, False and None it replaces in the text, names
included; and its waits for a build have no end where the queue item was cancelled.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlencode

from mlctl.errors import InvalidConfig, MlctlError, RunNotFound, Unauthorized, Unavailable, one_line

from .pipeline import same

__all__ = ["Controller", "path_of"]

_ERRORS: Mapping[int, type[MlctlError]] = {400: InvalidConfig, 401: Unauthorized, 403: Unauthorized, 404: RunNotFound}
_SECONDS = 30  # of one request


class Controller:
    """`url` is the controller's root, `user` and `token` who asks. Every method is one or two requests, and raises
    Unavailable, Unauthorized, or what it says. A context manager: its end closes the connections."""

    def __init__(self, url: str, user: str = "", token: str = "") -> None:
        if not url:
            raise InvalidConfig("--url: there is none; give it, or set JENKINS_URL")
        if re.match("[^/]*//[^/?#]*@", url):  # the log would show it with each build's address
            raise InvalidConfig("--url: has a user or a password in it; give them as JENKINS_USER and JENKINS_TOKEN")
        if not re.match("https?://[^/]", url):
            raise InvalidConfig(
                f"--url: got {one_line(url)}, expected a controller's URL, such as https://jenkins.example.org"
            )
        if bool(user) != bool(token):
            raise InvalidConfig("--user and --token: give both, or neither")
        from jenkinsapi.jenkins import Jenkins

        self.url = url.rstrip("/")
        self.session = Jenkins(self.url, user, token, lazy=True, timeout=_SECONDS).requester

    def __enter__(self) -> Controller:
        return self

    def __exit__(self, *error: object) -> None:
        self.session.session.close()

    @contextmanager
    def _translated(self, where: str) -> Iterator[None]:
        from requests import RequestException

        try:
            yield
        except RequestException as reason:
            raise Unavailable(f"{where}: {type(reason).__name__}: {reason}") from None
        except (RuntimeError, ValueError, SyntaxError) as reason:  # jenkinsapi's, of a crumb that it could not get
            text = str(reason)
            kind = Unauthorized if "40" in text[:60] or "Authentication" in text else Unavailable
            raise kind(f"{where}: no crumb: {one_line(text)}") from None

    def _get(self, path: str, allowed: tuple[int, ...] = (200,)) -> Any:
        where = path if "://" in path else f"{self.url}/{path}"
        with self._translated(where):
            return _checked(self.session.get_url(where), where, allowed)

    def _post(self, path: str, data: str, kind: str, allowed: tuple[int, ...] = (200,)) -> Any:
        where = f"{self.url}/{path}"
        with self._translated(where):
            answer = self.session.post_url(
                where, data=data.encode() or b"\n", headers={"Content-Type": kind}, allow_redirects=False
            )
            return _checked(answer, where, allowed)

    def json(self, path: str, tree: str = "") -> Any:
        """What /api/json says of `path`, or of the `tree` of it. Raises RunNotFound where there is no such thing."""
        where = f"{path}/api/json{tree and f'?tree={tree}'}"
        try:
            return json.loads(self._get(where).text)
        except ValueError:
            raise Unavailable(f"{where}: answered something else than JSON; is it a Jenkins controller?") from None

    def faults(self, jenkinsfile: str) -> list[str]:
        """What the controller finds wrong with a declarative Jenkinsfile; nothing where it is right."""
        form = urlencode({"jenkinsfile": jenkinsfile})
        try:
            text = self._post(
                "pipeline-model-converter/validate", form, "application/x-www-form-urlencoded"
            ).text.strip()
        except RunNotFound:
            raise InvalidConfig(
                f"{self.url}: cannot check Jenkinsfiles; it lacks the plugin pipeline-model-definition"
            ) from None
        if "successfully validated" in text:
            return []
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return [line for line in lines if not line.startswith("Errors encountered")] or ["refused, without a reason"]

    def exists(self, name: str) -> bool:
        """Whether there is a job `folder/name`."""
        return bool(self._get(f"{path_of(name)}/api/json?tree=name", (200, 404)).status_code == 200)

    def install(self, name: str, config: str) -> str:
        """Makes the job, or replaces its configuration; `made`, `changed` or `unchanged`. Its folder must be there."""
        if self.exists(name):
            if same(config, self._get(f"{path_of(name)}/config.xml").text):
                return "unchanged"
            self._post(f"{path_of(name)}/config.xml", config, "text/xml; charset=utf-8")
            return "changed"
        folder, _, leaf = name.rpartition("/")
        at = f"{path_of(folder)}/" if folder else ""
        try:
            self._post(f"{at}createItem?name={quote(leaf, safe='')}", config, "text/xml; charset=utf-8")
        except RunNotFound:
            raise InvalidConfig(f"{name}: there is no folder '{folder}' on {self.url}; make it first") from None
        return "made"

    def trigger(self, name: str, params: Mapping[str, str]) -> str:
        """Puts a build into the queue; the queue item's path. Raises InvalidConfig for a parameter that the job doesn't
        declare, which Jenkins would drop."""
        try:
            job = self.json(path_of(name))
        except RunNotFound:
            raise InvalidConfig(f"no job '{name}' on {self.url}; mlctl jenkins install makes it") from None
        declared = [
            one["name"] for each in job.get("property") or [] for one in (each or {}).get("parameterDefinitions", [])
        ]
        for param in params:
            if param not in declared:
                known = ", ".join(declared) or "none"
                raise InvalidConfig(f"--param {param}: '{name}' declares no such parameter; it has {known}")
        verb = "buildWithParameters" if declared else "build"
        form = urlencode(params)
        answer = self._post(f"{path_of(name)}/{verb}", form, "application/x-www-form-urlencoded", (200, 201, 302, 303))
        match = re.search(r"/(queue/item/\d+)", answer.headers.get("Location", ""))
        if not match:
            raise Unavailable(
                f"{name}: the controller took the build, but named no queue item; see {self.url}/{path_of(name)}"
            )
        return match[1]  # below our own URL, whatever the controller thinks its URL is

    def build_of(self, name: str, queued: str) -> str | None:
        """The path of the build that came of a queue item, among the job's latest: for an item that is forgotten."""
        wanted = int(queued.rpartition("/")[2])
        builds = self.json(path_of(name), "builds[number,queueId]")["builds"]
        number = next((one["number"] for one in builds if one.get("queueId") == wanted), None)
        return None if number is None else f"{path_of(name)}/{number}"

    def log(self, build: str, start: int) -> tuple[bytes, int]:
        """What a build's log has from byte `start` on, which may begin or end within a character, and where it ends now."""
        answer = self._get(f"{build}/logText/progressiveText?start={start}")
        return answer.content, int(answer.headers.get("X-Text-Size", start))


def path_of(name: str) -> str:
    """`folder/name` as job/folder/job/name. Raises InvalidConfig for what is no job's name."""
    parts = name.strip("/").split("/")
    if not {"", ".", ".."}.isdisjoint(parts):
        raise InvalidConfig(f"got {one_line(name)}, expected a job's name such as churn or folder/churn")
    return "/".join(f"job/{quote(part, safe='')}" for part in parts)


def _checked(answer: Any, where: str, allowed: tuple[int, ...]) -> Any:
    if answer.status_code not in allowed:
        said = answer.headers.get("X-Error") or answer.reason or ""
        raise _ERRORS.get(answer.status_code, Unavailable)(f"{where}: {answer.status_code} {said}")
    return answer
