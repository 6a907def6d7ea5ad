"""One workspace: its client, its calls, its Volumes. Everything that needs the SDK is here, and imported when it is used."""

from __future__ import annotations

import contextlib
import io
import os
import re
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mlctl import __version__, data
from mlctl.backend import Settings
from mlctl.errors import InvalidJob, MlctlError, Unauthorized, Unavailable, one_line

__all__ = ["Missing", "Workspace"]

RETRY = 5  # seconds that the SDK tries a call again; mlctl itself tries later
FRESH = timedelta(days=7)
"""What is older is written again by whoever needs it, so that nobody removes it meanwhile: see prune.py."""

WAIT = 60  # seconds that one answer may take

_SETTINGS = (  # what a refusal is about -> the setting to change, where the target has it
    (r"node.?type|instance.?type|spark.?version|cluster", "new_cluster"),
    (r"cluster", "cluster"),
    (r"budget.?policy", "budget_policy"),
    (r"environment.?version", "environment_version"),
)


class Missing(MlctlError):
    """What was asked for isn't there. Always caught: whoever asks knows what it means."""


class Workspace:
    """The workspace that a target names, by the SDK's own chain of credentials."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._made: Any = None

    @property
    def client(self) -> Any:
        """The SDK's client, made once. Raises InvalidConfig without the SDK, and for a profile that the environment would
        silence; Unauthorized without credentials."""
        if self._made is None:
            try:
                from databricks.sdk import WorkspaceClient
                from databricks.sdk.config import Config
            except ImportError as reason:
                text = f"'databricks' needs {reason.name or reason}; install mlctl with the extra [databricks]"
                raise self.settings.fail("backend", text) from None
            given = {name: self.settings.values[name] for name in ("host", "profile") if name in self.settings.values}
            if "profile" in given and (louder := _in_the_environment(Config)):
                text = f"the environment has {', '.join(louder)}, which the SDK takes before it; unset that, or leave profile out"
                raise self.settings.fail("profile", text)
            try:
                self._made = WorkspaceClient(
                    config=Config(
                        **given,
                        product="mlctl",
                        product_version=__version__,
                        http_timeout_seconds=WAIT,
                        retry_timeout_seconds=RETRY,
                    )
                )
            except (ValueError, OSError) as reason:
                at = f"targets.{self.settings.target}"
                text = f"{at}: no way into Databricks: {one_line(str(reason), 200)}; set DATABRICKS_HOST and DATABRICKS_TOKEN"
                raise Unauthorized(
                    f"{text}, or run `databricks auth login`, or set host and profile of the target"
                ) from None
        return self._made

    @property
    def account(self) -> str:
        """The workspace, as a run's URL names it: the host of its address."""
        return urlsplit(self.client.config.host or "").netloc

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """Raises Databricks' errors as mlctl's."""
        from databricks.sdk import errors

        at = f"targets.{self.settings.target}"
        try:
            yield
        except (errors.Unauthenticated, errors.PermissionDenied) as reason:
            mend = "check host, profile and the token, or ask for the right"
            raise Unauthorized(f"{at}: {self.account} refused: {_said(reason)}; {mend}") from None
        except errors.NotFound as reason:
            raise Missing(_said(reason)) from None
        except (errors.ResourceAlreadyExists, errors.AlreadyExists) as reason:
            raise FileExistsError(_said(reason)) from None
        except errors.BadRequest as reason:
            if "does not exist" in str(reason) and "Run" in str(reason):
                raise Missing(_said(reason)) from None
            said = f"{self.account} refused the request: {_said(reason)}"
            for pattern, name in _SETTINGS:
                if name in self.settings.values and re.search(pattern, said, re.IGNORECASE):
                    raise self.settings.fail(name, said) from None
            raise InvalidJob(f"{at}: {said}") from None
        except OSError as reason:  # what else the SDK and requests raise
            last = reason.__cause__ if isinstance(reason, TimeoutError) and reason.__cause__ else reason
            text = f"{at}: {self.account}: {_said(last)}"
            if type(last).__module__.startswith("requests."):  # no answer of a workspace's
                text += f"; is {at}.host right, or that of the profile?"
            raise Unavailable(text) from None
        except ValueError as reason:  # credentials that can't be had, or an answer that is no JSON
            raise Unavailable(f"{at}: {self.account}: {_said(reason)}") from None

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None, **query: Any) -> dict[str, Any]:
        """One call of the Jobs API, 2.2, its answer as it came: the SDK's classes drop what they don't know."""
        with self.translated():
            query = {name: value for name, value in query.items() if value is not None}
            answer: dict[str, Any] = self.client.api_client.do(
                method, f"/api/2.2/jobs/{path}", query=query or None, body=body, headers={"Accept": "application/json"}
            )
            return answer

    def read(self, path: str) -> bytes:
        """A file of a Volume. Raises Missing."""
        with self.translated(), self.client.files.download(path).contents as stream:
            content: bytes = stream.read()
            return content

    def listed(self, folder: str) -> list[str]:
        """The names in a folder of a Volume, sorted; none where there is no folder."""
        try:
            with self.translated():
                return sorted(each.name for each in self.client.files.list_directory_contents(folder))
        except Missing:
            return []

    def entries(self, folder: str) -> list[Any]:
        """What is in a folder of a Volume, with `name`, `is_directory`, `last_modified` (ms); none where there is no folder."""
        try:
            with self.translated():
                return sorted(self.client.files.list_directory_contents(folder), key=lambda each: str(each.name))
        except Missing:
            return []

    def newest(self, path: str, entry: Any) -> float:
        """When a file, or what is newest in a folder, was written, in seconds since 1970."""
        if not entry.is_directory:
            return float(entry.last_modified or 0) / 1000
        return max((self.newest(f"{path}/{each.name}", each) for each in self.entries(path)), default=0.0)

    def write(self, path: str, content: bytes | Path) -> None:
        """Puts a file, whole, unless it is there, and fresh. A Volume shows a file once all of it is there."""
        there = False
        with contextlib.suppress(Missing), self.translated():
            written = self.client.files.get_metadata(path).last_modified
            if not written or parsedate_to_datetime(written).timestamp() > time.time() - FRESH.total_seconds():
                return
            there = True
        try:
            with data.opened(content) if isinstance(content, Path) else io.BytesIO(content) as stream:
                self._upload(path, stream, there)
        except FileExistsError:  # another was faster: the same content has the same address
            return

    def _upload(self, path: str, stream: Any, overwrite: bool) -> None:
        try:
            try:
                with self.translated():
                    self.client.files.upload(path, stream, overwrite=overwrite)
            except Missing:  # there is no such folder yet
                with self.translated():
                    self.client.files.create_directory(path.rpartition("/")[0])
                    stream.seek(0)
                    self.client.files.upload(path, stream, overwrite=False)
        except Missing as reason:
            text = f"{path}: no such Volume, or no right to see it: {reason}; create it, or name another"
            raise self.settings.fail("root", text) from None

    def clear(self, path: str, folder: bool) -> None:
        """Removes a file, or a folder and all that is in it, from a Volume; nothing where it is gone."""
        for each in self.entries(path) if folder else ():
            self.clear(f"{path}/{each.name}", bool(each.is_directory))
        with contextlib.suppress(Missing), self.translated():
            self.client.files.delete_directory(path) if folder else self.client.files.delete(path)

    def remove(self, path: str) -> None:
        """Removes a file of a Volume."""
        with self.translated():
            self.client.files.delete(path)


def _in_the_environment(config: Any) -> list[str]:
    """The variables that say which workspace, and as whom."""
    attributes = (each for each in config.attributes() if each.auth or each.name == "host")
    return sorted(
        each.env for each in attributes if (each.env or "").startswith("DATABRICKS_") and os.environ.get(each.env)
    )


def _said(reason: BaseException) -> str:
    return " ".join(str(reason).split())[:300] or type(reason).__name__
