"""What goes wrong with an engine, a container or a caller: the right reason, no hang, no second job, no lie."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import docker
import docker_engine
import pytest
from docker_harness import DockerHarness
from docker_jobs import execution, started
from running import PATIENCE, ended, log, until

from mlctl import watch
from mlctl.backends import docker as docker_backend
from mlctl.backends.docker import states as docker_states
from mlctl.backends.docker.engine import Engine, archive
from mlctl.errors import InvalidConfig, InvalidJob, MlctlError, RunNotFound, Unauthorized, Unavailable
from mlctl.runs import Reason, Run, State, Status

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


class _Registry(BaseHTTPRequestHandler):
    """Has no image; says so, or wants to know who asks, by the image's name."""

    def do_GET(self) -> None:
        status, code = (200, "") if self.path == "/v2/" else (404, "MANIFEST_UNKNOWN")
        if "/private/" in self.path:
            status, code = 401, "UNAUTHORIZED"
        body = json.dumps({"errors": [{"code": code, "message": code.lower().replace("_", " ")}]}).encode()
        self.send_response(status)
        self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def registry() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Registry)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


# --- images


@pytest.mark.parametrize(
    ("image", "error", "text"),
    [
        ("nothing:1", InvalidJob, "manifest unknown"),
        ("private/nothing:1", Unauthorized, "unauthorized"),
    ],
)
def test_image_that_the_registry_refuses(
    harness: DockerHarness, registry: str, image: str, error: type[MlctlError], text: str
) -> None:
    with pytest.raises(error, match=f"image: .*{text}"):
        started(harness.make(), image=f"{registry}/{image}", code=".")
    assert not harness.client.containers.list(all=True)


def test_image_without_a_registry_to_ask(harness: DockerHarness) -> None:
    with pytest.raises(Unavailable, match="could not be pulled"):
        started(harness.make(), image="127.0.0.1:1/nothing:1", code=".")
    harness.values["pull"] = "never"
    with pytest.raises(InvalidJob, match="has none of that name"):
        started(harness.make(), image="127.0.0.1:1/nothing:1", code=".")


def test_image_without_a_shell(harness: DockerHarness) -> None:
    docker_engine.empty_image(harness.client, "empty")
    made = harness.make()
    status = ended(made, started(made, image="empty", code="."))
    assert (status.state, status.reason) == (State.FAILED, Reason.IMAGE)
    assert "/bin/sh" in status.message


def test_image_with_another_python(harness: DockerHarness) -> None:
    made = harness.make()
    run = started(made, "echo never", python="3.99")
    assert ended(made, run).reason is Reason.IMAGE
    (line,) = log(made, run)
    assert "asks for Python 3.99, and the image has 3." in line


def test_image_in_which_nothing_can_be_made(harness: DockerHarness) -> None:
    """A file is where a folder has to be: it ends before the job begins, and nobody is blamed for a kill."""
    base = harness.client.containers.create("base", "true")
    base.put_archive(
        "/", archive([("mlctl", 0o755, None), ("mlctl/run", 0o755, None), ("mlctl/run/metrics", 0o644, b"")])
    )
    base.commit("odd")
    base.remove()
    made = harness.make()
    run = started(made, "echo never", image="odd")
    status = ended(made, run)
    assert (status.state, status.reason, status.exit_code) == (State.FAILED, Reason.INFRA, None)
    assert "could not make its folders" in status.message
    assert [line for line in log(made, run) if "/mlctl/run/metrics" in line]
    assert "never" not in log(made, run)


def test_image_that_can_not_tell_the_time(harness: DockerHarness) -> None:
    """Then it can't tell, either, whether it is too late, and begins nothing."""
    base = harness.client.containers.run("base", ["rm", "/bin/date"], network_mode="none", detach=True)
    base.wait()
    base.commit("timeless", changes="CMD []")
    base.remove()
    made = harness.make()
    run = started(made, "echo never", image="timeless")
    assert ended(made, run).reason is Reason.ABANDONED
    (line,) = [line for line in log(made, run) if "date" in line]
    assert "not found" in line
    assert "never" not in log(made, run)


# --- the job


def test_out_of_memory(harness: DockerHarness) -> None:
    made = harness.make()
    command = ["python3", "-c", "print(len(bytearray(1 << 30)))"]
    run = execution(made, command=command, resources={"memory": "32Mi"}).start().run
    status = ended(made, run)
    assert (status.state, status.reason, status.exit_code) == (State.FAILED, Reason.OOM, 137)


def test_killed_by_itself_is_not_out_of_memory(harness: DockerHarness) -> None:
    made = harness.make()
    status = ended(made, started(made, "kill -KILL $$"))
    assert (status.reason, status.exit_code) == (Reason.ERROR, 137)


def test_command_that_is_not_there(harness: DockerHarness) -> None:
    made = harness.make()
    run = execution(made, command=["no-such-program"]).start().run
    assert ended(made, run).exit_code == 127


@pytest.mark.parametrize("why", ["cancel", "timeout"])
def test_job_that_does_not_want_to_end(harness: DockerHarness, why: str) -> None:
    """It ignores SIGTERM, and so does what it left behind in a session of its own."""
    made = harness.make()
    stubborn = "trap '' TERM; (setsid sh -c 'trap \"\" TERM; sleep 600' &); echo up; sleep 600"
    run = started(made, stubborn, "stubborn", timeout="2s" if why == "timeout" else "1h")
    until(lambda: "up" in log(made, run))
    if why == "cancel":
        made.cancel(run)
        (found,) = made.find(execution(made, "stubborn").key)
        assert found.status.state is State.STOPPING
    status = ended(made, run)
    assert status.reason is (Reason.CANCELLED if why == "cancel" else Reason.TIMEOUT)
    assert status.exit_code == 137
    assert not harness.native(run).alive


def test_job_that_ends_itself_in_the_grace(harness: DockerHarness) -> None:
    harness.values["grace"] = 60
    made = harness.make()
    run = started(made, "trap 'echo saved; exit 0' TERM; echo up; while :; do sleep 0.1; done")
    until(lambda: "up" in log(made, run))
    made.cancel(run)
    status = ended(made, run)
    assert (status.state, status.exit_code) == (State.CANCELLED, 0)
    assert "saved" in log(made, run)


def test_cancel_by_clocks_that_differ(harness: DockerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """The grace is the engine's to count: who asks again on a machine whose clock is ahead cuts nothing short."""
    made = harness.make()
    run = started(made, "trap 'sleep 1; echo saved; exit 0' TERM; echo up; while :; do sleep 0.1; done")
    until(lambda: "up" in log(made, run))
    with monkeypatch.context() as there:
        real = time.time
        there.setattr(time, "time", lambda: real() - 600)
        made.cancel(run)
    made.cancel(run)
    status = ended(made, run)
    assert (status.state, status.exit_code) == (State.CANCELLED, 0)
    assert "saved" in log(made, run)


# --- by hand


def test_container_stopped_by_hand(harness: DockerHarness) -> None:
    made = harness.make()
    run = started(made, "trap 'echo told; exit 0' TERM; echo up; while :; do sleep 0.1; done")
    until(lambda: "up" in log(made, run))
    harness.client.containers.get(run.name).stop()
    status = ended(made, run)
    assert (status.state, status.reason) == (State.FAILED, Reason.INFRA)
    assert "told" in log(made, run)


def test_container_killed_by_hand(harness: DockerHarness) -> None:
    made = harness.make()
    run = started(made, "sleep 600")
    harness.client.containers.get(run.name).kill()
    status = ended(made, run)
    assert (status.state, status.reason) == (State.FAILED, Reason.INFRA)


def test_container_removed_by_hand(harness: DockerHarness) -> None:
    made = harness.make()
    run = started(made, "sleep 600")
    harness.client.containers.get(run.name).remove(force=True)
    with pytest.raises(RunNotFound, match="removed"):
        watch.until_done(made, run, PATIENCE)


@contextlib.contextmanager
def _unremovable(container: Any) -> Iterator[None]:
    """Meanwhile the engine can't remove its files, and what tries leaves it dead."""
    upper = container.attrs["GraphDriver"]["Data"]["UpperDir"]
    if not shutil.which("chattr") or subprocess.run(["chattr", "+i", upper], check=False).returncode:
        pytest.skip(f"the disk of {upper} has no files that can't be removed")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", upper], check=True)


@pytest.mark.parametrize("shell", ["touch /here", "touch /here; echo up; sleep 600"])
def test_container_removed_half_way(harness: DockerHarness, shell: str) -> None:
    """It never runs again, and how it ended can't be read any more: that is told, with what to do, and the next attempt may
    begin. Whoever removes it may succeed later, gc for one."""
    made = harness.make()
    work = execution(made, "half", command={"shell": shell})
    run = work.start().run
    if "up" in shell:
        until(lambda: "up" in log(made, run))
    else:
        assert ended(made, run).state is State.SUCCEEDED
    container = harness.client.containers.get(run.name)
    with _unremovable(container):
        with pytest.raises(docker.errors.APIError, match="failed to remove root filesystem"):
            container.remove(force=True, v=True)
        (found,) = made.find(work.key)
        status = ended(made, run)
        assert found.status == status
        assert (status.state, status.reason, status.exit_code) == (State.FAILED, Reason.INFRA, None)
        assert status.message == (
            "its container is dead: the engine could remove but half of it, and how the job ended is lost with that; "
            f"docker rm -f {run.name}"
        )
        made.cancel(run)
        for ask in (made.logs, made.result):
            with pytest.raises(RunNotFound, match=r"is dead: .* its log and its metrics are lost"):
                ask(run)
        other = started(made, key="whole")
        ended(made, other)
        lines = []
        with pytest.raises(Unavailable, match=r"the engine failed: .* failed to remove root filesystem"):
            for line in made.prune(_later(), False):
                lines.append(line)
        assert lines == [f"run {other.name.rpartition('-')[0]}, 1 attempts"]
        work.again = True
        following = work.start()
        assert (following.made, following.run.attempt) == (True, 1)
        made.cancel(following.run)
        ended(made, following.run)
    assert list(made.prune(_later(), False)) == [f"run {run.name.rpartition('-')[0]}, 2 attempts"]
    assert not harness.client.containers.list(all=True)


def test_draft_removed_half_way(harness: DockerHarness) -> None:
    """As by who was interrupted before the claim: gc removes it once the engine can."""
    _killed(harness, "rename", secrets=["PATH"])
    (draft,) = harness.client.containers.list(all=True)
    made = harness.make()
    with _unremovable(draft):
        with pytest.raises(docker.errors.APIError):
            draft.remove(v=True)
        with pytest.raises(Unavailable, match="failed to remove root filesystem"):
            list(made.prune(_later(), False))
    assert list(made.prune(_later(), False)) == [f"half made: {draft.name}"]
    assert not harness.client.containers.list(all=True)


def test_installing_container_removed_half_way(harness: DockerHarness) -> None:
    """What is left of the one that installs requirements is removed by who needs them next, or they are told why not."""
    harness.values["network"] = "host"
    with socket.create_server(("127.0.0.1", 0)) as index, ThreadPoolExecutor() as pool:  # which never answers
        lines = [f"--index-url http://127.0.0.1:{index.getsockname()[1]}/simple", "six==1.17.0"]
        ask = lambda: pool.submit(started, harness.make(), requirements=lines)  # noqa: E731
        builders = lambda: harness.client.containers.list(filters={"label": "mlctl.env"})  # noqa: E731
        work = ask()
        (builder,) = until(builders)
        with _unremovable(builder):
            with pytest.raises(docker.errors.APIError):
                builder.remove(force=True, v=True)
            with pytest.raises(Unavailable, match=r"the engine failed: .* failed to remove root filesystem"):
                work.result(60)
        work = ask()
        (another,) = until(builders)
        assert another.id != builder.id
        another.kill()
        with pytest.raises(Unavailable, match="was ended from outside"):
            work.result(60)
    assert not harness.client.containers.list(all=True)


def test_container_that_is_being_removed_has_not_ended_yet() -> None:
    """By the engine's published record of one: to hold it in that state takes an engine that hangs."""
    record = {"Name": "/run", "State": {"Status": "removing", "StartedAt": "2026-01-01T00:00:00Z", "ExitCode": 0}}
    assert not docker_states.ended(record)
    status = docker_states.status_of(record, ())
    assert (status.state, status.message) == (
        State.STOPPING,
        "its container is being removed; where that never ends, restart the engine",
    )


def test_paused_container_can_be_cancelled(harness: DockerHarness) -> None:
    made = harness.make()
    run = started(made, "sleep 600")
    harness.client.containers.get(run.name).pause()
    assert made.status([run])[run].message == "paused"  # type: ignore[union-attr]
    made.cancel(run)
    assert ended(made, run).state is State.CANCELLED


def test_name_that_somebody_else_has(harness: DockerHarness) -> None:
    made = harness.make()
    wanted = execution(made)
    harness.client.containers.create("base", "true", name=wanted.key.name(0, made.name_limit))
    with pytest.raises(InvalidConfig, match="did not start"):
        wanted.start()
    assert len(harness.client.containers.list(all=True)) == 1


def test_input_that_is_not_there(harness: DockerHarness) -> None:
    with pytest.raises(InvalidJob, match="/no/such/data: no such file"):
        started(harness.make(), inputs={"data": "/no/such/data"})
    assert not harness.client.containers.list(all=True)


def test_more_than_the_engine_has(harness: DockerHarness) -> None:
    with pytest.raises(InvalidJob, match="CPUs"):
        started(harness.make(), resources={"cpu": 4096})
    made = harness.make()
    status = ended(made, started(made, resources={"accelerators": "A10G:1"}))
    assert (status.state, status.reason) == (State.FAILED, Reason.NO_CAPACITY)


# --- the engine


def test_no_engine(harness: DockerHarness) -> None:
    harness.values["host"] = "unix:///nowhere/docker.sock"
    with pytest.raises(Unavailable, match=r"targets\.box: no engine answers"):
        started(harness.make())


def test_run_of_another_engine(harness: DockerHarness) -> None:
    made = harness.make()
    run = dataclasses.replace(started(made), scope="another")
    assert isinstance(made.status([run])[run], Unavailable)
    with pytest.raises(Unavailable, match="lives in the engine another"):
        made.cancel(run)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_engine_restarted_in_mid_wait(breakable: docker_engine.Dockerd, tmp_path: Path, how: signal.Signals) -> None:
    """The wait goes on, and hears how the container ended: with its engine."""
    with contextlib.closing(DockerHarness(breakable.address, tmp_path / "home")) as harness:
        made = harness.make()
        run = started(made, "echo up; sleep 600")
        until(lambda: "up" in log(made, run))
        told: list[Status | None] = []
        seen = threading.Event()
        waiting = lambda: told.append(watch.until_done(made, run, PATIENCE, lambda status: seen.set()))  # noqa: E731
        waiter = threading.Thread(target=waiting)
        waiter.start()
        assert seen.wait(PATIENCE)
        breakable.stop(how)
        assert isinstance(made.status([run])[run], Unavailable)
        breakable.start()
        waiter.join(PATIENCE)
        assert told
        assert told[0] is not None
        assert (told[0].state, told[0].reason) == (State.FAILED, Reason.INFRA)
        assert execution(made, key="after").start().run.attempt == 0


@pytest.mark.slow
def test_engine_that_leaves_its_containers_running(breakable: docker_engine.Dockerd, tmp_path: Path) -> None:
    """With --live-restore the job goes on without its engine."""
    breakable.stop()
    breakable.options = (*breakable.options, "--live-restore")
    breakable.start()
    go = tmp_path / "go"
    with contextlib.closing(DockerHarness(breakable.address, tmp_path / "home")) as harness:
        made = harness.make()
        run = started(
            made, f'echo up; while [ ! -e "$MLCTL_INPUT_HERE/{go.name}" ]; do sleep 0.1; done; exit 3',
            inputs={"here": str(tmp_path)},
        )  # fmt: skip
        until(lambda: "up" in log(made, run))
        breakable.stop()
        go.touch()
        breakable.start()
        status = ended(made, run)
        assert (status.state, status.reason, status.exit_code) == (State.FAILED, Reason.ERROR, 3), status


def test_engine_that_keeps_no_logs(breakable: docker_engine.Dockerd, tmp_path: Path) -> None:
    """It answers, and says why there are none; the run is told all the same."""
    breakable.stop()
    breakable.options = [*breakable.options, "--log-driver=none"]
    breakable.start()
    with contextlib.closing(DockerHarness(breakable.address, tmp_path / "home")) as harness:
        made = harness.make()
        run = started(made)
        assert ended(made, run).state is State.SUCCEEDED
        with pytest.raises(Unavailable, match="the engine failed: configured logging driver does not support reading"):
            made.logs(run)


def test_engine_that_finds_its_container_a_moment_later(harness: DockerHarness) -> None:
    """As one does that has just started: how the job ended isn't guessed meanwhile, and is told then."""
    made = harness.make()
    run = started(made, "exit 3")
    ended(made, run)
    harness.proxy.fault = "starting"
    assert isinstance(answer := made.status([run])[run], Unavailable), answer
    assert ended(made, run).reason is Reason.ERROR and not harness.proxy.fault


# --- the caller

_CALLER = """
import os, signal, sys
from pathlib import Path
from mlctl import backend, backends, jobfile, lifecycle
from mlctl.backend import Settings
from mlctl.backends import docker
from mlctl.backends.docker.engine import Engine
docker.LEASE = int(sys.argv[2])
def die(*args):
    os.kill(os.getpid(), signal.SIGKILL)
setattr(Engine, sys.argv[1], die)
made = backend.load("docker", Settings("box", VALUES, Path(HOME)))
job = jobfile.load({"kind": "process", "name": "job", "command": {"shell": "echo ran"}, **FIELDS})
lifecycle.Execution(job, made, made.settings, lifecycle.Key("killed", "job")).start()
"""


def _killed(harness: DockerHarness, step: str, lease: int = 6, **fields: Any) -> None:
    code = _CALLER.replace("VALUES", repr(harness.values)).replace("HOME", repr(str(harness.home)))
    words = [sys.executable, "-c", code.replace("FIELDS", repr(fields)), step, str(lease)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("step", ["put", "rename"])
def test_caller_killed_before_the_claim(harness: DockerHarness, step: str) -> None:
    """What it leaves is a draft, which nobody takes for a run, and `mlctl gc` removes."""
    _killed(harness, step, secrets=["PATH"])  # which has to be put
    (draft,) = harness.client.containers.list(all=True)
    made = harness.make()
    run = started(made, "echo ran", key="killed")
    assert run.attempt == 0
    assert ended(made, run).state is State.SUCCEEDED
    assert next(made.prune(_later(), dry=True)) == f"half made: {draft.name}"


def test_caller_killed_between_name_and_start(harness: DockerHarness) -> None:
    """Its container is starting until its time is over; then the next attempt runs, and the old one never does."""
    _killed(harness, "start")
    made = harness.make()
    work = execution(made, "killed", command={"shell": "echo ran"})
    outcome = work.start()
    assert (outcome.made, outcome.run.attempt) == (False, 0)
    last = work.wait(outcome, PATIENCE)
    assert last.status is not None
    assert (last.run.attempt, last.status.state) == (1, State.SUCCEEDED)
    harness.client.containers.get(outcome.run.name).start()  # whoever still meant to start it
    status = until(lambda: _over(made, outcome.run))
    assert status.reason is Reason.ABANDONED
    assert until(lambda: "too late" in ended(made, outcome.run).message)
    assert log(made, outcome.run) == []
    assert log(made, last.run) == ["ran"]


@pytest.mark.parametrize("why", ["late", "cancelled"])
def test_secrets_do_not_outlive_a_run_that_did_not_begin(harness: DockerHarness, why: str) -> None:
    _killed(harness, "start", lease=6 if why == "late" else 600, secrets=["HOME"])
    made = harness.make()
    (found,) = made.find(execution(made, "killed", secrets=["HOME"]).key)
    container = harness.client.containers.get(found.run.name)
    place = "/mlctl/run/state/secrets"
    container.get_archive(place)
    if why == "late":
        until(lambda: _over(made, found.run))
    else:
        made.cancel(found.run)
    container.start()
    until(lambda: _over(made, found.run) and harness.client.containers.get(found.run.name).status == "exited")
    assert log(made, found.run) == []
    with pytest.raises(docker.errors.NotFound):
        container.get_archive(place)


def test_cancel_of_what_was_never_started(harness: DockerHarness) -> None:
    _killed(harness, "start")
    made = harness.make()
    run = made.find(execution(made, "killed").key)[0].run
    made.cancel(run)
    assert ended(made, run).state is State.CANCELLED
    harness.client.containers.get(run.name).start()
    assert until(lambda: _over(made, run)).state in (State.CANCELLED, State.FAILED)
    assert log(made, run) == []


def test_cancel_between_name_and_start(harness: DockerHarness) -> None:
    """The mark is there before there is a process that could make its folder; the start that comes in time begins nothing."""
    _killed(harness, "start", lease=600)
    made = harness.make()
    (found,) = made.find(execution(made, "killed").key)
    assert found.status.state is State.STARTING
    made.cancel(found.run)
    (found,) = made.find(execution(made, "killed").key)
    assert found.status.state is State.STOPPING
    harness.client.containers.get(found.run.name).start()
    status = ended(made, found.run)
    assert (status.state, status.exit_code) == (State.CANCELLED, 143)
    assert log(made, found.run) == []


def test_code_that_takes_too_long(harness: DockerHarness, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """There is time for it by its size; where that is not enough, no run comes of it."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "data").write_bytes(os.urandom(100_000))
    made, real = harness.make(), Engine.time
    told: list[float] = []  # the first by which the deadline is reckoned
    monkeypatch.setattr(Engine, "time", lambda self: told.append(real(self)) or told[-1])

    def lease() -> float:
        told.clear()
        native = harness.client.containers.get(started(made, "true", code=str(code)).name)
        assert told[0] <= docker_states.seconds(native.attrs["Created"])
        return int(native.labels["mlctl.deadline"]) - told[0]

    assert 29 < lease() <= 30
    monkeypatch.setattr(docker_backend, "PACE", 1000)
    assert 129 < lease() < 140
    before = {one.id for one in harness.client.containers.list(all=True)}
    monkeypatch.setattr(docker_backend, "PACE", 1 << 40)
    monkeypatch.setattr(docker_backend, "LEASE", 0)
    with pytest.raises(
        Unavailable, match=r"\d+ bytes of code took the engine longer than a run may; nothing was started"
    ):
        started(made, "true", code=str(code))
    assert {one.id for one in harness.client.containers.list(all=True)} == before


def test_answers_without_a_date(harness: DockerHarness) -> None:
    """Something between us and the engine leaves it out: then the engine is asked."""
    made = harness.make()
    with harness.inject("undated"):
        run = started(made, "echo ran")
    assert ended(made, run).state is State.SUCCEEDED
    assert log(made, run) == ["ran"]


def _over(made: Any, run: Run) -> Status | None:
    status = made.status([run])[run]
    return status if isinstance(status, Status) and status.state.terminal else None


def _later() -> float:
    return os.times().elapsed + 10**10
