"""The deferrable wait: a trigger that watches one run. It decides nothing, submits nothing, and remembers nothing.

All triggers of a triggerer's process share one thread for each target, which asks the platform about all their runs in
one call: see mlctl.watch.Poller. What ends a wait (the run's end, an error, the task's time) is an event; a worker then
decides. A triggerer that stops or dies leaves the runs alone: the next one watches the same URL.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

if TYPE_CHECKING:
    from mlctl.runs import Run
    from mlctl.watch import Poller

_CANCEL_SECONDS = 20.0  # Airflow gives on_kill 30
_ASK_SECONDS = 60.0  # the first question makes Airflow ready the API that answers it

_pollers: dict[str, Poller] = {}
_making = threading.Lock()
_waiting: Counter[tuple[str, Run]] = Counter()


class RunTrigger(BaseTrigger):
    """Fires once `run`, a URL, has ended, can't be watched, or `deadline` (seconds since 1970) has come.

    `target`, `settings`, `home` and `conn_id` are what the backend is made from: a triggerer has neither the job file nor the
    configuration. The log's new lines are shown every `log_interval` seconds, from `cursor` on; None: not at all.
    """

    def __init__(
        self,
        run: str,
        target: str,
        settings: Mapping[str, Any],
        home: str,
        conn_id: str | None = None,
        deadline: float | None = None,
        log_interval: float | None = None,
        cursor: str = "",
    ) -> None:
        super().__init__()
        self.kwargs: dict[str, Any] = {
            "run": run,
            "target": target,
            "settings": dict(settings),
            "home": home,
            "conn_id": conn_id,
            "deadline": deadline,
            "log_interval": log_interval,
            "cursor": cursor,
        }

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """As Airflow keeps it."""
        return f"{type(self).__module__}.{type(self).__qualname__}", self.kwargs

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """One event: `error` is a text where the run can't be watched; `late` says that the deadline came first."""
        from mlctl.errors import MlctlError

        error, late = "", False
        try:
            late = not await self._ended()
        except asyncio.CancelledError:
            if not hasattr(BaseTrigger, "on_kill") and await self._given_up():
                await self.on_kill()
            raise
        except MlctlError as reason:
            error = str(reason)
        except Exception as reason:  # the wait must end, whatever broke; the worker fails the task with this text
            error = f"{type(reason).__name__}: {reason}"
        yield TriggerEvent({"error": error, "late": late, "cursor": self.kwargs["cursor"]})

    async def on_kill(self) -> None:
        """Cancels this trigger's own run: called where a user acts on the deferred task, by Airflow 3.3 and later."""
        from mlctl import lifecycle
        from mlctl.runs import Run

        poller = await self._poller()
        await asyncio.to_thread(lifecycle.cancel, poller.backend, Run.parse(self.kwargs["run"]), _CANCEL_SECONDS)

    async def _given_up(self) -> bool:
        """Whether a user acted on the task: before 3.3 its triggers are stopped for that as they are for the triggerer's
        own stop, and only the task's state tells. False where Airflow doesn't answer: the run goes on."""
        from asgiref.sync import sync_to_async

        from . import identity

        asked = asyncio.ensure_future(sync_to_async(identity.state_of)(self.task_instance))
        done, _ = await asyncio.wait([asked], timeout=_ASK_SECONDS)  # not cancelled: others share its connection
        reason = asked.exception() if done else f"no answer in {_ASK_SECONDS:g} s"
        if reason:
            self.log.error("the run may go on: Airflow can't be asked what became of the task: %s", reason)
            return False
        return asked.result() != "deferred"

    async def _ended(self) -> bool:
        """True once the run has ended; False where the deadline came first."""
        from mlctl.runs import Run

        poller, run, deadline = await self._poller(), Run.parse(self.kwargs["run"]), self.kwargs["deadline"]
        known = (self._group(), run)
        _waiting[known] += 1
        future = asyncio.wrap_future(poller.watch(run))
        try:
            while True:
                pauses = [self.kwargs["log_interval"], None if deadline is None else max(0.0, deadline - time.time())]
                done, _ = await asyncio.wait(
                    [future], timeout=min((one for one in pauses if one is not None), default=None)
                )
                if done:
                    future.result()  # raises what can't be watched
                    return True
                if deadline is not None and time.time() >= deadline:
                    return False
                await self._show(poller, run)
        finally:
            _waiting[known] -= 1
            if not _waiting[known]:  # two tasks with one key may wait for the same run
                del _waiting[known]
                poller.forget(run)

    async def _show(self, poller: Poller, run: Run) -> None:
        """The log's new lines, into the task's log. A log that can't be read now is read later."""
        from mlctl.errors import MlctlError

        try:
            logs = await asyncio.to_thread(poller.backend.logs, run, self.kwargs["cursor"])
        except MlctlError as reason:
            self.log.warning("%s", reason)
            return
        for line in logs.lines:
            self.log.info("%s", line)
        self.kwargs["cursor"] = logs.cursor

    def _group(self) -> str:
        return json.dumps([self.kwargs[name] for name in ("target", "settings", "home", "conn_id")], sort_keys=True)

    async def _poller(self) -> Poller:
        """The poller of this target, one for the whole process."""
        group = self._group()
        if group not in _pollers:
            if conn_id := self.kwargs["conn_id"]:
                from airflow.sdk import BaseHook

                from . import connections

                connections.lend(await BaseHook.aget_connection(conn_id))
            await asyncio.to_thread(self._make, group)
        return _pollers[group]

    def _make(self, group: str) -> None:
        """The poller, made once: a triggerer starts hundreds of triggers at a time, and an SDK takes seconds to import."""
        from mlctl.watch import Poller

        with _making:
            if group not in _pollers:
                _pollers[group] = Poller(self._backend())

    def _backend(self) -> Any:
        from mlctl import backend
        from mlctl.runs import Run

        settings = backend.Settings(self.kwargs["target"], self.kwargs["settings"], Path(self.kwargs["home"]))
        return backend.load(Run.parse(self.kwargs["run"]).backend, settings)
