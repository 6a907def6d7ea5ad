"""Between a client and an engine's socket: passes each call on, or breaks it on purpose. One call a connection."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import tempfile
import threading
from pathlib import Path

_ANSWERS = {"throttled": (429, "Too Many Requests"), "forbidden": (403, "Forbidden")}


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 64


class Proxy:
    """Listens at `address`. `fault`: every call is answered so; "lost_response": the next start of a container is carried
    out, and its answer lost; "undated": answers come without their date; "starting": the next look for files in a container is
    answered as by an engine that starts, which knows the container already, and can't find it yet."""

    def __init__(self, engine: str) -> None:
        self.engine = engine.removeprefix("unix://")
        self.fault = ""
        self.calls: list[str] = []
        """METHOD PATH of each call, in order."""
        self._folder = tempfile.TemporaryDirectory(prefix="mlctl-", dir="/tmp")
        path = str(Path(self._folder.name, "proxy.sock"))
        self.address = f"unix://{path}"
        # It polls, and is joined: a thread left blocked in accept() would, once stopped and continued, accept from whatever
        # socket has the number by then, such as the next proxy's, and pass its calls on to this one's engine.
        self._server = _Server(path, lambda client, *_: self._serve(client))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._folder.cleanup()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            data = b""
            while b"\r\n\r\n" not in data:
                if not (more := client.recv(65536)):
                    return
                data += more
            head, _, rest = data.partition(b"\r\n\r\n")
            lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
            method, path, _ = lines[0].decode().split(" ", 2)
            self.calls.append(f"{method} {path}")
            answer, said = _ANSWERS.get(self.fault), self.fault
            if self.fault == "starting" and method == "GET" and "/archive" in path:
                self.fault, answer, said = "", (404, "Not Found"), "No such container: " + path.split("/")[-2]
            if answer:
                body = f'{{"message": "{said}"}}'.encode()
                text = f"HTTP/1.1 {answer[0]} {answer[1]}\r\nContent-Type: application/json\r\nConnection: close\r\n"
                client.sendall(text.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
                return
            with socket.socket(socket.AF_UNIX) as server:
                server.connect(self.engine)
                server.sendall(b"\r\n".join([*lines, b"Connection: close"]) + b"\r\n\r\n" + rest)
                forward = threading.Thread(target=_pump, args=(client, server), daemon=True)
                forward.start()
                try:
                    if self.fault == "lost_response" and method == "POST" and path.endswith("/start"):
                        self.fault = ""
                        while server.recv(65536):  # carried out
                            pass
                    else:
                        _pump(server, client, b"\r\nDate:" if self.fault == "undated" else b"")
                finally:
                    with contextlib.suppress(OSError):  # the client has gone
                        client.shutdown(socket.SHUT_RDWR)  # a close alone is none while `forward` reads from it
                    forward.join()


def _pump(source: socket.socket, target: socket.socket, without: bytes = b"") -> None:
    """`without` is how a header begins that is left out of the first piece, which has all of them."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            if without:
                head, found, rest = data.partition(without)
                data, without = head + rest[rest.index(b"\r\n") :] if found else data, b""
            target.sendall(data)
