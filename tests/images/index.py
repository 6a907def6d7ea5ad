"""A package index that wants a password, with wheels made here. It counts what it is asked for."""

from __future__ import annotations

import base64
import io
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PASSWORD = "s3cr3t-0f-the-index"
_LOGIN = "Basic " + base64.b64encode(f"reader:{PASSWORD}".encode()).decode()


def wheel(name: str, version: str) -> bytes:
    """A wheel of one module that says its version."""
    data, info = io.BytesIO(), f"{name}-{version}.dist-info"
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return data.getvalue()


class Index(ThreadingHTTPServer):
    """On a free port of this machine: `url` with the login in it, `plain` without."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        port = self.server_address[1]
        self.url, self.plain = f"http://reader:{PASSWORD}@127.0.0.1:{port}/simple/", f"http://127.0.0.1:{port}/simple/"
        self.wheels = {"tidings": wheel("tidings", "1.0"), "ledgers": wheel("ledgers", "2.0")}
        self.asked: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    server: Index

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.headers.get("Authorization") != _LOGIN:
            self._answer(401, b"", "text/plain")
            return
        name = self.path.strip("/").rpartition("/")[2]
        if name.endswith(".whl"):
            self._answer(200, self.server.wheels[name.partition("-")[0]], "application/octet-stream")
        elif name in self.server.wheels:
            version = {"tidings": "1.0", "ledgers": "2.0"}[name]
            file = f"{name}-{version}-py3-none-any.whl"
            self._answer(200, f'<a href="/files/{file}">{file}</a>'.encode(), "text/html")
        else:
            self._answer(404, b"", "text/plain")

    def _answer(self, code: int, body: bytes, kind: str) -> None:
        self.send_response(code)
        if code == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="index"')
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""
