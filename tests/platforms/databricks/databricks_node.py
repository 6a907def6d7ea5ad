"""The compute of the stand-in: what minilake takes for `python3`. Makes the run's environment, says its process id,
becomes the task.
"""

import fcntl
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

UNINSTALLABLE = 97


def main() -> None:
    script, spec, run_id = sys.argv[1:]
    nodes = Path(os.environ["STANDIN_NODES"])
    os.setsid()
    (nodes / f".{run_id}").write_text(str(os.getpid()))
    (nodes / f".{run_id}").rename(nodes / f"{run_id}.pid")
    dependencies = json.loads((nodes / f"{run_id}.json").read_text())
    python = environment(nodes, dependencies) if dependencies else os.environ["STANDIN_PYTHON"]
    os.execv(python, [python, script, spec, run_id])


def environment(nodes: Path, dependencies: list[str]) -> str:
    folder = nodes / hashlib.sha256("\n".join(dependencies).encode()).hexdigest()[:16]
    python = str(folder / "bin" / "python")
    with (nodes / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "ready").exists():
            uv = os.environ["STANDIN_UV"]
            steps = [
                [uv, "venv", "--quiet", "--clear", "--python", os.environ["STANDIN_PYTHON"], str(folder)],
                [uv, "pip", "install", "--quiet", "--python", python, *dependencies],
            ]
            for step in steps:
                done = subprocess.run(step, capture_output=True, text=True, check=False, timeout=600)
                if done.returncode:
                    print("libraries can't be installed:", done.stderr.strip())
                    raise SystemExit(UNINSTALLABLE)
            (folder / "ready").touch()
    return python


main()
