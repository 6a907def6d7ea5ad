"""The local platform, held at the moments in which a caller may die: it says where it is, and goes on once it may.

Installed by being on PYTHONPATH. At each moment it makes the file of that name in the folder `hold`, and waits for
`go-` and that name. Its runs have a page each, as a cloud's do.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlctl.backends.local import Local
from mlctl.runs import Status

MOMENTS = ("submitting", "submitted", "succeeded")


class Held(Local):
    """Takes the setting `hold`, a folder."""

    name = "held"
    takes = Local.takes | {"hold"}

    def submit(self, *args: Any) -> Any:
        self._hold("submitting")
        run = super().submit(*args)
        self._hold("submitted")
        return run

    def status(self, *args: Any) -> Any:
        page = "https://platform.example/"
        return {
            run: replace(one, link=page + run.name) if isinstance(one, Status) else one
            for run, one in super().status(*args).items()
        }

    def result(self, *args: Any) -> Any:
        self._hold("succeeded")
        return super().result(*args)

    def _hold(self, moment: str) -> None:
        folder = Path(self.settings.values["hold"])
        (folder / moment).touch()
        deadline = time.monotonic() + 120
        while not (folder / f"go-{moment}").exists():
            if time.monotonic() > deadline:
                raise RuntimeError(f"held at {moment} for too long")
            time.sleep(0.02)
