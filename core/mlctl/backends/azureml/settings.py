"""The settings of a target, checked before anything is asked of Azure. Pure."""

from __future__ import annotations

from mlctl.backend import Settings
from mlctl.values import Allowed, address, text, whole, words

__all__ = ["Place", "check"]


_ALLOWED: Allowed = {
    "subscription": (text(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"), "the id of a subscription"),
    "resource_group": (text(r"[\w().-]{1,90}"), "the name of a resource group"),
    "workspace": (text(r"[A-Za-z0-9][\w-]{1,32}"), "the name of a workspace"),
    "resource_manager": (address(r"https://[^/\s?#]+"), "an address such as https://management.chinacloudapi.cn"),
    "datastore": (text(r"[A-Za-z0-9_]+"), "the name of a blob datastore of the workspace"),
    "prefix": (text(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*"), "a folder of the datastore such as ml/jobs"),
    "compute": (text(r"[A-Za-z0-9-]{2,32}"), "the name of a compute cluster of the workspace"),
    "instance_type": (text(r"Standard_\w+"), "a size of virtual machine such as Standard_E4s_v3"),
    "environment": (text(r"\S+"), "an image, azureml:NAME:VERSION, or azureml://registries/..."),
    "identity": (lambda value: value in ("managed", "user", "token"), "managed, user or token"),
    "identity_client_id": (text(r"[0-9a-fA-F-]{36}"), "the client id of a managed identity"),
    "experiment": (text(r"[A-Za-z0-9][\w-]{0,254}"), "the name of an experiment"),
    "max_runtime": (whole(1, 30 * 86400), "seconds from 1 to 2592000"),
    "tags": (words, "a mapping of words to words"),
}


def check(settings: Settings) -> None:
    """Raises InvalidConfig that names the first setting that is wrong or missing, and what it takes."""
    settings.check(_ALLOWED)
    for name in ("subscription", "resource_group", "workspace"):
        if settings.values.get(name) is None:
            raise settings.fail(name, f"it is not set; expected {_ALLOWED[name][1]}")


class Place:
    """One workspace: how its resources, and the files in its datastore, are called."""

    def __init__(self, settings: Settings) -> None:
        values = settings.values
        self.subscription, self.group = str(values["subscription"]), str(values["resource_group"])
        self.workspace = str(values["workspace"])
        self.datastore = str(values.get("datastore", "workspaceblobstore"))
        provider = "providers/Microsoft.MachineLearningServices"
        self.arm = (
            f"/subscriptions/{self.subscription}/resourceGroups/{self.group}/{provider}/workspaces/{self.workspace}"
        )
        self.paths = (
            f"azureml://subscriptions/{self.subscription}/resourcegroups/{self.group}/workspaces/{self.workspace}"
            f"/datastores/{self.datastore}/paths/"
        )
        self.base = f"{self.paths}{values.get('prefix', 'mlctl')}"
        """Below this is all that mlctl writes."""

    @property
    def scope(self) -> str:
        """The second part of a run's URL."""
        return f"{self.group}/{self.workspace}"
