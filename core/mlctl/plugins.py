"""What mlctl finds by name: platforms and groups of commands, its own and those that others bring as entry points.

Its own are a table, of what an entry point would say: for these Python asks every installed package, and imports its
reader of mail to do so.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any

__all__ = ["BACKENDS", "COMMANDS", "known", "load", "names"]

BACKENDS, COMMANDS = "mlctl.backends", "mlctl.commands"  # the groups of entry points

_OWN: Mapping[str, Mapping[str, str]] = {
    BACKENDS: {
        "azureml": "mlctl.backends.azureml:AzureML",
        "databricks": "mlctl.backends.databricks:Databricks",
        "docker": "mlctl.backends.docker:Docker",
        "kfp": "mlctl.backends.kfp:KFP",
        "kubernetes": "mlctl.backends.kubernetes:Kubernetes",
        "local": "mlctl.backends.local:Local",
        "sagemaker": "mlctl.backends.sagemaker:SageMaker",
    },
    COMMANDS: {
        "jenkins": "mlctl_jenkins.command:jenkins",
        "kfp": "mlctl_kfp.command:kfp",
    },
}


@cache
def _brought(group: str) -> Mapping[str, Any]:
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=group)}


def names(group: str, own: bool = False) -> list[str]:
    """All that are here; with `own`, mlctl's alone."""
    return sorted({*_OWN[group]} if own else {*_OWN[group], *_brought(group)})


def known(group: str, name: str) -> bool:
    """Whether it is here. A name of mlctl's own is its own, whatever else has it."""
    return name in _OWN[group] or name in _brought(group)


def load(group: str, name: str) -> Any:
    """What has that name, which is known. Raises ImportError where a library is missing that it needs."""
    if name not in _OWN[group]:
        return _brought(group)[name].load()
    module, _, attribute = _OWN[group][name].partition(":")
    return getattr(import_module(module), attribute)
