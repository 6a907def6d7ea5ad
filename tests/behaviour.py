"""What a job's user is promised in every orchestrator: one contract, a test a promise, run on each of them.

An orchestrator's suite has a class of a few lines, and a harness that starts, kills and cancels as that orchestrator and
its users do:

    class TestBehaviour(BehaviourContract):
        column = "prefect"

        @pytest.fixture
        def harness(self, ...): return PrefectHarness(...)

Each promise is a row of the table in docs/orchestrators.md, each of COLUMNS a column. What an orchestrator can't keep
stands in its column with the reason, and is not tested there.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from mlctl import backend, lifecycle
from mlctl.runs import Reason, Run, State, Status

PLUGIN = Path(__file__).parent / "plugin"
"""To be on the PYTHONPATH of whatever runs mlctl in a harness: the platform `held`."""

TOKEN = "PROBE_TOKEN"
SECRET = "a-secret-that-no-log-shows"
"""A variable that must be in the environment of whatever runs mlctl in a harness, and its value."""

PATIENCE = 120.0  # seconds for an orchestrator to do what it does; a bound, never a pause

SCRIPT = """\
import json, os, pathlib, socket, sys, time
params = dict(zip(("traces", "say", "wait", "fail", "extra"), [*sys.argv[1:3], *map(json.loads, sys.argv[3:])]))
if "MLCTL_PARAMS_FILE" in os.environ:
    assert params == json.load(open(os.environ["MLCTL_PARAMS_FILE"]))
traces = pathlib.Path(params["traces"])
with open(traces / "starts", "a+") as starts:
    starts.seek(0)
    attempt = len(starts.readlines())
    starts.write(os.environ.get("MLCTL_RUN", socket.gethostname()) + "\\n")
print("said:", params["say"], flush=True)
if "PROBE_TOKEN" in os.environ:
    print("the token is", os.environ["PROBE_TOKEN"], flush=True)
while params["wait"] and not (traces / "go").exists():
    time.sleep(0.02)
if attempt < params["fail"]:
    sys.exit(3)
model = pathlib.Path(os.environ["MLCTL_OUTPUT_MODEL"])
before = os.environ.get("MLCTL_INPUT_BEFORE")
given = json.loads(pathlib.Path(before, "model.json").read_text())["say"] if before else None
(model / "model.json").write_text(json.dumps({**params, "given": given}))
with open(os.environ["MLCTL_METRICS_FILE"], "a") as metrics:
    metrics.write(json.dumps({"name": "accuracy", "value": 0.75, "step": 1}) + "\\n")
"""

HOSTILE = (
    "a'; echo foo", 'say "hi" && exit', "two\nlines\ttab", "ünïcødé ☃ 漢字", "$(HOME) $HOME `id`", "${{inputs.x}}", "%s {0} \\n",
    "{{secrets/a/b}}", "{{workflow.name}} {% raw %}", "x" * 10_000, "", " leading and trailing ", "--flag=1", "null", "1e-3",
)  # fmt: skip


@dataclass(frozen=True)
class Column:
    """An orchestrator, or one of the ways to use it. `gives_up` has the promises it can't keep, each with the reason."""

    title: str
    gives_up: Mapping[str, str] = field(default_factory=dict)


_NO_LAUNCHER = "no launcher runs beside the job"
_NO_LIMIT = "a cluster bounds a step's time (`kubernetes.set_timeout`), and none was at hand"
_WRITTEN = "it is found when the pipeline is written: no task is there to fail"
COLUMNS: Mapping[str, Column] = {
    "airflow": Column("Airflow"),
    "airflow-deferred": Column("Airflow, deferred"),
    "kfp": Column(
        "KFP",
        {
            "changed_job": "the job's digest is in the key: another job is another run",
            "orchestrator_timeout": _NO_LIMIT,
            "bad_input_is_final": "KFP retries whatever failed; each try is refused at once",
        },
    ),
    "kfp-native": Column(
        "KFP, native step",
        {
            "retryable_failure": f"{_NO_LAUNCHER}: KFP's own retries only",
            "adopt_after_crash": f"{_NO_LAUNCHER}: the job dies with its pod, and a retry starts it anew",
            "cancel_racing_submit": f"{_NO_LAUNCHER}: the pod is the job",
            "late_cancel_of_an_old_owner": f"{_NO_LAUNCHER}: a run has no second owner",
            "orchestrator_timeout": _NO_LIMIT,
            "changed_job": "the job is what was compiled",
            "secrets_masked": "a job with secrets is refused when it is compiled",
            "bad_input": _WRITTEN,
            "bad_input_is_final": _WRITTEN,
        },
    ),
    "prefect": Column("Prefect"),
    "jenkins": Column("Jenkins", {"bad_input_is_final": "`retry` asks again whatever failed; each call is refused at once"}),
    "command-line": Column("`mlctl run --key`", {"bad_input_is_final": "exit code 2 says so; the caller decides"}),
}  # fmt: skip


@dataclass(frozen=True)
class Call:
    """What a pipeline asks for: a job, run with `params` on `target`. `retries` and `limit` (seconds) are the
    orchestrator's own; `then` is a second task, whose input `before` is this one's output `model`."""

    job: Path
    params: Mapping[str, Any] = field(default_factory=dict)
    target: str = "local"
    retries: int = 0
    limit: float | None = None
    then: Call | None = None


@dataclass(frozen=True)
class Ended:
    """A pipeline that is over: whether it is `good`, the task's log, tries, and what it answered (of the last task)."""

    good: bool
    log: str
    tries: int
    run: str = ""
    outputs: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)


class Started(ABC):
    """A pipeline on its way."""

    @abstractmethod
    def log(self) -> str:
        """The task's log so far, every try's, as the orchestrator shows it."""

    @abstractmethod
    def kill(self) -> None:
        """`kill -9` of the process that waits for the job. Then the orchestrator tries again by itself; where it is
        somebody else's to do so, the harness does that."""

    @abstractmethod
    def cancel(self) -> None:
        """Ends it as a user of the orchestrator does; doesn't wait."""

    @abstractmethod
    def ended(self) -> Ended:
        """Once it is over, within PATIENCE."""

    @abstractmethod
    def rerun(self) -> Started:
        """Asks for all of it again, as a user of the orchestrator does who wants another run."""


class Harness(ABC):
    """An orchestrator as the contract drives it."""

    folder: Path
    """The project: where the contract writes its job file and mlctl.yaml."""
    home: Path
    """MLCTL_HOME of whatever runs mlctl."""
    says_why = True
    """Whether the log says why a run failed; False where nothing of ours runs beside the job, and its exit code is all."""

    def status(self, run: str) -> Status:
        """What the platform says of a run, asked directly."""
        local = backend.load("local", backend.Settings("local", {}, self.home))
        answer = local.status([Run.parse(run)])[Run.parse(run)]
        assert isinstance(answer, Status), answer
        return answer

    @abstractmethod
    def start(self, call: Call) -> Started:
        """Starts a pipeline of that call. Bad input is found by the task, not here."""


def until(answers: Callable[[], Any], what: str, seconds: float = PATIENCE, every: float = 0.05) -> Any:
    """What `answers()` says once it is true, asked `every` so many seconds. Fails the test after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (answer := answers()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:g} s for {what}")
        time.sleep(every)
    return answer


class Probe:
    """A training that says that it started, waits if told to, and leaves what it was given."""

    def __init__(self, harness: Harness, traces: Path) -> None:
        self.harness, self.traces = harness, traces
        traces.mkdir(parents=True, exist_ok=True)
        (harness.folder / "code").mkdir(parents=True, exist_ok=True)
        (harness.folder / "code/probe.py").write_text(SCRIPT)
        targets = {
            "local": {"backend": "local", "grace": 1},
            "held": {"backend": "held", "grace": 1, "hold": str(traces)},
        }
        config = {"targets": targets, "profiles": {"dev": [{"target": "local"}]}}
        (harness.folder / "mlctl.yaml").write_text(json.dumps(config))

    def write(self, name: str = "probe", params: Mapping[str, Any] | None = None, **fields: Any) -> Path:
        """The job's file."""
        params = {"traces": str(self.traces), "say": "hello", "wait": False, "fail": 0, "extra": {"type": "object", "default": {}},
                  **(params or {})}  # fmt: skip
        job = {
            "kind": "train", "name": name, "code": "code", "params": params,
            "command": ["python", "probe.py", *(f"${{{{params.{one}}}}}" for one in ("traces", "say", "wait", "fail", "extra"))],
            "outputs": {"model": {"type": "model"}}, **fields,
        }  # fmt: skip
        path = self.harness.folder / f"{name}.yaml"
        path.write_text(json.dumps(job))
        return path

    def go(self, *moments: str) -> None:
        """Lets the waiting job go on; or the platform `held`, at these moments."""
        for name in [f"go-{moment}" for moment in moments] or ["go"]:
            (self.traces / name).touch()

    def at(self, moment: str) -> None:
        """Returns once the platform `held` is there."""
        until((self.traces / moment).exists, f"the platform to be at {moment}")

    def starts(self, count: int = 0) -> list[str]:
        """The URL of each attempt that really started, once there are `count`."""

        def read() -> list[str]:
            with contextlib.suppress(FileNotFoundError):
                return (self.traces / "starts").read_text().split()
            return []

        if count:
            until(lambda: len(read()) >= count, f"{count} starts")
        return read()

    def cancel(self, run: str) -> None:
        """Somebody's cancel of a run."""
        local = backend.load("local", backend.Settings("local", {"grace": 1}, self.harness.home))
        lifecycle.cancel(local, Run.parse(run), PATIENCE)

    def over(self, run: str) -> Status:
        """The status of a run once it has ended."""
        return until(
            lambda: status if (status := self.harness.status(run)).state.terminal else None, f"the end of {run}"
        )


def model(ended: Ended) -> Any:
    """What the last task's model holds."""
    return json.loads(Path(ended.outputs["model"], "model.json").read_text())


class BehaviourContract:
    """A test a promise. The first line of its docstring is the row's title."""

    column: ClassVar[str]

    @pytest.fixture
    def harness(self) -> Harness:
        raise NotImplementedError("the suite of an orchestrator gives it")

    @pytest.fixture(autouse=True)
    def given_up(self, request: pytest.FixtureRequest) -> None:
        """What an orchestrator can't keep is said in its column, and not tried."""
        if why := COLUMNS[self.column].gives_up.get(promise_of(request.node.originalname)):
            pytest.skip(f"{GIVEN_UP}{why}")

    @pytest.fixture
    def probe(self, given_up: None, harness: Harness, tmp_path: Path) -> Probe:
        return Probe(harness, tmp_path / "traces")

    def killed(self, harness: Harness, probe: Probe, job: Path, **changes: Any) -> tuple[Started, str]:
        """A pipeline whose first try died as soon as the platform had the run, and that run; the job's params changed
        meanwhile."""
        started = harness.start(Call(job, target="held", retries=1))
        probe.go("submitting")
        probe.at("submitted")
        (run,) = probe.starts(1)
        if changes:
            probe.write(params={"wait": True, **changes})
        started.kill()
        return started, run

    def test_success(self, harness: Harness, probe: Probe) -> None:
        """The job runs once; its log, outputs and metrics are the orchestrator's."""
        started = harness.start(Call(probe.write(params={"wait": True})))
        (run,) = probe.starts(1)
        until(lambda: "said: hello" in started.log(), "the log of the running job")
        probe.go()
        ended = started.ended()
        assert ended.good, ended.log
        assert (ended.run, ended.metrics["accuracy"], model(ended)["say"]) == (run, 0.75, "hello")
        assert probe.starts() == [run]

    def test_user_failure(self, harness: Harness, probe: Probe) -> None:
        """A failed job fails the task, and obeys the orchestrator's own retries."""
        ended = harness.start(Call(probe.write(params={"fail": 99}), retries=1)).ended()
        assert not ended.good and ended.tries == 2
        assert len(set(probe.starts())) == len(probe.starts()) == 2
        if harness.says_why:
            assert re.search(r"probe-\w+-1: failed \(error\).*3", ended.log), ended.log

    def test_retryable_failure(self, harness: Harness, probe: Probe) -> None:
        """The job's own `retry` is spent within one try of the task."""
        ended = harness.start(Call(probe.write(params={"fail": 1}, retry={"error": 1}))).ended()
        assert ended.good and ended.tries == 1, ended.log
        assert len(probe.starts()) == 2 and ended.run == probe.starts()[1]

    @pytest.mark.parametrize("moment", ["submitting", "submitted", "running", "succeeded"])
    def test_adopt_after_crash(self, harness: Harness, probe: Probe, moment: str) -> None:
        """`kill -9` of what waits, at any moment: the next try finds the one run, and its result."""
        held = moment != "running"
        job = probe.write(params={"wait": not held})
        started = harness.start(Call(job, target="held" if held else "local", retries=1))
        before = {"submitted": ["submitting"], "succeeded": ["submitting", "submitted"]}.get(moment, [])
        if held:
            probe.go(*before)
            probe.at(moment)
        if moment != "submitting":
            probe.starts(1)
        started.kill()
        if held:
            probe.go("submitting", "submitted", "succeeded")
        probe.go()
        ended = started.ended()
        assert ended.good, ended.log
        assert probe.starts() == [ended.run] and ended.metrics["accuracy"] == 0.75

    def test_cancel(self, harness: Harness, probe: Probe) -> None:
        """Cancelled in the orchestrator, the job ends on its platform."""
        started = harness.start(Call(probe.write(params={"wait": True})))
        (run,) = probe.starts(1)
        until(lambda: "said: hello" in started.log(), "the log of the running job")
        started.cancel()
        assert probe.over(run).state is State.CANCELLED
        assert not started.ended().good and probe.starts() == [run]

    def test_cancel_racing_submit(self, harness: Harness, probe: Probe) -> None:
        """Cancelled while it is being submitted, nothing is left running."""
        started = harness.start(Call(probe.write(params={"wait": True}), target="held"))
        probe.at("submitting")
        started.cancel()
        probe.go("submitting", "submitted", "succeeded")
        ended = started.ended()
        assert not ended.good, ended.log
        for run in probe.starts():
            assert probe.over(run).state is State.CANCELLED
        assert len(probe.starts()) <= 1

    def test_late_cancel_of_an_old_owner(self, harness: Harness, probe: Probe) -> None:
        """A run that was found, and is then cancelled by its old owner, is followed by the next attempt, once."""
        started, run = self.killed(harness, probe, probe.write(params={"wait": True}))
        probe.go("submitted", "succeeded")
        name = run.rpartition("/")[2]
        until(lambda: re.search(f"(?i)found .*{name}", started.log()), "the next try to find the run")
        probe.cancel(run)
        probe.starts(2)
        probe.go()
        ended = started.ended()
        assert ended.good, ended.log
        assert len(probe.starts()) == 2 and ended.run == probe.starts()[1]

    def test_timeout(self, harness: Harness, probe: Probe) -> None:
        """The job's own `timeout` ends it, and fails the task."""
        ended = harness.start(Call(probe.write(params={"wait": True}, timeout="5s"))).ended()
        assert not ended.good, ended.log
        if harness.says_why:
            assert "(timeout)" in ended.log, ended.log
        (run,) = probe.starts()
        assert probe.over(run).reason is Reason.TIMEOUT

    def test_orchestrator_timeout(self, harness: Harness, probe: Probe) -> None:
        """The orchestrator's own limit of the task's time ends the job."""
        started = harness.start(Call(probe.write(params={"wait": True}), limit=8))
        (run,) = probe.starts(1)
        assert probe.over(run).state is State.CANCELLED
        assert not started.ended().good and probe.starts() == [run]

    def test_rerun(self, harness: Harness, probe: Probe) -> None:
        """A deliberate rerun is a new run."""
        started = harness.start(Call(probe.write()))
        first = started.ended()
        second = started.rerun().ended()
        assert first.good and second.good, second.log
        assert probe.starts() == [first.run, second.run] and first.run != second.run

    def test_changed_job(self, harness: Harness, probe: Probe) -> None:
        """A retry that finds a live run of another version of the job fails, and says what changed."""
        started, run = self.killed(harness, probe, probe.write(params={"wait": True}), say="another")
        ended = started.ended()
        assert not ended.good and "params changed" in ended.log and run in ended.log, ended.log
        assert not harness.status(run).state.terminal
        probe.cancel(run)
        assert probe.starts() == [run]

    def test_outputs_passed_on(self, harness: Harness, probe: Probe) -> None:
        """A task's typed output is the next one's input."""
        after = Call(probe.write("after", inputs={"before": {"type": "model"}}))
        ended = harness.start(Call(probe.write(params={"say": "from the first"}), then=after)).ended()
        assert ended.good, ended.log
        assert model(ended)["given"] == "from the first" and len(probe.starts()) == 2

    def test_hostile_parameters(self, harness: Harness, probe: Probe) -> None:
        """What no shell, template or platform should touch arrives as it was sent."""
        extra = {str(number): text for number, text in enumerate(HOSTILE)}
        ended = harness.start(Call(probe.write(), {"extra": extra, "say": HOSTILE[0]})).ended()
        assert ended.good, ended.log
        assert (model(ended)["extra"], model(ended)["say"]) == (extra, HOSTILE[0])

    def test_secrets_masked(self, harness: Harness, probe: Probe) -> None:
        """A job that prints its secret prints stars in the orchestrator's log."""
        ended = harness.start(Call(probe.write(secrets=[TOKEN]))).ended()
        assert ended.good, ended.log
        assert re.search(r"the token is \*\*\*", ended.log) and SECRET not in ended.log

    @pytest.mark.parametrize(
        ("call", "says"),
        [
            ({"params": {"lrr": 1}}, r"params.*lrr.*declares"),
            ({"target": "prdo"}, "target 'prdo' is not in the configuration"),
            ({"job": Path("nowhere.yaml")}, r"nowhere\.yaml.*(No such|no such)"),
        ],
    )
    def test_bad_input(self, harness: Harness, probe: Probe, call: Mapping[str, Any], says: str) -> None:
        """Bad input fails the task in one line, with nothing started."""
        job = probe.write()
        given = {"job": job, **call}
        if not given["job"].is_absolute():
            given["job"] = job.with_name(given["job"].name)
        ended = harness.start(Call(**given)).ended()
        assert not ended.good
        assert any(re.search(says, line) for line in ended.log.splitlines()), ended.log
        assert not probe.starts()

    def test_bad_input_is_final(self, harness: Harness, probe: Probe) -> None:
        """Bad input is not tried again, whatever retries the task has."""
        ended = harness.start(Call(probe.write(), params={"lrr": 1}, retries=2)).ended()
        assert not ended.good and ended.tries == 1 and not probe.starts(), ended.log


GIVEN_UP = "given up: "


def promise_of(test: str) -> str:
    """`test_cancel` as `cancel`."""
    return test.removeprefix("test_")


def promises() -> dict[str, str]:
    """Every promise and its title, in the order of the contract."""
    return {
        promise_of(name): (test.__doc__ or "").strip().splitlines()[0].rstrip(".")
        for name, test in vars(BehaviourContract).items()
        if name.startswith("test_")
    }


def table() -> str:
    """The table of docs/orchestrators.md."""
    notes: list[str] = []

    def cell(column: Column, promise: str) -> str:
        if why := column.gives_up.get(promise):
            if why not in notes:
                notes.append(why)
            return f"no ({notes.index(why) + 1})"
        return "yes"

    lines = ["| promise | " + " | ".join(column.title for column in COLUMNS.values()) + " |"]
    lines.append("|---|" + "---|" * len(COLUMNS))
    for promise, title in promises().items():
        lines.append(f"| {title} | " + " | ".join(cell(column, promise) for column in COLUMNS.values()) + " |")
    lines += ["", *(f"{number}. {why}" for number, why in enumerate(notes, 1))]
    return "\n".join(lines)


class Recorder:
    """A plugin of pytest's: notes what came of each promise in build/behaviour/COLUMN.json, and prints the column."""

    FOLDER = Path(__file__).parents[1] / "build/behaviour"

    def __init__(self) -> None:
        self.found: dict[str, dict[str, str]] = {}

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Any:
        report = yield
        owner = getattr(item, "cls", None)
        if owner is not None and issubclass(owner, BehaviourContract):
            cells = self.found.setdefault(owner.column, {})
            promise = promise_of(item.originalname)  # type: ignore[attr-defined]
            if report.skipped and GIVEN_UP in str(report.longrepr):
                cells[promise] = "no"
            elif report.failed:
                cells[promise] = "FAILED"
            elif report.when == "call" and report.passed:
                cells.setdefault(promise, "yes")
        return report

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        for column, cells in self.found.items():
            self.FOLDER.mkdir(parents=True, exist_ok=True)
            if cells.keys() >= promises().keys():  # not of a run of some tests only
                (self.FOLDER / f"{column}.json").write_text(json.dumps(cells, indent=1))
            counts = ", ".join(f"{word} {list(cells.values()).count(word)}" for word in ("yes", "no", "FAILED"))
            terminalreporter.write_line(f"behaviour of {COLUMNS[column].title}: {counts}")


def main() -> int:
    """Prints the table as the suites found it; 1 where a promise failed, or was not tried although CI provides everything."""
    columns = {}
    for name in COLUMNS:
        path = Recorder.FOLDER / f"{name}.json"
        columns[name] = json.loads(path.read_text()) if path.exists() else {}
    width = max(map(len, promises().values()))
    print(" " * width, *(column.title for column in COLUMNS.values()), sep="  ")
    bad = 0
    for promise, title in promises().items():
        cells = [columns[name].get(promise, "-") for name in COLUMNS]
        bad += sum(cell == "FAILED" or (cell == "-" and bool(os.environ.get("CI"))) for cell in cells)
        print(
            f"{title:{width}}",
            *(f"{cell:{len(one.title)}}" for cell, one in zip(cells, COLUMNS.values(), strict=True)),
            sep="  ",
        )
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
