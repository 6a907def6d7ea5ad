"""mlctl from Python: what the command line does, for notebooks, scripts and the orchestrators' wrappers.

job = mlctl.load("jobs/train.yaml", params={"lr": 0.1})
run = mlctl.submit(job)                  # at once; `mlctl.run` waits
for line in run.logs(follow=True): ...
run.wait().result().outputs["model"]
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from . import backend as backends
from . import config as configuration
from . import jobfile, ledger, lifecycle, masking, plugins, watch
from .backend import Backend, Settings
from .config import Config
from .errors import InvalidConfig, MlctlError, RunFailed, RunNotFound, Unavailable, did_you_mean, one_line
from .image import Build
from .job import Job
from .runs import Key, Plan, Result, Run, Stamp, State, Status

__all__ = ["RunHandle", "execution", "load", "plan", "reach", "run", "submit"]

log = logging.getLogger(__name__)

JobLike = Job | Mapping[str, Any] | str | Path
"""A job, what its file would hold, or the path of its file."""


def load(job: JobLike, params: Mapping[str, Any] | None = None, inputs: Mapping[str, str] | None = None) -> Job:
    """The job, checked, with parameters and inputs of this run. Raises InvalidJob with file, line and field."""
    if isinstance(job, Job) and not params and not inputs:
        return job
    return jobfile.load(job, params, inputs)


def execution(
    job: JobLike,
    *,
    params: Mapping[str, Any] | None = None,
    inputs: Mapping[str, str] | None = None,
    target: str | None = None,
    profile: str | None = None,
    key: str | None = None,
    retry: bool = False,
    on_change: str = "fail",
    settings: Mapping[str, Any] | None = None,
    values: Mapping[str, str] | None = None,
    accepts: Callable[[Stamp], bool] = lambda stamp: True,
    config: Config | str | Path | None = None,
) -> lifecycle.Execution:
    """A job on its way to its platform: configuration found, target routed, backend loaded; nothing started.

    `key`: the same key for the same job is the same run, whoever asks; without one each call is a new run. `retry`:
    another attempt where the last one under the key ended badly. `on_change`: fail, adopt or replace, where the key
    names a run of another job. `settings` override the target's. `values` are kept with the run on the platform. Raises
    InvalidJob, InvalidConfig.
    """
    if on_change not in lifecycle.ON_CHANGE:
        raise InvalidConfig(f"on_change: got {one_line(on_change)}, expected {', '.join(lifecycle.ON_CHANGE)}")
    if key is not None and not (isinstance(key, str) and key.strip() and key.isprintable()):
        raise InvalidConfig(f"key: got {one_line(key)}, expected a line of text; leave it out for a new run")
    made = load(job, params, inputs)
    if not isinstance(config, Config):
        file = None if isinstance(job, Mapping) else made.document.folder / Path(made.document.source).name
        config = configuration.load(file, config, profile, target)
        target = None
    if config.defaults:
        made = jobfile.load(made, defaults=config.defaults)
    for name in made.platforms:
        if not plugins.known(plugins.BACKENDS, name) and (near := did_you_mean(name, backends.names())):
            log.warning("platforms.%s: no platform of that name is known here%s", name, near)
    chosen = config.target(config.route(made, target), settings)
    at = Settings(chosen.name, chosen.settings, config.home)
    asked = Key(key or os.urandom(8).hex(), made.name)
    platform = backends.load(chosen.backend, at)
    config.refuse_locked(made, chosen, getattr(platform, "takes", made.platforms.get(chosen.backend, ())))
    build = None
    if chosen.build != "never" and not made.image:
        if "image" not in platform.features.honours:
            raise at.fail("build", f"{chosen.backend} runs no images; leave it out, or choose another target")
        build = Build.of(config, chosen)
    return lifecycle.Execution(made, platform, at, asked, values or {}, retry, on_change, build, accepts)


def plan(job: JobLike, **options: Any) -> Plan:
    """Exactly what would be sent, and what the platform won't honour. Options as of `execution`. Starts nothing."""
    return execution(job, **options).plan()


def submit(job: JobLike, **options: Any) -> RunHandle:
    """Starts the job, or finds the run that its `key` names; doesn't wait. Options as of `execution`."""
    made = execution(job, **options)
    outcome = made.start()
    return RunHandle(made.backend, outcome.run, made, outcome, masking.mask(made.job.secrets, made.settings.values))


def run(job: JobLike, *, timeout: float | None = None, **options: Any) -> RunHandle:
    """Starts the job and waits for its success. Options as of `execution`; `timeout` bounds the wait, in seconds.

    Raises RunFailed where the job ended badly; TimeoutError where the wait was not enough (the run goes on).
    """
    return submit(job, **options).wait(timeout)


def named(text: str, config: Config) -> tuple[Run, ledger.Entry | None]:
    """As `reach`, without reaching for it: the run, and what the record has of it."""
    if not isinstance(text, str):
        raise InvalidConfig(f"run: got {one_line(text)}, expected its URL, its name, its key or its job's name")
    url = "://" in text
    entry = next(
        (
            one
            for one in ledger.recent(config.home)
            if (text == one.run if url else text in (Run.parse(one.run).name, one.job, one.key))
        ),
        None,
    )
    if entry is None and not url:
        raise RunNotFound(
            f"'{text}': no run, job or key of that name in this machine's record; mlctl list shows it; a URL works too"
        )
    return Run.parse(entry.run if entry else text), entry


def reach(text: str, config: Config | None = None) -> RunHandle:
    """The run with that URL; or the newest in this machine's record with that name, that job's name or that key.

    Raises RunNotFound where there is none.
    """
    config = config or configuration.load()
    run, entry = named(text, config)
    platform, at = _reaching(run, config, entry.target if entry else "")
    secrets = {*(at.values.get("secrets") or ()), *(entry.secrets if entry else ())}
    return RunHandle(platform, run, masked=masking.mask(secrets, at.values))


def backend_of(run: Run, config: Config, target: str = "") -> Backend:
    """The backend that reaches `run`: of the target called `target` if that does, else of the first that does."""
    return _reaching(run, config, target)[0]


def _reaching(run: Run, config: Config, target: str) -> tuple[Backend, Settings]:
    """Of several targets of the run's platform the first that reaches it, `target` before the others; where none does, the first
    that can't be asked, which may be the one, else the first; where there is only one, that. What it says of the run tells why."""

    def made(name: str) -> tuple[Backend, Settings]:
        at = Settings(name, config.target(name).settings if name in known else {}, config.home)
        return backends.load(run.backend, at), at

    known = [name for name, settings in config.values["targets"].items() if settings["backend"] == run.backend]
    known.sort(key=lambda name: name != target)
    unasked = []
    for name in known if len(known) > 1 else ():
        try:
            found = made(name)
            if found[0].reaches(run):
                return found
        except MlctlError as error:  # another may be the one
            unasked.append(name)
            log.debug("targets.%s: not known whether it reaches %s: %s", name, run, error)
    return made(next(iter([*unasked, *known]), run.backend))


class RunHandle:
    """A run in hand. All it needs is its URL, so `mlctl.reach(str(handle.url))` in another process is the same run."""

    def __init__(
        self,
        backend: Backend,
        run: Run,
        execution: lifecycle.Execution | None = None,
        outcome: lifecycle.Outcome | None = None,
        masked: Callable[[str], str] = str,
    ) -> None:
        self._backend = backend
        self._run = run
        self._execution = execution
        self._outcome = outcome
        self._masked = masked

    @property
    def backend(self) -> Backend:
        """The platform."""
        return self._backend

    @property
    def run(self) -> Run:
        """The attempt in hand: a later one than at first where the job's `retry` was spent."""
        return self._run

    @property
    def url(self) -> str:
        """Where the run is, from anywhere."""
        return str(self._run)

    @property
    def name(self) -> str:
        """The run's name on its platform."""
        return self._run.name

    @property
    def key(self) -> str:
        """The key it was submitted under; empty for a run that was reached by its URL."""
        return self._execution.key.text if self._execution else ""

    @property
    def made(self) -> bool:
        """True where this call submitted the run; False where it was found."""
        return bool(self._outcome and self._outcome.made)

    def status(self) -> Status:
        """What the platform says now. Raises RunNotFound, Unavailable, Unauthorized."""
        answer = self._backend.status([self._run])[self._run]
        if isinstance(answer, MlctlError):
            raise answer
        return answer

    def ended(self, timeout: float | None = None, each: Callable[[Run, Status], None] | None = None) -> Status | None:
        """The terminal status, or None after `timeout` seconds. Spends the job's `retry`. `each` sees every status on
        the way."""
        if self._execution and self._outcome:
            self._outcome = self._execution.wait(self._outcome, timeout, each)
            self._run = self._outcome.run
            return self._outcome.status
        run = self._run
        return watch.until_done(self._backend, run, timeout, (lambda status: each(run, status)) if each else None)

    def wait(self, timeout: float | None = None) -> RunHandle:
        """Returns this handle once the run succeeded. Raises RunFailed; TimeoutError after `timeout` seconds (the run
        goes on)."""
        status = self.ended(timeout)
        if status is None:
            raise TimeoutError(f"{self._run}: still going after {timeout} s; it goes on")
        if status.state is not State.SUCCEEDED:
            raise RunFailed(self._run, status)
        return self

    def logs(self, follow: bool = False) -> Iterator[str]:
        """The lines so far; with `follow`, until the run has ended. Secrets that this machine knows are masked."""
        cursor = ""
        for _ in watch.follow(self._backend, self._run) if follow else (None,):
            try:
                for logs in lifecycle.lines(self._backend, self._run, cursor):
                    yield from map(self._masked, logs.lines)
                    cursor = logs.cursor
            except Unavailable as error:
                if not follow:
                    raise
                log.warning("%s; trying again", error)

    def cancel(self, timeout: float | None = None) -> Status | None:
        """Ends the run and waits for its end; the status, or None after `timeout` seconds. A no-op where it has
        ended."""
        if self._execution:
            self._execution.stop()
        return lifecycle.cancel(self._backend, self._run, timeout)

    def result(self) -> Result:
        """What the run left so far: outputs' addresses, metrics."""
        return self._backend.result(self._run)

    def __repr__(self) -> str:
        return f"<mlctl run {self.url}>"

    def _repr_html_(self) -> str:
        from . import notebook

        try:
            status, result = self.status(), self.result()
        except MlctlError as error:
            return notebook.table(f"run {self.name}", {"run": self.url, "error": str(error)})
        rows = {"state": status.state.value, "message": status.message, "run": self.url, "link": status.link}
        rows |= {f"output {name}": address for name, address in result.outputs.items()}
        rows |= {f"metric {name}": f"{value:g}" for name, value in result.metrics.items()}
        return notebook.table(f"run {self.name}", rows)
