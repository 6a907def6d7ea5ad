"""Airflow's connections: the type `mlctl`, which says where jobs may run, and `conn_id` in a target's settings.

A target with `conn_id: aws_default` is reached with that connection's credentials. They are put where every SDK of the
platform looks first, the variables of the environment, of this one process: never into a plan, a run's record or a log.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook

from . import get_provider_info

if TYPE_CHECKING:
    from mlctl.backend import Settings

__all__ = ["MlctlHook", "aget", "alone", "credentials", "get", "lend"]

VARIABLES: Mapping[str, Mapping[str, str]] = {
    "aws": {
        "AWS_ACCESS_KEY_ID": "login",
        "AWS_SECRET_ACCESS_KEY": "password",
        "AWS_SESSION_TOKEN": "extra.aws_session_token",
        "AWS_DEFAULT_REGION": "extra.region_name",
        "AWS_PROFILE": "extra.profile_name",
        "AWS_ENDPOINT_URL": "extra.endpoint_url",
    },
    "databricks": {
        "DATABRICKS_HOST": "host",
        "DATABRICKS_TOKEN": "extra.token",
    },
    "azure": {
        "AZURE_CLIENT_ID": "login",
        "AZURE_CLIENT_SECRET": "password",
        "AZURE_TENANT_ID": "extra.tenantId",
        "AZURE_SUBSCRIPTION_ID": "extra.subscriptionId",
    },
    "kubernetes": {"KUBECONFIG": "extra.kube_config_path"},
}
"""Connection type -> variable -> field of the connection."""

_ALSO = ("profile", "kubeconfig")
"""Settings of a target that name credentials, which a platform may take before those of the environment, or not."""

_lent: dict[str, str] = {}
"""Connection type -> the connection whose credentials this process has."""

_own: dict[str, str | None] = {}
"""Variable -> what this process had there before it got any connection's."""


def credentials(connection: Any) -> dict[str, str]:
    """The variables that hold what `connection` knows. Raises InvalidConfig for a type that no platform uses."""
    from mlctl.errors import InvalidConfig

    kind = connection.conn_type
    if kind not in VARIABLES:
        text = f"expected one of {', '.join(VARIABLES)}"
        raise InvalidConfig(f"conn_id: connection '{connection.conn_id}' is of type {kind}, {text}")
    extra = connection.extra_dejson
    fields = {name: getattr(connection, name) for name in ("login", "password", "host")}
    fields |= {f"extra.{name}": value for name, value in extra.items() if isinstance(value, str)}
    if kind == "databricks":  # its provider takes the token as the password, or in extra
        fields.setdefault("extra.token", connection.password)
    found = {name: fields[field] for name, field in VARIABLES[kind].items() if fields.get(field)}
    if "AWS_ACCESS_KEY_ID" in found:
        found.setdefault("AWS_SESSION_TOKEN", "")  # the process may have one, of other keys
    return found


def alone(settings: Settings) -> None:
    """Raises InvalidConfig where a target that has a connection names credentials in another way, too."""
    for name in _ALSO:
        if name in settings.values:
            raise settings.fail(name, "there is conn_id: too, and each names credentials; choose one")


def get(conn_id: str) -> Any:
    """The connection. Raises InvalidConfig where Airflow has none of that name."""
    with _named(conn_id):
        return BaseHook.get_connection(conn_id)


async def aget(conn_id: str) -> Any:
    """The same in a triggerer's event loop."""
    with _named(conn_id):
        return await BaseHook.aget_connection(conn_id)


@contextmanager
def _named(conn_id: str) -> Iterator[None]:
    from mlctl.errors import InvalidConfig

    from .moved import AirflowNotFoundException

    try:
        yield
    except AirflowNotFoundException:
        raise InvalidConfig(f"conn_id: Airflow has no connection '{conn_id}'") from None


def lend(connection: Any) -> Mapping[str, str]:
    """Puts a connection's credentials into this process's environment, in place of what it had of it before; those.

    Raises InvalidConfig where this process has lent those of another connection of that type.
    """
    from mlctl.errors import InvalidConfig

    name = connection.conn_id
    values = credentials(connection)
    if (other := _lent.setdefault(connection.conn_type, name)) != name:
        raise InvalidConfig(f"conn_id: this process uses '{other}' already, and can't use '{name}' beside it")
    for variable in VARIABLES[connection.conn_type]:
        value = values.get(variable, _own.setdefault(variable, os.environ.get(variable)))
        if value is None:
            os.environ.pop(variable, None)
        else:
            os.environ[variable] = value
    return values


class MlctlHook(BaseHook):
    """The connection type `mlctl`: which configuration, profile and target the operators use."""

    conn_name_attr = "mlctl_conn_id"
    default_conn_name = "mlctl_default"
    conn_type = "mlctl"
    hook_name = "mlctl"

    def __init__(self, mlctl_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.mlctl_conn_id = mlctl_conn_id

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """The form's own fields, as Airflow 3.1 asks for them; later ones read them at the provider's entry point."""
        from wtforms import StringField

        fields = get_provider_info()["connection-types"][0]["conn-fields"]
        return {name: StringField(one["label"], description=one["description"]) for name, one in fields.items()}

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """What the form leaves out of Airflow's own fields, for Airflow 3.1."""
        told = get_provider_info()["connection-types"][0]["ui-field-behaviour"]
        return {"relabeling": {}, **{name.replace("-", "_"): value for name, value in told.items()}}

    def get_conn(self) -> dict[str, str]:
        """`config`, `profile` and `target`, those that are set."""
        extra = get(self.mlctl_conn_id).extra_dejson
        return {name: extra[name] for name in ("config", "profile", "target") if extra.get(name)}

    def test_connection(self) -> tuple[bool, str]:
        """What the button Test shows: what `mlctl doctor` finds out about the connection's target, or about all."""
        from mlctl import backend, config
        from mlctl.errors import MlctlError

        found = []
        try:
            given = self.get_conn()
            known = config.load(None, given.get("config"), given.get("profile"), given.get("target"))
            for name in [given["target"]] if "target" in given else known.values["targets"]:
                target = known.target(name)
                made = backend.load(target.backend, backend.Settings(name, target.settings, known.home))
                found += [(name, finding) for finding in made.check()]
        except MlctlError as reason:
            return False, str(reason)
        bad = [f"{name}: {one.what}: {one.text}; {one.mend}" for name, one in found if not one.ok]
        return not bad, "; ".join(bad) or f"all {len(found)} checks went well"
