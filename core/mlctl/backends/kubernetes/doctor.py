"""What `mlctl doctor` asks of a cluster: each by a call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mlctl.backend import Finding, Settings
from mlctl.errors import MlctlError

from .api import Api

__all__ = ["RIGHTS", "findings"]

RIGHTS = (
    ("batch", "jobs", ("create", "get", "list", "watch", "patch", "delete")),
    ("", "pods", ("list", "watch", "patch")),
    ("", "pods/log", ("get",)),
    ("", "configmaps", ("create", "list", "patch", "delete")),
    ("", "services", ("create", "list", "patch", "delete")),
    ("", "events", ("list", "watch")),
)
"""Group, resource and verbs: all that mlctl does in a cluster. role.yaml grants them."""


def findings(api: Api, settings: Settings) -> Iterator[Finding]:
    """In an order in which each needs those before it; ends where nothing more can be asked."""
    target = settings.target
    mend = f"set KUBECONFIG, or targets.{target}.kubeconfig and context; log in again where a token has expired"
    try:
        version = api.call("GET", "/version")
        namespace = api.namespace
    except MlctlError as error:
        yield Finding("cluster", False, str(error), mend)
        return
    said = f"{version.get('gitVersion', 'of no version')}"
    yield Finding("cluster", True, f"{api.account}, Kubernetes {said}, namespace {namespace}")
    minor = int("".join(filter(str.isdigit, str(version.get("minor", "")))) or 0)
    if (version.get("major"), minor) < ("1", 26):
        text = f"{said}: a pod deleted by hand is made anew there; no nodes:, no queues before 1.24"
        yield Finding("version", False, text, "upgrade to 1.26 or newer, which has reported a deleted pod since")
    mend = f"ask for the Role of docs/kubernetes.md in namespace {namespace}"
    for group, resource, verbs in RIGHTS:
        name, _, part = resource.partition("/")
        try:
            lacking = [verb for verb in verbs if not _may(api, namespace, group, name, part, verb)]
        except MlctlError as error:
            yield Finding(resource, False, str(error), mend)
            return
        text = f"no right to {', '.join(lacking)}" if lacking else f"may {', '.join(verbs)}"
        yield Finding(resource, not lacking, text, mend if lacking else "")


def _may(api: Api, namespace: str, group: str, resource: str, part: str, verb: str) -> bool:
    asked: dict[str, Any] = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {
            "resourceAttributes": {
                "namespace": namespace, "group": group, "resource": resource, "subresource": part, "verb": verb,
            }
        },
    }  # fmt: skip
    answer = api.call("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", asked)
    return bool(answer.get("status", {}).get("allowed"))
