"""One real triggerer, and many deferred tasks whose triggers it runs.

    python triggers.py prepare                           # the database, in ./prepared
    python triggers.py SUBJECT COUNT ENDS SECONDS        # Run, File or Time: a class of noted.py

The rows are written by Airflow's own classes; `airflow triggerer` does the rest. It is left alone for SECONDS, which gives
what waiting costs; then ENDS of what is waited for end, some a second. Of mlctl's runs those are real, each a shell and its
job; the others are claimed and held by this process in the shims' place, for as many processes would disturb the machine.
Prints JSON, a figure each.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TESTS = HERE.parents[1] / "tests"
sys.path[:0] = [str(TESTS / "airflow"), str(TESTS), str(TESTS.parent / "tools/services")]
import airflow_server  # noqa: E402 - sets the variables that airflow reads at its import

POLL = 0.5  # seconds; the local platform's own, and here the file trigger's
ENDS_A_SECOND = 8
FOLDER = Path.cwd()
os.environ |= {
    "AIRFLOW__CORE__DAGS_FOLDER": str(HERE / "dags"),
    "AIRFLOW__TRIGGERER__MAX_TRIGGER_TO_SELECT_PER_LOOP": "500",
    "PYTHONPATH": str(HERE),
}


def live_in(home: Path) -> None:
    """Has this process's Airflow, and those that it starts, use the database in `home`."""
    os.environ |= {"AIRFLOW_HOME": str(home), "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db"}


def prepare() -> None:
    """A home with a database that has the DAG."""
    live_in(FOLDER / "prepared")
    for words in (["db", "migrate"], ["dags", "reserialize"]):
        done = subprocess.run([sys.executable, "-m", "airflow", *words], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"airflow {' '.join(words)}: {done.stderr[-2000:]}")


# --- what is waited for


class Runs:
    """Runs of the local platform, submitted as ever; in most shims' place this process holds the lock, as they would."""

    def __init__(self) -> None:
        self.kept: list[int] = []  # the locks: each is held for as long as it is open here
        self.urls: list[str] = []
        self.real: dict[int, Any] = {}

    def make(self, count: int, real: set[int]) -> None:
        import mlctl
        from mlctl.backends.local import folder

        spawn = folder.spawn

        def keep(script: str, args: list[str], env: Any, stdin: int, log: Path) -> int:
            self.kept.append(os.dup(stdin))
            log.touch()
            Path(args[0], f"started.{os.getpid()}").touch()
            return os.getpid()

        for number in range(count):
            gate = self.gate(number)
            if number in real:
                os.mkfifo(gate)
            folder.spawn = spawn if number in real else keep
            job = {"kind": "process", "name": "bench", "command": ["/bin/sh", "-c", 'read _ <"$0"', str(gate)]}
            run = mlctl.submit(job, target="local", key=str(number))
            self.urls.append(run.url)
            if number in real:
                self.real[number] = run
        self.home = run.backend.settings.home

    def trigger(self, number: int) -> Any:
        import noted

        return noted.Run(self.urls[number], "local", {}, str(self.home), log_interval=30.0)

    def gate(self, number: int) -> Path:
        return FOLDER / f"gate-{number}"

    def end(self, number: int) -> str:
        self.gate(number).write_text("\n")
        return self.urls[number]

    def close(self) -> None:
        """Ends what hasn't ended: nothing of ours goes on."""
        for run in self.real.values():
            run.cancel(0)

    def ended(self, name: str) -> int:
        stem, _, attempt = name.rpartition("/")[2].rpartition("-")
        return next((self.home / "runs" / stem / attempt).glob("exit.0")).stat().st_mtime_ns


class Files:
    """Files that aren't there yet."""

    def make(self, count: int, real: set[int]) -> None:
        pass

    def trigger(self, number: int) -> Any:
        import noted

        return noted.File(str(FOLDER / f"file-{number}"), poke_interval=POLL)

    def end(self, number: int) -> str:
        path = FOLDER / f"file-{number}"
        path.touch()
        return str(path)

    def close(self) -> None:
        pass

    def ended(self, name: str) -> int:
        return Path(name).stat().st_mtime_ns


class Moments:
    """A moment that doesn't come: what as many triggers cost Airflow that do nothing."""

    moment = datetime.now(timezone.utc) + timedelta(days=365)

    def make(self, count: int, real: set[int]) -> None:
        pass

    def trigger(self, number: int) -> Any:
        import noted

        return noted.Time(self.moment)

    def close(self) -> None:
        pass


def defer(count: int, trigger: Callable[[int], Any]) -> None:
    """The rows of a DAG run's `count` deferred tasks, and of their triggers."""
    from airflow.models.dagbag import DBDagBag
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.trigger import Trigger
    from airflow.utils.session import create_session
    from airflow.utils.state import DagRunState, TaskInstanceState
    from airflow.utils.types import DagRunTriggeredByType, DagRunType
    from sqlalchemy import delete

    with create_session() as session:
        dag = DBDagBag().get_latest_version_of_dag("bench", session=session)
        now = datetime.now(timezone.utc)
        dag_run = dag.create_dagrun(
            run_id="bench", run_after=now, run_type=DagRunType.MANUAL, triggered_by=DagRunTriggeredByType.TEST,
            state=DagRunState.RUNNING, session=session,
        )  # fmt: skip
        version, task = dag_run.task_instances[0].dag_version_id, dag.get_task("one")
        for number in range(count):
            task_instance = TaskInstance(task, version, "bench", TaskInstanceState.DEFERRED, number)
            task_instance.try_number, task_instance.start_date = 1, now
            task_instance.next_method, task_instance.next_kwargs = "resume", {}
            task_instance.trigger = Trigger.from_object(trigger(number))
            session.add(task_instance)
        # Where it has the DAG, a triggerer reads it anew for each trigger, 20 ms, to see whether the task began deferred.
        session.execute(delete(SerializedDagModel))


def resumed(names: dict[int, str]) -> dict[str, int]:
    """When Airflow had written each task's next state: what is waited for -> nanoseconds since 1970."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from airflow.utils.state import TaskInstanceState
    from sqlalchemy import select

    with create_session() as session:
        rows = session.execute(
            select(TaskInstance.map_index, TaskInstance.scheduled_dttm).where(
                TaskInstance.state == TaskInstanceState.SCHEDULED
            )
        )
        return {names[index]: int(at.timestamp() * 1e9) for index, at in rows}


# --- what it costs


def cpu(pid: int) -> float:
    """The seconds of CPU that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def percentile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def measure(subject: str, count: int, ends: int, seconds: float) -> dict[str, float]:
    room = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if room < count + 1000:
        raise SystemExit(f"a triggerer has a log open for each trigger: ulimit -Hn is {room}, wanted {count + 1000}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (room, room))
    home, notes = FOLDER / "airflow", FOLDER / "notes"
    shutil.copytree(FOLDER.parent / "prepared", home)
    live_in(home)
    os.environ["NOTES"] = str(notes)
    notes.touch()
    chosen = random.Random(0).sample(range(count), ends)
    waited: Any = {"Run": Runs, "File": Files, "Time": Moments}[subject]()
    try:
        waited.make(count, set(chosen))
        defer(count, waited.trigger)
        return watched(waited, count, chosen, seconds)
    finally:
        waited.close()


def watched(waited: Any, count: int, chosen: list[int], seconds: float) -> dict[str, float]:
    """What a triggerer costs that runs the triggers, and how soon it tells what ends."""
    home, notes, ends = FOLDER / "airflow", FOLDER / "notes", len(chosen)
    server = airflow_server.Airflow(home, Path(os.environ["MLCTL_HOME"]))
    server.environment |= {
        name: os.environ[name] for name in os.environ if name.startswith(("AIRFLOW", "NOTES", "PYTHONPATH"))
    }

    def noted(what: str) -> list[list[str]]:
        return [words for line in notes.read_text().splitlines() if (words := line.split(" "))[0] == what]

    began = time.monotonic()
    triggerer = server.start("triggerer", "--capacity", str(count + 10), "--skip-serve-logs")
    try:
        wait(lambda: len(noted("started")) >= count, 1500, triggerer)  # 20 ms each and more, of Airflow's own
        loading = time.monotonic() - began
        time.sleep(10)  # the last ones' first round, and what loading left to do
        [runner] = children(triggerer.pid)
        before, begin = (cpu(runner), cpu(triggerer.pid)), time.time_ns()
        time.sleep(seconds)
        figures = {
            "runner_cores": (cpu(runner) - before[0]) / seconds,
            "supervisor_cores": (cpu(triggerer.pid) - before[1]) / seconds,
            "runner_mib": mib(runner),
            "supervisor_mib": mib(triggerer.pid),
            "loading_s": loading,
        }
        calls = [int(words[3]) for words in noted("status") if begin <= int(words[2]) < begin + seconds * 1e9]
        if calls:
            figures["status_calls_a_minute"] = len(calls) * 60 / seconds
            figures["status_call_ms"] = statistics.median(calls) / 1e6
        if not ends:
            return figures
        names = {}
        for number in chosen:
            names[number] = waited.end(number)
            time.sleep(random.expovariate(ENDS_A_SECOND))
        wait(lambda: len(resumed(names)) >= ends, 300, triggerer)
        fired = {words[1]: int(words[2]) for words in noted("fired")}
        for what, times in (("fired", fired), ("resumed", resumed(names))):
            late = [(times[name] - waited.ended(name)) / 1e9 for name in names.values()]
            figures |= {f"{what}_p50_s": percentile(late, 50), f"{what}_p99_s": percentile(late, 99)}
        return figures
    finally:
        server.stop()


def wait(done: Callable[[], bool], seconds: float, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(
                f"waited {seconds} s in vain: {(FOLDER / 'airflow' / 'triggerer.log').read_text()[-3000:]}"
            )
        time.sleep(0.5)


signal.signal(signal.SIGTERM, lambda *_: sys.exit("asked to stop"))  # so that what was started is ended
if sys.argv[1:] == ["prepare"]:
    prepare()
else:
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))))
shutil.rmtree(airflow_server.ROOT, ignore_errors=True)
