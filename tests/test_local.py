"""The local platform, driven with real processes: how runs end, what jobs see, what is left when things break."""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import mlctl
from mlctl import api, data, ledger, lifecycle, watch
from mlctl import cli as command_line
from mlctl.backend import Settings
from mlctl.backends.local import Local, folder
from mlctl.errors import (
    InvalidConfig,
    InvalidJob,
    MlctlError,
    RunExists,
    RunNotFound,
    Unauthorized,
    Unavailable,
    Unsupported,
)
from mlctl.runs import Key, Reason, Run, State, Status

LINUX = sys.platform == "linux"
on_linux = pytest.mark.skipif(not LINUX, reason="reads /proc")


@pytest.fixture(autouse=True)
def _inside(project: Path) -> None:
    """Every test works in a project of its own."""


def job(command: Any, **fields: Any) -> dict[str, Any]:
    """A job; a string is a shell script."""
    words = {"shell": command} if isinstance(command, str) else command
    return {"kind": "process", "name": "t", "command": words, **fields}


def submit(
    command: Any, key: str | None = None, settings: Mapping[str, Any] | None = None, **fields: Any
) -> mlctl.RunHandle:
    return mlctl.submit(job(command, **fields), key=key, settings={"grace": 1, **(settings or {})})


def end(handle: mlctl.RunHandle, seconds: float = 30) -> Status:
    status = handle.ended(seconds)
    assert status is not None, f"still {handle.status()}"
    return status


def ran(command: Any, **fields: Any) -> mlctl.RunHandle:
    """The job, run to its success."""
    handle = submit(command, **fields)
    status = end(handle)
    assert status.state is State.SUCCEEDED, (status, list(handle.logs()))
    return handle


def until(true: Callable[[], Any], seconds: float = 20) -> Any:
    """Waits until `true()` is; gives what it is."""
    deadline = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)
    return value


def at(handle: mlctl.RunHandle) -> Path:
    """The run's folder."""
    stem, _, attempt = handle.name.rpartition("-")
    return Path("/", handle.run.scope, "runs", stem, attempt)


def shim(handle: mlctl.RunHandle) -> int:
    """The process of its shim, once it has started."""
    return int(until(lambda: list(at(handle).glob("started.*")))[0].suffix[1:])


def processes(handle: mlctl.RunHandle) -> list[int]:
    """Those that carry the run's URL in their environment."""
    return folder.survivors(at(handle), shim(handle))


def running(script: str, ready: Path, **fields: Any) -> mlctl.RunHandle:
    """A job that has made the file `ready`, as `script` must."""
    handle = submit(script, env={"READY": str(ready), **fields.pop("env", {})}, **fields)
    until(ready.exists)
    return handle


def driven(home: Path, script: str, *args: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """`script` in a Python of its own."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    words = [sys.executable, "-W", "error", "-c", script, *map(str, args)]
    return subprocess.run(words, env=env, text=True, capture_output=True, check=False, timeout=60, **options)


# ---- Ends


@pytest.mark.parametrize(
    ("script", "code", "words"),
    [
        ("exit 0", 0, ""),
        ("exit 3", 3, "exit code 3"),
        ("exit 137", 137, "SIGKILL"),  # without the out-of-memory killer it is an error like any other
        ("kill -s KILL $$", 137, "SIGKILL"),
        ("kill -s TERM $$", 143, "SIGTERM"),
        ("kill -s SEGV $$", 139, "SIGSEGV"),
        ("exec /nowhere/program", 127, "no such command"),
        ("exec /etc/passwd", 126, "could not be run"),
    ],
)
def test_exit_code(script: str, code: int, words: str) -> None:
    status = end(submit(script))
    assert (status.exit_code, status.state, status.reason) == (
        (0, State.SUCCEEDED, None) if code == 0 else (code, State.FAILED, Reason.ERROR)
    )
    assert words in status.message
    assert status.started and status.finished and status.started <= status.finished


def test_run_raises_what_happened() -> None:
    with pytest.raises(mlctl.RunFailed, match=r"failed \(error\): exit code 9") as caught:
        mlctl.run(job("exit 9"))
    assert caught.value.status.exit_code == 9


def test_a_program_that_is_not_there_starts_nothing(home: Path) -> None:
    with pytest.raises(InvalidJob, match=r"'no-such-program' is no program on the job's PATH") as caught:
        submit(["no-such-program"])
    assert "\n" not in str(caught.value)
    assert not list(home.glob("runs/*/*"))


def test_a_shells_own_word_is_no_program() -> None:
    with pytest.raises(InvalidJob):
        submit(["set", "-x"])


@pytest.mark.parametrize("value", ["\0", "a\0b", "\ud800"])
def test_what_no_process_takes_is_refused(home: Path, value: str) -> None:
    for fields in ({"command": ["echo", "${{params.x}}"]}, {"platforms": {"local": {"layout": "sagemaker"}}}):
        with pytest.raises(InvalidJob):
            submit(**{"command": "exit 0", "params": {"x": value}, **fields})
    assert not list(home.glob("runs/*/*"))


def test_words_longer_than_the_system_takes_end_the_call() -> None:
    with pytest.raises(InvalidJob, match=r"longer than this system takes; read them from MLCTL_PARAMS_FILE"):
        submit(["echo", "${{params.x}}"], params={"x": "x" * (1 << 23)}, key="k")
    handle = submit("exit 0", key="k")  # and leave the key usable
    assert end(handle).state is State.SUCCEEDED


def test_no_more_processes_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    def spawn(*_: object, **__: object) -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    with monkeypatch.context() as broken:
        broken.setattr(os, "posix_spawn", spawn)
        with pytest.raises(Unavailable, match=r"temporarily unavailable$"):
            submit("exit 0", key="k")
    handle = submit("exit 4", key="k")
    assert end(handle).exit_code == 4


# ---- Cancel


STUBBORN = "trap '' TERM; touch \"$READY\"; while :; do sleep 0.05; done"
SLEEPER = 'touch "$READY"; exec sleep 60'


def test_cancel_lets_the_job_save(tmp_path: Path) -> None:
    script = "trap 'echo saved; exit 0' TERM; touch \"$READY\"; while :; do sleep 0.02; done"
    handle = running(script, tmp_path / "ready", settings={"grace": 30})
    status = handle.cancel(20)
    assert status and (status.state, status.reason, status.exit_code) == (State.CANCELLED, Reason.CANCELLED, 0)
    assert list(handle.logs())[-1] == "saved"


def test_who_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    handle = running(STUBBORN, tmp_path / "ready")
    began = time.monotonic()
    status = handle.cancel(20)
    assert status and status.state is State.CANCELLED
    assert 1 <= time.monotonic() - began < 60
    assert handle.status() == status


def test_a_grace_of_nothing_kills_at_once(tmp_path: Path) -> None:
    handle = running(STUBBORN, tmp_path / "ready", settings={"grace": 0})
    status = handle.cancel(20)
    assert status and status.state is State.CANCELLED


@on_linux
@pytest.mark.parametrize("stubborn", [False, True])
def test_cancel_reaches_the_whole_tree(tmp_path: Path, stubborn: bool) -> None:
    script = f"""
        {"trap '' TERM" if stubborn else ":"}
        sleep 61 & setsid sleep 62 & (setsid sh -c 'setsid sleep 63 & sleep 64' &)
        while [ "$(grep -lsz "sleep" /proc/[0-9]*/cmdline 2>/dev/null | wc -l)" -lt 1 ]; do sleep 0.01; done
        touch "$READY"; sleep 60; sleep 60
    """
    handle = running(script, tmp_path / "ready")
    until(lambda: len(processes(handle)) >= 7)
    status = handle.cancel(20)
    assert status and status.state is State.CANCELLED
    until(lambda: not processes(handle))


def test_cancel_again_and_after_the_end(tmp_path: Path) -> None:
    handle = running(SLEEPER, tmp_path / "ready")
    for _ in range(3):
        handle.backend.cancel(handle.run)
    status = handle.cancel(20)
    assert status and status.state is State.CANCELLED
    assert handle.cancel(20) == status
    done = ran("exit 0")
    before = sorted(at(done).iterdir())
    done.backend.cancel(done.run)
    assert done.status().state is State.SUCCEEDED
    assert sorted(at(done).iterdir()) == before


def test_many_cancel_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = 'trap \'echo asked\' TERM; touch "$READY"; until [ -e "$READY.go" ]; do sleep 0.02; done'
    handle = running(script, tmp_path / "ready", settings={"grace": 60})
    real, spawned = folder.spawn, []
    monkeypatch.setattr(folder, "spawn", lambda *args: spawned.append(args[0]) or real(*args))
    threads = [threading.Thread(target=handle.backend.cancel, args=(handle.run,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: "asked" in list(handle.logs()))
    (tmp_path / "ready.go").touch()
    assert end(handle).state is State.CANCELLED
    assert spawned == [folder.CANCEL] and list(handle.logs()).count("asked") == 1  # one SIGTERM, whoever asked


def test_cancel_before_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is taken, and the shim is not there yet."""
    real = folder.spawn

    def late(script: str, args: list[str], *rest: Any) -> int:
        if script == folder.SHIM:
            run = Run.parse(args[1])
            execution = api.execution(job("exit 0"))
            answer = execution.backend.status([run])[run]
            assert isinstance(answer, Status) and answer.state is State.STARTING
            execution.backend.cancel(run)
        return real(script, args, *rest)

    monkeypatch.setattr(folder, "spawn", late)
    handle = submit(f"touch {tmp_path}/ran")
    status = end(handle)
    assert (status.state, status.exit_code) == (State.CANCELLED, 143)
    assert not (tmp_path / "ran").exists()


def test_cancel_where_the_submitter_died(home: Path) -> None:
    """Neither started nor abandoned, but cancelled: nobody is to start the next attempt by himself."""
    handle = submit("exit 0", key="k")
    end(handle)
    for path in [*at(handle).glob("started.*"), *at(handle).glob("exit.*")]:
        path.unlink()
    (at(handle) / "cancel").touch()
    assert handle.status().state is State.CANCELLED
    assert submit("exit 0", key="k").run == handle.run


def test_the_canceller_is_killed(tmp_path: Path, home: Path) -> None:
    """Between its mark and its signal: who asks next, ends the run."""
    handle = running(SLEEPER, tmp_path / "ready")
    script = """if True:
        import os, signal, sys
        from mlctl import api
        from mlctl.backends.local import folder
        folder.spawn = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
        run = api.reach(sys.argv[1])
        run.backend.cancel(run.run)
    """
    assert driven(home, script, handle.url).returncode == -signal.SIGKILL
    assert handle.status().state is State.STOPPING
    status = handle.cancel(20)
    assert status and status.state is State.CANCELLED


def test_the_canceller_dies_and_the_run_ends_all_the_same(tmp_path: Path, home: Path) -> None:
    handle = running(STUBBORN, tmp_path / "ready")
    script = """if True:
        import os, signal, sys
        from mlctl import api
        run = api.reach(sys.argv[1])
        run.backend.cancel(run.run)
        os.killpg(0, signal.SIGKILL)
    """
    assert driven(home, script, handle.url, start_new_session=True).returncode == -signal.SIGKILL
    until(lambda: handle.status().state is State.CANCELLED)


def test_cancel_races_a_submit(tmp_path: Path) -> None:
    """Whenever the cancel comes, the run is cancelled, or was done before."""
    states = Counter()
    for number in range(20):
        execution = api.execution(job("exec sleep 30"), key=f"k{number}", settings={"grace": 1})
        execution.prepare()
        caught: list[Run] = []

        def watcher(execution: Any = execution, caught: list[Run] = caught) -> None:
            while not caught:
                for found in execution.backend.find(execution.key):
                    execution.backend.cancel(found.run)
                    caught.append(found.run)

        thread = threading.Thread(target=watcher)
        thread.start()
        outcome = execution.start()
        thread.join()
        assert caught == [outcome.run]
        status = execution.wait(outcome, 20).status
        assert status
        states[status.state] += 1
    assert states == {State.CANCELLED: 20}


def test_a_late_cancel_of_an_old_owner_is_followed_by_the_next_attempt_once(tmp_path: Path) -> None:
    script = 'touch "$READY"; [ "${MLCTL_RUN##*-}" = 0 ] && exec sleep 30; exit 0'
    old = running(script, tmp_path / "ready", key="k")
    new = submit(script, key="k", env={"READY": str(tmp_path / "ready")})
    assert not new.made and new.run == old.run
    old.backend.cancel(old.run)
    assert end(new).state is State.SUCCEEDED
    assert new.run.attempt == 1


# ---- Timeout


def exit_of(handle: mlctl.RunHandle) -> str:
    """How the run noted its end, without asking mlctl."""
    return str(until(lambda: [path.name for path in at(handle).glob("exit.*")])[0])


@pytest.mark.parametrize(
    ("script", "note", "code"),
    [
        ("exec sleep 30", "exit.143.timeout", 143),
        ("trap 'exit 0' TERM; while :; do sleep 0.02; done", "exit.0.timeout", 0),
    ],
)
def test_timeout_needs_no_waiter(script: str, note: str, code: int) -> None:
    handle = submit(script, timeout=1, settings={"grace": 60})
    assert exit_of(handle) == note
    status = handle.status()
    assert (status.state, status.reason, status.exit_code) == (State.FAILED, Reason.TIMEOUT, code)
    assert status.message == "ran longer than its timeout of 1s"


def test_timeout_kills_who_ignores_sigterm() -> None:
    handle = submit("trap '' TERM; while :; do sleep 0.05; done", timeout=1)
    status = end(handle)
    assert (status.state, status.reason, status.exit_code) == (State.FAILED, Reason.TIMEOUT, None)


@on_linux
def test_timeout_leaves_nothing_behind() -> None:
    def watchdogs() -> list[str]:
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = path.read_bytes().split(b"\0")
                found += [path.parent.name] if b"86399" in words else []
        return found

    handle = submit("exit 0", timeout=86399)
    end(handle)
    until(lambda: not watchdogs())


def test_a_job_with_its_own_path_has_its_whole_time() -> None:
    """The shim's `sleep` and `grep` are not the job's to take away."""
    handle = submit(["/bin/sleep", "1.2"], timeout=60, env={"PATH": "/nowhere"})
    assert end(handle).state is State.SUCCEEDED
    late = submit(["/bin/sleep", "30"], timeout=1, env={"PATH": "/nowhere"})
    assert end(late).reason is Reason.TIMEOUT


# ---- What the job sees


def test_code_is_a_snapshot(project: Path, tmp_path: Path) -> None:
    (project / "code").mkdir()
    (project / "code" / "text").write_text("before")
    handle = submit(f"until [ -e {tmp_path}/go ]; do sleep 0.01; done; cat text", code=str(project / "code"))
    (project / "code" / "text").write_text("after")
    (tmp_path / "go").touch()
    assert end(handle).state is State.SUCCEEDED
    assert list(handle.logs()) == ["before"]


def test_inputs_in_place_and_copied(project: Path) -> None:
    (project / "data").mkdir()
    (project / "data" / "a").write_text("1\n")
    (project / "file").write_text("2\n")
    inputs = {
        "in-place": "data",
        "copied": {"uri": "data", "mode": "download"},
        "file": {"uri": "file", "mode": "download"},
    }
    script = (
        'echo "$MLCTL_INPUT_IN_PLACE"; cat "$MLCTL_INPUT_IN_PLACE/a" "$MLCTL_INPUT_COPIED/a" "$MLCTL_INPUT_FILE";'
        ' echo 9 > "$MLCTL_INPUT_COPIED/a"; echo 9 > "$MLCTL_INPUT_FILE"'
    )
    handle = ran(script, inputs=inputs)
    assert list(handle.logs()) == [str(project / "data"), "1", "1", "2"]
    assert (project / "data" / "a").read_text() == "1\n" and (project / "file").read_text() == "2\n"


def test_an_input_that_is_not_there(project: Path) -> None:
    with pytest.raises(InvalidJob, match=r"inputs.x: .*no such file or folder"):
        submit("exit 0", inputs={"x": "nothing"})
    with pytest.raises(Unsupported, match=r"give a copy: --input x=PATH"):
        submit("exit 0", inputs={"x": "s3://bucket/key"})


UNCOPIED: Mapping[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (os.mkfifo, "is neither a file nor a folder"),
    "device": (lambda path: path.symlink_to("/dev/null"), "is neither a file nor a folder"),
    "dangling": (lambda path: path.symlink_to("nothing"), "is a link to nothing"),
    "loop": (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links"),
    "above": (lambda path: path.symlink_to(".."), "is a folder within itself"),
}


@pytest.mark.parametrize("name", UNCOPIED)
def test_an_input_that_can_never_be_copied(name: str, project: Path, home: Path) -> None:
    """One line that says why, worth no other try; and nothing of it stays."""
    make, why = UNCOPIED[name]
    (project / "data" / "sub").mkdir(parents=True)
    (project / "data" / "a").write_text("1\n")
    make(project / "data" / "sub" / name)
    with pytest.raises(InvalidJob) as caught:
        submit("exit 0", inputs={"x": {"uri": "data", "mode": "download"}})
    mend = "mend that, or read it in place, without mode: download"
    assert str(caught.value) == f"inputs.x: {project}/data/sub/{name}: {why}; {mend}"
    assert not list(home.glob("runs/*/0")) and not list(home.glob("runs/*/.new-*"))


def test_an_input_that_has_its_own_copy_in_it(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLCTL_HOME", str(project / "home"))
    with pytest.raises(InvalidJob, match=rf"inputs.x: {project}: its copy would be in it, at {project}/home/runs/"):
        submit("exit 0", inputs={"x": {"uri": ".", "mode": "download"}})


def test_an_input_that_is_linked_to_where_its_copy_is(project: Path, home: Path) -> None:
    (project / "data").mkdir()
    (project / "data" / "runs").symlink_to(home)
    with pytest.raises(InvalidJob, match=r"inputs.x: \S+/data/runs/runs/\S+/inputs/x: is a folder within itself; "):
        submit("exit 0", inputs={"x": {"uri": "data", "mode": "download"}})


@pytest.mark.parametrize("name", ["pipe", "device"])
def test_an_input_that_is_no_file_itself(name: str, project: Path) -> None:
    UNCOPIED[name][0](project / name)
    with pytest.raises(InvalidJob, match=f"inputs.x: {project}/{name}: is neither a file nor a folder"):
        submit("exit 0", inputs={"x": {"uri": name, "mode": "download"}})


@pytest.mark.parametrize("name", ["loop", "dangling"])
def test_a_copy_of_a_link_that_leads_nowhere(name: str, tmp_path: Path) -> None:
    make, why = UNCOPIED[name]
    make(tmp_path / name)
    with pytest.raises(ValueError, match=f"^{tmp_path / name}: {why}$"):
        data.copy(tmp_path / name, tmp_path / "copy")


@pytest.mark.parametrize("name", ["file", "folder"])
def test_an_input_that_may_not_be_read(name: str) -> None:
    """As nobody, where the tests run as root, who may read everything."""
    with tempfile.TemporaryDirectory() as made:
        where, root = Path(made), os.geteuid() == 0
        (where / "data" / "folder").mkdir(parents=True)
        (where / "data" / "file").touch()
        (where / "data" / name).chmod(0)
        target = where / "copy"
        if root:
            os.chown(where, 65534, 65534)
            os.seteuid(65534)
        try:
            with pytest.raises(PermissionError) as caught:
                data.copy(where / "data", target)
            assert str(caught.value.filename) == f"{where}/data/{name}"
        finally:
            if root:
                os.seteuid(0)
            (where / "data" / name).chmod(0o700)


def test_a_copy_follows_links_and_can_be_removed(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "closed").mkdir(parents=True)
    (source / "run.sh").write_text("#!/bin/sh\n")
    (source / "run.sh").chmod(0o750)
    (source / "closed" / "file").symlink_to(source / "run.sh")
    (source / "twice").symlink_to(source / "closed")  # a folder by two ways is no loop
    (source / "closed").chmod(0o500)
    data.copy(source, tmp_path / "copy")
    found = sorted(path.relative_to(tmp_path / "copy").as_posix() for path in (tmp_path / "copy").rglob("*"))
    assert found == ["closed", "closed/file", "run.sh", "twice", "twice/file"]
    assert not any(path.is_symlink() for path in (tmp_path / "copy").rglob("*"))
    assert (tmp_path / "copy" / "twice" / "file").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "copy" / "closed").stat().st_mode & 0o777 == 0o700


def test_outputs_are_folders_of_the_attempt(project: Path) -> None:
    outputs = {"model": {}, "report-data": {"uri": "kept"}}
    handle = ran('echo 1 > "$MLCTL_OUTPUT_MODEL/a"; echo 2 > "$MLCTL_OUTPUT_REPORT_DATA/b"', outputs=outputs)
    found = handle.result().outputs
    assert found["model"] == str(at(handle) / "outputs" / "model")
    assert found["report-data"] == str(project / "kept" / handle.name / "report-data")
    assert Path(found["model"], "a").read_text() == "1\n" and Path(found["report-data"], "b").read_text() == "2\n"


def test_checkpoints_are_shared_by_the_attempts() -> None:
    script = 'echo x >> "$MLCTL_CHECKPOINT_DIR/steps"; [ "$(wc -l < "$MLCTL_CHECKPOINT_DIR/steps")" = 2 ]'
    handle = submit(script, retry={"error": 1})
    assert end(handle).state is State.SUCCEEDED
    assert handle.run.attempt == 1


HOSTILE = {
    "quote": "a'; echo foo", "double": 'a"b`id`', "lines": "two\nlines\n", "text": "ünïcödé ☃\u2028",
    "dollar": "$HOME ${HOME} $(id)", "placeholder": "${{params.quote}}", "option": "-rf", "empty": "", "long": "x" * 100_000,
}  # fmt: skip


def test_hostile_parameters_arrive_as_sent() -> None:
    code = """if True:
        import json, os, sys
        print(json.dumps([sys.argv[1:], os.environ["VALUE"], json.load(open(os.environ["MLCTL_PARAMS_FILE"]))]))
    """
    words = [f"${{{{params.{name}}}}}" for name in HOSTILE]
    handle = ran(
        ["python", "-c", code, *words], params={**HOSTILE, "n": 0.1, "b": True}, env={"VALUE": "<${{params.lines}}>"}
    )
    argv, value, params = json.loads("".join(handle.logs()))
    assert argv == list(HOSTILE.values())
    assert value == f"<{HOSTILE['lines']}>"
    assert params == {**HOSTILE, "n": 0.1, "b": True}


def test_the_jobs_variables_reach_it_unchanged() -> None:
    """Those too that the shim could take for its own."""
    names = [
        "run",
        "url",
        "timeout",
        "grace",
        "work",
        "code",
        "why",
        "found",
        "IFS",
        "ENV",
        "BASH_ENV",
        "CDPATH",
        "PS4",
    ]
    env = {name: f"<{name}>" for name in names}
    script = "import json, os; print(json.dumps(dict(os.environ)))"
    seen = json.loads("".join(ran(["python", "-c", script], env=env, timeout=60).logs()))
    assert {name: seen.get(name) for name in names if name != "IFS"} == {
        name: env[name] for name in names if name != "IFS"
    }


def test_the_environment_is_an_allow_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    monkeypatch.setenv("WANTED", "seen")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    handle = ran("env", settings={"inherit_env": ["WANTED", "NOT_SET"]})
    seen = dict(line.split("=", 1) for line in handle.logs())
    assert (seen["WANTED"], seen["TZ"]) == ("seen", "Asia/Tokyo")
    assert "AWS_SECRET_ACCESS_KEY" not in seen and "NOT_SET" not in seen and "PYTHONPATH" not in seen
    assert not [line for line in handle.logs() if "hidden" in line]
    assert seen["MLCTL_RUN"] == handle.url


def test_secrets_reach_the_job_and_nothing_else(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "s3cr3t-of-env")
    (tmp_path / "token").write_text("s3cr3t-of-file\n")
    script = 'touch "$READY"; echo "${#A} $B" | tr s- S_; until [ -e "$READY.go" ]; do sleep 0.01; done'
    handle = running(
        script,
        tmp_path / "ready",
        secrets=["A", "B"],
        settings={"secrets": {"A": "env:MY_TOKEN", "B": f"file:{tmp_path}/token"}},
    )
    if LINUX:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                assert b"s3cr3t" not in path.read_bytes()
    (tmp_path / "ready.go").touch()
    assert end(handle).state is State.SUCCEEDED
    assert list(handle.logs()) == ["13 S3cr3t_of_file"]
    for path in home.rglob("*"):
        assert "s3cr3t" not in path.name
        assert not path.is_file() or b"s3cr3t" not in path.read_bytes(), path
    assert "s3cr3t" not in handle.url + str(handle.status())


def test_a_secret_that_is_not_there_starts_nothing(tmp_path: Path, home: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\0s3cr3t")
    for source, words in {
        "env:NOT_SET": "the environment variable NOT_SET, which isn't set",
        f"file:{tmp_path}/none": "No such file",
        f"file:{tmp_path}/binary": "holds a null byte",
        "vault:x": "expected env:NAME or file:PATH",
    }.items():
        with pytest.raises(InvalidConfig, match=rf"targets\.local\.secrets\.A: .*{words}") as caught:
            submit("exit 0", secrets=["A"], settings={"secrets": {"A": source}})
        assert "\n" not in str(caught.value) and "s3cr3t" not in str(caught.value)
    assert not list(home.glob("runs/*/*"))


@on_linux
def test_the_job_starts_with_clean_signals_and_files(home: Path) -> None:
    """Whatever its caller ignores, blocks or left open: an open pipe would be held to the end of the job."""
    script = """if True:
        import os, signal, mlctl
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGALRM, signal.SIGTTOU):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        read, write = os.pipe()
        os.set_inheritable(write, True)
        high = os.dup2(write, 200)
        shell = "grep -E 'Sig(Ign|Blk|Cgt)' /proc/self/status; ls -l /proc/self/fd"
        run = mlctl.submit({"kind": "process", "name": "t", "timeout": 60, "command": {"shell": shell}})
        status = run.ended(20)
        assert status.exit_code == 0, (status, list(run.logs()))
        print(*run.logs(), sep="\\n")
    """
    done = driven(home, script)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    masks = {words[0]: int(words[1], 16) for words in lines if words[0].startswith("Sig")}
    assert masks["SigBlk:"] == masks["SigIgn:"] & ~(3 << 31) == 0  # 32 and 33 are the C library's own
    files = {words[-3]: words[-1] for words in lines if "->" in words}
    assert files.keys() - {"3"} == {"0", "1", "2"}
    assert files["0"] == "/dev/null"


def test_stdin_is_empty() -> None:
    assert list(ran("wc -c").logs()) == ["0"]


def test_stdout_and_stderr_are_one_log() -> None:
    assert list(ran("echo one; echo two >&2; echo three").logs()) == ["one", "two", "three"]


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / 'a\'; echo foo # %41?\n"$(id)" ü'
    made.mkdir()
    return made


def test_odd_names_of_folders(odd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLCTL_HOME", str(odd / "home"))
    (odd / "code").mkdir()
    (odd / "code" / "main.py").write_text(
        "import os; print(os.environ['MLCTL_RUN']); print(os.path.basename(os.getcwd()))"
    )
    (odd / "data").write_text("1")
    handle = ran(
        ["python", "main.py", "${{inputs.x}}"],
        code=str(odd / "code"),
        inputs={"x": {"uri": str(odd / "data"), "mode": "download"}},
        outputs={"o": {}},
        timeout=60,
    )
    assert list(handle.logs()) == [handle.url, "code"]
    assert api.reach(handle.url).status().state is State.SUCCEEDED
    assert api.reach(handle.name).run == handle.run
    assert sorted(path.name for path in tmp_path.iterdir()) == [odd.name, "project"]
    stuck = running("trap '' TERM; setsid sleep 30 & touch \"$READY\"; sleep 30; sleep 30", odd / "ready")
    left = until(lambda: len(processes(stuck)) >= 4) and stuck
    status = left.cancel(20)
    assert status and status.state is State.CANCELLED
    until(lambda: not processes(stuck))


def test_sagemaker_layout(project: Path) -> None:
    (project / "data").mkdir()
    (project / "data" / "train.csv").write_text("1")
    (project / "one.csv").write_text("2")
    code = """if True:
        import json, os
        env = os.environ
        assert os.listdir(env["SM_CHANNEL_TRAIN"]) == ["train.csv"], os.listdir(env["SM_CHANNEL_TRAIN"])
        assert open(env["SM_CHANNEL_TEST"] + "/one.csv").read() == "2"
        assert open(env["SM_CHANNEL_COPY"] + "/one.csv").read() == "2"
        assert env["SM_MODEL_DIR"] == env["MLCTL_OUTPUT_MODEL"]
        open(env["SM_MODEL_DIR"] + "/model.bin", "w").write("m")
        open(env["SM_OUTPUT_DATA_DIR"] + "/data.bin", "w").write("d")
        hyper = json.load(open(env["SM_INPUT_CONFIG_DIR"] + "/hyperparameters.json"))
        assert hyper == {"lr": "0.1", "name": "x"} and env["SM_HP_LR"] == "0.1", hyper
        assert json.loads(env["SM_HPS"]) == {"lr": 0.1, "name": "x"}
    """
    handle = ran(
        ["python", "-c", code],
        params={"lr": 0.1, "name": "x"},
        inputs={"train": "data", "test": "one.csv", "copy": {"uri": "one.csv", "mode": "download"}},
        outputs={"model": {"type": "model"}},
        settings={"layout": "sagemaker"},
    )
    assert Path(handle.result().outputs["model"], "model.bin").read_text() == "m"
    assert (at(handle) / "opt/ml/model/model.bin").read_text() == "m"
    with pytest.raises(InvalidConfig, match=r"targets\.local\.layout: got 'x', expected sagemaker"):
        submit("exit 0", settings={"layout": "x"})


# ---- Logs, metrics, results


def batches(handle: mlctl.RunHandle, cursor: str = "") -> tuple[list[str], str]:
    lines: list[str] = []
    for logs in lifecycle.lines(handle.backend, handle.run, cursor):
        lines, cursor = [*lines, *logs.lines], logs.cursor
    return lines, cursor


def test_logs_go_on_at_the_cursor(tmp_path: Path) -> None:
    script = "echo one; printf 'half'; touch \"$READY\"; until [ -e \"$READY.go\" ]; do sleep 0.01; done; echo ' whole'; printf end"
    handle = running(script, tmp_path / "ready")
    first, cursor = batches(handle)
    assert first == ["one"]
    assert batches(handle, cursor) == ([], cursor)
    (tmp_path / "ready.go").touch()
    end(handle)
    rest, cursor = batches(handle, cursor)
    assert rest == ["half whole", "end"]
    assert batches(handle, cursor) == ([], cursor)
    assert list(handle.logs()) == ["one", "half whole", "end"]


def test_half_a_line_is_not_taken_for_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job writes on, and ends, while its log is read."""
    handle = running(
        'printf ha; touch "$READY"; until [ -e "$READY.go" ]; do sleep 0.01; done; echo lf', tmp_path / "ready"
    )
    real = folder.read

    def read(path: Path) -> Status:
        (tmp_path / "ready.go").touch()
        until(lambda: list(path.glob("exit.*")))
        return real(path)

    monkeypatch.setattr(folder, "read", read)
    assert batches(handle) == (["half"], "5")


def test_logs_of_any_bytes_and_any_length() -> None:
    code = "import sys; sys.stdout.buffer.write(b'\\xff\\xfe\\n\\n' + b'a' * 3_000_000 + b'\\nb\\r\\n' + b'c\\n' * 1_000_000)"
    lines = list(ran(["python", "-c", code]).logs())
    assert lines[:2] == ["\ufffd\ufffd", ""]
    assert "".join(lines[2:]) == "a" * 3_000_000 + "b\r" + "c" * 1_000_000
    assert len(lines) == 2 + 3 + 1 + 1_000_000  # a line is cut where it is longer than a megabyte


def test_logs_follow(tmp_path: Path) -> None:
    script = 'for i in 1 2 3 4; do echo "$i"; until [ -e "$READY.$i" ]; do sleep 0.01; done; done; printf 5'
    handle = submit(script, env={"READY": str(tmp_path / "ready")})
    seen = []
    for line in handle.logs(follow=True):
        seen.append(line)
        (tmp_path / f"ready.{line}").touch()
    assert seen == ["1", "2", "3", "4", "5"]


def test_the_log_of_a_killed_run(tmp_path: Path) -> None:
    handle = running('echo out; printf half; touch "$READY"; exec sleep 60', tmp_path / "ready")
    os.killpg(shim(handle), signal.SIGKILL)
    assert end(handle).reason is Reason.INFRA
    assert list(handle.logs()) == ["out", "half"]


def test_metrics_of_any_lines() -> None:
    lines = [
        '{"name": "loss", "value": 0.5, "step": 1, "time": 2.5}',
        '{"name": "loss", "value": 0.25}',
        '{"name": "nan", "value": NaN}',
        "not json", "[]", "5", "null", '{"name": "x"}', '{"name": "x", "value": null}', '{"name": "x", "value": "abc"}',
        '{"name": "x", "value": 1, "step": Infinity}', '{"name": "x", "value": 1e999, "step": 1e999}',
        '{"name": "x", "value": ' + "9" * 400 + "}", "[" * 100_000, '{"name": "loss", "val',
    ]  # fmt: skip
    handle = ran(
        [
            "python",
            "-c",
            "import os, sys; open(os.environ['MLCTL_METRICS_FILE'], 'w').write(sys.argv[1])",
            "\n".join(lines),
        ]
    )
    result = handle.result()
    assert [point.name for point in result.points] == ["loss", "loss", "nan"]
    assert (result.points[0].step, result.points[0].time, result.metrics["loss"]) == (1, 2.5, 0.25)


def test_the_result_of_a_run_that_left_none() -> None:
    handle = submit('mkdir "$MLCTL_METRICS_FILE"; exit 1', outputs={"o": {}})
    end(handle)
    with pytest.raises(Unavailable, match=r"metrics\.jsonl: Is a directory"):
        handle.result()
    assert ran("exit 0", outputs={"o": {}}).result().points == ()


# ---- Out of memory


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A memory cgroup of 32 MiB, made for this test."""
    group = Path("/sys/fs/cgroup/memory") / f"mlctl-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(32 << 20))
    except OSError as reason:
        pytest.skip(f"no memory cgroup can be made here: {reason}")
    yield group
    until(lambda: not (group / "cgroup.procs").read_text())
    group.rmdir()


def test_out_of_memory(small: Path) -> None:
    code = "x = []\nwhile True: x.append(bytearray(b'x') * (1 << 20))"
    handle = submit(f'echo $$ > {small}/cgroup.procs; exec "$PY" -c "$CODE"', env={"CODE": code, "PY": sys.executable})
    status = end(handle)
    assert (status.state, status.reason, status.exit_code) == (State.FAILED, Reason.OOM, 137)
    assert "out of memory" in status.message
    again = submit("kill -s KILL $$")  # the kernel's count is one of all times: only what it grew by matters
    assert end(again).reason is Reason.ERROR


# ---- Somebody kills


@on_linux
def test_the_shim_alone_is_killed_and_the_job_lives_on(tmp_path: Path) -> None:
    script = 'touch "$READY"; until [ -e "$READY.go" ]; do sleep 0.01; done; touch "$READY.done"'
    handle = running(script, tmp_path / "ready", key="k", timeout=3600)
    os.kill(shim(handle), signal.SIGKILL)
    until(lambda: not folder.held(at(handle) / "lock"))
    status = handle.status()
    assert status.state is State.STOPPING and "its shim was killed" in status.message
    (tmp_path / "ready.go").touch()
    status = end(handle)  # it doesn't wait for the watchdog of the timeout
    assert (status.state, status.reason, status.exit_code) == (State.FAILED, Reason.INFRA, None)
    assert (tmp_path / "ready.done").exists()
    assert submit(script, key="k", env={"READY": str(tmp_path / "ready")}, timeout=3600).run == handle.run
    os.killpg(shim(handle), signal.SIGKILL)  # the watchdog, which else stays for an hour


@on_linux
def test_cancel_ends_what_a_killed_shim_left(tmp_path: Path) -> None:
    handle = running("trap '' TERM; setsid sleep 60 & touch \"$READY\"; sleep 60; sleep 60", tmp_path / "ready")
    until(lambda: len(processes(handle)) >= 4)
    os.kill(shim(handle), signal.SIGKILL)
    until(lambda: not folder.held(at(handle) / "lock"))
    status = handle.cancel(20)
    assert status and status.state is State.CANCELLED
    until(lambda: not processes(handle))


@on_linux
def test_waiting_for_what_a_killed_shim_left_is_no_busy_loop(tmp_path: Path, home: Path) -> None:
    """Also where the shim stays a zombie, because its submitter, which lives, doesn't look."""
    script = """if True:
        import sys, mlctl
        run = mlctl.submit({"kind": "process", "name": "t", "command": ["sleep", "60"]}, key="k", settings={"grace": 1})
        print(run.url, flush=True)
        sys.stdin.read()
    """
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [sys.executable, "-c", script], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as submitter:
        assert submitter.stdout
        handle = api.reach(submitter.stdout.readline().strip())
        leader = shim(handle)
        until(lambda: len(processes(handle)) >= 2)
        os.kill(leader, signal.SIGKILL)
        until(lambda: Path(f"/proc/{leader}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
        until(lambda: not folder.held(at(handle) / "lock"))
        began, rounds = time.monotonic(), 0
        while time.monotonic() - began < 0.5:
            assert handle.status().state is State.STOPPING
            handle.backend.pause([handle.run], 0.5)
            rounds += 1
        assert rounds <= 6
        status = handle.cancel(20)
        assert status and status.state is State.CANCELLED
        submitter.communicate("")


def test_shim_and_job_are_killed(tmp_path: Path) -> None:
    handle = running(SLEEPER, tmp_path / "ready", key="k", retry={"infra": 1})
    os.killpg(shim(handle), signal.SIGKILL)
    status = mlctl.reach(handle.url).ended(20)  # without the retry
    assert status
    assert (status.state, status.reason, status.exit_code) == (State.FAILED, Reason.INFRA, None)
    again = running(SLEEPER, tmp_path / "ready", key="k", retry={"infra": 1})
    assert again.run.attempt == 1
    again.cancel(20)


def test_an_abandoned_attempt_is_followed_by_the_next(tmp_path: Path, home: Path) -> None:
    script = """if True:
        import os, signal, sys, mlctl
        from mlctl.backends.local import folder
        folder.spawn = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
        mlctl.submit({"kind": "process", "name": "t", "command": {"shell": "exit 7"}}, key="k")
    """
    assert driven(home, script).returncode == -signal.SIGKILL
    handle = submit("exit 7", key="k")
    assert handle.made and handle.run.attempt == 1
    assert end(handle).exit_code == 7
    first = handle.backend.find(Key("k", "t"))[0].status
    assert (first.state, first.reason) == (State.FAILED, Reason.ABANDONED)
    assert submit("exit 7", key="k").run == handle.run  # the job's own failure: reported, not repeated


def test_signals_that_a_job_sends_to_its_group_leave_the_shim_alone() -> None:
    script = "trap : TERM INT HUP QUIT USR1 USR2; for s in TERM INT HUP QUIT USR1 USR2; do kill -s $s 0; done; exit 5"
    status = end(submit(script, timeout=60))
    assert (status.reason, status.exit_code) == (Reason.ERROR, 5)


def test_a_damaged_record_is_one_line_and_spoils_no_other() -> None:
    good, bad = ran("exit 0"), submit("exec sleep 60", timeout=1, key="bad")
    end(bad)
    (at(bad) / "plan.json").write_bytes(b"")  # as a power cut leaves a file
    answer = good.backend.status([bad.run, good.run])
    assert isinstance(answer[bad.run], Unavailable) and "is damaged; remove" in str(answer[bad.run])
    assert answer[good.run] == good.status()
    with pytest.raises(Unavailable, match="damaged"):
        submit("exec sleep 60", timeout=1, key="bad")


# ---- Elsewhere, unknown, full, read-only


def test_a_run_of_another_host() -> None:
    run = Run("local", "elsewhere", "home/x", "t-aaaaaaaaaaaaaaaa-0")
    backend = ran("exit 0").backend
    assert isinstance(backend.status([run])[run], Unavailable)
    for method in (backend.logs, backend.cancel, backend.result):
        with pytest.raises(Unavailable, match=r"lives on elsewhere, and this is .*; ask there"):
            method(run)


def test_nobody_waits_for_a_run_of_another_host() -> None:
    run = Run("local", "elsewhere", "home/x", "t-aaaaaaaaaaaaaaaa-0")
    with pytest.raises(Unavailable, match="ask there"):
        watch.until_done(ran("exit 0").backend, run)


@pytest.mark.parametrize(
    ("event", "state"),
    [
        (lambda handle, ready: Path(f"{ready}.go").touch(), State.SUCCEEDED),
        (lambda handle, _: handle.backend.cancel(handle.run), State.CANCELLED),
        (lambda handle, _: os.killpg(shim(handle), signal.SIGKILL), State.FAILED),
    ],
    ids=["ends", "is cancelled", "is killed"],
)
def test_what_has_not_changed_is_not_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, event: Callable[..., None], state: State
) -> None:
    """A folder is listed while it is young, then only once it has changed, or its keeper is gone."""
    handle = running('touch "$READY"; until [ -e "$READY.go" ]; do sleep 0.01; done', tmp_path / "ready")
    listed: list[object] = []
    real = folder.read
    monkeypatch.setattr(folder, "read", lambda path: listed.append(path) or real(path))
    os.utime(at(handle), (4e9, 4e9))  # young, for as long as this takes
    status = [handle.status() for _ in range(3)]
    assert len(listed) == 3
    os.utime(at(handle), (1e9, 1e9))
    status += [handle.status() for _ in range(3)]
    assert len(listed) == 4 and status == [status[0]] * 6
    event(handle, tmp_path / "ready")
    assert until(lambda: (now := handle.status()).state.terminal and now).state is state


def test_in_a_crowd_a_kill_is_found_in_one_of_four_calls_and_an_end_at_once(tmp_path: Path) -> None:
    """A lock for each run and call is most of what a call for thousands costs."""
    killed = running('touch "$READY"; exec sleep 60', tmp_path / "first", key="killed")
    ended = running('touch "$READY"; until [ -e "$READY.go" ]; do sleep 0.01; done', tmp_path / "second", key="ended")
    crowd = [Run("local", killed.run.account, killed.run.scope, f"t-{number:016x}-0") for number in range(200)]
    ask = killed.backend.status
    for handle in (killed, ended):
        os.utime(at(handle), (1e9, 1e9))
    for _ in range(9):  # whatever call it is that looks closely
        states = ask([killed.run, ended.run, *crowd])
    assert {type(states[run]) for run in crowd} == {RunNotFound}
    assert (states[killed.run].state, states[ended.run].state) == (State.RUNNING, State.RUNNING)
    os.killpg(shim(killed), signal.SIGKILL)
    until(lambda: not folder.held(at(killed) / "lock"))
    said = [ask([killed.run, ended.run, *crowd])[killed.run].state for _ in range(4)]
    assert said == sorted(said, key=lambda state: state is not State.RUNNING) and said[-1] is not State.RUNNING
    (tmp_path / "second.go").touch()
    until(lambda: list(at(ended).glob("exit.*")))
    assert ask([ended.run, *crowd])[ended.run].state is State.SUCCEEDED


def test_an_unknown_run() -> None:
    done = ran("exit 0")
    for name, scope in (
        ("t-aaaaaaaaaaaaaaaa-0", done.run.scope),
        ("x", "tmp"),
        ("a\0b-0", "tmp"),
        ("t-0", "a\0b"),
        ("-", ""),
    ):
        run = Run("local", socket.gethostname(), scope, name)
        answer = done.backend.status([run, done.run])
        assert isinstance(answer[run], RunNotFound) and answer[done.run] == done.status()
        for method in (done.backend.logs, done.backend.cancel, done.backend.result):
            with pytest.raises(RunNotFound):
                method(run)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A disk of 512 kB with the home on it."""
    point = tmp_path / "disk"
    point.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k,nr_inodes=200", "none", point], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("no disk can be mounted here")
    monkeypatch.setenv("MLCTL_HOME", str(point / "home"))
    yield point
    subprocess.run(["umount", "-l", point], check=True)


def filled(disk: Path) -> Path:
    path = disk / "filler"
    with contextlib.suppress(OSError), path.open("ab", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))
    return path


def test_a_full_disk(disk: Path, project: Path, tmp_path: Path) -> None:
    (project / "code").mkdir()
    (project / "code" / "text").write_bytes(os.urandom(100_000))
    done = ran("exit 0")
    filler = filled(disk)
    files = sorted(path for path in disk.rglob("*") if path.is_file())
    for fields in ({"code": "code"}, {}):
        with pytest.raises(Unavailable, match="No space left on device") as caught:
            submit("exit 0", **fields)
        assert "\n" not in str(caught.value)
    assert sorted(path for path in disk.rglob("*") if path.is_file()) == files
    assert [path.name for path in disk.glob("home/runs/*/*")] == ["0", "checkpoints"]
    assert done.status().state is State.SUCCEEDED
    filler.unlink()
    ran("exit 0", code="code")


def test_the_disk_is_full_when_the_job_ends(disk: Path, tmp_path: Path) -> None:
    handle = running('touch "$READY"; until [ -e "$READY.go" ]; do sleep 0.01; done; exit 6', tmp_path / "ready")
    filled(disk)
    (tmp_path / "ready.go").touch()
    assert end(handle).exit_code == 6


def test_no_name_is_left_on_the_disk_when_the_job_ends(disk: Path, tmp_path: Path) -> None:
    """The shim waits for it, and the run is not over before."""
    script = 'touch "$READY"; until [ -e "$READY.go" ]; do sleep 0.01; done; touch "$READY.gone"; exit 6'
    handle = running(script, tmp_path / "ready")
    names = []
    with contextlib.suppress(OSError):
        for number in range(1000):
            (disk / f"name-{number}").touch()
            names.append(disk / f"name-{number}")
    (tmp_path / "ready.go").touch()
    until((tmp_path / "ready.gone").exists)
    assert handle.status().state is State.RUNNING
    for path in names:
        path.unlink()
    assert end(handle).exit_code == 6


def test_a_read_only_home(disk: Path) -> None:
    done = ran("exit 0", key="k")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(Unauthorized, match="Read-only file system") as caught:
        submit("exit 0")
    assert "\n" not in str(caught.value)
    assert submit("exit 0", key="k").run == done.run
    assert done.status().state is State.SUCCEEDED
    assert list(done.logs()) == []


# ---- Names and callers at once


def test_two_keys_of_one_name_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Key, "stem", lambda self, limit=63: "t-aaaaaaaaaaaaaaaa")
    first = submit("exit 0", key="one")
    end(first)
    assert submit("exit 0", key="one").run == first.run
    with pytest.raises(
        InvalidJob, match=r"t-aaaaaaaaaaaaaaaa-0: its name belongs to another key; choose another than 'two'"
    ):
        submit("exit 0", key="two")


def test_a_name_that_is_taken(home: Path) -> None:
    execution = api.execution(job("exit 0"), key="k")
    _, _, stamp = execution.prepare()
    admitted = execution._admitted(0)
    run = execution.backend.submit(admitted, stamp)
    with pytest.raises(RunExists) as caught:
        execution.backend.submit(admitted, stamp)
    assert caught.value.run == run
    assert sorted(path.name for path in (home / "runs").glob("*/*")) == ["0", "checkpoints"]


def test_two_processes_submit_at_once(home: Path, tmp_path: Path) -> None:
    """Exactly one start, and both have it in hand."""
    script = """if True:
        import os, sys, time, pathlib, mlctl
        folder, me = pathlib.Path(sys.argv[1]), sys.argv[2]
        for number in range(20):
            (folder / f"{me}.{number}").touch()
            while len(list(folder.glob(f"[ab].{number}"))) < 2:
                pass
            job = {"kind": "process", "name": "t", "command": {"shell": f"echo x >> {folder}/started.{number}"}}
            run = mlctl.submit(job, key=f"k{number}")
            print(run.url, run.made)
            assert run.ended(20).exit_code == 0
    """
    answers: dict[str, subprocess.CompletedProcess[str]] = {}

    def drive(me: str) -> None:
        answers[me] = driven(home, script, tmp_path, me)

    threads = [threading.Thread(target=drive, args=(me,)) for me in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answers[me].returncode for me in "ab"] == [0, 0], answers
    for number, (one, other) in enumerate(zip(*(answers[me].stdout.splitlines() for me in "ab"), strict=True)):
        assert one.split()[0] == other.split()[0]
        assert sorted((one.split()[1], other.split()[1])) == ["False", "True"]
        assert (tmp_path / f"started.{number}").read_text() == "x\n"


def test_fifty_threads_submit_at_once(tmp_path: Path, home: Path) -> None:
    barrier = threading.Barrier(50)
    handles: list[mlctl.RunHandle] = []

    def one() -> None:
        barrier.wait()
        handles.append(submit(f"echo x >> {tmp_path}/started", key="k"))

    threads = [threading.Thread(target=one) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({handle.url for handle in handles}) == 1
    assert sum(handle.made for handle in handles) == 1
    end(handles[0])
    assert (tmp_path / "started").read_text() == "x\n"
    assert not list(home.glob("runs/*/.new-*"))


@on_linux
def test_two_hundred_runs_leave_neither_zombies_nor_open_files() -> None:
    def files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    def children() -> set[str]:
        return {pid for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()}

    handle, before = submit(["true"]), children()
    end(handle)
    gc.collect()  # what other tests left open
    opened = files()
    for _ in range(200):
        handle = submit(["true"])
        end(handle)
    until(lambda: handle.status() and not children() - before)
    assert files() == opened


def test_other_children_of_the_caller_are_left_alone() -> None:
    """Their exit codes are their own starter's to collect."""
    children = [subprocess.Popen(["/bin/sh", "-c", f"exit {code}"]) for code in range(20)]
    for _ in range(10):
        end(submit("exit 0"))
    assert [child.wait(10) for child in children] == list(range(20))


def test_a_caller_that_waits_for_every_child() -> None:
    """Somebody else's waitpid(-1) has our shim: no error, no wrong answer."""
    handle = submit("exit 8")
    until(lambda: list(at(handle).glob("exit.*")))
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
    assert handle.status().exit_code == 8
    assert end(submit("exit 9")).exit_code == 9


@pytest.mark.parametrize("closed", [(0,), (1,), (0, 1, 2)])
def test_a_caller_without_standard_files(home: Path, tmp_path: Path, closed: tuple[int, ...]) -> None:
    """The lock must not be taken for one of them, nor stay open."""
    script = f"""if True:
        import glob, os, sys, mlctl
        for fd in {closed}: os.close(fd)
        run = mlctl.submit({{"kind": "process", "name": "t", "command": {{"shell": "echo out; exit 5"}}}})
        status = run.ended(20)
        left = [path for path in map(os.path.realpath, glob.glob("/proc/self/fd/*")) if path.endswith("/lock")]
        open(sys.argv[1], "w").write(f"{{status.exit_code}} {{list(run.logs())}} {{left}}")
        os._exit(0)
    """
    done = driven(home, script, tmp_path / "answer")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "answer").read_text() == "5 ['out'] []"


def test_a_caller_that_ignores_sigchld(home: Path) -> None:
    """Nothing is left to wait for then; the shim itself must still hear of its job's end."""
    script = """if True:
        import signal, mlctl
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        job = {"kind": "process", "name": "t", "command": {"shell": "sleep 0.1; exit 5"}}
        print([mlctl.submit(job).ended(20).exit_code for _ in range(3)])
    """
    assert driven(home, script).stdout == "[5, 5, 5]\n"


def test_a_caller_in_a_thread() -> None:
    codes = []
    thread = threading.Thread(target=lambda: codes.append(end(submit("exit 4")).exit_code))
    thread.start()
    thread.join(30)
    assert codes == [4]


# ---- The lock


def holders(handle: mlctl.RunHandle) -> set[int]:
    """The processes that have the run's lock open."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if path.readlink() == at(handle) / "lock":
                found.add(int(path.parts[2]))
    return found


@pytest.fixture(params=["/bin/sh", "dash", "bash --posix", "busybox"])
def shell(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The shims of this test run under this shell: /bin/sh is another one on each system."""
    words = request.param.split()
    path = shutil.which(words[0])
    if path is None:
        pytest.skip(f"no {words[0]} here")
    real = os.posix_spawn

    def spawn(_: str, argv: list[str], *rest: Any, **options: Any) -> int:
        return real(path, [argv[0], *words[1:], *argv[1:]], *rest, **options)

    monkeypatch.setattr(os, "posix_spawn", spawn)
    return str(request.param)


@on_linux
def test_only_the_shim_holds_the_lock(shell: str, tmp_path: Path) -> None:
    script = '(setsid sleep 30 &) ; sleep 31 & touch "$READY"; sleep 32; exit 1'
    handle = running(script, tmp_path / "ready", timeout=300)
    until(lambda: len(processes(handle)) >= 5)
    assert holders(handle) == {shim(handle)}
    inode = f":{(at(handle) / 'lock').stat().st_ino} "
    assert Path("/proc/locks").read_text().count(inode) == 1
    handle.cancel(20)
    assert holders(handle) == set()


def test_every_shell_ends_runs_alike(shell: str, tmp_path: Path) -> None:
    assert list(ran('echo "$timeout"; wc -c', env={"timeout": "x"}, timeout=60).logs()) == ["x", "0"]
    assert end(submit("exit 3")).exit_code == 3
    assert end(submit("kill -s KILL $$")).exit_code == 137
    assert end(submit("trap 'exit 0' TERM; while :; do sleep 0.02; done", timeout=1)).reason is Reason.TIMEOUT
    group = "trap : TERM INT HUP QUIT USR1 USR2; for s in TERM INT HUP QUIT USR1 USR2; do kill -s $s 0; done; exit 5"
    assert end(submit(group, timeout=60)).exit_code == 5
    script = "trap 'exit 0' TERM; touch \"$READY\"; while :; do sleep 0.02; done"
    polite = running(script, tmp_path / "polite", settings={"grace": 60})
    status = polite.cancel(20)
    assert status and (status.state, status.exit_code) == (State.CANCELLED, 0)
    stubborn = running(f"setsid sleep 60 & {STUBBORN}", tmp_path / "stubborn")
    status = stubborn.cancel(20)
    assert status and status.state is State.CANCELLED
    if LINUX:
        until(lambda: not processes(stubborn))


# ---- what no process can be given


@pytest.mark.parametrize(
    ("field", "value", "said"), [("command", ["echo", "a\0b"], "command: "), ("env", {"A": "x\0y"}, "env.A: ")]
)
def test_a_null_byte_is_said_of_its_field(field: str, value: Any, said: str) -> None:
    with pytest.raises(InvalidJob, match=f"job: {said}a null byte"):
        api.plan({"kind": "process", "name": "t", "command": "true", field: value})


# ---- gc


def aged(path: Path, days: float = 40) -> None:
    """Makes all below `path` look older."""
    then = time.time() - days * 86400
    for each in (path, *path.rglob("*")):
        os.utime(each, (then, then), follow_symlinks=False)


def test_gc_keeps_what_is_used_and_removes_what_is_old(home: Path, project: Path, tmp_path: Path) -> None:
    for name in ("old", "new", "running"):
        (project / name).mkdir()
        (project / name / "text").write_text(name)
    old = ran("exit 0", code=str(project / "old"))
    aged(home)
    alive = running(SLEEPER, tmp_path / "ready", code=str(project / "running"))
    aged(at(alive))
    aged(home / "packages")
    new = ran("exit 0", code=str(project / "new"))
    (home / "envs" / "crashed").mkdir(parents=True)
    (home / "runs" / ".gone-1" / "t-x").mkdir(parents=True)
    draft = at(new).parent / ".new-1"
    draft.mkdir()
    for path in (home / "envs", home / "runs" / ".gone-1", draft):
        aged(path)
    (at(new).parent / ".new-2").mkdir()
    before = time.time() - 30 * 86400
    dry = list(new.backend.prune(before, True))
    assert old.status().state is State.SUCCEEDED
    assert list(new.backend.prune(before, False)) == dry
    assert sorted(line.split()[0] for line in dry) == ["environment", "half", "half", "package", "run"]
    with pytest.raises(RunNotFound, match="it was pruned by mlctl gc"):
        old.status()
    assert (new.status().state, alive.status().state) == (State.SUCCEEDED, State.RUNNING)
    assert len(list((home / "packages").iterdir())) == 2
    assert not list(home.rglob(".gone-*")) and [path.name for path in home.rglob(".new-*")] == [".new-2"]
    assert not list((home / "envs").iterdir())
    assert list(new.backend.prune(before, False)) == []
    alive.cancel(20)


def test_gc_leaves_a_draft_alone_that_somebody_fills(home: Path) -> None:
    done = ran("exit 0")
    draft = at(done).parent / ".new-1"
    draft.mkdir()
    with folder.locked(draft / "lock"):
        aged(draft)
        assert list(done.backend.prune(time.time() - 86400, False)) == []
        assert list(done.backend.prune(time.time() + 86400, False)) == []  # nor where no attempt is young any more
    assert list(done.backend.prune(time.time() - 86400, False)) == [f"half made: {at(done).parent.name}/.new-1"]


_heard: Callable[[str], object] | None = None


def _hear(event: str, args: tuple[Any, ...]) -> None:
    if _heard is not None and event.startswith(("open", "os.", "fcntl.")):
        _heard(event)


@pytest.fixture(scope="module")
def calls() -> None:
    """From here on `_heard` is told of each call of the system, before it is made."""
    sys.addaudithook(_hear)


@pytest.mark.parametrize(
    ("days", "ask", "told"),
    [
        (40, lambda run: list(run.backend.prune(time.time() - 86400, False)), ()),
        (0, lambda run: list(run.backend.prune(time.time() - 86400, False)), ()),
        (0, lambda run: run.backend.find(Key("swept", "t")), ()),
        (0, lambda run: run.status(), (RunNotFound,)),
        (0, lambda run: list(run.logs()), (RunNotFound,)),
        (0, lambda run: run.result(), (RunNotFound,)),
        (0, lambda run: run.cancel(20), (RunNotFound,)),
    ],
    ids=["gc of an old one", "gc of a young one", "find", "status", "logs", "result", "cancel"],
)
def test_a_run_that_gc_takes_at_any_call_of_another(
    days: float,
    ask: Callable[[mlctl.RunHandle], object],
    told: tuple[type[Exception], ...],
    home: Path,
    tmp_path: Path,
    calls: None,
) -> None:
    """Before its first call, before its second, ...: until it ends first."""
    global _heard
    run = ran("echo said", key="swept")
    (at(run).parent / ".new-1").mkdir()
    stem, away = at(run).parent, tmp_path / "away"
    aged(stem, days)
    number, taken = 0, True

    def hear(event: str) -> None:
        nonlocal left, taken
        left -= 1
        if left == 0 and stem.exists():
            taken = True
            stem.rename(away)

    while taken:
        number, left, taken = number + 1, number + 1, False
        kept = tmp_path / str(number)
        shutil.copytree(stem, kept)
        _heard = hear
        try:
            ask(run)
        except told:
            assert taken
        finally:
            _heard = None
        assert away.exists() == taken
        shutil.rmtree(away, ignore_errors=True)
        shutil.rmtree(stem, ignore_errors=True)
        kept.rename(stem)
    assert number > 1


def test_gc_at_any_call_of_which_the_next_attempt_is_started(home: Path, calls: None) -> None:
    """It leaves what it has found old by then, or is done first: a run that was started is never lost."""
    global _heard
    number, met = 0, True

    def ask() -> Any:
        return api.execution(job("exit 3"), key=f"k{number}", retry=True)

    def hear(event: str) -> None:
        global _heard
        nonlocal left, met
        left -= 1
        if left == 0:
            met, _heard = True, None
            try:
                started.append(ask().start().run)
            except Unavailable as reason:
                refused.append(str(reason))

    refused: list[str] = []
    while met:
        number, left, met = number + 1, number + 1, False
        started: list[Run] = []
        earlier = ask()
        assert earlier.wait(earlier.start(), 30).status
        stem = next((home / "runs").iterdir())
        aged(stem)
        _heard = hear
        try:
            removed = list(earlier.backend.prune(time.time() - 86400, False))
        finally:
            _heard = None
        if started:
            status = watch.until_done(earlier.backend, started[0], 30)
            assert status and status.exit_code == 3, (number, status)
        shutil.rmtree(stem, ignore_errors=True)
    assert removed and not started and number > 10
    assert refused and all("mlctl gc is removing its earlier attempts; try again" in text for text in refused)


def test_gc_at_any_call_of_which_code_is_packed_again(home: Path, project: Path, calls: None) -> None:
    """Code that nobody used for long, and somebody is about to: it is spared, or packed anew."""
    global _heard
    (project / "code").mkdir()
    (project / "code" / "text").write_text("packed")
    number, met = 0, True

    def work() -> Any:
        return api.execution(job("cat text; exit 3", code=str(project / "code")), key=f"p{number}")

    def hear(event: str) -> None:
        global _heard
        nonlocal left, met
        left -= 1
        if left == 0:
            met, _heard = True, None
            packing.start()
            packing.join(0.1)  # it may have to wait for gc, which is this very thread

    while met:
        number, left, met = number + 1, number + 1, False
        work().prepare()
        aged(home / "packages")
        submitted = work()
        packing = threading.Thread(target=submitted.prepare)
        _heard = hear
        try:
            removed = list(submitted.backend.prune(time.time() - 86400, False))
        finally:
            _heard = None
        if met:
            packing.join()
            status = submitted.wait(submitted.start(), 30).status
            assert status and status.exit_code == 3, (number, status)
        shutil.rmtree(home / "runs", ignore_errors=True)
    assert [line.split()[0] for line in removed] == ["package"] and number > 10


def test_gc_spares_code_that_was_just_packed(home: Path, project: Path) -> None:
    (project / "text").write_text("packed")
    work = api.execution(job("exit 3", code=str(project)))
    work.prepare()
    aged(home / "packages", 0.5)
    assert list(work.backend.prune(time.time() - 1, False)) == []
    status = work.wait(work.start(), 30).status
    assert status and status.exit_code == 3


def test_gc_twice_at_once_and_over_damage(home: Path) -> None:
    handles = [ran("exit 0") for _ in range(30)]
    (at(handles[0]) / "plan.json").write_bytes(b"{")
    aged(home / "runs")
    removed: list[str] = []
    threads = [
        threading.Thread(target=lambda: removed.extend(handles[0].backend.prune(time.time() - 86400, False)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([line for line in removed if line.startswith("run ")]) == 30
    assert list((home / "runs").iterdir()) == []


# ---- Ten thousand runs


def test_the_cost_does_not_grow_with_the_number_of_runs(
    home: Path, capsys: pytest.CaptureFixture[str], calls: None
) -> None:
    first = ran("exit 0", key="first")
    for number in range(50):
        ledger.record(
            home,
            Run("local", first.run.account, first.run.scope, f"gone-{number}-0").__str__(),
            "x",
            "process",
            "local",
            "",
        )
    entry = next(one for one in ledger.recent(home) if one.run == first.url)
    numbers = iter(range(10))

    def costs() -> dict[str, Counter[str]]:
        global _heard
        key = f"new-{next(numbers)}"
        execution = api.execution(job("exit 0"), key=key)
        handle = None
        made: dict[str, Counter[str]] = {}

        def start() -> None:
            nonlocal handle
            outcome = execution.start()
            handle = mlctl.RunHandle(execution.backend, outcome.run, execution, outcome)

        actions: dict[str, Callable[[], object]] = {
            "submit": start,
            "find": lambda: execution.backend.find(Key("first", "t")),
            "status": first.status,
            "list": lambda: command_line.run(["list", "-n", "5"]),
        }
        for name, action in actions.items():
            made[name] = Counter()
            _heard = lambda event, name=name: made[name].update([event])  # noqa: E731
            action()
            _heard = None
            if name == "submit":
                assert handle
                end(handle)
                for _ in range(5):
                    ledger.record(home, first.url, "t", "process", "local", "first")
        capsys.readouterr()
        return made

    costs()  # imports, caches
    few = costs()
    source = at(first)
    files = [path.name for path in source.iterdir() if path.is_file()]
    with (home / "record.jsonl").open("a") as record:
        for number in range(10_000):
            stem = f"t-{number:016d}"
            target = home / "runs" / stem / "0"
            target.mkdir(parents=True)
            for name in files:
                os.link(source / name, target / name)
            url = first.url.replace(first.name, f"{stem}-0")
            record.write(json.dumps({**vars(entry), "run": url}) + "\n")
    assert costs() == few
    handle = api.reach(f"t-{5000:016d}-0")
    assert handle.status().state is State.SUCCEEDED


def test_a_line_that_was_cut_short_takes_no_other_along(home: Path) -> None:
    for key in ("first", "second"):
        with (home / "record.jsonl").open("a") as record:
            record.write('{"run": "local://h/x/t')
        ledger.record(home, "local://h/x/t-0", "t", "train", "local", key)
    assert [one.key for one in ledger.recent(home)] == ["second", "first"]


def test_the_first_submission_of_a_user_is_in_the_record(home: Path) -> None:
    """A platform elsewhere keeps nothing on this machine: the record may be the first that is written here."""
    ledger.record(home / "none" / "yet", "sagemaker://1/x/y/t-0", "t", "train", "cloud", "key")
    assert [one.key for one in ledger.recent(home / "none" / "yet")] == ["key"]


def test_the_record_is_read_from_its_end(home: Path) -> None:
    home.mkdir(exist_ok=True)
    for number in range(3000):
        ledger.record(home, f"local://h/x/t-{number}", "jöb" * 10, "train", "local", f"key {number}")
    with (home / "record.jsonl").open("ab") as stream:
        stream.write(b'{"run": "cut sho\n\n5\n\xff\n{"a": 1}\n')
        stream.write(
            json.dumps(
                {"run": "local://h/x/t-0", "job": "x" * 200_000, "kind": "", "target": "", "key": "", "time": 0}
            ).encode()
        )
    found = list(ledger.recent(home))
    assert len(found) == 3001 and len(found[0].job) == 200_000
    assert [one.key for one in found[1:]] == [f"key {number}" for number in range(2999, -1, -1)]


def test_the_constructor_reads_nothing(tmp_path: Path) -> None:
    backend = Local(Settings("x", {}, tmp_path / "none"))
    assert backend.find(Key("k", "t")) == []
    assert not (tmp_path / "none").exists()
    findings = list(backend.check())
    assert all(one.ok for one in findings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"grace": -1}, "grace: got -1, expected seconds from 0 to 3600"),
        ({"grace": True}, "grace: got true"),
        ({"grace": "5"}, "grace: got '5'"),
        ({"inherit_env": "A"}, "inherit_env: expected a list of variables' names"),
        ({"graceful": 5}, "graceful: unknown setting; did you mean 'grace'"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(MlctlError, match=f"targets.local.{words}"):
        submit("exit 0", settings=settings)


def test_another_host_judges_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The keeper is gone, and its processes can't be seen from here: whoever says that they ended may be wrong."""
    handle = submit("sleep 60")
    until(lambda: handle.status().state is State.RUNNING)
    where = at(handle)
    (shim,) = [int(path.suffix[1:]) for path in where.glob("started.*")]
    os.kill(shim, signal.SIGKILL)
    until(lambda: not folder.held(where / "lock"))
    with monkeypatch.context() as patch:
        patch.setattr(socket, "gethostname", lambda: "other")
        with pytest.raises(Unavailable, match="ask there"):
            handle.status()
        with pytest.raises(Unavailable, match="ask there"):
            handle.backend.find(Key(handle.key, "t"))
    assert not list(where.glob("exit.*"))
    status = handle.cancel(30)
    assert status
    assert status.state.terminal


@pytest.mark.parametrize("name", ["..", "x-checkpoints", "../../x-0", "x/y-0", "-0", ".-0"])
def test_what_is_no_runs_name_is_no_run(name: str, home: Path) -> None:
    ran("exit 0")
    before = sorted(home.rglob("*"))
    run = Run("local", socket.gethostname(), str(home).lstrip("/"), name)
    with pytest.raises(RunNotFound):
        mlctl.reach(str(run)).status()
    assert sorted(home.rglob("*")) == before


def test_a_long_line_is_cut_between_characters() -> None:
    done = ran("true")
    text = "a" + "é" * 700_000
    (at(done) / "log").write_text(text + "\n", encoding="utf-8")
    lines = list(done.logs())
    assert len(lines) == 2
    assert "".join(lines) == text
