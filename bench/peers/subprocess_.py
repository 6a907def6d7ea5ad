"""The floor: `subprocess` alone, which keeps nothing, and forgets the job if its caller dies."""

from __future__ import annotations

import subprocess

from common import drive


def wait(process: subprocess.Popen[bytes]) -> None:
    if process.wait():
        raise SystemExit(f"the job ended with {process.returncode}")


drive(lambda command: subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL), wait)
