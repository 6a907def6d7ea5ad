"""The command line, as people and scripts meet it: answers on stdout, everything else on stderr, one line an error, and
an exit code that means something."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from mlctl import __version__, plugins
from mlctl.backends.local import Local
from mlctl.cli import COMMANDS, run
from mlctl.errors import MlctlError, Unavailable, Unsupported
from mlctl.policy import Admitted
from mlctl.runs import Run, Stamp, Status

PROGRAM = str(Path(sys.executable).with_name("mlctl"))
PATIENCE = 20.0


class Answer(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Answer]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs a command in this process."""

    def call(*args: object) -> Answer:
        capsys.readouterr()
        answer = Answer(run([str(arg) for arg in args]), *capsys.readouterr())
        assert "\x1b" not in answer.out + answer.err  # no colour where there is no terminal
        assert "Traceback" not in answer.err
        return answer

    return call


@pytest.fixture
def refused(cli: Cli) -> Callable[..., str]:
    """Runs a command that must fail with this code, and say why in exactly one line."""

    def call(code: int, *args: object) -> str:
        answer = cli(*args)
        assert (answer.code, answer.out) == (code, ""), answer
        assert answer.err.startswith("mlctl: ") and answer.err.count("\n") == 1, answer.err
        return answer.err[7:].rstrip("\n")

    return call


def program(*args: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs a command as a program."""
    command = [PROGRAM, *map(str, args)]
    options = {"text": True, "capture_output": True, "timeout": PATIENCE, "check": False} | options
    return subprocess.run(command, **options)


def start(*args: object) -> subprocess.Popen[str]:
    """Starts a command as a program, with Ctrl-C as a terminal gives it, wherever the tests run."""
    return subprocess.Popen(
        [PROGRAM, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
    )  # fmt: skip


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)
    return found


def job(folder: Path, script: str = "true", name: str = "job", **fields: Any) -> Path:
    """A job file whose job is a shell script."""
    path = folder / f"{name}.yaml"
    data = {"kind": "train", "name": name, "command": {"shell": script}, **fields}
    path.write_text(json.dumps(data))  # what is JSON is YAML
    return path


METRICS = """
printf '%s\\n' '{"name": "loss", "value": 0.5, "step": 1}' '{"name": "loss", "value": 0.25, "step": 2}' > "$MLCTL_METRICS_FILE"
echo weights > "$MLCTL_OUTPUT_MODEL/m.bin"
echo said; echo warned >&2
"""


@pytest.fixture
def done(project: Path, cli: Cli) -> str:
    """The URL of a run that succeeded, with an output and metrics, under the key k1."""
    assert cli("submit", job(project, METRICS, "train", outputs={"model": {}}), "--key", "k1").code == 0
    answer = cli("wait", "k1", "--json")
    assert answer.code == 0
    return str(answer.json["run"])


@pytest.fixture
def waiting(project: Path, cli: Cli) -> Iterator[tuple[str, Path]]:
    """The URL of a run that goes on until a file is there, and that file."""
    gate = project / "gate"
    script = f"echo ready; while [ ! -e '{gate}' ]; do sleep 0.02; done; echo opened"
    answer = cli("submit", job(project, script, "waiter"), "--key", "w1", "--json")
    yield str(answer.json["run"]), gate
    gate.touch()
    assert cli("wait", "w1").code in (0, 130)


# --- help and usage


def test_help_names_every_command(cli: Cli) -> None:
    answer = cli("--help")
    assert answer.code == 0
    listed = answer.out[answer.out.index("Commands:") :].partition("\n\n")[0]
    assert re.findall(r"^  (\w+) ", listed, re.MULTILINE) == list(COMMANDS)
    assert cli("-h").out == answer.out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command(name: str, cli: Cli) -> None:
    answer = cli(name, "--help")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith(f"Usage: mlctl {name} ")
    options = answer.out[answer.out.index("Options:") :]
    for line in re.findall(r"^  (-.*)$", options, re.MULTILINE):  # each says what it does
        assert re.search(r"\S {2,}\S|^--\S+( \S+)?$", line) or len(line) > 20, line


def test_version_and_no_command(cli: Cli) -> None:
    assert cli("--version").out == f"mlctl {__version__}\n"
    answer = cli()
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("Usage: mlctl ")


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["runn"], "no command 'runn'; did you mean 'run'?"), (["xyz"], "no command 'xyz'; mlctl --help lists them"),
        (["run"], "missing argument 'JOB'."),
        (["run", "j.yaml", "--bogus"], None), (["run", "j.yaml", "--parm", "a=1"], None),
        (["run", "none.yaml"], "none.yaml: no such file"),
        (["run", "."], ".: is a folder"),
        (["run", "j.yaml", "-p", "lr"], "invalid value for '-p' / '--param': got 'lr', expected NAME=VALUE"),
        (["run", "j.yaml", "-p", "=1"], "invalid value for '-p' / '--param': got '=1', expected NAME=VALUE"),
        (["run", "j.yaml", "-p", "lr=1", "-p", "n=2", "--param", "lr=1"],
            "invalid value for '-p' / '--param': lr: given twice"),
        (["submit", "j.yaml", "-i", "d=x", "-i", "d=x"], "invalid value for '-i' / '--input': d: given twice"),
        (["plan", "j.yaml", "--set", "grace=1", "--set", "grace=2"], "invalid value for '--set': grace: given twice"),
        (["plan", "j.yaml", "--set", 'secrets={"A": "env:A", "A": "env:B"}'], "--set secrets: A: given twice"),
        (["run", "j.yaml", "-p", "lr=1"], "j.yaml:1: params: --param lr: the job has no such name; it declares no params"),
        (["run", "j.yaml", "-i", "d=x"], "j.yaml:1: inputs: --input d: the job has no such name; it declares no inputs"),
        (["run", "j.yaml", "--target", "lcal"], "--target: target 'lcal' is not in the configuration; did you mean 'local'?"),
        (["run", "j.yaml", "--profile", "prod"], "--profile: profile 'prod' is not in the configuration; there are: dev"),
        (["run", "j.yaml", "--key", ""], "key: got '', expected a line of text; leave it out for a new run"),
        (["run", "j.yaml", "--key", "a\nb"], r"key: got 'a\nb', expected a line of text; leave it out for a new run"),
        (["run", "j.yaml", "--config", "none"], "none: no such file"),
        (["run", "j.yaml", "--set", "grace=soon"], "targets.local.grace: got 'soon', expected seconds from 0 to 3600"),
        (["run", "j.yaml", "--set", "grace=NaN"], "targets.local.grace: got 'NaN', expected seconds from 0 to 3600"),
        (["run", "j.yaml", "--set", "inherit_env=" + "[" * 50_000],
            "targets.local.inherit_env: expected a list of variables' names"),
            (["run", "j.yaml", "--set", "backend=lokal"], None),
        (["run", "j.yaml", "--on-change", "ignore"], None), (["run", "j.yaml", "--on-interrupt", "die"], None),
        (["run", "bad.yaml"], "bad.yaml:2: knd: unknown field; did you mean 'kind'? (and 1 more)"),
        (["run", "two\nlines.yaml"], r"two\nlines.yaml: no such file"),
        (["validate"], "missing argument 'JOBS...'."),
        (["status"], "missing argument 'RUN...'."),
        (["wait", "http://x/y"], "got 'http://x/y', expected a run's URL such as local://host/path/to/home/name-0"),
        (["gc", "--older-than", "soon"], "--older-than: got 'soon', expected a duration such as 2h, 1h30m or 90s"),
        (["gc", "--older-than", "0s"], "--older-than: got 0 seconds, expected from one second to a year"),
        (["schema", "jobs"], None), (["completion", "tcsh"], None),
        (["list", "--limit", "0"], None), (["list", "--state", "done"], None),
        (["doctor", "-t", "zzz"], "target 'zzz' is not in the configuration; there are: local"),
        (["init"], "which folder? mlctl init demo makes one; mlctl init . takes this one; --from takes a script"),
    ],
)  # fmt: skip
def test_bad_input_is_2_and_one_line(
    project: Path, refused: Callable[..., str], args: list[str], text: str | None
) -> None:
    job(project, name="j")
    (project / "bad.yaml").write_text("name: x\nknd: train\ncommand: y\n")
    said = refused(2, *args)
    assert text is None or said == text
    assert len(said) < 500


# --- exit codes


class Forbidding(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(403)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("script", "fields", "code", "said"),
    [
        ("exit 0", {}, 0, ""), ("exit 3", {}, 1, "failed (error): exit code 3"),
        ("sleep 60", {"timeout": 1}, 124, "failed (timeout): ran longer than its timeout of 1s"),
        ('touch "${MLCTL_CHECKPOINT_DIR%/*}/0/cancel"', {}, 130, "cancelled"),
    ],
)  # fmt: skip
def test_the_outcome_is_the_exit_code(
    project: Path, cli: Cli, script: str, fields: dict[str, Any], code: int, said: str
) -> None:
    path = job(project, script, **fields)
    answer = cli("run", path, "--key", "k")
    assert answer.code == code
    last = answer.err.splitlines()[-1]
    assert (last.startswith("mlctl: job-") and said in last) if code else last.startswith("started job-")
    waited = cli("wait", "k")
    assert (waited.code, waited.err) == (code, f"{last}\n" if code else "")
    assert cli("status", "k").code == 0  # the question was answered


def test_70_for_what_is_not_there(refused: Callable[..., str], project: Path, home: Path, done: str) -> None:
    text = "'nope': no run, job or key of that name in this machine's record; mlctl list shows it; a URL works too"
    gone = f"{done[:-1]}9"
    for name in ("status", "describe", "wait", "logs", "metrics", "outputs", "cancel"):
        assert refused(70, name, "nope") == text
    for name in ("describe", "wait", "logs", "metrics", "outputs", "cancel"):
        assert refused(70, name, gone).startswith(f"{gone}: no such run in {home}")


def test_75_for_another_machine_and_for_impatience(
    refused: Callable[..., str], cli: Cli, waiting: tuple[str, Path]
) -> None:
    url, _ = waiting
    elsewhere = re.sub("//[^/]+/", "//elsewhere/not/", url)
    assert "lives on elsewhere" in refused(75, "describe", elsewhere)
    assert cli("status", elsewhere).code == 75
    said = refused(75, "wait", url, "--timeout", "1s")
    assert said == f"{Run.parse(url).name}: still going after 1s; it goes on"


def test_77_for_what_is_forbidden(project: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with HTTPServer(("127.0.0.1", 0), Forbidding) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/org.yaml"
        (project / "mlctl.yaml").write_text(f"organisation: '{address}#sha256={'0' * 64}'")
        assert refused(77, "config") == f"{project}/mlctl.yaml:1: {address}: 403 Forbidden"


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Path]]:
    """The working folder: a job, and a folder `closed` in it, into which nobody writes once this is called; as nobody, where the
    tests run as root, who may write everywhere."""
    root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "closed").mkdir()
        (folder / "home").mkdir()
        job(folder, METRICS, outputs={"model": {"uri": "out"}})
        monkeypatch.chdir(folder)
        for variable in ("MLCTL_HOME", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS"):
            monkeypatch.setenv(variable, str(folder / "home"))

        def close() -> Path:
            (folder / "closed").chmod(0o555)
            if root:
                for path in (folder, *folder.rglob("*")):
                    if path.name != "closed":
                        os.chown(path, 65534, 65534)
                os.seteuid(65534)
            return folder / "closed"

        yield close
        if root:
            os.seteuid(0)
        (folder / "closed").chmod(0o755)


@pytest.mark.parametrize(
    ("args", "variables"),
    [
        (["run", "job.yaml", "--key", "k"], {"MLCTL_HOME": "{}"}),
        (["submit", "away.yaml", "--key", "k"], {}),
        (["init", "{}"], {}),
        (["init", "{}/new"], {}),
        (["outputs", "done", "--download", "{}"], {}),
        (["outputs", "done", "--download", "{}/new"], {}),
    ],
)
def test_77_for_a_folder_that_may_not_be_written(
    cli: Cli, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, closed: Callable[[], Path],
    args: list[str], variables: dict[str, str],
) -> None:  # fmt: skip
    """No other try will change it."""
    assert cli("run", "job.yaml", "--key", "done").code == 0
    assert cli("init", "demo").code == 0  # imports what nobody couldn't
    assert cli("outputs", "done", "--download", "here").code == 0
    job(Path(), name="away", outputs={"model": {"uri": "closed/out"}})
    at = closed()
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(at))
    said = refused(77, *(word.format(at) for word in args))
    assert said.startswith(f"{at}") and "Permission denied" in said, said
    assert not list(at.iterdir()) and not list((at.parent / "home").glob("runs/*/.new-*"))


def test_an_internal_error_is_one_line_too(
    project: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlctl.config.load", lambda **_: 1 / 0)
    text = "internal error, please report it: ZeroDivisionError: division by zero (MLCTL_DEBUG=1 shows where)"
    assert refused(70, "targets") == text
    monkeypatch.setenv("MLCTL_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        run(["targets"])


def test_a_working_folder_that_is_gone(project: Path, cli: Cli) -> None:
    job(project)
    (project / "gone").mkdir()
    os.chdir(project / "gone")
    (project / "gone").rmdir()
    try:
        assert cli("config").code == 0
        assert cli("run", project / "job.yaml").code == 0
    finally:
        os.chdir(project)


# --- answers


def test_json_is_all_of_stdout(project: Path, cli: Cli, done: str, home: Path) -> None:
    name = Run.parse(done).name
    path = project / "train.yaml"
    status = cli("status", done, "--json").json
    assert (status["run"], status["state"], status["exit_code"]) == (done, "succeeded", 0)
    assert [row["run"] for row in cli("status", done, name, "--json").json] == [done, done]
    described = cli("describe", "train", "--json").json
    assert described["submitted"]["key"] == "k1"
    assert (described["metrics"], described["outputs"]) == (
        {"loss": 0.25},
        {"model": cli("outputs", done, "model").out.strip()},
    )
    assert cli("metrics", done, "--json").json == {"loss": 0.25}
    assert [(point["step"], point["value"]) for point in cli("metrics", done, "--history", "--json").json] == [
        (1, 0.5),
        (2, 0.25),
    ]
    assert cli("outputs", done, "--json").json == described["outputs"]
    assert cli("outputs", done, "model", "--json").json == described["outputs"]["model"]
    assert [row["run"] for row in cli("list", "--json").json] == [done]
    assert cli("list", "--json", "--state", "failed").json == cli("list", "--json", "--job", "other").json == []
    assert cli("targets", "--json").json == {
        "targets": {"local": {"backend": "local"}},
        "profile": "dev",
        "routes": [{"target": "local"}],
    }
    assert cli("config", "--json").json["targets.local.backend"] == {"value": "local", "from": "built in"}
    assert {row["what"] for row in cli("doctor", "--json").json} >= {"version", "configuration", "platforms", "home"}
    assert cli("gc", "--dry-run", "--json").json == {"removed": [], "dry_run": True}
    assert cli("validate", path, "--json").json == [{"job": str(path), "valid": True, "error": None}]
    planned = cli("plan", path, "--json").json
    assert (planned["target"], planned["losses"], planned["request"]["argv"][:3]) == (
        "local",
        [],
        ["/bin/sh", "-e", "-c"],
    )
    assert len(cli("plan", path, "-t", "local", "-t", "local", "--json").json) == 2
    for name in ("job", "config"):
        assert cli("schema", name).json["$schema"].endswith("2020-12/schema")
    assert cli("schema").json["title"] == "mlctl job"
    ran = cli("run", path, "--json")
    assert (ran.json["status"]["state"], ran.json["made"], ran.json["metrics"]) == ("succeeded", True, {"loss": 0.25})
    assert "said\nwarned\n" in ran.err
    submitted = cli("submit", path, "--key", "k1", "--json").json
    assert (submitted["run"], submitted["made"], submitted["key"]) == (done, False, "k1")
    failed = cli("run", job(project, "exit 3", "bad"), "--json")
    assert (failed.code, failed.json["status"]["reason"]) == (1, "error")
    assert cli("wait", "bad", "--json").json["exit_code"] == 3


def test_every_command_that_answers_has_json(cli: Cli) -> None:
    without = {name for name in COMMANDS if "--json" not in cli(name, "--help").out}
    assert without == {
        "init",
        "logs",
        "schema",
        "completion",
        "image",
    }  # files, a log, an act, what is JSON or a script, and a group
    assert all("--json" in cli("image", name, "--help").out for name in ("build", "push"))


def test_plain_answers(project: Path, cli: Cli, done: str) -> None:
    name = Run.parse(done).name
    assert re.fullmatch(rf"NAME +STATE +TOOK +MESSAGE\n{name}  succeeded  0\.\d\ds\n", cli("status", done).out)
    assert cli("wait", done).out == f"{name}: succeeded\n"
    assert cli("logs", done).out == "said\nwarned\n"
    assert cli("metrics", done).out == "loss  0.25\n"
    assert cli("metrics", done, "--history").out == "METRIC  STEP  VALUE\nloss    1     0.5\nloss    2     0.25\n"
    described = dict(line.split(None, 1) for line in cli("describe", done).out.splitlines() if "exit" not in line)
    assert (described["run"], described["key"], described["kind"]) == (done, "k1", "train")
    listed = cli("list").out.splitlines()
    assert listed[0].split() == ["NAME", "STATE", "TOOK", "KIND", "TARGET", "SUBMITTED", "KEY"]
    assert listed[1].startswith(f"{name}  succeeded")
    assert (
        cli("targets").out
        == "TARGET  BACKEND  SETTINGS\nlocal   local\n\nprofile dev: the first that matches\n  any job -> local\n"
    )
    assert 'targets.local.backend  "local"' in cli("config").out
    assert cli("validate", project / "train.yaml").out == f"{project}/train.yaml: valid\n"
    assert cli("gc").out == "nothing older than 30d\n"
    assert all(line.startswith("ok    ") for line in cli("doctor").out.splitlines())
    answer = cli("cancel", done)
    assert (answer.code, answer.out) == (0, f"{name}: succeeded\n")


def test_a_run_is_named_in_four_ways(cli: Cli, done: str) -> None:
    for name in (done, Run.parse(done).name, "k1", "train"):
        assert cli("status", name, "--json").json["run"] == done


def test_run_prints_the_log_and_what_came_of_it(project: Path, cli: Cli) -> None:
    answer = cli("run", job(project, METRICS, "train", outputs={"model": {}}))
    lines = answer.out.splitlines()
    assert lines[:2] == ["said", "warned"]
    assert re.fullmatch(r"train-\w{16}-0: succeeded in 0\.\d\ds", lines[2])
    assert re.fullmatch(r"  loss +0\.25", lines[3])
    assert re.fullmatch(r"  model +/\S+/outputs/model", lines[4])
    assert re.fullmatch(r"started train-\w{16}-0 on local, key [0-9a-f]{16}\n", answer.err)


def test_parameters_and_inputs(project: Path, cli: Cli) -> None:
    (project / "data.csv").write_text("rows")
    script = 'cat "$MLCTL_PARAMS_FILE" "$MLCTL_INPUT_TRAIN"; echo; echo "$LR"'
    path = job(
        project,
        script,
        params={"lr": 0.1, "s": "", "n": {"type": "integer"}},
        inputs={"train": {}},
        env={"LR": "<${{params.lr}}>"},
    )
    value = "a'; echo foo = $(HOME) ${{params.lr}}"
    answer = cli("run", path, "-p", "lr=1", "-p", f"s={value}", "--param", "n=1e3", "-i", "train=data.csv")
    given, rest = json.JSONDecoder().raw_decode(answer.out)
    assert given == {"lr": 1.0, "s": value, "n": 1000}
    assert answer.out[rest:].startswith("rows\n<1.0>\n")


def test_quiet_and_verbose(project: Path, cli: Cli) -> None:
    path = job(project)
    assert cli("-q", "submit", path, "--key", "k").err == ""
    assert cli("submit", path, "--key", "k").err.startswith("found job-")
    assert cli("-vv", "wait", "k").code == 0


def test_outputs_are_downloaded_whole_or_not_at_all(
    project: Path, cli: Cli, refused: Callable[..., str], done: str
) -> None:
    there = cli("outputs", done, "--download", "here")
    assert there.out == "model  here/model\n"
    assert (project / "here" / "model" / "m.bin").read_text() == "weights\n"
    assert (
        refused(2, "outputs", done, "--download", "here")
        == "--download: here/model exists already; choose another folder"
    )
    assert [path.name for path in (project / "here").iterdir()] == ["model"]
    assert refused(2, "outputs", done, "modl") == f"{Run.parse(done).name}: no output 'modl'; it has model"
    (project / "file").touch()
    assert refused(2, "outputs", done, "--download", "file").startswith("invalid value for '--download'")


def test_validate_goes_on_after_a_bad_file(project: Path, cli: Cli) -> None:
    good, bad = job(project, name="good"), job(project, name="bad", kind="x")
    lost = job(project, name="lost", code="nowhere")
    wants = job(project, name="wants", requirements="none.txt")
    answer = cli("validate", bad, good, lost, wants)
    assert (answer.code, answer.out) == (2, f"{good}: valid\n")
    errors = answer.err.splitlines()
    assert [line.startswith(f"mlctl: {path}:1: ") for line, path in zip(errors, (bad, lost, wants), strict=True)] == [
        True
    ] * 3
    assert [row["valid"] for row in cli("validate", bad, good, "--json").json] == [False, True]


def test_plan_tells_what_is_not_honoured_and_compares(project: Path, cli: Cli) -> None:
    (project / "mlctl.yaml").write_text("targets: {slow: {backend: local, grace: 60}}")
    path = job(project, resources={"accelerators": "A10G:1"})
    one = cli("plan", path)
    assert "not honoured  resources.accelerators: the job sees what this machine has" in one.out
    assert not (project.parent / "runs").exists()
    both = cli("plan", path, "-t", "local", "-t", "slow")
    assert "--- target local\n+++ target slow" in both.out
    assert re.search(r'^-    "grace": 10,?\n\+    "grace": 60,?$', both.out, re.MULTILINE)
    assert re.search(r"^field +local +slow\n(.*\n)*resources.accelerators +lost +lost$", both.out, re.MULTILINE)
    assert cli("list", "--json").json == []


def test_plan_compares_any_number_of_targets(
    project: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Requests one after another, a table of fields; a target that refuses the job is a column, a line and the exit code."""
    (project / "mlctl.yaml").write_text(
        "targets: {a: {backend: local}, b: {backend: local, grace: 3}, c: {backend: local}}"
    )
    path = job(project, env={"A": "b"}, resources={"cpu": 2})
    three = ["plan", path, "-t", "a", "-t", "b", "-t", "c"]
    plain = cli(*three)
    assert plain.code == 0 and plain.out.count('"grace": 10') == 2 and plain.out.count('"grace": 3') == 1
    rows = [
        re.split(r"  +", line) for line in plain.out.splitlines() if line.startswith(("field ", "env ", "resources."))
    ]
    assert rows == [["field", "a", "b", "c"], ["env", *["honoured"] * 3], ["resources.cpu", *["lost"] * 3]]

    real = Local.plan

    def plan(self: Local, job: Any, facts: Any, name: str) -> Any:
        if self.settings.target == "b":
            raise Unsupported("job.yaml: env: local cannot honour it")
        return real(self, job, facts, name)

    monkeypatch.setattr(Local, "plan", plan)
    refusing = cli(*three)
    assert (refusing.code, refusing.err) == (2, "mlctl: b refuses the job: job.yaml: env: local cannot honour it\n")
    assert re.search(r"^env +honoured +refused +honoured$", refusing.out, re.MULTILINE)
    answers = cli(*three, "--json").json
    assert [one["target"] for one in answers] == ["a", "b", "c"] and list(answers[1]) == ["target", "error"]


def test_plan_compares_with_a_target_that_has_no_plan(project: Path, cli: Cli, refused: Callable[..., str]) -> None:
    """One that isn't installed, or whose settings are wrong, is a column, a line and the exit code; the others are told."""
    targets = {
        "a": {"backend": "local"}, "odd": {"backend": "nosuch"}, "wrong": {"backend": "local", "nosuch": 1},
        "soon": {"backend": "local", "grace": "soon"},
    }  # fmt: skip
    (project / "mlctl.yaml").write_text(json.dumps({"targets": targets}))
    path = job(project, env={"A": "b"})
    every = ["plan", path, *(word for name in (*targets, "gone") for word in ("-t", name))]
    answer = cli(*every)
    assert answer.code == 2 and '"grace": 10' in answer.out
    assert re.search(r"^env +honoured +unknown +unknown +unknown +unknown$", answer.out, re.MULTILINE)
    starts = [
        "mlctl: odd has no plan: targets.odd.backend: got 'nosuch', which is no platform known here; installed here: ",
        "mlctl: wrong has no plan: targets.wrong.nosuch: unknown setting; ",
        "mlctl: soon has no plan: targets.soon.grace: got 'soon', expected seconds",
        "mlctl: gone has no plan: --target: target 'gone' is not in the configuration",
    ]
    lines = answer.err.splitlines()
    assert [line.startswith(start) for line, start in zip(lines, starts, strict=True)] == [True] * 4
    as_json = cli(*every, "--json")
    assert as_json.code == 2 and [one["target"] for one in as_json.json] == [*targets, "gone"]
    assert [list(one) == ["target", "error"] for one in as_json.json] == [False, True, True, True, True]
    none = cli("plan", path, "-t", "odd", "-t", "wrong")
    assert (none.code, none.out, none.err.count("\n")) == (2, "", 2)

    job(project, inputs={"x": "s3://b/k"})  # of two alike, both refuse it
    (project / "mlctl.yaml").write_text(json.dumps({"targets": {**targets, "b": targets["a"]}}))
    both = cli("plan", path, "-t", "a", "-t", "b")
    assert both.code == 2 and re.search(r"^inputs +refused +refused$", both.out, re.MULTILINE)
    said = [line.split(" the job: ")[0] for line in both.err.splitlines()]
    assert said == ["mlctl: a refuses", "mlctl: b refuses"]
    assert [one["target"] for one in cli("plan", path, "-t", "a", "-t", "b", "--json").json] == ["a", "b"]

    job(project, env={"MLCTL_X": "b"})  # what is wrong with the job is no target's, and said once
    assert "job.yaml:1: env.MLCTL_X: " in refused(2, *every)


def test_large_uploads_have_a_bar_on_a_terminal(tmp_path: Path) -> None:
    """Elsewhere a line of the log."""
    source = tmp_path / "data.bin"
    source.write_bytes(b"x" * (9 << 20))
    code = """
import logging, sys
from mlctl import cli, data
from mlctl.cli.live import Uploads
from mlctl.runs import Upload
from mlctl.stage import stage
logging.basicConfig(level=logging.INFO, format="%(message)s")
stage(data.put, [Upload(sys.argv[1], "", sys.argv[2])], Uploads.shown())
"""
    words = [sys.executable, "-c", code, str(source)]
    master, terminal = os.openpty()
    with subprocess.Popen([*words, (tmp_path / "a").as_uri()], stderr=terminal) as process:
        os.close(terminal)
        shown = b""
        with contextlib.suppress(OSError):  # how Linux says that nobody writes any more
            while part := os.read(master, 4096):
                shown += part
    os.close(master)
    assert process.returncode == 0 and (tmp_path / "a").read_bytes() == source.read_bytes()
    seen = re.findall(rb"uploading .*?(\d+)%", shown)
    assert len(set(seen)) > 2 and seen[-1] == b"100" and b"data.bin" not in shown, shown
    plain = subprocess.run([*words, (tmp_path / "b").as_uri()], capture_output=True, text=True, timeout=PATIENCE)
    assert plain.stderr == "uploading data.bin, 9.4 MB (1 of 1)\n"


def test_config_names_each_origin(project: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "org.yaml").write_text("profiles: {p: [{target: local}]}\nlocked: [profiles.p]\n")
    (project / "mlctl.yaml").write_text("organisation: org.yaml\ntargets:\n  t: {backend: local}\n")
    monkeypatch.setenv("MLCTL_PROFILE", "p")
    found = cli("config", "--target", "t", "--json").json
    assert {key: row["from"] for key, row in found.items()} == {
        "profile": "MLCTL_PROFILE", "target": "--target", "targets.local.backend": "built in",
            "targets.t.backend": f"{project}/mlctl.yaml:3",
        "profiles.dev": "built in", "profiles.p": f"{project}/org.yaml:1", "locked": f"{project}/org.yaml:2",
            "organisation": f"{project}/mlctl.yaml:1",
    }  # fmt: skip
    assert f"locked  profiles.p by {project}/org.yaml\n" in cli("config").out


def test_doctor_fails_where_something_is_wrong(project: Path, cli: Cli) -> None:
    (project / "mlctl.yaml").write_text("targets: {odd: {backend: nowhere}}")
    answer = cli("doctor")
    assert answer.code == 1
    assert (
        "fail  odd: target: targets.odd.backend: got 'nowhere', which is no platform known here; installed here: "
        in answer.out
    )
    assert cli("doctor", "-t", "local").code == 0


def test_gc_removes_what_is_old(project: Path, cli: Cli, done: str, home: Path) -> None:
    name = Run.parse(done).name
    for path in (home / "runs").rglob("*"):
        os.utime(path, (1e9, 1e9), follow_symlinks=False)
    dry = cli("gc", "--dry-run")
    assert "would remove" in dry.out and name.rpartition("-")[0] in dry.out
    assert cli("status", done).code == 0
    assert cli("gc", "--json").json["removed"]
    assert cli("status", done).code == 70
    assert cli("list", "--json").json == []


def test_init_makes_what_runs(project: Path, cli: Cli, refused: Callable[..., str]) -> None:
    assert {line.split()[0] for line in cli("init", "--template", "list").out.splitlines()} >= {"TEMPLATE", "plain"}
    made = cli("init", "demo", "--template", "plain")
    assert made.code == 0
    assert re.fullmatch(r"next: cd demo && mlctl run jobs/\w+\.yaml\n", made.err)
    assert cli("init", "a b", "--template", "plain").err.startswith("next: cd 'a b' && ")
    files = [Path(line) for line in made.out.splitlines()]
    assert files and all(path.is_file() for path in files)
    assert cli("validate", *(path for path in files if path.match("jobs/*.yaml"))).code == 0
    assert refused(2, "init", "demo2", "--from", "x.py").startswith("--from writes into the script's own project")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(cli: Cli, shell: str) -> None:
    script = cli("completion", shell)
    assert script.code == 0
    assert f"_MLCTL_COMPLETE={shell}_complete" in script.out


def test_completion_completes() -> None:
    env = {**os.environ, "_MLCTL_COMPLETE": "bash_complete", "COMP_WORDS": "mlctl va", "COMP_CWORD": "1"}
    assert program(env=env).stdout == "plain,validate\n"


# --- keys


def test_the_same_key_is_the_same_run(project: Path, cli: Cli) -> None:
    path = job(project, 'echo once >> "$MLCTL_CHECKPOINT_DIR/count"; cat "$MLCTL_CHECKPOINT_DIR/count"')
    first = cli("run", path, "--key", "k", "--json")
    again = cli("run", path, "--key", "k", "--json")
    assert (first.json["run"], first.json["made"]) == (again.json["run"], True)
    assert again.json["made"] is False
    assert again.err.count("once") == 1
    assert cli("run", path, "--key", "other", "--json").json["run"] != first.json["run"]


def test_a_failure_is_reported_and_retried_when_asked(project: Path, cli: Cli) -> None:
    script = 'if [ -e "$MLCTL_CHECKPOINT_DIR/second" ]; then exit 0; fi; touch "$MLCTL_CHECKPOINT_DIR/second"; exit 3'
    path = job(project, script)
    first = cli("run", path, "--key", "k", "--json")
    assert (first.code, first.json["status"]["exit_code"]) == (1, 3)
    reported = cli("run", path, "--key", "k", "--json")
    assert (reported.code, reported.json["run"], reported.json["made"]) == (1, first.json["run"], False)
    retried = cli("run", path, "--key", "k", "--retry", "--json")
    assert (retried.code, retried.json["name"]) == (0, first.json["name"][:-1] + "1")
    assert cli("run", path, "--key", "k", "--retry", "--json").json["run"] == retried.json["run"]


def test_the_jobs_own_retry_is_spent(project: Path, cli: Cli) -> None:
    answer = cli("run", job(project, "echo try; exit 3", retry={"error": 2}), "--key", "k", "--json")
    assert (answer.code, answer.json["name"][-2:], answer.err.count("try\n")) == (1, "-2", 3)


def test_another_job_under_the_same_key(project: Path, cli: Cli, refused: Callable[..., str]) -> None:
    path = job(project, "true", params={"lr": 1})
    first = cli("run", path, "--key", "k", "--json").json
    said = refused(2, "run", path, "--key", "k", "-p", "lr=2")
    assert said.startswith(
        f"key 'k' names {first['run']}, which succeeded and was started for another version of this job: params changed;"
    )
    assert "--on-change adopt" in said and "--on-change replace" in said
    assert cli("run", path, "--key", "k", "-p", "lr=2", "--on-change", "adopt", "--json").json["run"] == first["run"]
    replaced = cli("run", path, "--key", "k", "-p", "lr=2", "--on-change", "replace", "--json").json
    assert (replaced["made"], replaced["name"][-2:]) == (True, "-1")
    assert cli("run", path, "--key", "k", "-p", "lr=2", "--json").json["run"] == replaced["run"]


# --- while it runs


def test_cancel(cli: Cli, waiting: tuple[str, Path]) -> None:
    url, _ = waiting
    name = Run.parse(url).name
    until(lambda: cli("logs", url).out)
    assert cli("status", url, "--json").json["state"] == "running"
    assert cli("list", "--state", "running", "--json").json[0]["run"] == url
    answer = cli("cancel", url)
    assert (answer.code, answer.out) == (0, f"{name}: cancelled\n")
    assert cli("cancel", url).out == answer.out
    assert cli("wait", url).code == 130
    assert cli("cancel", url, "nope").code == 70


def test_logs_follow_to_the_end(waiting: tuple[str, Path]) -> None:
    url, gate = waiting
    process = start("logs", "-f", url)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"  # while the job is still going on
    gate.touch()
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err) == (0, "opened\n", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_the_job(project: Path, cli: Cli, number: signal.Signals) -> None:
    path = job(project, f"echo ready; while [ ! -e '{project}/gate' ]; do sleep 0.02; done")
    process = start("run", path, "--key", "k")
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    name = re.findall(r"job-\w+-0", err)[0]
    assert err.splitlines()[1:] == [
        f"mlctl: interrupted; the job goes on: mlctl logs -f {name} follows it, mlctl cancel {name} ends it"
    ]
    assert cli("status", name, "--json").json["state"] == "running"
    (project / "gate").touch()
    assert cli("run", path, "--key", "k").code == 0  # and the same command comes back to it


def test_an_interrupt_cancels_where_asked(project: Path, cli: Cli) -> None:
    process = start("run", job(project, "echo ready; sleep 60"), "--key", "k", "--on-interrupt", "cancel")
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert re.fullmatch(r"mlctl: interrupted: job-\w+-0 was cancelled", err.splitlines()[-1])
    assert cli("status", "k", "--json").json["state"] == "cancelled"


def test_an_interrupt_of_a_wait_is_one_line(waiting: tuple[str, Path]) -> None:
    url, _ = waiting
    process = start("-vv", "wait", url)
    held = Path(f"/proc/{process.pid}/fd")

    def sleeps() -> bool:
        """Till the end of the job."""
        for one in held.iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                if "pidfd" in str(one.readlink()):
                    return True
        return False

    until(sleeps)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err.splitlines()[-1:]) == (130, "", ["mlctl: interrupted"])
    assert "Traceback" not in err


# --- as a program among programs


def test_logs_mask_what_run_masks(project: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name, and by URL: where a secret comes from is known of runs in the record, and what a target's `secrets` name of any."""
    config = project / "mlctl.yaml"
    config.write_text("targets: {local: {backend: local, secrets: {OTHER: 'env:ELSEWHERE'}}}\n")
    monkeypatch.setenv("TOKEN", "sesame-1")
    monkeypatch.setenv("ELSEWHERE", "sesame-2")
    path = job(project, 'echo "$TOKEN and $OTHER"', secrets=["TOKEN", "OTHER"])
    assert cli("run", path, "--key", "k").code == 0
    url = cli("describe", "k", "--json").json["run"]
    for name in ("k", url):
        assert cli("logs", name).out == "*** and ***\n"
    record = Path(os.environ["MLCTL_HOME"], "record.jsonl")
    (line,) = record.read_text().splitlines()
    assert "sesame" not in line and json.loads(line)["secrets"] == ["TOKEN", "OTHER"]
    record.unlink()
    assert cli("logs", url).out == "sesame-1 and ***\n"  # nothing here says that TOKEN is one


def test_a_reader_that_goes_away(project: Path, cli: Cli) -> None:
    path = job(project, "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; exit 3")
    for command, codes in ((f"logs {path.stem}", "0"), (f"run {path} --key k", "1")):
        cli("run", path, "--key", "k")
        script = f'"{PROGRAM}" {command} | head -1; echo "${{PIPESTATUS[0]}}"'
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.stdout.splitlines() == ["line 0", codes]
        assert "Traceback" not in done.stderr and "Broken" not in done.stderr


def unread(*args: object) -> int:
    """The exit code of a command whose stdout and stderr nobody reads."""
    read, write = os.pipe()
    os.close(read)
    try:
        command = [PROGRAM, *map(str, args)]
        return subprocess.run(command, stdout=write, stderr=write, timeout=PATIENCE, check=False).returncode
    finally:
        os.close(write)


def test_an_outcome_is_the_exit_code_where_nobody_reads(project: Path, cli: Cli) -> None:
    failing = job(project, "sleep 0.5; exit 3")
    for options in ((), ("--json",)):
        assert unread("run", failing, "--key", "k", *options) == 1
        assert cli("status", "k", "--json").json["state"] == "failed"  # it was waited for
        assert unread("wait", "k", *options) == 1
        assert unread("validate", project / "none.yaml", *options) == 2
        assert unread("cancel", "none", *options) == 70
    assert unread("run", job(project)) == 0


def test_a_cancel_that_nobody_reads_ends_all(project: Path, cli: Cli) -> None:
    runs = [cli("submit", job(project, "sleep 60")).out.strip() for _ in range(3)]
    assert unread("cancel", *runs) == 0
    assert {one["state"] for one in cli("status", *runs, "--json").json} == {"cancelled"}


def test_what_no_terminal_can_show(project: Path) -> None:
    """Bytes that are no UTF-8 in a path, and letters that the terminal lacks."""
    path = project / os.fsdecode(b"j\xff.yaml")
    path.write_text('kind: train\nname: j\ncommand: [sh, -c, "echo é 日"]\n')
    shown = program("validate", path)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.endswith(r"j\udcff.yaml: valid" + "\n")
    ran = program("run", path, env={**os.environ, "PYTHONIOENCODING": "latin-1"}, encoding="latin-1")
    assert (ran.returncode, ran.stdout.splitlines()[0]) == (0, r"é \u65e5")
    wrong = program("run", path, "-p", os.fsdecode(b"a=\xff"))
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)


def test_a_home_that_is_no_utf_8(project: Path, tmp_path: Path) -> None:
    env = {**os.environ, "MLCTL_HOME": os.fsdecode(os.fsencode(tmp_path) + b"/h\xff")}
    submitted = program("submit", job(project), "--key", "k", env=env)
    assert submitted.stdout.startswith("local://") and "h%FF" in submitted.stdout, submitted.stderr
    assert program("wait", submitted.stdout.strip(), env=env).returncode == 0


def test_a_parameter_that_is_no_utf_8(project: Path) -> None:
    path = job(project, 'cat "$MLCTL_PARAMS_FILE"', params={"s": ""})
    ran = program("run", path, "-p", os.fsdecode(b"s=\xff"), "--json")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["status"]["state"] == "succeeded"


def imported(code: str) -> set[str]:
    """The modules that `code` brings into a fresh Python."""
    script = f"import sys; before = set(sys.modules)\n{code}\nprint(chr(0) + ' '.join(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=True)
    return set(done.stdout.rpartition("\0")[2].split())


HEAVY = {"yaml", "jsonschema", "platformdirs", "packaging", "tarfile", "boto3", "kubernetes"}


def test_import_costs_next_to_nothing() -> None:
    found = imported("import mlctl")
    assert {name for name in found if name.startswith("mlctl")} == {"mlctl"}
    assert not found & (HEAVY | {"click", "json", "logging", "subprocess", "importlib.metadata"})


def test_help_imports_no_command() -> None:
    found = imported("from mlctl.cli import run; run(['--help'])")
    assert {name for name in found if name.startswith("mlctl")} == {
        "mlctl",
        "mlctl.cli",
        "mlctl.errors",
        "mlctl.plugins",
    }
    assert not found & HEAVY


def test_a_command_brings_only_its_own_group() -> None:
    found = imported("from mlctl.cli import run; run(['schema', 'config'])")
    assert "mlctl.cli.project" in found
    assert not found & {"mlctl.cli.jobs", "mlctl.cli.runs", "jsonschema", "importlib.metadata", "mlctl.scaffold"}


SLOW = {
    "asyncio", "concurrent.futures.thread", "difflib", "email", "http", "importlib.metadata", "multiprocessing", "packaging", "ssl",
    "urllib.request",
}  # fmt: skip
"""What takes long to import, and what no common command needs."""
SCHEMAS = {"attr", "jsonschema", "typing_extensions", "zipfile"}
"""The same, and what checks a file."""


def test_validate_imports_what_reads_job_files(project: Path) -> None:
    found = imported(f"from mlctl.cli import run; assert run(['validate', {str(job(project))!r}]) == 0")
    assert {name.partition(".")[2] for name in found if name.startswith("mlctl.")} == {
        "cli", "cli.show", "cli.validate", "command", "dependencies", "document", "errors", "job", "jobfile", "kinds", "plugins",
        "schemas", "units",
    }  # fmt: skip
    assert found & (SLOW | {"hashlib", "platformdirs", "socket", "subprocess", "tarfile"}) == set()


@pytest.mark.parametrize("command", ["image build --dry-run", "plan", "run", "submit"])
def test_a_command_imports_nothing_slow(project: Path, command: str) -> None:
    found = imported(f"from mlctl.cli import run; assert run([*{command.split()!r}, {str(job(project))!r}]) == 0")
    assert "mlctl.backends.local" in found
    assert found & SLOW == set()


def test_image_build_imports_nothing_of_runs_that_go_on(project: Path) -> None:
    found = imported(
        f"from mlctl.cli import run; assert run(['image', 'build', '--dry-run', {str(job(project))!r}]) == 0"
    )
    assert not found & {"mlctl.api", "mlctl.drive", "mlctl.ledger", "mlctl.lifecycle", "mlctl.stage", "mlctl.watch"}


def test_status_needs_no_schema(done: str) -> None:
    """Where no file is to be checked, what checks files isn't imported."""
    found = imported(f"from mlctl.cli import run; run(['status', {done!r}])")
    assert found & (SLOW | SCHEMAS | {"tarfile", "boto3", "kubernetes"}) == set()


def test_every_public_name_is_there() -> None:
    import mlctl

    assert all(getattr(mlctl, name) is not None for name in mlctl.__all__)
    assert issubclass(mlctl.InvalidJob, MlctlError)
    assert set(mlctl.__all__) <= set(dir(mlctl))
    with pytest.raises(AttributeError, match="module 'mlctl' has no attribute 'nothing'"):
        _ = mlctl.nothing


def test_cancel_answers_in_json(done: str, cli: Cli) -> None:
    answer = cli("cancel", done, "--json")
    assert answer.code == 0
    assert [(one["run"], one["state"]) for one in json.loads(answer.out)] == [(done, "succeeded")]


def test_status_answers_about_what_it_found(cli: Cli, done: str) -> None:
    """And says in its place the error of each that it didn't find; the first one's code is its own."""
    nope = "'nope': no run, job or key of that name in this machine's record; mlctl list shows it; a URL works too"
    answer = cli("status", "nope", "k1", "http://x")
    lines = answer.out.splitlines()
    assert (answer.code, answer.err, len(lines)) == (70, "", 4)
    assert re.fullmatch(rf"nope +\S+ +{re.escape(nope)}", lines[1])
    assert re.match(rf"{Run.parse(done).name} +succeeded ", lines[2]) and "got 'http://x', expected" in lines[3]
    as_json = cli("status", "http://x", "k1", "nope", "k1", "--json")
    assert (as_json.code, as_json.err) == (2, "")
    assert [(one["run"], one["state"]) for one in as_json.json] == [
        ("http://x", None), (done, "succeeded"), ("nope", None), (done, "succeeded"),
    ]  # fmt: skip
    assert as_json.json[2]["message"] == nope
    assert re.search(r"\na/b +\S+ +'a/b': no run", cli("status", "nope", "a/b").out)


GOOD = {"run": "local://h/x/t-0", "job": "t", "kind": "train", "target": "local", "key": "k", "time": 1.5}


@pytest.mark.parametrize(
    "line",
    [
        *(json.dumps({**GOOD, name: value}) for name, value in (
            ("run", "x"), ("run", 5), ("run", None), ("job", 5), ("kind", None), ("target", ["a"]), ("key", 5),
            ("time", "now"), ("time", None), ("time", float("nan")), ("time", 10**400),
            ("secrets", 5), ("secrets", "AB"), ("secrets", [5]),
        )),
        "5", "null", "[]", "{}", '"x"', "[" * 100_000,
    ],
)  # fmt: skip
def test_a_line_of_the_record_that_is_none_is_passed_over(cli: Cli, done: str, home: Path, line: str) -> None:
    with (home / "record.jsonl").open("a") as record:
        record.write(f"{line}\n")
    assert [one["run"] for one in cli("list", "--json").json] == [done]
    for words in (["list"], ["status", "train"], ["status", done], ["logs", "k1"]):
        answer = cli(*words)
        assert (answer.code, answer.err) == (0, ""), answer


class Account(Local):
    """This machine, where each target has an account, or a scope, of its own, as platforms elsewhere do."""

    name, takes = "account", Local.takes | {"account"}
    part = "account"

    def submit(self, plan: Admitted, stamp: Stamp) -> Run:
        run = super().submit(plan, stamp)
        return replace(run, **{self.part: f"{getattr(run, self.part)}-{self.settings.values['account']}"})

    def reaches(self, run: Run) -> bool:
        return str(getattr(run, self.part)).endswith(f"-{self.settings.values['account']}")

    def status(self, runs: Sequence[Run]) -> dict[Run, Status | MlctlError]:
        own = f"-{self.settings.values['account']}"
        here = {one: replace(one, **{self.part: getattr(one, self.part).removesuffix(own)}) for one in runs}
        said = super().status([run for one, run in here.items() if one != run])
        return {one: said.get(here[one]) or Unavailable(f"{one}: not of {own}") for one in runs}


ACCOUNTS = {name: {"backend": "account", "account": name} for name in ("dev", "prod")}


@pytest.fixture(params=["account", "scope"])
def accounts(project: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> list[str]:
    """Two accounts on one platform, or two scopes of one, the targets dev and prod. Gives the URL of a run of each."""
    monkeypatch.setattr(Account, "part", request.param)
    monkeypatch.setattr(plugins, "_brought", lambda group: {"account": SimpleNamespace(load=lambda: Account)})
    (project / "mlctl.yaml").write_text(json.dumps({"targets": ACCOUNTS}))
    urls = []
    for name in ACCOUNTS:
        assert cli("submit", job(project), "--target", name, "--key", name).code == 0
        urls.append(cli("wait", name, "--json").json["run"])
    return urls


def test_each_target_is_asked_about_its_own_runs(cli: Cli, accounts: list[str]) -> None:
    """The record knows which target reaches which run."""
    answer = cli("status", *ACCOUNTS, "--json")
    assert (answer.code, [one["state"] for one in answer.json]) == (0, ["succeeded"] * 2)
    assert {one["target"]: one["state"] for one in cli("list", "--json").json} == dict.fromkeys(ACCOUNTS, "succeeded")


def test_a_url_alone_finds_the_target_that_reaches_it(
    cli: Cli,
    refused: Callable[..., str],
    accounts: list[str],
    project: Path,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From anywhere: no record has it, and a target that can't be asked, as where its SDK is missing, spoils nothing."""
    (home / "record.jsonl").unlink()
    targets = {"dev": ACCOUNTS["dev"], "broken": {"backend": "account", "nosuch": 1}, "prod": ACCOUNTS["prod"]}
    (project / "mlctl.yaml").write_text(json.dumps({"targets": targets}))
    dev, prod = accounts
    for url in accounts:
        assert cli("wait", url).out.endswith(": succeeded\n")
    asked: list[str] = []
    real = Account.reaches
    monkeypatch.setattr(Account, "reaches", lambda self, run: asked.append(self.settings.target) or real(self, run))
    assert cli("status", dev, prod, prod, f"{prod[:-1]}7").code == 70
    assert asked == ["dev", "dev", "prod"]  # once for all the runs of an account

    nobodys = str(replace(Run.parse(prod), account="other", scope="other"))
    assert "targets.broken.nosuch: " in refused(2, "wait", nobodys)  # which may be the one, as the others are not
    (project / "mlctl.yaml").write_text(json.dumps({"targets": ACCOUNTS}))
    assert "not of -dev" in refused(75, "wait", nobodys)  # of the first
    (project / "mlctl.yaml").write_text(json.dumps({"targets": {"prod": ACCOUNTS["prod"]}}))
    monkeypatch.setattr(Account, "reaches", None)  # where there is no other, nothing is asked
    assert cli("wait", prod).code == 0


def test_a_target_that_was_renamed_still_reaches_its_runs(cli: Cli, accounts: list[str], project: Path) -> None:
    """The record says dev, and what is called so now is another account."""
    swapped = {"dev": ACCOUNTS["prod"], "prod": ACCOUNTS["dev"]}
    (project / "mlctl.yaml").write_text(json.dumps({"targets": swapped}))
    assert {one["state"] for one in cli("list", "--json").json} == {"succeeded"}
    assert cli("wait", accounts[0]).code == 0
