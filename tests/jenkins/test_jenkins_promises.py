"""What the steps promise, a test each: real Groovy, a real sh, the real command line, real jobs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from conftest import Build, Pipelines, until
from mlctl import api
from mlctl.runs import Key, State

MLCTL = str(Path(sys.executable).with_name("mlctl"))
COUNTED = 'echo start >> "$COUNT"; echo running; while [ ! -e "$GO" ]; do sleep 0.02; done; echo done; '
RESULT = 'echo \'{"name": "accuracy", "value": 0.5}\' > "$MLCTL_METRICS_FILE"; echo data > "$MLCTL_OUTPUT_DATA/file"; '


class Counted:
    """A job that counts its starts, and goes on once it may."""

    def __init__(
        self, pipelines: Pipelines, end: str = "exit 0", go: bool = False, name: str = "job", **fields: Any
    ) -> None:
        self.starts, self.go = pipelines.at / f"{name}.starts", pipelines.at / f"{name}.go"
        env = {"COUNT": str(self.starts), "GO": str(self.go), **fields.pop("env", {})}
        command = {"shell": COUNTED + RESULT + end}
        self.path = pipelines.job(name, command=command, env=env, outputs={"data": {}}, **fields)
        if go:
            self.go.touch()

    @property
    def count(self) -> int:
        return self.starts.read_text().count("\n") if self.starts.exists() else 0

    def started(self, times: int = 1) -> None:
        until(lambda: self.count >= times, f"start number {times}")


def carriers(pid: int) -> list[int]:
    """The processes of a step, its own shell included: they share what the agent marked them with."""

    def cookie(entry: Path) -> bytes:
        try:
            words = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            return b""
        return next((word for word in words if word.startswith(b"JENKINS_SERVER_COOKIE=")), b"")

    wanted = cookie(Path(f"/proc/{pid}"))
    assert wanted
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if cookie(entry) == wanted]


def send(pids: list[int], number: int) -> None:
    for pid in pids:
        os.kill(pid, number)


def attempts(job: Path, key: str) -> list[Any]:
    execution = api.execution(job, key=key)
    return list(execution.backend.find(Key(key, execution.job.name)))


def test_success(pipelines: Pipelines) -> None:
    """The log is live; the result is a plain map; outputs are archived; there are two reports."""
    job = Counted(pipelines)
    build = pipelines.start(
        """node { stage('Train') {
            def r = mlctlProcess(job: 'job.yaml')
            echo "got ${r.state} ${r.metrics.accuracy} ${r.made} ${r.attempt} ${readFile(r.outputs.data + '/file').trim()}"
        } }"""
    )
    build.says("running")
    assert build.process.poll() is None
    job.go.touch()
    answer = build.end("SUCCESS")
    assert "got succeeded 0.5 true 0 data" in build.text
    [run] = list((pipelines.artifacts / "mlctl").iterdir())
    assert (run / "outputs/data/file").read_text() == "data\n"
    assert answer["reports"][0] == {"report": "junit", "failures": 0, "errors": 0}
    assert "accuracy" in answer["reports"][1]["text"]
    suite = ET.parse(run / "junit.xml").getroot()
    assert (suite[0].get("classname"), suite[0].get("name")) == ("mlctl.process", "job")
    # nothing is in the workspace that `code:` would ship
    assert sorted(pipelines.workspace.iterdir()) == [pipelines.workspace / ".git", job.path]


def test_user_failure(pipelines: Pipelines) -> None:
    """The job's own bad end fails the build, with its exit code in one line."""
    job = Counted(pipelines, "echo no such column >&2; exit 3", go=True)
    build = pipelines.run("node { stage('Train') { mlctlProcess(job: 'job.yaml') } }", "FAILURE")
    errors = [line for line in build.log if line.startswith("ERROR: ")]
    assert len(errors) == 1 and "failed (error)" in errors[0] and "3" in errors[0]
    assert "no such column" in build.text and job.count == 1
    [run] = list((pipelines.artifacts / "mlctl").iterdir())
    assert "no such column" in (run / "junit.xml").read_text() and "no such column" in (run / "report.html").read_text()
    assert build.end()["reports"][0] == {"report": "junit", "failures": 1, "errors": 0}


def test_unstable_and_failure(pipelines: Pipelines) -> None:
    """`unstable` says which ends of the job make the build unstable; all others, and mlctl's own, fail it."""
    job = Counted(pipelines, 'exit "$MLCTL_INPUT_CODE"', go=True)
    job.path.write_text(job.path.read_text().replace('exit \\"$MLCTL_INPUT_CODE\\"', 'exit \\"$CODE\\"'))
    data = json.loads(job.path.read_text())
    job.path.write_text(json.dumps({**data, "params": {"code": 3}, "env": {**data["env"], "CODE": "${{params.code}}"}}))
    text = """node { stage('a') {
        def r = mlctlProcess(job: 'job.yaml', params: [code: %s], unstable: %s)
        echo "went on with ${r.state} ${r.exitCode}"
    } }"""
    build = pipelines.run(text % (3, "[3]"), "UNSTABLE", number=1)
    assert "went on with failed 3" in build.text
    assert "went on with failed 4" in pipelines.run(text % (4, "true"), "UNSTABLE", number=2).text
    assert "went on" not in pipelines.run(text % (4, "[3]"), "FAILURE", number=3).text
    assert "went on" not in pipelines.run(text % ("'x'", "true"), "FAILURE", number=4).text  # not the job's own doing


def test_retryable_failure(pipelines: Pipelines) -> None:
    """`retry` starts the next attempt of the same run; the job's report of the first doesn't spoil the build."""
    job = Counted(pipelines, '[ "$(wc -l <"$COUNT")" -gt 1 ]', go=True)
    build = pipelines.run(
        "node { stage('a') { retry(3) { def r = mlctlProcess(job: 'job.yaml'); echo \"attempt ${r.attempt}\" } } }"
    )
    assert job.count == 2 and "attempt 1" in build.text


def test_job_retry_is_spent_inside(pipelines: Pipelines) -> None:
    """The job's own `retry` needs no retry in the Jenkinsfile."""
    job = Counted(pipelines, '[ "$(wc -l <"$COUNT")" -gt 2 ]', go=True, retry={"error": 2})
    build = pipelines.run("node { stage('a') { echo \"attempt ${mlctlProcess(job: 'job.yaml').attempt}\" } }")
    assert job.count == 3 and "attempt 2" in build.text


RETRIED = """node { stage('a') { retry(2) {
    def r = mlctlProcess(job: 'job.yaml'); echo "result ${r.state} ${r.made} ${r.metrics.accuracy}"
} } }"""


def stage_at_once(build: Build, job: Counted) -> None:
    """The step's process is there, and has hardly begun."""
    until(build.steps)


def stage_running(build: Build, job: Counted) -> None:
    """The job runs, and is followed."""
    build.says("running")


def stage_ended(build: Build, job: Counted) -> None:
    """The job has ended, and the step has not seen it."""
    build.says("running")
    send(carriers(build.steps()[0]), signal.SIGSTOP)
    job.go.touch()
    [found] = attempts(job.path, "jenkins-churn-1/a/job.yaml/0")
    until(lambda: attempts(job.path, "jenkins-churn-1/a/job.yaml/0")[0].status.state.terminal)
    assert found.number == 0


@pytest.mark.parametrize("stage", [stage_at_once, stage_running, stage_ended])
def test_adopt_after_crash(pipelines: Pipelines, stage: Any) -> None:
    """`kill -9` of the step at three moments, and the retry has the one job's result."""
    job = Counted(pipelines)
    build = pipelines.start(RETRIED, forgetful=True)  # and the scripts of vars/ forget, as in a restart
    stage(build, job)
    send(carriers(build.steps()[0]), signal.SIGKILL)
    until(lambda: len(build.steps()) > 1, "the retry")
    job.started()
    job.go.touch()
    build.end("SUCCESS")
    assert job.count == 1 and "without an answer" in build.text
    assert f"result succeeded {'true' if stage is stage_at_once else 'false'} 0.5" in build.text


def test_kill_at_many_moments(pipelines: Pipelines) -> None:
    """`kill -9` of the step's process, ever later, and the same call again: one start each, its true end found."""
    for number in range(16):
        job = Counted(pipelines, go=True, name=f"job{number}")
        call = {"id": "x", "folder": str(pipelines.at / "call"), "key": f"k{number}", "build": "b"}
        victim = step(call, {"job": str(job.path)})
        try:
            victim.wait(0.12 + 0.035 * number)
        except subprocess.TimeoutExpired:
            victim.kill()
        victim.communicate()
        again = step({**call, "retry": True}, {"job": str(job.path)})
        again.communicate(timeout=30)
        answer = json.loads((pipelines.at / "call/result.json").read_text())
        assert (again.returncode, answer["state"], job.count) == (0, "succeeded", 1), number


def test_orphan_waiter(pipelines: Pipelines) -> None:
    """Only the step's shell is killed: its mlctl lives on beside the retry's, and both wait for one job."""
    job = Counted(pipelines)
    build = pipelines.start(RETRIED)
    build.says("running")
    os.kill(build.steps()[0], signal.SIGKILL)
    until(lambda: len(build.steps()) > 1, "the retry")
    job.go.touch()
    build.end("SUCCESS")
    assert job.count == 1


def step(call: dict[str, Any], options: dict[str, Any], **env: str) -> subprocess.Popen[str]:
    text = json.dumps({"call": call, "options": options})
    return subprocess.Popen(
        [MLCTL, "jenkins", "step"], env={**os.environ, "MLCTL_STEP": text, **env}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def test_cancel(pipelines: Pipelines) -> None:
    """Aborting the build cancels the job, and waits for its end."""
    job = Counted(pipelines)
    build = pipelines.start("node { stage('a') { mlctlProcess(job: 'job.yaml') } }")
    build.says("running")
    build.abort()
    build.end("ABORTED")
    [found] = attempts(job.path, "jenkins-churn-1/a/job.yaml/0")
    assert found.status.state is State.CANCELLED


def test_cancel_by_a_killed_step(pipelines: Pipelines) -> None:
    """An abort while the step's process can't act (it is stopped, then killed) cancels the job all the same."""
    job = Counted(pipelines)
    build = pipelines.start("node { stage('a') { mlctlProcess(job: 'job.yaml') } }")
    build.says("running")
    pids = carriers(build.steps()[0])
    send(pids, signal.SIGSTOP)
    build.abort()
    build.says("Sending interrupt signal")
    send(pids, signal.SIGKILL)
    build.end("ABORTED")
    [found] = attempts(job.path, "jenkins-churn-1/a/job.yaml/0")
    assert found.status.state is State.CANCELLED


def test_cancel_racing_submit(pipelines: Pipelines) -> None:
    """SIGTERM at any moment of the submit leaves nothing running."""
    job = Counted(pipelines)
    seen = set()
    for number in range(16):
        call = {"id": "x", "folder": str(pipelines.at / "call"), "key": f"k{number}", "build": "b"}
        process = step(call, {"job": str(job.path)})
        try:
            process.wait(0.12 + 0.02 * number)
        except subprocess.TimeoutExpired:
            process.terminate()
        process.communicate(timeout=30)
        found = attempts(job.path, f"k{number}")
        assert all(one.status.state.terminal for one in found), number
        seen.add(tuple(one.status.state.value for one in found))
    assert ("cancelled",) in seen


def test_late_cancel_of_old_owner(pipelines: Pipelines) -> None:
    """An earlier try that is aborted late cancels its own run; the later try, which had adopted that, starts the next."""
    job = Counted(pipelines)
    calls = [{"id": n, "folder": str(pipelines.at / n), "key": "k", "build": "b"} for n in ("old", "new")]
    old = step(calls[0], {"job": str(job.path)})
    job.started()
    new = step({**calls[1], "retry": True}, {"job": str(job.path)})
    assert new.stdout
    until(lambda: "found" in new.stdout.readline(), "the adoption")
    old.terminate()
    old.communicate(timeout=30)
    job.started(2)
    job.go.touch()
    new.communicate(timeout=30)
    assert new.returncode == 0
    assert [one.status.state.value for one in attempts(job.path, "k")] == ["cancelled", "succeeded"]
    assert json.loads((pipelines.at / "new/result.json").read_text())["attempt"] == 1


def test_timeout(pipelines: Pipelines) -> None:
    """Jenkins' own `timeout` cancels the job; the job's own fails the build."""
    job = Counted(pipelines)
    build = pipelines.run(
        "node { stage('a') { timeout(time: 2, unit: 'SECONDS') { mlctlProcess(job: 'job.yaml') } } }", "ABORTED"
    )
    [found] = attempts(job.path, "jenkins-churn-1/a/job.yaml/0")
    assert found.status.state is State.CANCELLED
    slow = Counted(pipelines, name="slow", timeout=1)
    build = pipelines.run("node { stage('a') { mlctlProcess(job: 'slow.yaml') } }", "FAILURE")
    assert "(timeout)" in build.text and slow.count == 1


def test_rerun(pipelines: Pipelines) -> None:
    """Another build is another run; so is one of a job that was made anew, whose numbers begin again."""
    job = Counted(pipelines, go=True)
    text = "node { stage('a') { def r = mlctlProcess(job: 'job.yaml'); echo \"made ${r.made} ${r.attempt}\" } }"
    assert "made true 0" in pipelines.run(text, number=1).text
    assert "made true 0" in pipelines.run(text, number=2).text
    assert "made true 1" in pipelines.run(text, number=1, started=1800000000000).text
    assert job.count == 3


def test_occurrences(pipelines: Pipelines) -> None:
    """A second call in a stage is a second run, once the first has returned; over a restart, too."""
    job = Counted(pipelines, go=True)
    text = "node { stage('a') { 2.times { mlctlProcess(job: 'job.yaml') } }; stage('b') { mlctlProcess(job: 'job.yaml') } }"
    pipelines.run(text, forgetful=True)
    assert job.count == 3


def test_changed_job(pipelines: Pipelines) -> None:
    """A retry that asks for another job, while the first one's lives, is refused in one line; nothing is started."""
    job = Counted(pipelines, params={"n": 0})
    build = pipelines.start(
        "int n = 0\nnode { stage('a') { retry(2) { n += 1; mlctlProcess(job: 'job.yaml', params: [n: n]) } } }"
    )
    build.says("running")
    send(carriers(build.steps()[0]), signal.SIGKILL)
    build.end("FAILURE")
    assert "params changed" in build.text and job.count == 1
    [found] = attempts(job.path, "jenkins-churn-1/a/job.yaml/0")
    assert found.status.state is State.RUNNING
    job.go.touch()
    until(lambda: attempts(job.path, "jenkins-churn-1/a/job.yaml/0")[0].status.state.terminal)


def test_outputs_passed_on(pipelines: Pipelines) -> None:
    """The example's pipeline, declarative, over small jobs with the names of its own."""
    shell = {
        "shell": RESULT
        + 'cat "$MLCTL_INPUT_DATA/file" > "$MLCTL_OUTPUT_DATA/file"; echo more >> "$MLCTL_OUTPUT_DATA/file"'
    }
    pipelines.job("jobs/process", command={"shell": RESULT}, outputs={"data": {}})
    train = {"command": {"shell": shell["shell"].replace("OUTPUT_DATA", "OUTPUT_MODEL")}, "outputs": {"model": {}}}
    pipelines.job("jobs/train", kind="train", params={"alpha": 0.1}, inputs={"data": {}}, **train)
    pipelines.job(
        "jobs/batch-inference", kind="batch-inference", inputs={"data": {}, "model": {}}, outputs={"predictions": {}},
        command={"shell": 'cat "$MLCTL_INPUT_MODEL/file" > "$MLCTL_OUTPUT_PREDICTIONS/file"'},
    )  # fmt: skip
    example = Path(__file__).parents[2] / "examples/04-orchestrators/Jenkinsfile"
    build = pipelines.run(example.read_text())
    assert "accuracy 0.5" in build.text
    [file] = pipelines.artifacts.glob("mlctl/*/outputs/predictions/file")
    assert file.read_text() == "data\nmore\n"


HOSTILE = [
    "a'; echo foo", 'say "hi" \\ `id` $(id)', "two\nlines\tand a tab", "\U0001f600 \u00fc \u2028",
    "$HOME ${BUILD_TAG} $$ $", "${{inputs.x}} {{workflow.name}} %s %d", "x" * 10_000, " lead and trail ", "--param", "",
]  # fmt: skip


def test_hostile_parameters(pipelines: Pipelines) -> None:
    """What is passed arrives as it is: no shell, no variable of Jenkins', no template takes a part of it."""
    copy = {"shell": 'cp "$MLCTL_PARAMS_FILE" "$MLCTL_OUTPUT_DATA/params"'}
    pipelines.job(command=copy, params={f"p{n}": "" for n in range(len(HOSTILE))}, outputs={"data": {}})
    params = {f"p{n}": text for n, text in enumerate(HOSTILE)}
    build = pipelines.run(
        "node { stage('a \\'; \" $HOME / ü') { mlctlProcess(job: 'job.yaml', params: params) } }", params=params
    )
    [file] = pipelines.artifacts.glob("mlctl/*/outputs/data/params")
    assert json.loads(file.read_text()) == params
    pipelines.job("big", command="true", params={"p": ""})
    build = pipelines.run("node { stage('a') { mlctlProcess(job: 'big.yaml', params: [p: 'x' * 200000]) } }", "FAILURE")
    assert "at most 120000 fit" in build.text


def test_secrets_masked(pipelines: Pipelines) -> None:
    """Credentials by their ids, from the target's settings; what the job prints of them, nobody sees."""
    secret, password = "s3cr3t $HOME 'x'", "hunter2-hunter2"
    bindings = [
        {"type": "string", "id": "hf-token", "variable": "TOKEN"},
        {"type": "usernamePassword", "id": "db", "usernameVariable": "DB_USER", "passwordVariable": "DB_PASSWORD"},
    ]
    prod = {
        "backend": "local",
        "secrets": {"KEY": "env:DB_PASSWORD"},
        "orchestrators": {"jenkins": {"credentials": bindings}},
    }
    (pipelines.workspace / "mlctl.yaml").write_text(json.dumps({"targets": {"prod": prod}}))
    command = {"shell": 'echo "token $TOKEN key $KEY"; printf %s "$TOKEN $KEY" | wc -c; echo "bad $KEY" >&2; exit 1'}
    pipelines.job(command=command, secrets=["TOKEN", "KEY"])
    credentials = {
        "hf-token": {"$class": "StringBinding", "variable": secret},
        "db": {"$class": "UsernamePasswordMultiBinding", "usernameVariable": "bob", "passwordVariable": password},
    }
    build = pipelines.run(
        "node { stage('a') { mlctlProcess(job: 'job.yaml', target: 'prod') } }", "FAILURE", credentials=credentials
    )
    assert "token **** key ****" in build.text and str(len(secret) + 1 + len(password)) in build.log
    kept = [path for path in pipelines.at.rglob("*") if path.is_file() and path.name != "spec.json"]
    for path in kept:
        assert secret not in path.read_text(errors="replace") and password not in path.read_text(errors="replace"), path
    assert secret not in build.text and password not in build.text
    assert any(path.name == "junit.xml" for path in kept)


def test_parallel(pipelines: Pipelines) -> None:
    """Parallel stages are independent; so are branches in one stage, and each one's retry is its own."""
    flaky = 'mkdir "$MLCTL_CHECKPOINT_DIR/seen" 2>/dev/null && exit 1; exit 0'  # the first attempt of each fails
    job = Counted(pipelines, flaky, go=True, params={"n": 0})
    pipelines.run(
        """node {
            stage('both') { parallel(
                a: { retry(2) { echo "a ${mlctlProcess(job: 'job.yaml', params: [n: 1]).attempt}" } },
                b: { retry(2) { echo "b ${mlctlProcess(job: 'job.yaml', params: [n: 2]).attempt}" } })
            }
            stage('stages') { parallel(
                c: { stage('c') { retry(2) { echo "c ${mlctlProcess(job: 'job.yaml', params: [n: 3]).attempt}" } } },
                d: { stage('d') { retry(2) { echo "d ${mlctlProcess(job: 'job.yaml', params: [n: 3]).attempt}" } } })
            }
        }"""
    )
    for line in ("a 1", "b 1", "c 1", "d 1"):
        assert line in pipelines.builds[0].log
    assert job.count == 8


REFUSED = {
    "mlctlProcess(job: 'nope.yaml')": "nope.yaml",
    "mlctlProcess(target: 'local')": "mlctlProcess: job: got nothing, expected a job file's path",
    "mlctlProcess(job: 'job.yaml', target: 'prdo')": "target 'prdo' is not in the configuration",
    "mlctlProcess(job: 'job.yaml', params: [larning_rate: 1])": "--param larning_rate: the job has no such name",
    "mlctlProcess(job: 'job.yaml', params: 'lr=1')": "params: got 'lr=1', expected a map",
    "mlctlProcess(job: 'job.yaml', outputs: ['dat'])": "is to archive 'dat', and the job has no such output; did you mean 'data'?",
    "mlctlProcess(job: 'job.yaml', inputs: [data: [:].model])": "inputs",
    "mlctlProcess(job: 'job.yaml', tagret: 'x')": "no argument 'tagret'; did you mean 'target'?",
    "mlctlProcess(job: 'job.yaml', unstable: 'x')": "unstable: got 'x', expected true, or a list of exit codes",
    "mlctlTrain(job: 'job.yaml')": "got process, and mlctlTrain is for train; use mlctlProcess",
    "withMlctl(version: '1.0') { }": "needs version and index, or wheel",
    "withMlctl(version: '1; id', index: 'x') { }": "which has characters that none has",
}


def test_bad_input(pipelines: Pipelines, home: Path) -> None:
    """Whatever is wrong with a call fails it at once, in one line, and starts nothing."""
    Counted(pipelines, params={"learning_rate": 0.1}, go=True)
    tries = "\n".join(f"try {{ {call}\n echo 'WENT ON' }} catch (e) {{ echo 'SAID ' + e.message }}" for call in REFUSED)
    build = pipelines.run(f"node {{ stage('a') {{ {tries} }} }}")
    said = [line for line in build.log if line.startswith("SAID ")]
    assert "WENT ON" not in build.text and len(said) == len(REFUSED), build.text
    for line, (call, text) in zip(said, REFUSED.items(), strict=True):
        assert text in line, call
    assert not (home / "runs").exists()
    assert "Traceback" not in build.text


def test_without_plugins_and_command(pipelines: Pipelines) -> None:
    """Without the plugins for reports the files are archived; without the command the error says what to do."""
    Counted(pipelines, go=True)
    pipelines.run("node { stage('a') { mlctlProcess(job: 'job.yaml') } }", without=["junit", "publishHTML"])
    assert list(pipelines.artifacts.glob("mlctl/*/report.html"))
    build = pipelines.run("node { stage('a') { withEnv(['PATH=/bin']) { mlctlProcess(job: 'job.yaml') } } }", "FAILURE")
    assert "it is not on this agent: see withMlctl" in build.text


def test_large_outputs_are_named(pipelines: Pipelines) -> None:
    """What is large is archived only where it is named; an empty list archives nothing."""
    pipelines.job(command={"shell": 'truncate -s 65M "$MLCTL_OUTPUT_DATA/big"'}, outputs={"data": {}})
    text = "node { stage('a') { mlctlProcess(job: 'job.yaml'); mlctlProcess(job: 'job.yaml', outputs: []) } }"
    build = pipelines.run(text)
    assert "name it in outputs: to have it" in build.text and not list(pipelines.artifacts.rglob("big"))
    pipelines.run("node { stage('b') { mlctlProcess(job: 'job.yaml', outputs: ['data']) } }")
    [big] = pipelines.artifacts.rglob("big")
    assert big.stat().st_size == 65 << 20
