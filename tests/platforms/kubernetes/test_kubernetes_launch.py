"""The script that a container starts with, run by this machine's shells, its folder of the pod's own put elsewhere."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlctl.backends.kubernetes import stager
from mlctl.backends.kubernetes.launch import METRICS, RERUN, ROOT, UNSAVED, Launch, script

SHELLS = [words for words in (["/bin/sh"], ["bash", "--posix"], ["busybox", "sh"]) if shutil.which(words[0])]

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(params=SHELLS, ids=lambda words: Path(words[0]).name)
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Start]:
    """Starts a launch with a job's words."""
    (tmp_path / "pod").mkdir()
    made: list[subprocess.Popen[str]] = []

    def starts(launch: Launch, *words: str, **env: str) -> subprocess.Popen[str]:
        text = (
            script(launch).replace(ROOT, str(tmp_path / "pod")).replace("/dev/termination-log", str(tmp_path / "said"))
        )
        process = subprocess.Popen(
            [*request.param, "-c", text, "mlctl", *words], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "MLCTL_JOB_UID": "u", **env}, cwd=tmp_path / "pod",
        )  # fmt: skip
        made.append(process)
        return process

    yield starts
    for process in made:
        process.kill()
        process.communicate()


def test_job_gets_its_words_and_its_exit_code_is_the_pods(start: Start) -> None:
    process = start(Launch("{}"), "/bin/sh", "-c", 'printf "%s|" "$@"; exit 7', "sh", "a b", "$HOME", "", "'")
    assert process.communicate(timeout=60) == ("a b|$HOME||'|", "")
    assert process.returncode == 7


def test_variables_of_the_job_reach_it_unchanged(start: Start) -> None:
    names = ("code", "job", "told", "again", "last", "line", "python")
    process = start(
        Launch("{}"),
        "/bin/sh",
        "-c",
        f"echo {' '.join(f'${name}' for name in names)}",
        **{name: f"its-{name}" for name in names},
    )
    assert process.communicate(timeout=60) == (" ".join(f"its-{name}" for name in names) + "\n", "")


def test_sigterm_reaches_the_job_and_is_waited_for(start: Start, tmp_path: Path) -> None:
    job = f"trap 'echo got; sleep 0.3; echo end; exit 5' TERM; touch {tmp_path}/up; while :; do sleep 0.05; done"
    process = start(Launch("{}"), "/bin/sh", "-c", job)
    deadline = time.monotonic() + 60
    while not (tmp_path / "up").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60)[0] == "got\nend\n"
    assert process.returncode == 5


def test_metrics_are_said_once_the_job_has_failed_too(start: Start, tmp_path: Path) -> None:
    metrics = f"{tmp_path}/pod/metrics.jsonl"
    process = start(Launch("{}"), "/bin/sh", "-c", f"""printf '{{"a": 1}}\\n{{"b\\\\": 2}}' >{metrics}; exit 3""")
    _, said = process.communicate(timeout=60)
    assert said == f'{METRICS}{{"a": 1}}\n{METRICS}{{"b\\": 2}}\n'
    assert process.returncode == 3


def test_attempt_runs_once(start: Start, tmp_path: Path) -> None:
    launch = Launch("{}", claim=f"{tmp_path}/volume/0/started-")
    assert start(launch, "true").wait(60) == 0
    shutil.rmtree(tmp_path / "pod")
    (tmp_path / "pod").mkdir()  # another pod of the same Job
    again = start(launch, "touch", f"{tmp_path}/ran")
    assert again.wait(60) == 1
    assert (tmp_path / "said").read_text().startswith(RERUN)
    assert not (tmp_path / "ran").exists()
    shutil.rmtree(tmp_path / "pod")
    (tmp_path / "pod").mkdir()  # another Job of that name, after this one was forgotten
    assert start(launch, "true", MLCTL_JOB_UID="v").wait(60) == 0


def test_outputs_are_saved_or_the_run_fails(start: Start, tmp_path: Path) -> None:
    place, kept = f"{ROOT}/outputs/model", tmp_path / "volume/model"
    launch = Launch("{}", folders=[place, str(kept)], saved={place: str(kept)})
    words = ["/bin/sh", "-c", f"echo fitted >{tmp_path}/pod/outputs/model/m.txt; exit $CODE"]
    assert start(launch, *words, CODE="0").wait(60) == 0
    assert (kept / "m.txt").read_text() == "fitted\n"
    shutil.rmtree(tmp_path / "pod")
    (tmp_path / "pod").mkdir()
    gone = ["/bin/sh", "-c", f"rm -r {kept}; touch {kept}; exit $CODE"]
    process = start(launch, *gone, CODE="0")
    assert process.wait(60) == 1
    assert (tmp_path / "said").read_text() == f"{UNSAVED}: model"


def test_nodes_need_their_number(start: Start, tmp_path: Path) -> None:
    launch = Launch("{}", nodes=2, master="run-0.service", distribution=("env", 1))
    assert start(launch, "true").wait(60) == 1
    assert "no Indexed Jobs, which nodes: 2 needs" in (tmp_path / "said").read_text()
    words = ["/bin/sh", "-c", "echo $RANK $WORLD_SIZE $NODE_RANK $MASTER_ADDR $MASTER_PORT"]
    process = start(launch, *words, JOB_COMPLETION_INDEX="1")
    assert process.communicate(timeout=60)[0] == "1 2 1 run-0.service 29500\n"


@pytest.mark.parametrize(
    ("how", "code"),
    [("true", 0), ("exit 3", 0), ("kill -9 $PPID", 1), ("sleep 90 >&- 2>&- & echo $! >left", 0)],
    ids=range(4),
)
def test_who_saves_outputs_waits_for_the_end_however_it_comes(
    start: Start, tmp_path: Path, how: str, code: int
) -> None:
    os.mkfifo(tmp_path / "pod/alive")
    source = Path(stager.__file__).read_text()
    words = [sys.executable, "-c", source, "save", str(tmp_path / "pod"), '{"fetch": [], "save": []}']
    with subprocess.Popen(words) as saves:
        start(Launch("{}", staged=True), "/bin/sh", "-c", f"while ! [ -e {tmp_path}/go ]; do sleep 0.05; done; {how}")
        with pytest.raises(subprocess.TimeoutExpired):
            saves.wait(1)
        (tmp_path / "go").touch()
        assert saves.wait(60) == code
    with contextlib.suppress(FileNotFoundError):
        os.kill(int((tmp_path / "pod/left").read_text()), signal.SIGKILL)  # which kept nobody waiting


def catches(pid: int, number: int) -> bool:
    caught = Path(f"/proc/{pid}/status").read_text().partition("SigCgt:")[2].split()[0]
    return bool(int(caught, 16) & 1 << number - 1)


def test_who_saves_outputs_hears_sigterm(tmp_path: Path) -> None:
    source = Path(stager.__file__).read_text()
    words = [sys.executable, "-c", source, "save", str(tmp_path), '{"fetch": [], "save": []}']
    with subprocess.Popen(words) as saves:
        deadline = time.monotonic() + 60
        while not catches(saves.pid, signal.SIGTERM):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        saves.send_signal(signal.SIGTERM)
        assert saves.wait(60) == 143
