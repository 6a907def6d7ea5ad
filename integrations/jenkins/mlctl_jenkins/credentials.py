"""The credentials of Jenkins that a target needs: ids in its settings, so that no Jenkinsfile names one.

targets:
  prod:
    backend: sagemaker
    orchestrators:
      jenkins:
        credentials:
          - {type: string, id: hf-token, variable: HF_TOKEN}
          - {type: usernamePassword, id: aws, usernameVariable: AWS_ACCESS_KEY_ID, passwordVariable: AWS_SECRET_ACCESS_KEY}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mlctl.config import Config
from mlctl.errors import InvalidConfig, did_you_mean, one_line

__all__ = ["TYPES", "bindings", "secrets"]

TYPES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "string": ("StringBinding", ("variable",)),
    "file": ("FileBinding", ("variable",)),
    "usernamePassword": ("UsernamePasswordMultiBinding", ("usernameVariable", "passwordVariable")),
    "usernameColonPassword": ("UsernamePasswordBinding", ("variable",)),
    "sshUserPrivateKey": ("SSHUserPrivateKeyBinding", ("keyFileVariable",)),
    "aws": ("AmazonWebServicesCredentialsBinding", ("accessKeyVariable", "secretKeyVariable")),
}
"""Type -> the class of its binding, and the variables that it must name; others of the binding's own may be given."""


def bindings(config: Config, target: str) -> list[dict[str, Any]]:
    """What `withCredentials` takes for the target. Raises InvalidConfig, naming the setting."""
    all_of_them: Any = config.values["targets"].get(target, {}).get("orchestrators", {})
    where = f"targets.{target}.orchestrators"
    for name in all_of_them:
        if name != "jenkins" and (near := did_you_mean(name, ["jenkins"])):  # else another orchestrator's to read
            raise InvalidConfig(f"{where}.{name}: no orchestrator of that name{near}")
    own, where = all_of_them.get("jenkins", {}), f"{where}.jenkins"
    if not isinstance(own, Mapping):
        raise InvalidConfig(f"{where}: got {one_line(own)}, expected a mapping")
    if unknown := own.keys() - {"credentials"}:
        raise InvalidConfig(f"{where}.{min(unknown)}: unknown; expected credentials")
    found, where = own.get("credentials", []), f"{where}.credentials"
    if not isinstance(found, list):
        raise InvalidConfig(f"{where}: got {one_line(found)}, expected a list")
    return [_binding(f"{where}.{number}", one) for number, one in enumerate(found)]


def secrets(needs: Iterable[Mapping[str, Any]]) -> list[str]:
    """The names of the variables that hold what is secret of them."""
    return [
        value for one in needs for key, value in one.items() if key.endswith("ariable") and key != "usernameVariable"
    ]


def _binding(where: str, one: Any) -> dict[str, Any]:
    if not isinstance(one, Mapping) or not all(isinstance(value, str) for value in one.values()):
        raise InvalidConfig(
            f"{where}: got {one_line(one)}, expected {{type: string, id: hf-token, variable: HF_TOKEN}}"
        )
    kind = one.get("type", "string")
    if kind not in TYPES:
        raise InvalidConfig(f"{where}: type: got '{kind}', expected {', '.join(TYPES)}{did_you_mean(str(kind), TYPES)}")
    name, variables = TYPES[kind]
    for needed in ("id", *variables):
        if not one.get(needed):
            raise InvalidConfig(f"{where}: {needed} is missing; a {kind} needs id, {', '.join(variables)}")
    rest = {key: value for key, value in one.items() if key not in ("type", "id")}
    return {"$class": name, "credentialsId": one["id"], **rest}
