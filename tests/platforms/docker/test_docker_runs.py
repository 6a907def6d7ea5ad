"""What a container gets and leaves: limits, users, files, requirements, logs; what is asked of the engine; what gc removes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import base_image
import docker_engine
import pytest
from docker_harness import DockerHarness
from docker_jobs import execution, started
from running import ended, log, until

from mlctl.errors import InvalidConfig, InvalidJob, Unavailable, Unsupported
from mlctl.runs import Reason, Run, State, Status

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

LATER = time.time() + 1e9


# --- what the job gets


def test_limits(harness: DockerHarness) -> None:
    made = harness.make()
    run = execution(
        made,
        command={"shell": "df -k /dev/shm | tail -1"},
        resources={"cpu": 0.5, "memory": "64Mi", "shm": "32Mi"},
        labels={"team": "growth"},
        tags=["a", "b"],
    ).start().run  # fmt: skip
    assert ended(made, run).state is State.SUCCEEDED
    assert log(made, run)[0].split()[1] == str(32 * 1024)
    native = harness.client.containers.get(run.name)
    limits = native.attrs["HostConfig"]
    assert (limits["NanoCpus"], limits["Memory"], limits["MemorySwap"]) == (500_000_000, 64 << 20, 64 << 20)
    assert (limits["AutoRemove"], limits["RestartPolicy"]["Name"]) == (False, "no")
    assert (native.labels["team"], native.labels["mlctl.tags"]) == ("growth", "a b")


@pytest.mark.parametrize("user", ["1234:1234", "nobody-here", "root"])
def test_users(harness: DockerHarness, user: str) -> None:
    """Whoever the job is can write its outputs, metrics and checkpoints, and read its secrets; the root is read only."""
    harness.values |= {"user": user, "read_only": True}
    made = harness.make()
    script = (
        'id -u; touch "$MLCTL_OUTPUT_MODEL/made" "$MLCTL_CHECKPOINT_DIR/made" /tmp/made && [ ${#TOKEN} = 13 ]\n'
        """echo '{"name": "loss", "value": 1}' > "$MLCTL_METRICS_FILE"; ! touch /made"""
    )
    os.environ["TOKEN"] = harness.secret
    run = started(made, script, outputs={"model": {}}, secrets=["TOKEN"])
    status = ended(made, run)
    if user == "nobody-here":  # the image knows no such user
        assert (status.state, status.reason) == (State.FAILED, Reason.INFRA)
        assert "nobody-here" in status.message
        return
    assert status.state is State.SUCCEEDED, log(made, run)
    result = made.result(run)
    assert (result.metrics, [path.name for path in Path(result.outputs["model"]).iterdir()]) == (
        {"loss": 1.0},
        ["made"],
    )
    assert ("0" if user == "root" else "1234") in log(made, run)
    assert Path(result.outputs["model"], "made").stat().st_uid == (0 if user == "root" else 1234)
    assert harness.secret not in json.dumps(harness.client.containers.get(run.name).attrs)


@pytest.mark.parametrize("user", ["1234:1234", "root", ""])
def test_user_of_the_image(harness: DockerHarness, user: str) -> None:
    """The same for whom the image names. Only for another than root something has to be put."""
    base = harness.client.containers.create("base", "true")
    base.commit("theirs", changes=f"USER {user}" if user else None)
    base.remove()
    harness.values |= {"image": "theirs", "read_only": True}
    made = harness.make()
    harness.proxy.calls.clear()
    script = (
        'id -u; touch "$MLCTL_OUTPUT_MODEL/made" "$MLCTL_OUTPUT_ELSEWHERE/made" "$MLCTL_CHECKPOINT_DIR/made" &&\n'
        """echo '{"name": "loss", "value": 1}' > "$MLCTL_METRICS_FILE"; cat "$MLCTL_PARAMS_FILE" """
    )
    outputs = {"model": {}, "elsewhere": {"uri": str(harness.home / "elsewhere")}}
    run = started(made, script, outputs=outputs, params={"lr": 0.5})
    assert ended(made, run).state is State.SUCCEEDED, log(made, run)
    owner = 1234 if user == "1234:1234" else 0
    assert log(made, run) == [str(owner), '{"lr": 0.5}']
    result = made.result(run)
    assert result.metrics == {"loss": 1.0}
    assert {Path(at, "made").stat().st_uid for at in result.outputs.values()} == {owner}
    assert [call.split()[0] for call in harness.proxy.calls].count("PUT") == (1 if owner else 0)


HOSTILE = """'"\\'"'"'\\"$(touch /tmp/x)`id`${HOME}\\n%s%d%%\t\n\r*?[a]~!#&;|<>\x01ü☃\U0001f600 """


@pytest.mark.parametrize("shell", ["busybox", "dash", "bash"])
def test_params_arrive_as_they_are(harness: DockerHarness, shell: str) -> None:
    """Hostile ones, and as many as one word of a process takes, by the container's record; more by an archive."""
    program = shutil.which(shell)
    if not program:
        pytest.skip(f"no {shell} on this machine")
    if shell != "busybox":
        base = harness.client.containers.create("base", "true")
        tree = base_image._Tree()
        tree.add(program, "/bin/sh")
        base.put_archive("/", tree.bytes())
        base.commit(shell)
        base.remove()
        harness.values["image"] = shell
    made = harness.make()
    script = (
        "import hashlib, json, os, sys\n"
        "read = json.load(open(os.environ['MLCTL_PARAMS_FILE']))\n"
        "print(hashlib.sha256(json.dumps(read).encode()).hexdigest(), sys.argv[1:], *sorted(n for n in os.environ if n[0] == '_'))"
    )
    least = len(json.dumps({"hostile": HOSTILE, "filled": ""}))
    for size, puts in ((0, 0), (100_000 - least, 0), (100_001 - least, 1), (500_000, 1)):
        params = {"hostile": HOSTILE, "filled": "%" * size}
        harness.proxy.calls.clear()
        run = execution(made, command=["python3", "-c", script, "a b", ""], params=params).start().run
        assert ended(made, run).state is State.SUCCEEDED, log(made, run)
        digest = hashlib.sha256(json.dumps(params).encode()).hexdigest()
        assert log(made, run)[0].removesuffix(" _") == f"{digest} ['a b', '']"
        assert [call.split()[0] for call in harness.proxy.calls].count("PUT") == puts


def test_inputs_and_outputs_with_odd_names(harness: DockerHarness, tmp_path: Path) -> None:
    """An output of one job is an input of the next; a file keeps its name; nothing can be written to."""
    odd = tmp_path / "a 'b': ü☃.txt"
    odd.write_text("read")
    made = harness.make()
    first = started(
        made, 'cat "$MLCTL_INPUT_DATA" > "$MLCTL_OUTPUT_COPY/copied"; ! echo no > "$MLCTL_INPUT_DATA"',
        inputs={"data": str(odd)}, outputs={"copy": {"uri": str(tmp_path / "elsewhere")}},
    )  # fmt: skip
    assert ended(made, first).state is State.SUCCEEDED, log(made, first)
    at = made.result(first).outputs["copy"]
    assert at == f"{tmp_path}/elsewhere/{first.name}/copy"
    second = started(made, 'cat "$MLCTL_INPUT_DATA/copied"', inputs={"data": at})
    assert ended(made, second).state is State.SUCCEEDED
    assert log(made, second) == ["read"]
    assert odd.read_text() == "read"


def test_addresses_that_no_engine_mounts(harness: DockerHarness, tmp_path: Path) -> None:
    made = harness.make()
    with pytest.raises(Unsupported, match=r"inputs\.data: got 's3://bucket/x'"):
        execution(made, inputs={"data": "s3://bucket/x"}).plan()
    with pytest.raises(Unsupported, match=r"outputs\.model\.uri"):
        execution(made, outputs={"model": {"uri": "s3://bucket/x"}}).plan()
    with pytest.raises(InvalidJob, match="':'"):
        execution(made, outputs={"model": {"uri": "/a:b"}}).plan()
    with pytest.raises(InvalidJob, match=r"env\.a-b"):
        execution(made, env={"a-b": "c"}).plan()


def test_labels_of_mlctls_own_are_refused(harness: DockerHarness) -> None:
    """They would be lost in silence, or be what runs are found by."""
    with pytest.raises(InvalidJob, match=r"labels\.mlctl\.stem: labels that begin so are mlctl's own; choose another"):
        execution(harness.make(), labels={"mlctl.stem": "x"}).plan()


def test_code_is_the_runs_own(harness: DockerHarness, tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "job.py").write_text("print(open('data.txt').read(), __file__)\n")
    (code / "data.txt").write_text("one")
    made = harness.make()
    run = execution(made, code=str(code), command=["python", "job.py"]).start().run
    (code / "data.txt").write_text("two")
    assert ended(made, run).state is State.SUCCEEDED, log(made, run)
    assert log(made, run) == ["one /mlctl/code/job.py"]


def test_an_engine_elsewhere_wants_a_folder(harness: DockerHarness) -> None:
    harness.values["host"] = "tcp://127.0.0.1:1"
    with pytest.raises(Unavailable):  # it is asked for its name first
        execution(harness.make()).plan()
    with pytest.raises(InvalidConfig, match=r"targets\.box\.root: the engine at tcp://127.0.0.1:1 is another machine"):
        list(harness.make().prune(0, True))


# --- requirements


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_requirements_are_one_layer(harness: DockerHarness) -> None:
    """Two at once build it once; a third finds it; another user than root sees it."""
    harness.values |= {"network": "host", "user": "1234"}
    runs: list[Run] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            made = harness.make()
            wanted = {
                "requirements": ["six==1.17.0"],
                "command": ["python", "-c", "import six; print(six.__version__)"],
            }
            runs.append(execution(made, **wanted).start().run)
        except BaseException as error:  # shown by the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    run()
    assert not errors
    made = harness.make()
    for one in runs:
        assert ended(made, one).state is State.SUCCEEDED, log(made, one)
        assert log(made, one) == ["1.17.0"]
    ran = {call for call in harness.proxy.calls if call.endswith("/start")}
    assert len(ran) == len(runs) + 1
    (layer,) = harness.client.images.list("mlctl/env")
    native = {one.name: one for one in harness.client.containers.list(all=True)}
    assert native.keys() == {one.name for one in runs}
    assert native[runs[-1].name].attrs["Image"] == layer.id
    assert not [line for line in made.prune(LATER, True) if line == f"layer {layer.tags[0]}"]
    assert len([line for line in made.prune(LATER, False) if line.startswith("run ")]) == 3
    list(made.prune(LATER, False))
    assert not harness.client.images.list(filters={"label": "mlctl.env"})


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_requirements_that_are_not_there(harness: DockerHarness) -> None:
    harness.values["network"] = "host"
    with pytest.raises(InvalidJob, match=r"requirements: ERROR: .*six"):
        started(harness.make(), requirements=["six==0.0.0.1"])
    harness.values["network"] = "none"
    with pytest.raises(Unavailable, match="requirements: "):
        started(harness.make(), requirements=["six==1.16.0"])
    assert not harness.client.containers.list(all=True)


def test_requirements_whose_container_is_killed(harness: DockerHarness) -> None:
    """By the engine's end, or by hand: that says nothing of the requirements."""
    harness.values["network"] = "host"
    with socket.create_server(("127.0.0.1", 0)) as index, ThreadPoolExecutor() as pool:  # which never answers
        lines = [f"--index-url http://127.0.0.1:{index.getsockname()[1]}/simple", "six==1.17.0"]
        work = pool.submit(started, harness.make(), requirements=lines)
        (builder,) = until(lambda: harness.client.containers.list(filters={"label": "mlctl.env"}))
        builder.kill()
        with pytest.raises(Unavailable, match=r"^requirements: .*was ended from outside, exit code 137; try again$"):
            work.result(60)
    assert not harness.client.containers.list(all=True)


def test_requirements_where_there_is_no_such_network(harness: DockerHarness) -> None:
    harness.values["network"] = "nowhere"
    with pytest.raises(InvalidConfig, match="could not be started: network nowhere not found; make it"):
        started(harness.make(), requirements=["six==1.17.0"])
    assert not harness.client.containers.list(all=True)


# --- logs


def test_logs_go_on_at_the_cursor(harness: DockerHarness) -> None:
    """Three megabytes in several batches, a line longer than the engine's own pieces, an end without a line break."""
    made = harness.make()
    script = (
        "import sys\n"
        "for n in range(30000): print(n, 'x' * 90)\n"
        "print('y' * 100_000); print('err', file=sys.stderr); sys.stdout.write('last')"
    )
    run = execution(made, command=["python3", "-u", "-c", script]).start().run
    ended(made, run)
    batches, cursor = [], ""
    while (logs := made.logs(run, cursor)).lines:
        batches.append(logs.lines)
        cursor = logs.cursor
    lines = [line for batch in batches for line in batch if line != "err"]
    assert len(batches) > 2
    assert lines == [*(f"{n} {'x' * 90}" for n in range(30000)), "y" * 100_000, "last"]


def test_logs_while_it_runs(harness: DockerHarness) -> None:
    """Each line once, whenever it is asked; none before its end."""
    made = harness.make()
    run = started(made, "printf half; sleep 2; echo ' whole'; for n in 1 2 3 4 5 6; do echo $n; sleep 0.5; done")
    lines: list[str] = []
    cursor = ""

    def over() -> bool:
        nonlocal cursor
        status = made.status([run])[run]
        logs = made.logs(run, cursor)
        lines.extend(logs.lines)
        cursor = logs.cursor
        return isinstance(status, Status) and status.state.terminal

    until(over)
    assert lines == ["half whole", "1", "2", "3", "4", "5", "6"]


# --- what is asked


def test_many_runs_are_one_call(harness: DockerHarness) -> None:
    made = harness.make()
    runs = [started(made, "sleep 600") for _ in range(5)]
    harness.proxy.calls.clear()
    answer = made.status(runs)
    assert {status.state for status in answer.values()} == {State.RUNNING}  # type: ignore[union-attr]
    assert len(harness.proxy.calls) == 1
    harness.client.containers.get(runs[0].name).kill()
    harness.proxy.calls.clear()
    assert made.status(runs)[runs[0]].state is State.FAILED  # type: ignore[union-attr]
    assert len(harness.proxy.calls) == 3


# --- gc


def test_prune(harness: DockerHarness) -> None:
    made = harness.make()
    done = started(made, 'touch "$MLCTL_OUTPUT_MODEL/made"', outputs={"model": {}})
    ended(made, done)
    going = started(made, "sleep 600")
    at = Path(made.result(done).outputs["model"])
    assert list(made.prune(time.time() - 3600, False)) == []
    line = f"run {done.name.rpartition('-')[0]}, 1 attempts"
    assert list(made.prune(LATER, True)) == [line]
    assert (at / "made").exists()
    assert list(made.prune(LATER, False)) == [line]
    assert not at.parents[1].exists()
    assert [one.name for one in harness.client.containers.list(all=True)] == [going.name]
    assert list(made.prune(LATER, False)) == []
    harness.client.containers.get(going.name).remove(force=True)  # by hand, without its volumes
    assert len(harness.client.volumes.list()) == 1
    left = f"left by {going.name.rpartition('-')[0]}: volume "
    assert [line.startswith(left) for line in made.prune(LATER, False)] == [True]
    assert harness.client.volumes.list() == []


def test_prune_goes_on_after_a_run_whose_files_stay(harness: DockerHarness) -> None:
    """Its image is gone, so no container can remove them; that is told at the end. One that never began has none."""
    docker_engine.empty_image(harness.client, "empty")
    harness.client.containers.create("base", "true").commit("mortal")
    made = harness.make()
    bare, gone, done = started(made, image="empty", code="."), started(made, image="mortal", code="."), started(made)
    for run in (gone, done):
        ended(made, run)
    harness.client.images.remove("mortal", force=True)
    lines = []
    with pytest.raises(Unavailable, match=rf"runs/{gone.name.rpartition('-')[0]}: .*No such image"):
        for line in made.prune(LATER, False):
            lines.append(line)
    assert sorted(lines) == sorted(f"run {run.name.rpartition('-')[0]}, 1 attempts" for run in (bare, done))
    assert gone.name in [one.name for one in harness.client.containers.list(all=True)]


# --- settings


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("pull", "often", "expected missing, always or never"),
        ("user", "me;you", "expected USER or USER:GROUP"),
        ("grace", -1, "expected seconds"),
        ("read_only", "yes", "expected true or false"),
        ("image", 3, "expected the name of an image"),
        ("nework", "host", "did you mean 'network'"),
    ],
)
def test_settings_are_checked(harness: DockerHarness, name: str, value: object, text: str) -> None:
    harness.values[name] = value
    with pytest.raises(InvalidConfig, match=rf"targets\.box\.{name}: .*{text}"):
        harness.make()


def test_root_is_a_path(harness: DockerHarness) -> None:
    harness.values["root"] = "here"
    with pytest.raises(InvalidConfig, match=r"targets\.box\.root: got 'here'"):
        execution(harness.make()).plan()
