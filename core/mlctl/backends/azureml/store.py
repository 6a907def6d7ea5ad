"""The files of a datastore: the container of blobs behind it, by Azure's own client, with the same credentials."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

from mlctl import data
from mlctl.backend import Settings
from mlctl.errors import RunNotFound, Unavailable, refused

from .service import Service, Taken

__all__ = ["Store"]

_T = TypeVar("_T")

_PART = 64 << 20  # bytes: what is larger goes in blocks, which show as one file once all are there


class Store:
    """Blobs by their addresses, which begin with those of the target's datastore. Each method raises what Service.arm does."""

    def __init__(self, service: Service, settings: Settings) -> None:
        self._service, self._settings, self._container = service, settings, None

    def owns(self, address: str) -> bool:
        """Whether an address is in the target's datastore, in its long form or the short one."""
        return self._path(address) is not None

    def _path(self, address: str) -> str | None:
        at = self._service.at
        for prefix in (at.paths, f"azureml://datastores/{at.datastore}/paths/"):
            if address.lower().startswith(prefix.lower()):
                return address[len(prefix) :]
        return None

    def described(self) -> dict[str, str]:
        """The account, the container and the host of the datastore. Raises InvalidConfig for one that isn't there, or no blobs'."""
        at = self._service.at
        try:
            found = self._service.arm("GET", f"{at.arm}/datastores/{at.datastore}").get("properties", {})
        except RunNotFound:
            raise self._settings.fail("datastore", f"there is no '{at.datastore}' in {at.workspace}") from None
        if found.get("datastoreType") != "AzureBlob":
            text = f"'{at.datastore}' is of the type {found.get('datastoreType')}; name one of type AzureBlob"
            raise self._settings.fail("datastore", text)
        host = f"{found['accountName']}.blob.{found.get('endpoint') or 'core.windows.net'}"
        return {"account": found["accountName"], "container": found["containerName"], "host": host}

    def _client(self) -> Any:
        if self._container is None:
            from azure.storage.blob import ContainerClient, ExponentialRetry

            found = self.described()
            self._container = ContainerClient(
                f"https://{found['host']}", found["container"], credential=_Fresh(self._service),
                retry_policy=ExponentialRetry(initial_backoff=1, increment_base=2, retry_total=2),
                connection_timeout=10, read_timeout=60, max_single_put_size=_PART, max_block_size=_PART // 8,
            )  # fmt: skip
        return self._container

    def _asked(self, address: str, ask: Callable[[Any], _T]) -> _T:
        """What `ask` makes of the container's client, whose errors become mlctl's; once more where a token had expired."""
        from azure.core import exceptions as known

        shown = address[len(self._service.at.paths) :] if address.startswith(self._service.at.paths) else address
        for last in (False, True):
            with self._service.translated(shown):
                client = self._client()
                try:
                    return ask(client)
                except known.ResourceNotFoundError as reason:
                    if reason.error_code == "ContainerNotFound":
                        text = f"'{self._service.at.datastore}' names the container '{client.container_name}', which isn't there"
                        raise self._settings.fail("datastore", text) from None
                    raise RunNotFound(f"{shown}: nothing is there") from None
                except known.ResourceExistsError as reason:
                    raise Taken(f"{shown}: {reason.error_code}") from None
                except known.HttpResponseError as reason:
                    status = int(reason.status_code or 500)
                    if status == 401 and not last:
                        self._service.forget()
                        continue
                    message = " ".join(str(reason.message).partition("RequestId")[0].split())
                    code = str(getattr(reason, "error_code", "") or "")
                    self._service.refuse(f"{shown} in {client.primary_hostname}", status, code, message)
        raise AssertionError("unreachable")

    def single(self, address: str) -> bool | None:
        """True for a file, False for a folder, None where nothing is."""
        path = self._path(address) or ""

        def ask(client: Any) -> bool | None:
            if path and not path.endswith("/") and client.get_blob_client(path).exists():
                return True
            prefix = path.rstrip("/") + "/" if path else ""
            page = next(client.list_blob_names(name_starts_with=prefix, results_per_page=1).by_page(), iter(()))
            return False if next(iter(page), None) else None

        return self._asked(address, ask)

    def put(self, address: str, content: str | Path) -> None:
        """Writes a file, whole, unless one is there."""
        path = self._path(unquote(address))  # of an upload, which data.Local has quoted
        if path is None:
            raise Unavailable(f"{address}: is not in the datastore of targets.{self._settings.target}")

        def ask(client: Any) -> None:
            blob = client.get_blob_client(path)
            if blob.exists():
                return
            if isinstance(content, str):
                blob.upload_blob(content.encode(), overwrite=False)
                return
            try:
                with data.opened(content) as stream:
                    blob.upload_blob(stream, length=content.stat().st_size, overwrite=False)
            except OSError as reason:
                raise refused(content, reason) from None

        with contextlib.suppress(Taken):  # another was faster: the same content has the same address
            self._asked(address, ask)

    def lines(self, address: str) -> list[str]:
        """The lines of a text. Raises RunNotFound where there is none."""
        path = self._path(address)
        content: bytes = self._asked(address, lambda client: client.download_blob(path).readall())
        return content.decode("utf-8", "replace").splitlines()

    def probe(self) -> str:
        """Writes and removes a file; says where."""
        address = f"{self._service.at.base}/doctor/{id(self):x}"

        def ask(client: Any) -> str:
            blob = client.get_blob_client(self._path(address))
            blob.upload_blob(b"mlctl\n", overwrite=True)
            blob.delete_blob()
            return f"{client.container_name} of {client.primary_hostname} can be written"

        return self._asked(address, ask)


class _Fresh:
    """The service's credentials of this moment, which change where a token was refused."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def get_token(self, *scopes: str, **options: Any) -> Any:
        return self._service.credential().get_token(*scopes, **options)
