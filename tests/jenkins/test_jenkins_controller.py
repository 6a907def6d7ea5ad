"""`mlctl jenkins validate|install|trigger` against a stand-in for a controller, on which three clients agree."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import controller as stand_in
import pytest
import requests

from behaviour import until
from mlctl.cli import run
from mlctl_jenkins.pipeline import same

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def jenkins(monkeypatch: pytest.MonkeyPatch) -> Iterator[stand_in.Controller]:
    state, server = stand_in.serve()
    for name, value in {"URL": state.url, "USER": stand_in.USER, "TOKEN": stand_in.TOKEN}.items():
        monkeypatch.setenv(f"JENKINS_{name}", value)
    yield state
    server.shutdown()
    server.server_close()


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    def call(*args: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(["jenkins", *map(str, args)])
        out, err = capsys.readouterr()
        assert "Traceback" not in err and stand_in.TOKEN not in out + err
        return code, out, err

    return call


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    path = tmp_path / "Jenkinsfile"
    path.write_text("pipeline { agent any\n stages { stage('a') { steps { echo '<&\"ü' } } } }\n")
    params = {
        "lr": 0.1, "name": {"type": "string", "description": "Which one."}, "fast": True,
        "mode": {"type": "string", "default": "b", "enum": ["a", "b"]},
    }  # fmt: skip
    job = {"kind": "train", "name": "t", "command": "true", "params": params}
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    return path


def test_validate(jenkins: stand_in.Controller, cli: Cli, pipeline: Path, tmp_path: Path) -> None:
    """A right Jenkinsfile is told; a wrong one is told with the controller's reasons, and exit code 2."""
    jenkins.forgets = True
    assert cli("validate", pipeline, pipeline) == (0, f"{pipeline}: valid\n" * 2, "")  # the second with another crumb
    assert len([line for line in jenkins.seen if "crumbIssuer" in line]) == 2
    jenkins.crumbs = None
    assert cli("validate", pipeline)[0] == 0
    wrong = tmp_path / "Wrong"
    wrong.write_text("pipeline { agent any }")
    code, out, err = cli("validate", pipeline, wrong)
    assert code == 2 and out == f"{pipeline}: valid\n"
    assert err == f'{wrong}: WorkflowScript: 1: Missing required section "stages" @ line 1\n'
    wrong.write_text("node { }")
    assert "did not contain the 'pipeline' step" in cli("validate", wrong)[2]


def test_install(jenkins: stand_in.Controller, cli: Cli, pipeline: Path) -> None:
    """Made with every parameter declared; again: unchanged; other: changed. Folders are the controller's to have."""
    args = ("install", "TrueNorth", "-f", pipeline, "-j", pipeline.with_name("job.yaml"))
    assert cli(*args)[:2] == (0, "TrueNorth: made, with 4 parameters\n")
    assert cli(*args)[:2] == (0, "TrueNorth: unchanged, with 4 parameters\n")
    assert cli(*args, "-p", "extra=1")[:2] == (0, "TrueNorth: changed, with 5 parameters\n")
    assert cli(*args)[:2] == (0, "TrueNorth: changed, with 4 parameters\n")
    assert cli(*args[:4])[:2] == (0, "TrueNorth: changed, with 0 parameters\n")
    assert cli(*args[:4])[:2] == (0, "TrueNorth: unchanged, with 0 parameters\n")
    assert cli(*args, "-p", "extra=1")[:2] == (0, "TrueNorth: changed, with 5 parameters\n")
    assert cli(*args, "-p", "extra=2")[:2] == (0, "TrueNorth: changed, with 5 parameters\n")
    root = ET.fromstring(jenkins.jobs["TrueNorth"])
    assert root.findtext("definition/script") == pipeline.read_text() and root.findtext("definition/sandbox") == "true"
    found = {one["name"]: one for one in jenkins.parameters("TrueNorth")}
    assert {name: one["type"].removesuffix("ParameterDefinition") for name, one in found.items()} == {
        "lr": "String", "name": "String", "fast": "Boolean", "mode": "Choice", "extra": "String",
    }  # fmt: skip
    assert (
        found["lr"]["defaultParameterValue"]["value"] == "0.1"
        and found["mode"]["defaultParameterValue"]["value"] == "b"
    )
    code, _, err = cli("install", "ml/churn", "-f", pipeline)
    assert code == 2 and "there is no folder 'ml'" in err
    jenkins.folders.add("ml")
    assert cli("install", "ml/churn", "-f", pipeline)[0] == 0 and "ml/churn" in jenkins.jobs
    assert cli("install", "x", "-f", pipeline, "--dry-run")[1].startswith("<flow-definition>")
    assert "x" not in jenkins.jobs


def test_no_controller(cli: Cli, pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sends nothing needs none; the others say where it may be named."""
    monkeypatch.delenv("JENKINS_URL", raising=False)
    assert cli("install", "x", "-f", pipeline, "--dry-run")[0] == 0
    for command in (("install", "x", "-f", pipeline), ("validate", pipeline), ("trigger", "x")):
        code, out, err = cli(*command)
        assert (code, out) == (2, "") and "--url: there is none; give it, or set JENKINS_URL" in err


def test_job_builder_agrees(cli: Cli, pipeline: Path, tmp_path: Path) -> None:
    """What is sent is what jenkins-job-builder writes for the same pipeline, but for a flag that it leaves out."""
    code, ours, _ = cli("install", "x", "-f", pipeline, "-j", pipeline.with_name("job.yaml"), "--dry-run")
    script = pipeline.read_text().replace("{", "{{").replace("}", "}}")
    kinds = (
        ("string", {"name": "lr", "default": "0.1", "description": "number", "trim": False}),
        ("string", {"name": "name", "default": "", "description": "Which one.", "trim": False}),
        ("bool", {"name": "fast", "default": True, "description": "boolean"}),
        ("choice", {"name": "mode", "choices": ["b", "a"], "description": "string"}),
    )
    job = {
        "name": "x",
        "project-type": "pipeline",
        "sandbox": True,
        "dsl": script,
        "parameters": [{k: v} for k, v in kinds],
    }
    (tmp_path / "builder.yaml").write_text(json.dumps([{"job": job}]))
    builder = Path(sys.executable).with_name("jenkins-jobs")
    theirs = subprocess.run(
        [builder, "test", tmp_path / "builder.yaml"], capture_output=True, text=True, check=True
    ).stdout
    ours = re.sub("<disabled>.*?</disabled>|<description>Installed.*?</description>", "", ours)
    assert code == 0 and same(ours, theirs), theirs
    assert not same(ours.replace("0.1", "0.2"), theirs) and not same(ours.replace("CpsFlow", "CpsScmFlow"), theirs)


@pytest.fixture
def installed(jenkins: stand_in.Controller, cli: Cli, pipeline: Path) -> stand_in.Controller:
    jenkins.folders.add("None")  # names that a client which replaces Python's words in the text would spoil
    assert cli("install", "None/TrueNorth", "-f", pipeline, "-j", pipeline.with_name("job.yaml"))[0] == 0
    return jenkins


def test_trigger(installed: stand_in.Controller, cli: Cli) -> None:
    """Started with its parameters, awaited, its log printed once, its result the exit code."""
    code, out, err = cli("trigger", "None/TrueNorth", "-p", "lr=0.2 & more=1", "-p", "fast=false")
    assert (code, out) == (0, "first\nsecond ü\nthird\n")
    assert "None/TrueNorth: SUCCESS" in err
    assert installed.items[1].params == {"lr": "0.2 & more=1", "name": "", "fast": "false", "mode": "b"}


def test_trigger_through_a_proxy(installed: stand_in.Controller, cli: Cli) -> None:
    """A controller that takes its URL for another than ours is asked at ours."""
    installed.believes = "http://127.0.0.1:9/elsewhere"
    assert cli("trigger", "None/TrueNorth")[:2] == (0, "first\nsecond ü\nthird\n")


@pytest.mark.parametrize(("result", "code"), [("UNSTABLE", 3), ("FAILURE", 1), ("ABORTED", 130), ("NOT_BUILT", 1)])
def test_trigger_results(installed: stand_in.Controller, cli: Cli, result: str, code: int) -> None:
    """Unstable, failed and aborted are told apart."""
    installed.plans.append({"result": result})
    assert cli("trigger", "None/TrueNorth", "--quiet")[:2] == (code, "")


def test_trigger_queue(installed: stand_in.Controller, cli: Cli) -> None:
    """A cancelled item ends the wait; one that vanished is found by its build; one that was lost is told."""
    installed.plans += [{"fate": "cancelled"}, {"fate": "vanished"}]
    code, _, err = cli("trigger", "None/TrueNorth")
    assert code == 130 and "cancelled in the queue" in err
    assert cli("trigger", "None/TrueNorth")[:2] == (0, "first\nsecond ü\nthird\n")


def test_trigger_lost(installed: stand_in.Controller, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """An item that is gone, and left no build, is an error, after a while."""
    monkeypatch.setattr("mlctl_jenkins.waiting._FORGOTTEN", 0.3)
    installed.plans.append({"fate": "lost"})
    code, _, err = cli("trigger", "None/TrueNorth")
    assert code == 70 and "left the queue, and no build came of it" in err


def test_trigger_is_bounded(installed: stand_in.Controller, cli: Cli) -> None:
    """The wait has an end, in the queue and in the build; what was started goes on."""
    installed.plans += [{"waits": 10_000}, {"log": (b"x\n",) * 10_000}]
    for _ in range(2):
        before = time.monotonic()
        code, _, err = cli("trigger", "None/TrueNorth", "--timeout", "1s", "--quiet")
        assert code == 75 and "not over in time; it goes on" in err
        assert time.monotonic() - before < 60


def test_trigger_survives_a_hiccup(installed: stand_in.Controller, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A controller that is away for a moment, while a build is awaited, is asked again."""
    from mlctl_jenkins import controller

    send = controller.Controller.trigger

    def trigger(self: Any, *args: Any) -> str:
        queued = send(self, *args)
        installed.broken = 2
        return queued

    monkeypatch.setattr(controller.Controller, "trigger", trigger)
    code, out, err = cli("trigger", "None/TrueNorth")
    assert (code, out) == (0, "first\nsecond ü\nthird\n") and "503" in err and "trying again" in err


def test_hiccup_while_a_vanished_item_is_looked_for(
    installed: stand_in.Controller, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told as an error, it would be tried again, and that is a second build."""
    from mlctl_jenkins import controller

    ask = controller.Controller.build_of

    def build_of(self: Any, *args: Any) -> str | None:
        monkeypatch.setattr(controller.Controller, "build_of", ask)
        installed.broken = 1
        return ask(self, *args)

    monkeypatch.setattr(controller.Controller, "build_of", build_of)
    installed.plans.append({"fate": "vanished"})
    code, out, err = cli("trigger", "None/TrueNorth")
    assert (code, out) == (0, "first\nsecond ü\nthird\n") and "503" in err and "trying again" in err


def test_machine_that_stands_still_between_two_looks(
    installed: stand_in.Controller, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build that came meanwhile is found: that there is none is said of a look after the time, and of none before."""
    from mlctl_jenkins import controller, waiting

    ask, clock, asleep = controller.Controller.build_of, time.monotonic, [0.0]

    def build_of(self: Any, *args: Any) -> str | None:
        found = ask(self, *args)
        if not found:
            asleep[0] = 60.0
            installed.start(next(iter(installed.items.values())))
        return found

    monkeypatch.setattr(controller.Controller, "build_of", build_of)
    monkeypatch.setattr(waiting.time, "monotonic", lambda: clock() + asleep[0])
    installed.plans.append({"fate": "lost"})
    assert cli("trigger", "None/TrueNorth")[:2] == (0, "first\nsecond ü\nthird\n")


def test_refusals(installed: stand_in.Controller, cli: Cli, pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line each: what is wrong, and what there is."""
    assert (
        "declares no such parameter; it has lr, name, fast, mode" in cli("trigger", "None/TrueNorth", "-p", "lrr=1")[2]
    )
    assert not installed.items
    assert "no job 'nope'" in cli("trigger", "nope")[2]
    assert cli("trigger", "None/TrueNorth", "--timeout", "soon")[0] == 2
    assert "expected NAME=VALUE" in cli("trigger", "None/TrueNorth", "-p", "lr")[2]
    monkeypatch.setenv("JENKINS_TOKEN", "wrong")
    for command in (("trigger", "None/TrueNorth"), ("validate", pipeline), ("install", "x", "-f", pipeline)):
        code, out, err = cli(*command)
        assert (code, out, err.count("\n")) == (77, "", 1), err
    monkeypatch.setenv("JENKINS_URL", "http://127.0.0.1:9")
    code, _, err = cli("validate", pipeline)
    assert code == 75 and err.count("\n") == 1
    monkeypatch.setenv("JENKINS_URL", "jenkins.example.org")
    assert "expected a controller's URL" in cli("validate", pipeline)[2]


def test_secrets_in_the_url(installed: stand_in.Controller, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL is shown with each build, so a password in it is refused, and not shown either."""
    for scheme, rest in ("http", installed.url.partition("//")[2]), ("ftp", "host"):
        monkeypatch.setenv("JENKINS_URL", f"{scheme}://{stand_in.USER}:{stand_in.TOKEN}@{rest}")
        code, out, err = cli("trigger", "None/TrueNorth")
        assert (code, out) == (2, "") and "--url: has a user or a password in it" in err
    assert not installed.items


def test_what_a_controller_can_not_keep(installed: stand_in.Controller, cli: Cli, pipeline: Path) -> None:
    """A script that is no text, a character that XML can't hold, a name that leads elsewhere: nothing is sent."""
    binary = pipeline.with_name("binary")
    binary.write_bytes(b"pipeline { \xff }")
    before = list(installed.seen)
    for command in (("validate", binary), ("install", "x", "-f", binary)):
        assert cli(*command) == (2, "", f"mlctl: {binary}: not UTF-8, at byte 11\n")
    code, _, err = cli("install", "x", "-f", pipeline, "-p", "colour=\x1b[31m")
    assert code == 2 and "control character" in err
    for name in ("", "None//TrueNorth", "None/../TrueNorth"):
        assert "expected a job's name such as churn" in cli("install", name, "-f", pipeline)[2]
    assert installed.seen == before


def test_three_clients_agree(installed: stand_in.Controller, cli: Cli) -> None:
    """The stand-in is what jenkinsapi, python-jenkins and api4jenkins take for a controller: builds with parameters, logs
    in chunks, items that wait, are cancelled or vanish."""
    from api4jenkins import Jenkins as Api4
    from jenkinsapi.jenkins import Jenkins as JenkinsApi

    from jenkins import Jenkins as PythonJenkins
    from jenkins import JenkinsException

    installed.jobs["plain"] = installed.jobs["None/TrueNorth"]
    user = (installed.url, stand_in.USER, stand_in.TOKEN)
    log = "first\nsecond ü\nthird\n"

    one = JenkinsApi(*user)
    item = one.jobs["plain"].invoke(build_params={"lr": "0.3"})
    item.block_until_building(delay=0.01)
    build = item.get_build()
    build.block_until_complete(delay=0.01)
    build.poll()
    assert (item.get_build_number(), build.get_params()["lr"], build.get_status()) == (1, "0.3", "SUCCESS")
    assert build.get_console() == log and one.jobs["plain"].get_params_list() == ["lr", "name", "fast", "mode"]

    two = PythonJenkins(*user)
    queued = two.build_job("plain", {"lr": "0.4"})
    number = until(lambda: two.get_queue_item(queued).get("executable"), "the build")["number"]
    assert (number, installed.items[queued].params["lr"]) == (2, "0.4")
    assert two.get_build_console_output("plain", number) == log
    [declared] = [one for one in two.get_job_info("plain")["property"] if one]
    assert [one["name"] for one in declared["parameterDefinitions"]] == ["lr", "name", "fast", "mode"]
    assert "CpsFlowDefinition" in two.get_job_config("plain")
    installed.plans += [{"fate": "cancelled"}, {"fate": "lost"}]
    queued = two.build_job("plain", {"lr": "1"})
    until(lambda: two.get_queue_item(queued)["cancelled"], "the cancel")
    lost = two.build_job("plain", {"lr": "1"})
    assert two.get_queue_item(lost)["why"]
    with pytest.raises(JenkinsException, match="does not exist"):
        two.get_queue_item(lost)

    installed.plans.append(
        {"log": tuple(f"{line}\n".encode() for line in log.splitlines())}
    )  # it can't join a cut character
    three = Api4(installed.url, auth=user[1:])
    item4 = three.build_job("plain", lr="0.5")
    build4 = until(item4.get_build, "the build")
    assert "".join(f"{line}\n" for line in build4.progressive_output()) == log and build4.result == "SUCCESS"
    assert installed.items[item4.id].params["lr"] == "0.5"
    installed.plans += [{"fate": "lost", "waits": 0}]
    assert not three.build_job("plain", lr="1").exists()
    for session in (one.requester.session, two._session, three.http_client):
        session.close()


def test_both_flavours_say_the_same(installed: stand_in.Controller, cli: Cli) -> None:
    """/api/python in Python's literals is /api/json, of names that are words of Python, too."""
    assert cli("trigger", "None/TrueNorth", "--quiet")[0] == 0
    session = requests.Session()
    session.auth = (stand_in.USER, stand_in.TOKEN)
    with session:
        for path in ("", "/job/None/job/TrueNorth", "/job/None/job/TrueNorth/1", "/queue/item/1", "/crumbIssuer"):
            answers = [session.get(f"{installed.url}{path}/api/{flavour}").text for flavour in ("json", "python")]
            if path == "/crumbIssuer":  # another for every request
                answers = [re.sub(r"\b[0-9a-f]{16}\b", "", answer) for answer in answers]
            assert json.loads(answers[0]) == ast.literal_eval(answers[1]), path
