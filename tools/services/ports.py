"""Ports of this machine for servers that are told theirs, and can't say which one they got."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

__all__ = ["kept"]


@contextlib.contextmanager
def kept(count: int = 1) -> Iterator[list[int]]:
    """That many, which the kernel gives to nobody else until the context ends: neither to another suite nor to a connection.

    They stay bound, and not listened at, while their servers aren't up, too. A server that listens with SO_REUSEADDR, as all do
    here, and every program of Go, gets one all the same.
    """
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in held:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(("127.0.0.1", 0))
        yield [one.getsockname()[1] for one in held]
