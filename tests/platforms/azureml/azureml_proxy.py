"""A proxy that leads `NAME.localhost` to this machine, as RFC 6761 asks for and not every resolver does: for a client in a
process of its own, which is told of it by HTTPS_PROXY. It leads nowhere else.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Iterator


class _Tunnel(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        verb, address, *_ = self.rfile.readline().decode().split()
        while self.rfile.readline().strip():
            pass
        host, _, port = address.rpartition(":")
        if verb != "CONNECT" or not host.endswith(".localhost"):
            self.wfile.write(b"HTTP/1.1 403 only to .localhost\r\n\r\n")
            return
        with socket.create_connection(("127.0.0.1", int(port))) as other:
            self.wfile.write(b"HTTP/1.1 200 connected\r\n\r\n")
            back = threading.Thread(target=_carry, args=(other, self.connection), daemon=True)
            back.start()
            _carry(self.connection, other)
            back.join()


def _carry(source: socket.socket, target: socket.socket) -> None:
    """Passes on what comes, until its end, which is passed on too."""
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True


@contextlib.contextmanager
def proxying() -> Iterator[str]:
    """Its address."""
    with _Server(("127.0.0.1", 0), _Tunnel) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
