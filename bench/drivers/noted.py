"""Triggers that note when they start and fire, in a triggerer of bench/drivers/triggers.py; otherwise as their authors wrote them.

A line each in the file NOTES, times in nanoseconds since 1970: "started NAME TIME", "fired NAME TIME", and, of mlctl's
poller, "status RUNS TIME DURATION". NAME is what the trigger waits for.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from airflow.providers.standard.triggers.file import FileTrigger
from airflow.providers.standard.triggers.temporal import DateTimeTrigger
from airflow.triggers.base import TriggerEvent

from mlctl import backend
from mlctl_airflow.triggers import RunTrigger

_notes = -1


def note(*words: object) -> None:
    global _notes
    if _notes < 0:
        _notes = os.open(os.environ["NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(_notes, f"{' '.join(map(str, words))}\n".encode())


class Noted:
    """Notes the start and the event of the trigger that is mixed in."""

    waits_for: str

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{type(self).__module__}.{type(self).__qualname__}", super().serialize()[1]  # type: ignore[misc]

    async def run(self) -> AsyncIterator[TriggerEvent]:
        note("started", self.waits_for, time.time_ns())
        async for event in super().run():  # type: ignore[misc]
            note("fired", self.waits_for, time.time_ns())
            yield event


class Run(Noted, RunTrigger):
    @property
    def waits_for(self) -> str:  # type: ignore[override]
        return str(self.url)


def load(name: str, settings: Any) -> Any:
    made = _load(name, settings)
    ask = made.status

    def status(runs: Sequence[Any]) -> Any:
        begin = time.time_ns()
        answer = ask(runs)
        note("status", len(runs), begin, time.time_ns() - begin)
        return answer

    made.status = status
    return made


_load, backend.load = backend.load, load


class File(Noted, FileTrigger):
    @property
    def waits_for(self) -> str:  # type: ignore[override]
        return str(self.filepath)


class Time(Noted, DateTimeTrigger):
    waits_for = "a moment"
