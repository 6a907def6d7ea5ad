"""Jobs and pods of a namespace as a watch tells them: one list, then what changes, so that asking for a thousand runs costs no
call at all.

A watch lasts for LASTS seconds, by the server's clock and by ours: one that goes quiet is broken then, and its objects are
listed anew. So is one whose version became too old, one that ends as it begins, and one that nobody read for a while: its
thread has ended.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

from mlctl.errors import MlctlError

from .api import Api, Expired

__all__ = ["Mirror"]

log = logging.getLogger(__name__)

LASTS = 60  # seconds of one watch
SILENT = 15  # seconds more, after which a watch is held to be broken that should have ended
SHORT = 1  # seconds that a watch lasts at least, or it is held to be none: somebody in between passes no streams on
IDLE = 120  # seconds without a reader after which nobody is held to wait any more

Thing = dict[str, Any]


class Mirror:
    """The objects of one kind that match. Any thread may read it."""

    def __init__(self, api: Api, kind: str, namespace: str, selector: str = "", fields: str = "") -> None:
        self._api, self._what = api, (kind, namespace, selector, fields)
        self._lock = threading.Lock()
        self._things: dict[str, Thing] = {}
        self._version = ""
        """At which the objects were so; empty where they have to be listed."""
        self._read = 0.0
        self._thread: threading.Thread | None = None

    def things(self) -> list[Thing]:
        """What there is, as of at most some moments ago; listed here where no watch is under way. Raises what a list does."""
        with self._lock:
            self._read = time.monotonic()
            if self._version and self._thread and self._thread.is_alive():
                return list(self._things.values())
            found, self._version = self._api.snapshot(*self._what, keep=_kept)
            self._things = {each["metadata"]["uid"]: each for each in found}
            self._thread = threading.Thread(
                target=self._follow, args=(self._version,), name=f"mlctl-watch-{self._what[0]}", daemon=True
            )
            self._thread.start()
            return found

    def _follow(self, version: str) -> None:
        """Takes changes in, watch after watch, until one breaks or is too short, or nobody reads. The next reader lists."""
        try:
            lasted = float(SHORT)
            while lasted >= SHORT and time.monotonic() - self._read < IDLE:
                began = time.monotonic()
                for how, thing in self._api.changes(*self._what, version, LASTS, LASTS + SILENT):
                    version = str(thing["metadata"]["resourceVersion"])
                    if how != "BOOKMARK":
                        self._take(how, _kept(thing))
                lasted = time.monotonic() - began
        except Expired as reason:
            log.debug("%s: the version to watch from is too old, listing anew: %s", self._what, reason)
        except MlctlError as error:
            log.debug("%s: a watch broke, listing anew: %s", self._what, error)
        finally:
            with self._lock:
                self._version = ""

    def _take(self, how: str, thing: Thing) -> None:
        with self._lock:
            if how == "DELETED":
                self._things.pop(thing["metadata"]["uid"], None)
            else:
                self._things[thing["metadata"]["uid"]] = thing


def _kept(thing: Mapping[str, Any]) -> Thing:
    """Less what no status is read from, which is most of it."""
    metadata = {name: value for name, value in thing["metadata"].items() if name != "managedFields"}
    spec = {name: value for name, value in thing.get("spec", {}).items() if name not in _LEFT_OUT}
    return {**thing, "metadata": metadata, "spec": spec}


_LEFT_OUT = {"template", "containers", "initContainers", "volumes", "tolerations"}
