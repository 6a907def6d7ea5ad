"""Runs on the stand-in: what the contract doesn't ask for, and what goes wrong."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from databricks_harness import DatabricksHarness, execution, job_of, started
from databricks_standin import TOKEN, VOLUME, Standin
from running import PATIENCE, ended, log, status_of, until

from mlctl import lifecycle
from mlctl.backend import Backend
from mlctl.backends.databricks import launcher
from mlctl.errors import RunExists
from mlctl.policy import admit
from mlctl.runs import Key, Reason, State
from mlctl.stage import stage

# the life of a run


@pytest.mark.parametrize(("hold", "state"), [("QUEUED", State.QUEUED), ("PENDING", State.STARTING)])
def test_waiting_run_is_seen_and_cancelled(made: Backend, standin: Standin, hold: str, state: State) -> None:
    with standin.broken(hold=hold):
        run = started(made, job_of())
        until(lambda: status_of(made, run).state is state, hold)
        made.cancel(run)
        assert ended(made, run).reason is Reason.CANCELLED
    assert log(made, run) == ["Run cancelled."]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("CLOUD_FAILURE", Reason.INFRA),
        ("WORKSPACE_RUN_LIMIT_EXCEEDED", Reason.QUOTA),
        ("INVALID_CLUSTER_REQUEST", Reason.ERROR),
    ],
)
def test_end_before_the_job_began(made: Backend, standin: Standin, code: str, reason: Reason) -> None:
    with standin.broken(f"end:{code}"):
        run = started(made, job_of())
        status = ended(made, run)
    assert (status.reason, status.exit_code) == (reason, None)
    assert code in status.message
    assert log(made, run) == ["as the test asked"]


def test_log_is_live_and_parts_follow_each_other(made: Backend, standin: Standin) -> None:
    run = started(
        made, job_of({"shell": "echo up; i=0; while [ $i -lt 600 ]; do sleep 0.1; echo tick; i=$((i+1)); done"})
    )
    until(lambda: bool(made.logs(run).lines), "the first lines, while it runs")
    assert status_of(made, run).state is State.RUNNING
    first = made.logs(run)
    assert first.lines[0] == "up"
    until(lambda: bool(made.logs(run, first.cursor).lines), "the next lines")
    assert "up" not in made.logs(run, first.cursor).lines
    lifecycle.cancel(made, run, PATIENCE)


def test_secret_is_hidden_in_the_log(made: Backend) -> None:
    run = started(made, job_of({"shell": 'echo "it is $TOKEN"'}, secrets=["TOKEN"]))
    ended(made, run)
    assert log(made, run) == ["it is [secret]"]


def test_each_line_of_a_secret_is_hidden(tmp_path: Path) -> None:
    """A private key is printed line by line."""
    log = launcher.Log(str(tmp_path), ["-----BEGIN KEY-----\nabcd1234\n  abcd1234efgh\nx\n"])
    for line in ("-----BEGIN KEY-----", "abcd1234efgh", "it is abcd1234.", "x"):
        log.line(f"{line}\n")
    assert log.pending == ["[secret]\n", "[secret]\n", "it is [secret].\n", "x\n"]


def test_missing_secret_is_named(harness: DatabricksHarness, made: Backend) -> None:
    harness.values["secrets"] = {"TOKEN": "dbx-secret:ml/nobody"}
    run = started(harness.make(), job_of(secrets=["TOKEN"]))
    assert ended(made, run).reason is Reason.ERROR
    assert "secrets.TOKEN: can't read nobody of the scope ml" in log(made, run)[0]


def test_wrong_python_is_said(made: Backend) -> None:
    other = "3.10" if sys.version_info[:2] == (3, 12) else "3.12"  # the stand-in has ours, whatever the environment
    run = started(made, job_of(python=other))
    assert ended(made, run).exit_code == 1
    assert f"python: the job asks for {other}" in log(made, run)[0]


def test_program_that_is_not_there(made: Backend) -> None:
    run = started(made, job_of(["no-such-program"]))
    assert ended(made, run).exit_code == 127


def test_requirements_that_cannot_be_installed(made: Backend) -> None:
    run = started(made, job_of(requirements=["nothing @ http://127.0.0.1:9/nothing-1-py3-none-any.whl"]))
    status = ended(made, run)
    assert status.reason is Reason.IMAGE
    assert any("can't be installed" in line for line in log(made, run))


def test_launcher_that_is_killed_is_no_fault_of_the_job(
    made: Backend, standin: Standin, harness: DatabricksHarness
) -> None:
    run = started(made, job_of({"shell": "echo up; sleep 600"}))
    until(lambda: bool(made.logs(run).lines), "the job is up")
    pid = standin.nodes / f"{run.scope.rpartition('/')[2]}.pid"
    os.kill(int(pid.read_text()), signal.SIGKILL)
    status = ended(made, run)
    assert (status.state, status.reason, status.exit_code) == (State.FAILED, Reason.INFRA, None)
    until(lambda: not harness.native(run).alive, "the job ends with its launcher")
    until(lambda: not Path(f"/tmp/mlctl-{run.name}").exists(), "nothing of it is left")


def test_cancel_as_the_job_starts_leaves_no_process(tmp_path: Path) -> None:
    """The job is there, and what ends it with its launcher isn't yet."""
    script = """\
import os, signal, sys
from mlctl.backends.databricks import launcher
guard = launcher.guard

def told(process, here):
    print(process.pid, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    return guard(process, here)

launcher.guard = told
spec = {"argv": ["sleep", "600"], "here": sys.argv[1], "timeout": None}
launcher.run_process(spec, dict(os.environ), launcher.Log(f"{sys.argv[1]}/log", []))
"""
    (tmp_path / "job/code").mkdir(parents=True)
    words = [sys.executable, "-c", script, str(tmp_path / "job")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=False)
    job = int(done.stdout)
    try:
        assert done.returncode == 143, done.stderr
        assert not Path(f"/proc/{job}").exists()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(job, signal.SIGKILL)


def test_job_that_ended_in_time_while_the_machine_stood_still(tmp_path: Path) -> None:
    """It is no timeout that a look was before the job's end, and the clock's time after the limit."""
    script = """\
import os, subprocess, sys, time
from mlctl.backends.databricks import launcher
poll = subprocess.Popen.poll

def still(process):
    found = poll(process)
    if found is None:
        subprocess.Popen.poll = poll
        time.sleep(2)
    return found

subprocess.Popen.poll = still
spec = {"argv": ["sleep", "0.5"], "here": sys.argv[1], "timeout": 1}
print(*launcher.run_process(spec, dict(os.environ), launcher.Log(f"{sys.argv[1]}/log", [])))
"""
    (tmp_path / "job/code").mkdir(parents=True)
    words = [sys.executable, "-c", script, str(tmp_path / "job")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.stdout == "0 error\n", done.stdout + done.stderr


def test_outputs_that_cannot_be_written(made: Backend, standin: Standin) -> None:
    script = 'echo a > "$MLCTL_OUTPUT_A/a"; sleep 1'
    place = f"{VOLUME}/blocked-{time.time_ns()}"
    standin.disk(place).write_text("a file where a folder should be")
    run = started(made, job_of({"shell": script}, outputs={"a": {"uri": place}}))
    status = ended(made, run)
    assert (status.reason, status.exit_code) == (Reason.INFRA, 74)
    assert "outputs can't be written" in log(made, run)[-1]


def test_inputs_outputs_and_metrics_in_every_mode(made: Backend, standin: Standin, tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "x.txt").write_text("one")
    (tmp_path / "y.txt").write_text("two")
    standin.disk(f"{VOLUME}/shared").mkdir(exist_ok=True)
    standin.disk(f"{VOLUME}/shared/z.txt").write_text("three")
    script = (
        'cat "$MLCTL_INPUT_FOLDER/x.txt" "$MLCTL_INPUT_COPIED" "$MLCTL_INPUT_VOLUME" > "$MLCTL_OUTPUT_A/all"; '
        'mkdir "$MLCTL_OUTPUT_A/deep"; echo b > "$MLCTL_OUTPUT_B/b"; echo up > "$MLCTL_OUTPUT_A/deep/a"; '
        'echo \'{"name": "loss", "value": 0.5}\' > "$MLCTL_METRICS_FILE"; echo "$MLCTL_RUN"; echo x > "$MLCTL_CHECKPOINT_DIR/c"'
    )
    inputs = {
        "folder": str(tmp_path / "a b"),
        "copied": {"uri": str(tmp_path / "y.txt"), "mode": "download"},
        "volume": f"{VOLUME}/shared/z.txt",
    }
    outputs = {"a": {}, "b": {"mode": "mount", "uri": f"{VOLUME}/shared/models"}}
    run = started(made, job_of({"shell": script}, inputs=inputs, outputs=outputs))
    assert ended(made, run).state is State.SUCCEEDED, log(made, run)
    result = made.result(run)
    assert standin.disk(f"{result.outputs['a']}/all").read_text() == "onetwothree"
    assert standin.disk(f"{result.outputs['a']}/deep/a").read_text() == "up\n"
    assert result.outputs["b"].startswith(f"{VOLUME}/shared/models/{run.name}")
    assert standin.disk(f"{result.outputs['b']}/b").read_text() == "b\n"
    assert log(made, run) == [str(run), 'mlctl.metric {"name": "loss", "value": 0.5}']
    assert not Path(f"/tmp/mlctl-{run.name}").exists()


def test_spark_program_runs_in_the_process_that_has_the_session(made: Backend, tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "helper.py").write_text("WORD = 'helped'\n")
    (code / "main.py").write_text(
        "import os, sys, helper\nprint(helper.WORD, sys.argv[1:], os.environ['MLCTL_RUN'][:10])\n"
        "frames = []\nframe = sys._getframe()\nwhile frame: frames.append(frame.f_code.co_name); frame = frame.f_back\n"
        "print('run_here' in frames)\nsys.exit(4)\n"
    )
    spark = {"platforms": {"databricks": {"spark": True}}, "code": str(code)}
    run = started(made, job_of("python main.py --x 1", **spark))
    status = ended(made, run)
    assert (status.reason, status.exit_code) == (Reason.ERROR, 4)
    assert log(made, run) == ["helped ['--x', '1'] databricks", "True"]


def test_spark_program_is_ended_by_databricks(made: Backend, standin: Standin, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "main.py").write_text("import time\ntime.sleep(600)\n")
    spark = {"platforms": {"databricks": {"spark": True}}, "code": str(tmp_path / "code"), "timeout": "3s"}
    run = started(made, job_of("python main.py", **spark))
    status = ended(made, run)
    assert (status.state, status.reason) == (State.FAILED, Reason.TIMEOUT)
    process = (standin.nodes / f"{run.scope.rpartition('/')[2]}.pid").read_text()
    until(lambda: not Path(f"/proc/{process}").exists(), "its process ends")
    assert not Path(f"/tmp/mlctl-{run.name}").exists()


# never twice


def test_who_died_before_noting_the_run_is_followed(
    made: Backend, standin: Standin, harness: DatabricksHarness
) -> None:
    key, job = Key(f"k{time.time_ns()}", "runs"), job_of({"shell": "sleep 600"})
    run = execution(made, job, key).start().run
    root, stem = str(harness.values["root"]), run.name.rpartition("-")[0]
    for note in standin.disk(f"{root}/runs/{stem}").glob("*.*"):
        note.unlink()
    assert made.find(key) == []
    again = execution(harness.make(), job, key).start()
    assert (again.run, again.made) == (run, False)
    assert harness.native(run).count == 1
    lifecycle.cancel(made, run, PATIENCE)


def test_ten_submits_at_once_make_one_run(made: Backend, harness: DatabricksHarness) -> None:
    key, job = Key(f"k{time.time_ns()}", "runs"), job_of({"shell": "sleep 600"})
    outcomes: list[lifecycle.Outcome] = []
    backends = [harness.make() for _ in range(10)]
    threads = [threading.Thread(target=lambda b=b: outcomes.append(execution(b, job, key).start())) for b in backends]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(outcomes) == 10
    assert len({outcome.run for outcome in outcomes}) == 1
    assert sum(outcome.made for outcome in outcomes) == 1
    assert harness.native(outcomes[0].run).count == 1
    lifecycle.cancel(made, outcomes[0].run, PATIENCE)


def test_job_of_a_run_is_never_rewritten(made: Backend, standin: Standin, harness: DatabricksHarness) -> None:
    """A second submit of the same name with another job leaves what the first reads as it was."""
    key = Key(f"k{time.time_ns()}", "runs")
    first = execution(made, job_of(["echo", "first"]), key)
    run = first.start().run
    other = execution(made, job_of(["echo", "other"]), key)
    job, facts, stamp = other.prepare()
    plan = made.plan(job, facts, run.name)
    stage(made.put, plan.uploads)
    with pytest.raises(RunExists):
        made.submit(admit(job, plan), stamp)
    assert ended(made, run).state is State.SUCCEEDED
    assert log(made, run) == ["first"]
    assert harness.native(run).count == 1


def test_plan_is_json_and_has_no_secret(made: Backend, harness: DatabricksHarness) -> None:
    text = json.dumps(execution(made, job_of(secrets=["TOKEN"])).plan().to_json())
    assert harness.secret not in text
    assert TOKEN not in text
