"""One job on one platform, from what was asked to what came of it, and again where the job's `retry` allows.

    load → route → resolve → plan → admit → find, decide → stage → submit → watch → result

Nothing is remembered here that the platform doesn't know: a caller that dies anywhere on this way is followed by one
that finds the same attempts under the same key, and decides the same.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from . import ledger, watch
from .backend import Backend, Facts, Settings
from .decide import Action, Decision, decide
from .errors import Interrupted, InvalidJob, RunExists, Unavailable
from .image import Build, Image
from .job import Job
from .policy import Admitted, admit
from .runs import Found, Key, Logs, Plan, Reason, Run, Stamp, State, Status, Upload
from .stage import Tell, stage

__all__ = ["ON_CHANGE", "UNSEEN", "Execution", "Outcome", "cancel", "lines"]

log = logging.getLogger(__name__)

ON_CHANGE = ("fail", "adopt", "replace")
"""What to do where a key is met again and the job is another: an error, take the run that is there, or end it and start
anew."""


UNSTARTED = 3
"""How many attempts that never start one call makes. Each is free of charge, and something may be wrong with the platform."""


TAKEN = 12
"""How often, over some 20 seconds, one call looks for a run whose name is taken and that the platform doesn't list."""


STOPPING = 120.0
"""Seconds that a start waits for the end of a run that is stopping, unless told otherwise."""

UNSEEN = 600.0
"""Seconds for which a run that was made or found may be unavailable before its first status here: an outage is waited out."""

REFUSED = 5
"""How many times in a row a platform may be unable to take a cancel before that is an error."""


@dataclass(frozen=True)
class Outcome:
    """The run in hand; `made` says whether this call submitted it; `status` is the last one seen, None right after a
    submit."""

    run: Run
    made: bool
    status: Status | None = None


@dataclass
class Execution:
    """One call's way through the lifecycle. `values` go into the stamp; `again` asks for an attempt after one that
    ended badly.

    An ended attempt whose stamp `accepts` refuses is none of this call's own, and is followed by the next. So a caller
    whose key can't tell a deliberate rerun from a retry tells them apart by what it kept in `values`.
    """

    job: Job
    backend: Backend
    settings: Settings
    key: Key
    values: Mapping[str, str] = field(default_factory=dict)
    again: bool = False
    on_change: str = "fail"
    build: Build | None = None
    """How to build the image that the job gets, where it is to be built."""
    accepts: Callable[[Stamp], bool] = lambda stamp: True
    stopped: threading.Event = field(default_factory=threading.Event)
    uploading: Tell | None = None
    """Gets how far the uploads are, in bytes; unless given, the log tells of large ones."""
    _image: Image | None = None
    _prepared: tuple[Job, Facts, Stamp] | None = None
    _plans: dict[int, Admitted] = field(default_factory=dict)

    def prepare(self) -> tuple[Job, Facts, Stamp]:
        """Everything that is read before submit, once: the code packed, the platform's facts, the stamp."""
        if self._prepared is None:
            job = self.job.snapshot(self.settings.home / "packages")
            digest = job.digest(self.settings.target)
            stamp = Stamp(self.key.hash, digest, job.parts(self.settings.target), self.values, os.urandom(8).hex())
            if self.build:  # after the digest: what is asked for is the job as written, not where it gets it
                self._image = self.build.image(job)
                job = self._image.given(job)
            self._prepared = job, self.backend.resolve(job), stamp
        return self._prepared

    def plan(self, attempt: int = 0) -> Plan:
        """What would be sent for that attempt. Raises InvalidJob, Unsupported, Denied."""
        return self._admitted(attempt).plan

    def _admitted(self, attempt: int) -> Admitted:
        if attempt not in self._plans:
            job, facts, _ = self.prepare()
            name = self.key.name(attempt, self.backend.name_limit)
            self._plans[attempt] = admit(job, self.backend.plan(job, facts, name))
        return self._plans[attempt]

    def start(self, timeout: float = STOPPING) -> Outcome:
        """Submits the job, or finds what is there under its key; `decide` says which. Doesn't wait for its end.

        A run that is stopping is waited for, `timeout` seconds at most. Raises InvalidJob where the key names a run of
        another job (see ON_CHANGE), Unavailable where a run is stopping still, Interrupted where `stop` came before a
        submit, and what the platform says.
        """
        deadline = time.monotonic() + timeout
        _, _, stamp = self.prepare()
        self._admitted(0)  # refused before anything is looked up
        taken = 0
        while True:
            attempts = self.backend.find(self.key)
            for found in attempts:
                if found.stamp.key != stamp.key:
                    raise InvalidJob(
                        f"{found.run}: its name belongs to another key; choose another than '{self.key.text}'"
                    )
            own = [found for found in attempts if not found.status.state.terminal or self.accepts(found.stamp)]
            if attempts and attempts[-1] not in own:
                decision = Decision(Action.SUBMIT, attempts[-1].number + 1)
            else:
                decision = decide(own, self.job.retry, self.again)
            last = decision.found or (own[-1] if own and not self.again else None)
            if last and last.status.reason is not Reason.ABANDONED and last.stamp.digest != stamp.digest:
                decision = self._changed(last, stamp, decision)
            if decision.found and decision.action is Action.WAIT:
                log.info("%s is stopping; waiting for its end", decision.found.run.name)
                if watch.until_done(self.backend, decision.found.run, max(0.0, deadline - time.monotonic())) is None:
                    raise Unavailable(f"{decision.found.run}: is stopping still; try later")
                continue
            if decision.found:
                self.again = (
                    self.again and decision.found.status.state.terminal
                )  # what still runs is what was asked for
                return Outcome(decision.found.run, False, decision.found.status)
            try:
                return self._submit(decision.attempt, stamp)
            except RunExists as error:  # somebody was faster: look again; theirs is the attempt that was asked for
                self.again, taken = False, taken + 1
                if taken == TAKEN:
                    raise Unavailable(
                        f"{error.run}: its name is taken, and the platform doesn't list it; try later"
                    ) from None
                self.backend.pause([error.run], min(0.01 * 2**taken, 5.0))  # some platforms list it a little later

    def _have_image(self) -> None:
        """The image that the plan names, built and pushed unless it is there. A stop ends the build."""
        if self._image:
            from .builder import Docker

            done = Docker(log.debug, self.stopped).ensure(self._image, None, push="/" in self._image.reference)
            log.info("image %s: %s", self._image.reference, done)

    def _changed(self, found: Found, stamp: Stamp, decision: Decision) -> Decision:
        """The key was met again with another job: an error, or as decided, or the next attempt once the old one ended."""
        state = found.status.state
        if self.on_change == "adopt":
            return decision
        if self.on_change == "replace":
            if not state.terminal:
                cancel(self.backend, found.run)
            return Decision(Action.SUBMIT, found.number + 1)
        differs = ", ".join(found.stamp.differs(stamp)) or "what it asks for"
        if not state.terminal:
            way = f"end it with mlctl cancel {found.run.name}"
        else:
            way = "choose another --key" if state is State.SUCCEEDED else "start it anew with --retry"
        raise InvalidJob(
            f"key '{self.key.text}' names {found.run}, which {_is(state)} and was started for another version of this job: "
            f"{differs} changed; {way}, or take it as it is with --on-change adopt, or start anew with --on-change replace"
        )

    def _submit(self, attempt: int, stamp: Stamp) -> Outcome:
        admitted = self._admitted(attempt)

        def put(upload: Upload) -> None:
            self._unless_stopped()  # uploads may take long
            self.backend.put(upload)

        self._unless_stopped()
        self._have_image()
        stage(put, admitted.plan.uploads, self.uploading)
        self._unless_stopped()
        run = self.backend.submit(admitted, stamp)
        self.again = False
        job, at = self.job, self.settings
        ledger.record(at.home, str(run), job.name, job.kind.name, at.target, self.key.text, job.secrets)
        if self.stopped.is_set():  # a cancel that came while the platform was taking the run
            self.backend.cancel(run)
        return Outcome(run, True)

    def _unless_stopped(self) -> None:
        if self.stopped.is_set():
            raise Interrupted("interrupted: nothing was started")

    def wait(
        self, outcome: Outcome, timeout: float | None = None, each: Callable[[Run, Status], None] | None = None
    ) -> Outcome:  # fmt: skip
        """The outcome with its terminal status; without one where `timeout` seconds were not enough.

        Spends the job's `retry`. A run that this call found alive, and that ends cancelled by somebody else (an earlier
        owner's late cancel), is followed by the next attempt, once.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        inherited, unstarted = not outcome.made, 0
        while True:
            status = outcome.status
            if status is None or not status.state.terminal:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                run = outcome.run
                tell = (lambda one: each(run, one)) if each else None  # noqa: B023
                status = watch.until_done(self.backend, run, left, tell, unseen=UNSEEN)
                if status is None:
                    return replace(outcome, status=None)
                if status.state is State.CANCELLED and inherited and not self.stopped.is_set():
                    log.info("%s was cancelled by somebody else; starting the next attempt", run.name)
                    inherited, self.again = False, True
            outcome = replace(outcome, status=status)
            unstarted += status.reason is Reason.ABANDONED
            if status.state is State.SUCCEEDED or self.stopped.is_set() or unstarted == UNSTARTED:
                return outcome
            if self.on_change == "replace":  # that was done once; who replaces this run now is another
                self.on_change = "fail"
            try:
                following = self.start(STOPPING if deadline is None else max(0.0, deadline - time.monotonic()))
            except Interrupted:  # stopped meanwhile: what ended is what there is
                return outcome
            if following.run == outcome.run:
                return outcome
            log.info("%s ended (%s); this is attempt %d", outcome.run.name, status.message, following.run.attempt)
            outcome = following

    def stop(self) -> None:
        """Flags that the caller wants no run any more: nothing is submitted, and a submit under way cancels what it started."""
        self.stopped.set()


def _is(state: State) -> str:
    return state.value if state in (State.SUCCEEDED, State.FAILED) else f"is {state.value}"


def cancel(backend: Backend, run: Run, timeout: float | None = None) -> Status | None:
    """Asks for the end of `run`, and waits for it; the status, or None where `timeout` seconds were not enough."""
    refused = 0
    for status in watch.follow(backend, run, timeout):
        if status.state.terminal:
            return status
        try:
            backend.cancel(run)
            refused = 0
        except Unavailable as error:
            refused += 1
            if refused == REFUSED:
                raise
            log.warning("%s; trying again", error)
    return None


def lines(backend: Backend, run: Run, cursor: str = "") -> Iterator[Logs]:
    """The log from `cursor` on, batch by batch, to where it ends now. Ask again with the last cursor for what comes
    later."""
    while True:
        logs = backend.logs(run, cursor)
        if logs.lines or logs.cursor != cursor:
            yield logs
        if not logs.lines:
            return
        cursor = logs.cursor
