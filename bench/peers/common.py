"""What every driver does alike, so that only `submit` and `wait` differ between mlctl and its peers.

A driver is `NAME_.py MODE COUNT COMMAND...`, run by the interpreter whose packages it needs. It prints JSON lines.
Times are nanoseconds of CLOCK_MONOTONIC, which all processes of a machine share; memory is in bytes.

    each   one job at a time: {"call", "known"}, and {"started", "ended"} where the job notes them itself (job.py)
    many   two at a time: {"wall", "before", "peak"}: the time, and the driver's peak memory before and after
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

AT_ONCE = 2
Submit = Callable[[list[str]], Any]  # starts a job
Wait = Callable[[Any], object]  # returns once the job is known to have succeeded, or raises


def drive(submit: Submit, wait: Wait, *, threads: bool = False) -> None:
    """Run what the command line asks for.

    Two at a time is one thread that submits, and waits for the oldest; with `threads` it is two threads, each running
    one job after another. Each driver has the one that is faster for it.
    """
    mode, count, command = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    if notes := noted_in(command):
        command[-1] = str(notes)
    if mode == "each":
        each(submit, wait, count, command)
        return
    wait(submit(command))  # what the first job loads is not the cost of the others
    before, begin = peak_memory(), time.monotonic_ns()
    (in_threads if threads else in_one_thread)(submit, wait, count, command)
    print(json.dumps({"wall": time.monotonic_ns() - begin, "before": before, "peak": peak_memory()}))


def each(submit: Submit, wait: Wait, count: int, command: list[str]) -> None:
    for _ in range(count):
        call = time.monotonic_ns()
        wait(submit(command))
        times = {"call": call, "known": time.monotonic_ns()}
        if notes := noted_in(command):
            times["started"], times["ended"] = map(int, notes.read_text().split())
            notes.unlink()  # the next job's are its own, or missing
        print(json.dumps(times))


def in_one_thread(submit: Submit, wait: Wait, count: int, command: list[str]) -> None:
    running: deque[Any] = deque()
    for _ in range(count):
        if len(running) == AT_ONCE:
            wait(running.popleft())
        running.append(submit(command))
    while running:
        wait(running.popleft())


def in_threads(submit: Submit, wait: Wait, count: int, command: list[str]) -> None:
    tickets = iter(range(count))

    def worker(_: int) -> None:
        for _ticket in tickets:
            wait(submit(command))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(worker, range(AT_ONCE)))  # raises what a worker raised


def noted_in(command: list[str]) -> Path | None:
    """The file where the job notes its times, if it does: its last word, `*.times`."""
    return Path.cwd() / command[-1] if command[-1].endswith(".times") else None


def peak_memory() -> int:
    """The most memory, in bytes, that this process ever had resident.

    Not getrusage: a child's ru_maxrss begins at its parent's, by way of vfork. VmHWM begins anew with the program.
    """
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
