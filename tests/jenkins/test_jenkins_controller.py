"""`mlctl jenkins validate|install|trigger` against a stand-in for a controller, on which three clients agree."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import controller as stand_in
import pytest

from mlctl.cli import run

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
    assert cli("validate", pipeline) == (0, f"{pipeline}: valid\n", "")
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
    installed.plans += [{"waits": 10_000}, {"log": ("x\n",) * 10_000}]
    for _ in range(2):
        before = time.monotonic()
        code, _, err = cli("trigger", "None/TrueNorth", "--timeout", "1s", "--quiet")
        assert code == 75 and "not over in time; it goes on" in err
        assert time.monotonic() - before < 5


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


def test_three_clients_agree(installed: stand_in.Controller, cli: Cli) -> None:
    """The stand-in is what jenkinsapi, python-jenkins and api4jenkins take for a controller."""
    from api4jenkins import Jenkins as Api4
    from jenkinsapi.jenkins import Jenkins as JenkinsApi

    from jenkins import Jenkins as PythonJenkins

    installed.jobs["plain"] = installed.jobs["None/TrueNorth"]
    user = (installed.url, stand_in.USER, stand_in.TOKEN)

    one = JenkinsApi(*user)
    item = one.jobs["plain"].invoke(build_params={"lr": "0.3"})
    item.block_until_building(delay=0.01)
    assert (item.get_build_number(), installed.items[1].params["lr"]) == (1, "0.3")

    two = PythonJenkins(*user)
    queued = two.build_job("plain", {"lr": "0.4"})
    while "executable" not in (found := two.get_queue_item(queued)):
        pass
    number = found["executable"]["number"]
    assert (number, installed.items[queued].params["lr"]) == (2, "0.4")
    assert two.get_build_console_output("plain", number) == "first\nsecond ü\nthird\n"
    assert two.get_job_info("plain")["property"][1]["parameterDefinitions"][0]["name"] == "lr"

    three = Api4(installed.url, auth=user[1:])
    item4 = three.build_job("plain", lr="0.5")
    while not (build := item4.get_build()):
        pass
    assert list(build.progressive_output()) and build.result == "SUCCESS"
    assert installed.items[3].params["lr"] == "0.5"
    for session in (one.requester.session, two._session, three.http_client):
        session.close()
