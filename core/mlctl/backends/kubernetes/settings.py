"""The settings of a target, checked before anything is asked of a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlctl.backend import Settings
from mlctl.backends._pods import NAME, SETTINGS, secret, volumes_of
from mlctl.units import seconds
from mlctl.values import Allowed, text, words
from mlctl.values import duration as a_duration

__all__ = ["NAMES", "check", "duration", "secret_key"]


def _tolerations(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, Mapping) for each in value)


def _placed(value: Any) -> bool:
    """Where pods go: {node_selector: ..., tolerations: ...}, and for an accelerator {resource: ...}."""
    return (
        isinstance(value, Mapping)
        and value.keys() <= {"resource", "node_selector", "tolerations"}
        and words(value.get("node_selector", {}))
        and _tolerations(value.get("tolerations", []))
        and isinstance(value.get("resource", ""), str)
    )


def _accelerators(value: Any) -> bool:
    return isinstance(value, Mapping) and all(_placed(each) and each.get("resource") for each in value.values())


def _stage(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and value.keys() <= {"image", "env", "secrets"}
        and text(r"\S+")(value.get("image"))
        and words(value.get("env", {}))
        and words(value.get("secrets", {}))
    )


def _template(value: Any) -> bool:
    return isinstance(value, Mapping) and value.keys() <= {"metadata", "spec"}


_ALLOWED: Allowed = {
    "kubeconfig": (text(r".+"), "the path of a kubeconfig"),
    "context": (text(r".+"), "a context of the kubeconfig"),
    "namespace": (text(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"), "a namespace"),
    "cluster": (text(r"[A-Za-z0-9._:-]+"), "a name for the cluster, such as prod-eu"),
    **SETTINGS,
    "tolerations": (_tolerations, "a list of tolerations, as a pod has them"),
    "accelerators": (
        _accelerators,
        "a mapping of names to {resource: nvidia.com/gpu}, with node_selector and tolerations where they are needed",
    ),
    "spot": (_placed, "{node_selector: ..., tolerations: [...]} of the nodes that may be taken back"),
    "priority_class": (text(NAME), "the name of a priority class"),
    "queue": (text(NAME), "the name of a LocalQueue of Kueue"),
    "ttl": (a_duration, "a duration such as 7d"),
    "queue_timeout": (a_duration, "a duration such as 30m"),
    "grace": (a_duration, "a duration such as 30s"),
    "volumes": (
        volumes_of("claim", "host", "nfs", "at", "read_only"),
        "a mapping of names to {claim: NAME}, {host: /PATH} or {nfs: SERVER:/PATH}, with at: /PATH and read_only: true",
    ),
    "storage": (
        text(r"(volume|s3|gs|abfss?)://[A-Za-z0-9._@-]+(/[A-Za-z0-9._=-]+)*/?"),
        "a folder of a volume such as volume://data/mlctl, or of an object store such as s3://bucket/mlctl",
    ),
    "stage": (
        _stage,
        "{image: IMAGE} with python3, fsspec and what it needs for the store, and env: {NAME: value} and "
        "secrets: {NAME: k8s-secret:NAME/KEY} that it reaches the store by",
    ),
    "template": (_template, "a mapping of metadata: and spec:, laid over the pod's template"),
}

NAMES = frozenset(_ALLOWED) | {"secrets"}
"""The settings that there are."""


def check(settings: Settings) -> None:
    """Raises InvalidConfig that names the first setting that is wrong, and what it takes."""
    settings.check(_ALLOWED)


def secret_key(settings: Settings, name: str, at: str = "secrets") -> dict[str, Any]:
    """Where a variable's value comes from, as a container has it. Raises InvalidConfig."""
    found, key = secret(settings, name, at)
    return {"secretKeyRef": {"name": found, "key": key}}


def duration(settings: Settings, name: str, default: str) -> int:
    """A setting that is a duration, in seconds."""
    return seconds(settings.values.get(name, default))
