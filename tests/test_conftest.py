"""What every test gets, looked at from outside: a pytest that is ended leaves nothing of its fixtures' behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from behaviour import until

TEST = """
import pathlib, subprocess, time, pytest

@pytest.fixture(scope="session")
def server():
    process = subprocess.Popen(["sleep", "120"], start_new_session=True)
    yield process.pid
    process.kill()
    process.wait()
    pathlib.Path("ended").touch()

def test_it(server):
    pathlib.Path("pid").write_text(str(server))
    time.sleep(120)
"""


def test_sigterm_ends_the_servers_of_fixtures(tmp_path: Path) -> None:
    """As Ctrl-C does: the test is interrupted, and what fixtures started is ended by them."""
    (tmp_path / "test_it.py").write_text(TEST)
    (tmp_path / "pytest.ini").touch()
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    words = [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider", "test_it.py"]
    with subprocess.Popen(words, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True) as process:
        pid = tmp_path / "pid"
        until(lambda: pid.exists() and pid.read_text(), "the test")
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 2 and "KeyboardInterrupt" in said, said
    assert (tmp_path / "ended").exists() and not Path("/proc", pid.read_text()).exists()
