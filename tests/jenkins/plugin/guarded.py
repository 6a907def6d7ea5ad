"""The local platform, for those who have a token: what a platform in a cloud is. Installed by being on PYTHONPATH."""

from __future__ import annotations

import os
from typing import Any

from mlctl.backends.local import Local
from mlctl.errors import Unauthorized


class Guarded(Local):
    def submit(self, *args: Any) -> Any:
        self._checked()
        return super().submit(*args)

    def find(self, *args: Any) -> Any:
        self._checked()
        return super().find(*args)

    def cancel(self, *args: Any) -> Any:
        self._checked()
        return super().cancel(*args)

    def _checked(self) -> None:
        if not os.environ.get("TOKEN"):
            raise Unauthorized("guarded: no token")
