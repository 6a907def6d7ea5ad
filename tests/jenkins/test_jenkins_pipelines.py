"""What is Jenkins' own in the steps: reports, results, calls that are told apart, credentials, aborts. Real Groovy, a
real sh, the real command line, real jobs; what holds in every orchestrator is in test_jenkins_behaviour.py."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from pipelines import STARTED, Build, Counted, Pipelines, small_jobs

from behaviour import until
from mlctl.runs import State

ROOT = Path(__file__).parents[2]


def test_reports(pipelines: Pipelines) -> None:
    """The log is live; the result is a plain map; outputs are archived; there are two reports; nothing is left behind."""
    job = Counted(pipelines, params={"lr": 0.1})
    build = pipelines.start(
        """node { stage('Train') {
            def r = mlctlProcess(job: 'job.yaml')
            echo "got ${r.state} ${r.metrics.accuracy} ${r.made} ${r.attempt} ${readFile(r.outputs.data + '/file').trim()}"
            echo "keys ${r.keySet().join(' ')}"
        } }"""
    )
    build.says("running")
    assert build.process.poll() is None
    job.go.touch()
    answer = build.end("SUCCESS")
    assert "got succeeded 0.5 true 0 data" in build.text
    [keys] = [line.split()[1:] for line in build.log if line.startswith("keys ")]
    page = (ROOT / "integrations/jenkins/vars/mlctl.txt").read_text()
    assert set(keys) <= set(re.findall(r"<code>(\w+)</code>", page.partition("It returns a map")[2]))
    [run] = list((pipelines.artifacts / "mlctl").iterdir())
    assert (run / "outputs/data/file").read_text() == "data\n"
    assert answer["reports"][0] == {"report": "junit", "failures": 0, "errors": 0}
    assert "accuracy" in answer["reports"][1]["text"] and "<th align=left>lr</th>" in answer["reports"][1]["text"]
    suite = ET.parse(run / "junit.xml").getroot()
    assert (suite[0].get("classname"), suite[0].get("name")) == ("mlctl.process", "job")
    # nothing is in the workspace that `code:` would ship, nor in the folder for what is temporary
    assert sorted(pipelines.workspace.iterdir()) == [pipelines.workspace / ".git", job.path]
    assert not list(pipelines.workspace.with_name("workspace@tmp").glob("mlctl/*"))


def test_failure(pipelines: Pipelines) -> None:
    """The job's own bad end fails the build, with its exit code in one line, and is in the reports."""
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
    job = Counted(pipelines, go=True, params={"code": 3}, env={"CODE": "${{params.code}}"})
    job.path.write_text(job.path.read_text().replace("exit 0", 'exit \\"$CODE\\"'))
    tries = [
        (3, "[3]", "SAID 3 UNSTABLE"),
        (4, "true", "SAID 4 UNSTABLE"),
        (4, "[3]", "FAILED"),
        ("'x'", "true", "FAILED"),
    ]
    text = "\n".join(
        f"try {{ def r = mlctlProcess(job: 'job.yaml', params: [code: {code}], unstable: {unstable})\n"
        f"echo 'SAID ' + r.exitCode + ' ' + currentBuild.result }} catch (e) {{ echo 'FAILED' }}"
        for code, unstable, _ in tries
    )
    build = pipelines.run(f"node {{ stage('a') {{ {text} }} }}", "UNSTABLE")
    assert [line for line in build.log if line.startswith(("SAID", "FAILED"))] == [said for _, _, said in tries]
    build = pipelines.run(
        "node { mlctlProcess(job: 'job.yaml', params: [code: 4], unstable: [3])\necho 'WENT ON' }", "FAILURE", number=2
    )
    assert "WENT ON" not in build.text


def test_retry_that_is_null(pipelines: Pipelines) -> None:
    """An argument that is null is one that was left out, `retry` too."""
    job = Counted(pipelines, '[ "$(wc -l <"$COUNT")" -gt 1 ]', go=True)
    pipelines.run(
        "node { stage('a') { retry(2) { mlctlProcess(job: 'job.yaml', retry: null, key: null, outputs: null) } } }"
    )
    assert job.count == 2 and list(pipelines.artifacts.rglob("data"))


def test_retry(pipelines: Pipelines) -> None:
    """`retry` starts the next attempt of the same run; the report of the first one's failure doesn't spoil the build."""
    job = Counted(pipelines, '[ "$(wc -l <"$COUNT")" -gt 1 ]', go=True)
    build = pipelines.run(
        "node { stage('a') { retry(3) { def r = mlctlProcess(job: 'job.yaml'); echo \"attempt ${r.attempt}\" } } }"
    )
    assert job.count == 2 and "attempt 1" in build.text
    assert [one["failures"] for one in build.end()["reports"] if one["report"] == "junit"] == [1, 0]


def test_orphan_waiter(pipelines: Pipelines) -> None:
    """Only the step's shell is killed: its mlctl lives on beside the retry's, and both wait for one job."""
    job = Counted(pipelines)
    build = pipelines.start("node { stage('a') { retry(2) { mlctlProcess(job: 'job.yaml') } } }")
    build.says("running")
    os.kill(build.steps()[0], signal.SIGKILL)
    until(lambda: len(build.steps()) > 1, "the retry")
    job.go.touch()
    build.end("SUCCESS")
    assert job.count == 1


def test_abort_is_awaited(pipelines: Pipelines) -> None:
    """The build ends once its job has, which takes its time to end."""
    job = Counted(pipelines)
    job.path.write_text(job.path.read_text().replace('"echo start', "\"trap 'sleep 2; exit 0' TERM; echo start"))
    build = pipelines.start("node { stage('a') { mlctlProcess(job: 'job.yaml') } }")
    build.says("running")
    build.abort()
    build.end("ABORTED")
    [found] = job.attempts()
    assert found.status.state is State.CANCELLED
    assert f"mlctl: interrupted: {found.run.name} was cancelled" in build.log


def killed_and_aborted(build: Build) -> None:
    """The step's process can't act on the abort: it is stopped, and then killed."""
    build.says("running")
    build.signal(signal.SIGSTOP)
    build.abort()
    build.says("Sending interrupt signal")
    build.signal(signal.SIGKILL)
    build.end("ABORTED")


def test_abort_of_a_killed_step(pipelines: Pipelines) -> None:
    """It cancels the job all the same; where that can't be done, the log says so."""
    job = Counted(pipelines)
    killed_and_aborted(pipelines.start("node { stage('a') { mlctlProcess(job: 'job.yaml') } }"))
    [found] = job.attempts()
    assert found.status.state is State.CANCELLED
    build = pipelines.start("node { stage('a') { mlctlProcess(job: 'job.yaml') } }", number=2)
    build.says("running")
    moved = job.path.rename(job.path.with_name("moved.yaml"))
    killed_and_aborted(build)
    moved.rename(job.path)
    job.go.touch()
    assert re.search("mlctl: the job of key jenkins-churn-2@.* may still run: mlctl: .*job.yaml", build.text)
    key = f"jenkins-churn-2@{STARTED}/a/job.yaml/0"
    until(lambda: [one.status.state for one in job.attempts(key)] == [State.SUCCEEDED], "the end of the job")


def test_fail_fast(pipelines: Pipelines) -> None:
    """Another branch's failure, where `failFast` says so, cancels the job of this one."""
    job = Counted(pipelines)
    build = pipelines.start(
        """node { stage('a') { parallel(failFast: true,
            one: { mlctlProcess(job: 'job.yaml') },
            other: { while (!fileExists('failing')) { sleep 0.1 }; error 'the other failed' }
        ) } }"""
    )
    build.says("running")
    (pipelines.workspace / "failing").touch()
    build.end("FAILURE")
    [found] = job.attempts()
    assert found.status.state is State.CANCELLED and "ERROR: the other failed" in build.log


def test_which_call_is_which(pipelines: Pipelines) -> None:
    """A second call is a second run, once the first has returned; a stage of another name, another build, a build of a
    job that was made anew, and one of a job whose folder makes the same tag, are others."""
    job = Counted(pipelines, go=True)
    text = "node { stage('a') { 2.times { mlctlProcess(job: 'job.yaml') } }; stage('b') { mlctlProcess(job: 'job.yaml') } }"
    pipelines.run(text, forgetful=True)  # the scripts of vars/ forget, as in a restart
    assert job.count == 3
    one = "node { stage('a') { echo \"made ${mlctlProcess(job: 'job.yaml').made}\" } }"
    assert "made true" in pipelines.run(one, number=2).text
    assert "made true" in pipelines.run(one, number=1, started=1800000000000).text
    assert job.count == 5


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


def test_options(pipelines: Pipelines) -> None:
    """`key`, `onChange`, `retry`, `profile` and `config` are those of the command line."""
    job = Counted(pipelines, '[ "$MLCTL_TARGET_LABEL" != bad ]', go=True, params={"n": 0})
    night = "def r = mlctlProcess(job: 'job.yaml', key: 'nightly', params: [n: %d]%s); echo \"got ${r.made} ${r.key} ${r.attempt}\""
    text = "node { stage('a') { %s } }"
    assert "got true nightly 0" in pipelines.run(text % (night % (1, "")), number=1).text
    assert "got false nightly 0" in pipelines.run(text % (night % (1, "")), number=2).text
    assert "params changed" in pipelines.run(text % (night % (2, "")), "FAILURE", number=3).text
    assert "got false nightly 0" in pipelines.run(text % (night % (2, ", onChange: 'adopt'")), number=4).text
    assert "got true nightly 1" in pipelines.run(text % (night % (2, ", onChange: 'replace'")), number=5).text
    assert job.count == 2

    failing = Counted(pipelines, "exit 1", go=True, name="failing")
    call = "mlctlProcess(job: 'failing.yaml', retry: false)"
    pipelines.run(f"node {{ stage('a') {{ retry(2) {{ {call} }} }} }}", "FAILURE", number=6)
    assert failing.count == 1

    config = {"targets": {"other": {"backend": "local"}}, "profiles": {"night": [{"target": "other"}]}}
    (pipelines.workspace / "else.yaml").write_text(json.dumps(config))
    call = "mlctlProcess(job: 'job.yaml', config: 'else.yaml', profile: 'night')"
    assert "at other" in pipelines.run(f'node {{ echo "at ${{{call}.target}}" }}', number=7).text


def test_metrics_without_a_number(pipelines: Pipelines) -> None:
    """A loss that is no number any more is a text, as in the file of metrics; it spoils no answer."""
    lines = "".join(json.dumps({"name": name, "value": value}) + "\\n" for name, value in (("loss", "NaN"), ("n", 3)))
    pipelines.job(command={"shell": f"printf '{lines}' > \"$MLCTL_METRICS_FILE\""})
    build = pipelines.run(
        "node { def r = mlctlProcess(job: 'job.yaml'); echo \"loss ${r.metrics.loss} ${r.metrics.n}\" }"
    )
    assert "loss NaN 3.0" in build.text


def test_example(pipelines: Pipelines) -> None:
    """The example's pipeline, declarative: each job is fed with what the one before it left."""
    small_jobs(pipelines)
    build = pipelines.run((ROOT / "examples/04-orchestrators/Jenkinsfile").read_text())
    assert "accuracy 0.5" in build.text
    [file] = pipelines.artifacts.glob("mlctl/*/outputs/predictions/file")
    assert file.read_text() == "data\nmore\n"


HOSTILE = [
    "a'; echo foo", 'say "hi" \\ `id` $(id)', "two\nlines\tand a tab", "\U0001f600 \u00fc \u2028",
    "$HOME ${BUILD_TAG} $$ $", "${{inputs.x}} {{workflow.name}} %s %d", "x" * 10_000, " lead and trail ", "--param", "",
]  # fmt: skip


def test_hostile_parameters(pipelines: Pipelines) -> None:
    """A build's parameters, an interpolated text and a stage's name arrive as they are, or are told not to fit."""
    copy = {"shell": 'cp "$MLCTL_PARAMS_FILE" "$MLCTL_OUTPUT_DATA/params"'}
    pipelines.job(command=copy, params={f"p{n}": "" for n in range(len(HOSTILE) + 1)}, outputs={"data": {}})
    params = {f"p{n}": text for n, text in enumerate(HOSTILE)}
    last = f"p{len(HOSTILE)}"
    build = pipelines.run(
        "node { stage('a \\'; \" $HOME / ü') { mlctlProcess(job: 'job.yaml', params: params + ["
        + last
        + ': "<${params.p0}>"]) } }',
        params=params,
    )
    [file] = pipelines.artifacts.glob("mlctl/*/outputs/data/params")
    assert json.loads(file.read_text()) == {**params, last: f"<{HOSTILE[0]}>"}
    pipelines.job("big", command="true", params={"p": ""})
    build = pipelines.run("node { stage('a') { mlctlProcess(job: 'big.yaml', params: [p: 'x' * 200000]) } }", "FAILURE")
    assert "at most 120000 fit" in build.text


BINDINGS = [
    {"type": "string", "id": "hf-token", "variable": "TOKEN"},
    {"type": "usernamePassword", "id": "db", "usernameVariable": "DB_USER", "passwordVariable": "DB_PASSWORD"},
]
CREDENTIALS = {
    "hf-token": {"$class": "StringBinding", "variable": "s3cr3t $HOME 'x'"},
    "db": {"$class": "UsernamePasswordMultiBinding", "usernameVariable": "bob", "passwordVariable": "hunter2-hunter2"},
}


def prod(pipelines: Pipelines, **settings: object) -> None:
    """A target that wants those credentials."""
    wanted = {"orchestrators": {"jenkins": {"credentials": BINDINGS}}}
    config = {"targets": {"prod": {"backend": "local", **settings, **wanted}}}
    (pipelines.workspace / "mlctl.yaml").write_text(json.dumps(config))


def test_credentials(pipelines: Pipelines) -> None:
    """By their ids, from the target's settings; what the job prints of them nobody sees, in the log or a report."""
    prod(pipelines, secrets={"KEY": "env:DB_PASSWORD"}, inherit_env=["TOKEN"])
    command = {"shell": 'echo "token $TOKEN key $KEY"; printf %s "$TOKEN $KEY" | wc -c; echo "bad $KEY" >&2; exit 1'}
    secret, password = CREDENTIALS["hf-token"]["variable"], CREDENTIALS["db"]["passwordVariable"]
    pipelines.job(command=command, secrets=["KEY"], params={"note": f"not a secret's place: {password}"})
    call = "mlctlProcess(job: 'job.yaml', target: 'prod')"
    build = pipelines.run(f"node {{ stage('a') {{ {call} }} }}", "FAILURE", credentials=CREDENTIALS)
    assert "token *** key ***" in build.text and str(len(secret) + 1 + len(password)) in build.log
    assert secret not in build.text and password not in build.text
    kept = [path for path in pipelines.artifacts.rglob("*") if path.is_file()]
    assert {path.name for path in kept} == {"junit.xml", "report.html"}
    for path in kept:
        for text in (secret, secret.replace("'", "&#x27;"), password):
            assert text not in path.read_text(), path
    build = pipelines.run(f"node {{ stage('a') {{ {call} }} }}", "FAILURE", credentials={}, number=2)
    assert "Could not find credentials entry with ID 'hf-token'" in build.text


def test_abort_has_the_credentials(pipelines: Pipelines, monkeypatch: pytest.MonkeyPatch) -> None:
    """A platform that asks for them ends the job of a killed step, too."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "plugin"))
    prod(pipelines, backend="guarded")
    job = Counted(pipelines)
    build = pipelines.start(
        "node { stage('a') { mlctlProcess(job: 'job.yaml', target: 'prod') } }", credentials=CREDENTIALS
    )
    killed_and_aborted(build)
    [found] = job.attempts()
    assert found.status.state is State.CANCELLED


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
    "mlctlProcess('job.yaml')": "mlctlProcess: got job.yaml without a name; its arguments have names, such as mlctlP",
    "mlctlTrain(\"${1}.yaml\", target: 'x')": "mlctlTrain: got 1.yaml without a name; its arguments have names",
    "mlctl('job.yaml')": "mlctl: got job.yaml without a name; its arguments have names, such as mlctl(job: ",
    "mlctlProcess()": "mlctlProcess: job: got nothing, expected a job file's path",
    "mlctlProcess(job: 'job.yaml', config: [1])": "config: got [1], expected a text",
    "mlctlProcess(job: 'job.yaml', retry: 'false')": "retry: got 'false', expected true or false",
    "mlctl(job: 'job.yaml', kind: ['process'])": "mlctl: kind: got ['process'], expected a text",
    "mlctlProcess(job: 'job.yaml', target: 'jenkin')": "orchestrators.jenkin: no orchestrator of that name; did you mean",
    "mlctlProcess(job: 'job.yaml', target: 'credential')": "orchestrators.jenkins.credential: unknown; expected credentials",
    "withMlctl(version: '1.0') { }": "needs version and index, or wheel",
    "withMlctl(version: null, index: 'x') { }": "needs version and index, or wheel",
    "withMlctl { }": "needs version and index, or wheel",
    "withMlctl(wheel: 'x', extra: 'sagemaker') { }": "withMlctl: no argument 'extra'; there are version, index,",
    "withMlctl(version: '1; id', index: 'x') { }": "version: has a character beside letters",
}


def test_bad_input(pipelines: Pipelines, home: Path) -> None:
    """Whatever is wrong with a call fails it at once, in one line, and starts nothing."""
    Counted(pipelines, params={"learning_rate": 0.1}, go=True)
    misspelt = {"jenkin": {"jenkin": {"credentials": []}}, "credential": {"jenkins": {"credential": []}}}
    targets = {name: {"backend": "local", "orchestrators": each} for name, each in misspelt.items()}
    (pipelines.workspace / "mlctl.yaml").write_text(json.dumps({"targets": targets}))
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


def test_output_that_no_copy_takes(pipelines: Pipelines) -> None:
    """A job that succeeded is a success, whatever it left: what can't be archived is told, in one line, and the rest is."""
    left = 'mkfifo "$MLCTL_OUTPUT_DATA/pipe"; echo text > "$MLCTL_OUTPUT_MORE/file"'
    pipelines.job(command={"shell": left}, outputs={"data": {}, "more": {}})
    build = pipelines.run("node { stage('a') { echo 'is ' + mlctlProcess(job: 'job.yaml').state } }")
    assert "is succeeded" in build.log
    [told] = [line for line in build.log if "pipe" in line]
    assert told.startswith("mlctl: output data is not archived: ") and told.endswith("is a named pipe")
    assert list(pipelines.artifacts.rglob("file")) and not list(pipelines.artifacts.rglob("data"))
