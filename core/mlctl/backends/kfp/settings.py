"""The settings of a target, checked before anything is asked of a server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from mlctl.backend import Settings
from mlctl.backends._pods import SETTINGS, volumes_of
from mlctl.units import seconds
from mlctl.values import Allowed, address, duration, text, words

__all__ = ["NAMES", "check", "grace", "place"]

_TOLERATION = frozenset({"key", "operator", "value", "effect", "toleration_seconds"})


def _tolerations(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, Mapping) and each.keys() <= _TOLERATION for each in value)


def _accelerators(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(each, Mapping)
        and each.keys() <= {"resource", "node_selector", "tolerations"}
        and text(r"[a-z0-9.-]+/[A-Za-z0-9._-]+")(each.get("resource"))
        and words(each.get("node_selector", {}))
        and _tolerations(each.get("tolerations", []))
        for each in value.values()
    )


_ALLOWED: Allowed = {
    "host": (address(r"https?://[^/\s?#@]+(/[^\s?#]*)?"), "the address of the API server, such as https://kfp.acme.com"),
    "server": (text(r"[A-Za-z0-9._:-]+"), "a name for the server, such as prod-eu"),
    "namespace": (text(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"), "the namespace of a profile of Kubeflow's"),
    "experiment": (text(r"[A-Za-z0-9][\w .-]{0,126}"), "the name of an experiment"),
    "token": (text(r"(env:[A-Za-z_]\w*|file:.+)"), "where a bearer token comes from, env:NAME or file:PATH"),
    "ca": (text(r".+"), "the path of a file with the certificates to trust"),
    **SETTINGS,
    "tolerations": (_tolerations, f"a list of mappings of {', '.join(sorted(_TOLERATION))}"),
    "accelerators": (
        _accelerators,
        "a mapping of names to {resource: nvidia.com/gpu}, with node_selector and tolerations where they are needed",
    ),
    "volumes": (volumes_of("claim", "at"), "a mapping of names to {claim: NAME}, with at: /PATH"),
    "storage": (text(r"volume://[a-z0-9-]+(/[A-Za-z0-9._-]+)*/?"), "a folder of a volume such as volume://data/mlctl"),
    "grace": (duration, "a duration such as 30s"),
}  # fmt: skip

NAMES = frozenset(_ALLOWED) | {"secrets"}
"""The settings that there are."""


def check(settings: Settings) -> None:
    """Raises InvalidConfig that names the first setting that is wrong or missing, and what it takes."""
    settings.check(_ALLOWED)
    if settings.values.get("host") is None:
        raise settings.fail("host", f"it is not set; expected {_ALLOWED['host'][1]}")


def place(settings: Settings) -> tuple[str, str]:
    """The account and the scope of a run's URL: the server, and the experiment."""
    values = settings.values
    account = str(values.get("server") or urlsplit(str(values["host"])).netloc)
    return account, "/".join(filter(None, (values.get("namespace", ""), values.get("experiment", "mlctl"))))


def grace(settings: Settings) -> int:
    """Seconds between SIGTERM and SIGKILL."""
    return seconds(settings.values.get("grace", "30s"))
