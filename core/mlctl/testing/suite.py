"""The tests that every platform passes, each a promise that the rest of mlctl builds on."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlctl import jobfile, lifecycle, watch
from mlctl.backend import FIELDS, Backend, Base, Finding, Settings
from mlctl.errors import (
    Interrupted,
    InvalidJob,
    MlctlError,
    RunExists,
    RunNotFound,
    Unauthorized,
    Unavailable,
    Unsupported,
)
from mlctl.job import KINDS, Job
from mlctl.policy import admit
from mlctl.runs import Key, Reason, Run, State, Status
from mlctl.stage import stage

from .harness import HOSTILE, SAMPLES, Harness, Native
from .purity import pure

__all__ = ["BackendContract"]


class BackendContract:
    """Give it a fixture `harness`; pytest does the rest."""

    keys = itertools.count()

    @pytest.fixture(autouse=True)
    def _bench(
        self, harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest,
        capsys: pytest.CaptureFixture[str],
    ) -> Iterator[None]:  # fmt: skip
        name = request.function.__name__
        self.harness, self.folder, self.capsys = harness, tmp_path, capsys
        (tmp_path / "data.txt").write_text("1\n2\n")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("TOKEN", harness.secret)
        self.backend = harness.make()
        if name in harness.unproven:
            self.say_unproven(name, harness.unproven[name])
        yield

    def say_unproven(self, what: str, why: str) -> None:
        """Prints what this harness leaves open."""
        with self.capsys.disabled():
            print(f"\nunproven on {self.backend.name}: {what}: {why}")  # noqa: T201 - meant to be seen

    def key(self) -> Key:
        """A key that nobody used."""
        return Key(f"contract-{time.time_ns()}-{next(self.keys)}", "contract")

    def job(self, behaviour: str = "succeed", **fields: Any) -> Job:
        """A job that does what its name says: succeed, fail (exit code 3), hang."""
        scripts = {
            "succeed": "echo one; echo two; echo three",
            "fail": "echo failing; exit 3",
            "hang": "echo up; sleep 600",
        }
        base = {"kind": "process", "name": "contract", "command": ["/bin/sh", "-c", scripts[behaviour]]}
        return jobfile.load({**base, **self.harness.fields(), **fields})

    def execution(
        self, job: Job, key: Key | None = None, backend: Backend | None = None, **options: Any
    ) -> lifecycle.Execution:
        """The lifecycle over the backend under test."""
        made = backend or self.backend
        settings: Settings = made.settings  # type: ignore[attr-defined]
        return lifecycle.Execution(job, made, settings, key or self.key(), **options)

    def ended(self, run: Run, state: State | None = None) -> Status:
        """The terminal status; fails where it does not come."""
        if state:
            self.harness.advance(run, state)
        status = watch.until_done(self.backend, run, self.harness.patience)
        assert status is not None, f"{run} did not end within {self.harness.patience} s"
        return status

    def started(self, job: Job, **options: Any) -> Run:
        """A run of `job`, going on."""
        run = self.execution(job, **options).start().run
        self.harness.advance(run, State.RUNNING)
        return run

    # planning

    def test_plan_is_pure_and_plain(self) -> None:
        job = self.job(params={"lr": 0.1}, env={"A": "b"})
        prepared, facts, _ = self.execution(job).prepare()
        json.dumps(dict(facts))
        with pure():
            plans = [self.backend.plan(prepared, facts, "contract-name-0") for _ in range(2)]
        assert plans[0] == plans[1]
        assert plans[0].name == "contract-name-0"
        assert json.loads(json.dumps(plans[0].to_json(), allow_nan=False)) == plans[0].to_json()

    @pytest.mark.parametrize("length", [1, 20, 63])
    def test_names_fit(self, length: int) -> None:
        name = Key("k", "n" * length).name(12, self.backend.name_limit)
        assert len(name) <= self.backend.name_limit
        assert name.endswith("-12")

    @pytest.mark.parametrize("field", FIELDS)
    def test_features_say_what_happens_to_a_field(self, field: str) -> None:
        features = self.backend.features
        sample = {**SAMPLES, **self.harness.samples}[field]
        job = self.job(**sample)
        assert FIELDS[field](job), f"the sample for {field} doesn't ask for it"
        if field in features.honours or field in features.loses:
            plan = self.execution(job).plan()
            assert (field in {loss.field for loss in plan.losses}) == (field in features.loses)
        else:
            with pytest.raises(Unsupported, match="|".join(sample)):
                self.execution(job).plan()

    @pytest.mark.parametrize("kind", KINDS)
    def test_features_say_which_kinds_run(self, kind: str) -> None:
        execution = self.execution(self.job(kind=kind))
        if kind in self.backend.features.kinds:
            assert execution.plan().request
        else:
            with pytest.raises(Unsupported, match=kind):
                execution.plan()

    # running

    def test_success(self) -> None:
        run = self.started(self.job())
        status = self.ended(run, State.SUCCEEDED)
        assert (status.state, status.reason) == (State.SUCCEEDED, None)
        assert self.harness.native(run) == Native(count=1, alive=False)

    def test_failure_tells_the_exit_code(self) -> None:
        run = self.started(self.job("fail"))
        status = self.ended(run, State.FAILED)
        assert (status.state, status.reason, status.exit_code) == (State.FAILED, Reason.ERROR, 3)

    def test_second_submit_is_refused(self) -> None:
        execution = self.execution(self.job("hang"))
        job, facts, stamp = execution.prepare()
        plan = self.backend.plan(job, facts, execution.key.name(0, self.backend.name_limit))
        stage(self.backend.put, plan.uploads)
        run = self.backend.submit(admit(job, plan), stamp)
        with pytest.raises(RunExists) as caught:
            self.harness.make().submit(admit(job, plan), dataclasses.replace(stamp, nonce="another"))
        assert caught.value.run == run
        assert self.harness.native(run).count == 1
        lifecycle.cancel(self.backend, run, self.harness.patience)

    def test_key_adopts(self) -> None:
        key, job = self.key(), self.job()
        first = self.execution(job, key).start()
        again = self.execution(job, key, self.harness.make()).start()
        assert (first.made, again.made) == (True, False)
        assert first.run == again.run
        self.ended(first.run, State.SUCCEEDED)
        assert self.execution(job, key).start().run == first.run
        assert self.harness.native(first.run).count == 1

    def test_two_keys_with_one_name_are_told_apart(self) -> None:
        class Forged(Key):
            def stem(self, limit: int = 63) -> str:
                return real.stem(limit)

        real, job = self.key(), self.job()
        run = self.started(job, key=real)
        with pytest.raises(InvalidJob, match="another key"):
            self.execution(job, Forged("another", "contract")).start()
        assert self.harness.native(run).count == 1
        self.ended(run, State.SUCCEEDED)

    def test_changed_job_under_a_key_is_an_error(self) -> None:
        key = self.key()
        run = self.started(self.job(params={"lr": 0.1}), key=key)
        with pytest.raises(InvalidJob, match="params"):
            self.execution(self.job(params={"lr": 0.2}), key).start()
        self.ended(run, State.SUCCEEDED)

    def test_next_attempt_after_a_failure(self) -> None:
        key, job = self.key(), self.job("fail")
        first = self.started(job, key=key)
        self.ended(first, State.FAILED)
        assert self.execution(job, key).start().run == first
        second = self.started(job, key=key, again=True)
        assert second.attempt == 1
        self.ended(second, State.FAILED)
        assert [found.number for found in self.backend.find(key)] == [0, 1]

    def test_stamp_comes_back(self) -> None:
        key = self.key()
        execution = self.execution(self.job(), key, values={"dag": "a'b", "long": "v" * 256})
        run = execution.start().run
        stamp = execution.prepare()[2]
        found = list(self.harness.make().find(key))
        assert [(one.run, one.number, one.stamp) for one in found] == [(run, 0, stamp)]
        self.ended(run, State.SUCCEEDED)

    def test_fresh_instance_reconnects_from_the_url(self) -> None:
        run = self.started(self.job())
        self.ended(run, State.SUCCEEDED)
        again = Run.parse(str(run))
        assert again == run
        fresh = self.harness.make()
        assert fresh.reaches(again)
        status = fresh.status([again])[again]
        assert isinstance(status, Status)
        assert status.state is State.SUCCEEDED

    def test_end_is_the_end(self) -> None:
        run = self.started(self.job())
        status = self.ended(run, State.SUCCEEDED)
        self.backend.cancel(run)
        self.backend.cancel(run)
        assert self.backend.status([run])[run] == status

    def test_one_bad_run_spoils_no_other(self) -> None:
        good = self.started(self.job())
        bad = dataclasses.replace(good, name=Key("nobody's", "contract").name(0, self.backend.name_limit))
        elsewhere = dataclasses.replace(good, account="elsewhere", scope="elsewhere")
        self.ended(good, State.SUCCEEDED)
        answer = self.backend.status([bad, elsewhere, good])
        assert isinstance(answer[bad], RunNotFound)
        default: Any = Base.reaches
        if type(self.backend).reaches is not default:
            assert not self.backend.reaches(elsewhere)
            assert isinstance(answer[elsewhere], MlctlError)
        assert isinstance(answer[good], Status)
        for ask in (self.backend.logs, self.backend.result, self.backend.cancel):
            with pytest.raises(RunNotFound):
                ask(bad)

    # cancelling

    def test_cancel_ends_a_run(self) -> None:
        run = self.started(self.job("hang"))
        self.backend.cancel(run)
        self.backend.cancel(run)
        status = lifecycle.cancel(self.backend, run, self.harness.patience)
        assert status is not None
        assert (status.state, status.reason) == (State.CANCELLED, Reason.CANCELLED)
        assert self.harness.native(run) == Native(count=1, alive=False)

    def test_cancel_that_races_a_submit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        execution = self.execution(self.job("hang"))
        submit = execution.backend.submit

        def stopped_meanwhile(*args: Any) -> Run:
            execution.stop()
            return submit(*args)

        monkeypatch.setattr(execution.backend, "submit", stopped_meanwhile)
        run = execution.start().run
        assert self.ended(run).state is State.CANCELLED

    def test_stop_before_a_submit_starts_nothing(self) -> None:
        execution = self.execution(self.job("hang"))
        execution.stop()
        with pytest.raises(Interrupted):
            execution.start()
        assert not self.backend.find(execution.key)

    def test_timeout_ends_a_run_that_nobody_waits_for(self) -> None:
        if "timeout" not in self.backend.features.honours:
            return
        run = self.started(self.job("hang", timeout="1s"))
        status = self.ended(run)
        assert (status.state, status.reason) == (State.FAILED, Reason.TIMEOUT)
        assert not self.harness.native(run).alive

    # what comes back

    def test_logs_resume_at_the_cursor(self) -> None:
        run = self.started(self.job())
        self.ended(run, State.SUCCEEDED)
        whole = [line for logs in lifecycle.lines(self.backend, run) for line in logs.lines]
        if not whole:
            self.say_unproven("logs", "nothing was logged")
            return
        assert [line for line in whole if line in ("one", "two", "three")] == ["one", "two", "three"]
        cursor = self.backend.logs(run).cursor
        assert self.harness.make().logs(run, cursor).lines == ()

    def test_outputs_and_metrics_come_back(self) -> None:
        script = (
            'echo fitted > "$MLCTL_OUTPUT_MODEL/model.txt"; '
            """printf '%s\\n' '{"name": "loss", "value": 0.5, "step": 1}' '{"name": "loss", "value": 0.25, "step": 2}' """
            '> "$MLCTL_METRICS_FILE"'
        )
        run = self.started(self.job(command={"shell": script}, outputs={"model": {"type": "model"}}))
        self.ended(run, State.SUCCEEDED)
        result = self.backend.result(run)
        assert list(result.outputs) == ["model"]
        assert run.name.rpartition("-")[0] in result.outputs["model"]
        if self.harness.unproven.get("test_outputs_and_metrics_come_back"):
            return
        assert result.metrics == {"loss": 0.25}
        assert [point.step for point in result.points] == [1, 2]

    @pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
    def test_hostile_text_arrives_as_sent_or_is_refused(self, text: str) -> None:
        encode = 'printf %s "$1" | base64 | tr -d "\\n"; echo; printf %s "$TEXT" | base64 | tr -d "\\n"; echo'
        command = ["/bin/sh", "-c", encode, "sh", "${{params.text}}"]
        job = self.job(command=command, params={"text": text}, env={"TEXT": "${{params.text}}"})
        execution = self.execution(job)
        try:
            execution.plan()
        except InvalidJob:
            return
        run = execution.start().run
        assert self.ended(run, State.SUCCEEDED).state is State.SUCCEEDED
        lines = [line for logs in lifecycle.lines(self.backend, run) for line in logs.lines]
        if self.harness.unproven.get("test_hostile_text_arrives_as_sent_or_is_refused"):
            return
        assert [base64.b64decode(line).decode() for line in lines] == [text, text]

    def test_secret_reaches_the_job_and_nothing_else(self) -> None:
        if "secrets" not in self.backend.features.honours:
            return
        job = self.job(secrets=["TOKEN"], command={"shell": 'printf %s "$TOKEN" | wc -c'})
        execution = self.execution(job)
        run = execution.start().run
        status = self.ended(run, State.SUCCEEDED)
        lines = [line for logs in lifecycle.lines(self.backend, run) for line in logs.lines]
        said = [
            str(run),
            json.dumps(execution.plan().to_json()),
            repr(self.backend.find(execution.key)),
            repr(status),
            *lines,
        ]
        assert not [text for text in said if self.harness.secret in text]
        home: Path = self.backend.settings.home  # type: ignore[attr-defined]
        kept = [
            path for path in home.rglob("*") if path.is_file() and self.harness.secret.encode() in path.read_bytes()
        ]
        assert kept == []
        if "test_secret_reaches_the_job_and_nothing_else" not in self.harness.unproven:
            assert str(len(self.harness.secret)) in " ".join(lines).split()

    # faults

    @pytest.mark.parametrize(("fault", "error"), [("throttled", Unavailable), ("forbidden", Unauthorized)])
    def test_fault_has_its_error(self, fault: str, error: type[MlctlError]) -> None:
        if fault not in self.harness.faults:
            self.say_unproven(f"{fault} is {error.__name__}", "the harness can't inject it")
            return
        run = self.started(self.job("hang"))
        with self.harness.inject(fault):
            assert isinstance(self.backend.status([run])[run], error)
            with pytest.raises(error):
                self.backend.find(self.key())
        lifecycle.cancel(self.backend, run, self.harness.patience)

    def test_lost_response_makes_no_second_run(self) -> None:
        if "lost_response" not in self.harness.faults:
            self.say_unproven("a lost response", "the harness can't inject it")
            return
        key, job = self.key(), self.job("hang")
        with self.harness.inject("lost_response"), contextlib.suppress(Unavailable):
            self.execution(job, key).start()
        run = self.execution(job, key, self.harness.make()).start().run
        assert self.harness.native(run).count == 1
        lifecycle.cancel(self.backend, run, self.harness.patience)

    def test_doctor_has_findings(self) -> None:
        findings = list(self.backend.check())
        assert findings
        assert all(isinstance(one, Finding) and (one.ok or one.mend) for one in findings)
