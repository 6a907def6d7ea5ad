"""Blobs for tests: one container, in memory; as much of the protocol as files that are put, looked for, listed and read need."""

from __future__ import annotations

import base64
import re
import threading
from email.utils import formatdate
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

Answer = tuple[int, dict[str, str], bytes]


class Blobs:
    """Path -> content. Blocks that were sent and not yet committed are apart."""

    def __init__(self, account: str, container: str) -> None:
        self.account, self.container = account, container
        self.files: dict[str, bytes] = {}
        self.writes: list[str] = []
        """Each path that was written, as often as it was."""
        self._blocks: dict[tuple[str, str], bytes] = {}
        self._lock = threading.Lock()

    def put(self, path: str, content: bytes) -> None:
        with self._lock:
            self.files[path] = content
            self.writes.append(path)

    def below(self, prefix: str) -> dict[str, bytes]:
        """Path below the folder -> content."""
        folder = prefix.rstrip("/") + "/"
        with self._lock:
            return {path[len(folder) :]: each for path, each in self.files.items() if path.startswith(folder)}

    def answer(self, method: str, path: str, query: dict[str, str], headers: Any, body: bytes) -> Answer:
        """Of one request: status, headers, content."""
        container, _, name = unquote(path).lstrip("/").partition("/")
        if container != self.container:
            return refused(404, "ContainerNotFound", "The specified container does not exist.")
        if not name:
            return self._listed(query)
        if method == "PUT":
            return self._put(name, query, headers, body)
        if method == "DELETE":
            gone = self.files.pop(name, None)
            return (
                (202, {}, b"")
                if gone is not None
                else refused(404, "BlobNotFound", "The specified blob does not exist.")
            )
        return self._read(method, name, headers)

    def _put(self, name: str, query: dict[str, str], headers: Any, body: bytes) -> Answer:
        if query.get("comp") == "block":
            with self._lock:
                self._blocks[name, query["blockid"]] = body
            return 201, {}, b""
        if headers.get("If-None-Match") == "*" and name in self.files:
            return refused(409, "BlobAlreadyExists", "The specified blob already exists.")
        if query.get("comp") == "blocklist":
            wanted = [str(each.text) for each in ElementTree.fromstring(body)]
            body = b"".join(self._blocks.pop((name, each)) for each in wanted)
        elif headers.get("x-ms-blob-type") != "BlockBlob":
            return refused(400, "InvalidHeaderValue", "x-ms-blob-type: BlockBlob is what this stand-in has")
        self.put(name, body)
        return 201, _told(body), b""

    def _read(self, method: str, name: str, headers: Any) -> Answer:
        content = self.files.get(name)
        if content is None:
            return refused(404, "BlobNotFound", "The specified blob does not exist.", empty=method == "HEAD")
        told = {**_told(content), "x-ms-blob-type": "BlockBlob"}
        if method == "HEAD":
            return 200, {**told, "Content-Length": str(len(content))}, b""
        return ranged(content, headers, told)

    def _listed(self, query: dict[str, str]) -> Answer:
        prefix, size = query.get("prefix", ""), int(query.get("maxresults", "5000"))
        names = sorted(name for name in self.files if name.startswith(prefix))
        names = [name for name in names if name > base64.b64decode(query.get("marker", "")).decode()]
        last = base64.b64encode(names[size - 1].encode()).decode() if len(names) > size else ""
        blobs = "".join(
            f"<Blob><Name>{escape(name)}</Name><Properties><Content-Length>{len(self.files[name])}</Content-Length>"
            "<BlobType>BlockBlob</BlobType></Properties></Blob>"
            for name in names[:size]
        )
        text = (
            f'<?xml version="1.0" encoding="utf-8"?><EnumerationResults ContainerName="{self.container}">'
            f"<Prefix>{escape(prefix)}</Prefix><Blobs>{blobs}</Blobs><NextMarker>{last}</NextMarker></EnumerationResults>"
        )
        return 200, {"Content-Type": "application/xml"}, text.encode()


def ranged(content: bytes, headers: Any, told: dict[str, str] | None = None) -> Answer:
    """The part of a content that a request asks for."""
    asked = headers.get("x-ms-range") or headers.get("Range") or ""
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", asked)
    if not match:
        return 200, dict(told or {}), content
    start, end = int(match[1]), min(int(match[2] or len(content)), len(content) - 1)
    if start >= len(content):
        return refused(416, "InvalidRange", "The range specified is invalid for the current size of the resource.")
    return 206, {**(told or {}), "Content-Range": f"bytes {start}-{end}/{len(content)}"}, content[start : end + 1]


def _told(content: bytes) -> dict[str, str]:
    return {"ETag": f'"{hash(content) & 0xFFFFFFFF:x}"', "Last-Modified": formatdate(usegmt=True)}


def refused(status: int, code: str, message: str, empty: bool = False) -> Answer:
    """An error in the words of the protocol."""
    text = f"<?xml version='1.0' encoding='utf-8'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return status, {"x-ms-error-code": code, "Content-Type": "application/xml"}, b"" if empty else text.encode()
