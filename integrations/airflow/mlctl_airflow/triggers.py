"""The deferrable wait: a trigger that watches one run. It decides nothing, submits nothing, and remembers nothing.

All triggers of a triggerer's process share one thread for each target, which asks the platform about all their runs in
one call: see mlctl.watch.Poller. What ends a wait (the run's end, an error, the task's time) is an event; a worker then
decides. A triggerer that stops or dies leaves the runs alone: the next one watches the same URL.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.triggers.base import BaseTrigger, TriggerEvent

if TYPE_CHECKING:
    from mlctl.errors import MlctlError
    from mlctl.runs import Run, Status
    from mlctl.watch import Poller

_ON_KILL = 20.0  # seconds to wait in it: Airflow gives it 30
_STOPPING = 1.0  # seconds in which the event loop of a triggerer that stops is gone
_RENEWAL = 1.0  # seconds from one reading of credentials to the next, at least
_ENDING = 600.0  # seconds to end a run in: thousands of tasks may be asked about at once, one after another
_PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # seconds from one try to the next, the last one ever after

_T = TypeVar("_T")
_targets: dict[str, _Target] = {}
_under_way: set[asyncio.Task[Any]] = set()


class RunTrigger(BaseTrigger):
    """Fires once `run`, a URL, has ended, can't be watched, or `deadline` (seconds since 1970) has come.

    `target`, `settings`, `home` and `conn_id` are what the backend is made from: a triggerer has neither the job file nor the
    configuration. `made` and `secrets` are the worker's, to whom the event brings all of a Deferral back. The log's new lines
    are shown every `log_interval` seconds, from `cursor` on; None: not at all. The first time comes at random within that: triggers
    start by the hundred, and would have the platform asked for all their logs at once, forever after.
    """

    def __init__(
        self,
        run: str,
        target: str,
        settings: Mapping[str, Any],
        home: str,
        conn_id: str | None = None,
        deadline: float | None = None,
        made: bool = False,
        secrets: Sequence[str] = (),
        log_interval: float | None = None,
        cursor: str = "",
    ) -> None:
        super().__init__()
        self.url = run
        self.deadline = deadline
        self.made = made
        self.secrets = secrets
        self.log_interval = log_interval
        self.cursor = cursor
        self._answer: Status | BaseException | None = None
        self._ending: asyncio.Task[None] | None = None  # the run's, once this was stopped
        self._target = _Target.of(target=target, settings=dict(settings), home=home, conn_id=conn_id)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """As Airflow keeps it."""
        own = {"log_interval": self.log_interval, "cursor": self.cursor}
        return f"{type(self).__module__}.{type(self).__qualname__}", {**self._deferral, **own}

    @property
    def _deferral(self) -> dict[str, Any]:
        own = {"deadline": self.deadline, "made": self.made, "secrets": list(self.secrets)}
        return {"run": self.url, **self._target.given, **own}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """One event: `error` is a text where the run can't be watched; `late` says that the deadline came first; `deferral` is
        the Deferral."""
        from mlctl.errors import MlctlError

        error, late = "", False
        try:
            late = not await self._ended()
        except asyncio.CancelledError:
            asyncio.get_running_loop().call_later(_STOPPING, self._end)
            raise
        except MlctlError as reason:
            error = str(reason)
        except Exception as reason:  # the wait must end, whatever broke; the worker fails the task with this text
            error = f"{type(reason).__name__}: {reason}"
        yield TriggerEvent({"error": error, "late": late, "cursor": self.cursor, "deferral": self._deferral})

    async def on_kill(self) -> None:
        """Airflow 3.3 and later wait for it, and keep the task's log open, where a user acted on the deferred task. They may pass
        over it, as they cancel a trigger again each second: so `run` has what it begins begun, too."""
        await asyncio.wait([self._end()], timeout=_ON_KILL)

    def _end(self) -> asyncio.Task[None]:
        self._ending = self._ending or _begun(self._cancel_if_given_up())
        return self._ending

    async def _cancel_if_given_up(self) -> None:
        """Cancels the run, and sees its end, where a user acted on the deferred task.

        Before 3.3 a trigger is stopped then as it is where the triggerer stops, and later as it is where another triggerer took it:
        only what Airflow holds of the task tells. Where neither it nor the platform answers in time, the run goes on.
        """
        deadline, pauses, given_up = time.monotonic() + _ENDING, iter(_PAUSES), False
        while True:
            problem: object = "it takes its time to end"
            try:
                given_up = given_up or await self._given_up()
                if not given_up:
                    self.log.info("%s goes on: its task still waits for it", self.url)
                    return
                if await self._cancelled():
                    return
            except Exception as reason:
                problem = reason
            pause = next(pauses, _PAUSES[-1])
            if time.monotonic() + pause > deadline:
                self.log.error("%s may go on: its task's trigger was stopped, and then: %s", self.url, problem)
                return
            await asyncio.sleep(pause)

    async def _given_up(self) -> bool:
        from asgiref.sync import sync_to_async

        from . import identity

        asked = asyncio.ensure_future(sync_to_async(identity.given_up)(self.task_instance, self.url))
        done, _ = await asyncio.wait([asked], timeout=_ENDING)  # not cancelled: others share its connection
        if not done:
            raise TimeoutError(f"no answer in {_ENDING:g} s")
        return asked.result()

    async def _cancelled(self) -> bool:
        """Asks for the run's end; True once it has ended. A wait for that would hold one of the few threads of this process."""
        from mlctl import lifecycle
        from mlctl.errors import MlctlError, RunNotFound
        from mlctl.runs import Run

        run = Run.parse(self.url)
        poller = await self._target.poller(run)
        try:
            return bool(await asyncio.to_thread(lifecycle.cancel, poller.backend, run, 0))
        except RunNotFound:
            return True
        except MlctlError as reason:
            poller = await self._target.renewed(poller, run, reason)
            return bool(await asyncio.to_thread(lifecycle.cancel, poller.backend, run, 0))

    async def _ended(self) -> bool:
        """True once the run has ended; False where the deadline came first. Raises what can't be watched.

        All in one coroutine, without asyncio's own ways to wait for two things: they take 2 KB more a trigger.
        """
        from mlctl.errors import MlctlError
        from mlctl.runs import Run

        loop, run = asyncio.get_running_loop(), Run.parse(self.url)
        poller = await self._target.poller(run)
        due = None if self.log_interval is None else self.log_interval * random.random()  # noqa: S311 - no secret
        self._woken = loop.create_future()
        poller.watch(run, self._hear)
        try:
            while True:
                timer = self._timer(loop, due)
                try:
                    await self._woken
                finally:
                    if timer:
                        timer.cancel()
                self._woken = loop.create_future()  # first: an answer that comes after the look wakes the next wait
                answer = self._answer
                if isinstance(answer, MlctlError):
                    poller = await self._target.renewed(poller, run, answer)
                    self.log.info("%s; goes on with credentials read anew", answer)
                    await asyncio.sleep(_RENEWAL)  # for a platform that takes and refuses them in turn
                    self._answer = None
                    poller.watch(run, self._hear)
                elif isinstance(answer, BaseException):
                    raise answer
                elif answer:
                    return True
                elif self.deadline is not None and time.time() >= self.deadline:
                    return False
                elif self.log_interval is not None:  # else its clock was set back, and the deadline is yet to come
                    await self._show(poller, run)
                    due = self.log_interval
        finally:
            poller.forget(run, self._hear)

    def _timer(self, loop: asyncio.AbstractEventLoop, due: float | None) -> asyncio.TimerHandle | None:
        """Wakes it in `due` seconds, when its log is, or when the deadline comes."""
        pauses = [due, None if self.deadline is None else max(0.0, self.deadline - time.time())]
        pause = min((one for one in pauses if one is not None), default=None)
        return None if pause is None else loop.call_later(pause, self._wake)

    def _hear(self, answer: Status | BaseException) -> None:
        """Called by the poller's thread."""
        self._answer = answer
        self._woken.get_loop().call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if not self._woken.done():
            self._woken.set_result(None)

    async def _show(self, poller: Poller, run: Run) -> None:
        """The log's new lines, into the task's log. A log that can't be read now is read later."""
        from mlctl.errors import MlctlError

        try:
            logs = await asyncio.to_thread(poller.backend.logs, run, self.cursor)
        except MlctlError as reason:
            self.log.warning("%s", reason)
            return
        for line in logs.lines:
            self.log.info("%s", line)
        self.cursor = logs.cursor


class _Target:
    """What the triggers of one target share in this process: the words that make its backend, and one poller."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.given = given
        self._poller: Any = None  # a Poller, once there is one
        self._lent: Mapping[str, str] = {}
        self._making: asyncio.Task[Poller] | None = None

    @classmethod
    def of(cls, **given: Any) -> _Target:
        """The one for these words."""
        words = json.dumps(given, sort_keys=True)
        return _targets.get(words) or _targets.setdefault(words, cls(given))

    async def poller(self, run: Run) -> Poller:
        """The poller, which the first of the runs makes."""
        return self._poller or await self._make(run, True)

    async def renewed(self, poller: Poller, run: Run, reason: MlctlError) -> Poller:
        """The poller to go on with where `poller` ended with `reason`: one whose credentials were read anew.

        Raises `reason` where the run can't be seen with those, or where it wasn't about credentials and they are the same.
        """
        from mlctl.errors import Unauthorized

        made: Poller = self._poller
        if made is poller:  # else another run's trigger saw to it
            made = await self._make(run, isinstance(reason, Unauthorized))
        if made is poller:
            raise reason
        return made

    async def _make(self, run: Run, refused: bool) -> Poller:
        """Makes a poller, once for all who ask meanwhile: a triggerer starts hundreds of triggers at a time, and an SDK takes
        seconds to import."""
        if self._making is None:
            self._making = _begun(self._connect(run, refused))
        return await asyncio.shield(self._making)

    async def _connect(self, run: Run, refused: bool) -> Poller:
        """The poller; one with the credentials of now, where those in use were `refused` or the connection has others."""
        try:
            lent: Mapping[str, str] = {}
            if conn_id := self.given["conn_id"]:
                from . import connections

                lent = connections.lend(await connections.aget(conn_id))
            if (refused or lent != self._lent) and (made := await asyncio.to_thread(self._opened, run)):
                self._poller, self._lent = made, lent
            return self._poller
        finally:
            self._making = None

    def _opened(self, run: Run) -> Poller | None:
        """A poller; after the first, none where it can't see the run."""
        from mlctl.backend import Settings, load
        from mlctl.errors import MlctlError
        from mlctl.watch import Poller

        made = load(run.backend, Settings(self.given["target"], self.given["settings"], Path(self.given["home"])))
        if self._poller is not None:
            try:
                if isinstance(made.status([run])[run], MlctlError):
                    return None
            except MlctlError:
                return None
        return Poller(made)


def _begun(work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
    """That work under way, to its end: Airflow cancels a trigger that it stops again each second, until it is gone."""
    task = asyncio.ensure_future(work)
    _under_way.add(task)
    task.add_done_callback(_under_way.discard)
    return task
