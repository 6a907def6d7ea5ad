"""What `mlctl doctor` finds of an Azure ML target, each by a call, and how to mend it."""

from __future__ import annotations

from collections.abc import Iterator

from mlctl.backend import Finding, Settings
from mlctl.errors import RunNotFound

from .fields import compute_size
from .service import MANAGER, Service
from .sizes import SIZES
from .store import Store

__all__ = ["compute", "findings"]


def compute(service: Service, settings: Settings, name: str) -> str:
    """The size of the machines of a compute. Raises InvalidConfig for one that isn't there, or can't run jobs."""
    try:
        found = service.arm("GET", f"{service.at.arm}/computes/{name}")
    except RunNotFound:
        text = f"there is no '{name}' in {service.at.workspace}; name one, or leave it out for serverless"
        raise settings.fail("compute", text) from None
    inner = found.get("properties", {})
    if inner.get("provisioningState") not in (None, "Succeeded", "Updating"):
        raise settings.fail("compute", f"'{name}' is {inner.get('provisioningState')}; mend it, or name another")
    return compute_size(found)


def findings(service: Service, store: Store, settings: Settings) -> Iterator[Finding]:
    """In an order in which each needs those before it; ends where nothing more can be asked."""
    target, at = settings.target, service.at

    def logged_in() -> str:
        manager = settings.values.get("resource_manager", MANAGER)
        with service.translated("credentials"):
            service.credential().get_token(f"{manager}/.default")
        return f"a token for {manager}"

    credentials = Finding.of(
        "credentials", logged_in, "az login, or set AZURE_TENANT_ID, AZURE_CLIENT_ID, AZURE_CLIENT_SECRET"
    )
    yield credentials
    if not credentials.ok:
        return
    location: list[str] = []

    def workspace() -> str:
        location.append(str(service.arm("GET", at.arm).get("location", "")))
        return f"{at.workspace} in {location[0]}"

    found = Finding.of(
        "workspace", workspace, f"set targets.{target}.subscription, resource_group and workspace; or get the role"
    )
    yield found
    if not found.ok:
        return
    name, sizes = str(settings.values.get("compute", "")), []

    def computes() -> str:
        if name:
            sizes.append(compute(service, settings, name))
            return f"{name}, {sizes[0]}"
        sizes.append(str(settings.values.get("instance_type", "Standard_E4s_v3")))
        known = service.arm("GET", f"/subscriptions/{at.subscription}/providers/Microsoft.MachineLearningServices"
                                   f"/locations/{location[0]}/vmSizes")  # fmt: skip
        offered = {str(each.get("name", "")).lower() for each in known.get("value", [])}
        if sizes[0].lower() not in offered:
            raise settings.fail("instance_type", f"{location[0]} has no {sizes[0]}")
        return f"serverless, {sizes[0]}"

    yield Finding.of("compute", computes, f"set targets.{target}.compute, or instance_type")
    mend = f"grant Storage Blob Data Contributor on its account, or set targets.{target}.datastore"
    yield Finding.of("datastore", store.probe, mend)

    def jobs() -> str:
        service.arm("GET", f"{at.arm}/jobs", jobType="Command")
        return "jobs can be listed"

    yield Finding.of("jobs", jobs, "grant the role AzureML Data Scientist on the workspace")
    size = sizes[0] if sizes else ""
    yield Finding.of(
        "quota", lambda: _quota(service, settings, location[0], size),
        f"ask for more in the portal (Machine Learning, Quotas), or set targets.{target}.instance_type",
    )  # fmt: skip


def _quota(service: Service, settings: Settings, location: str, size: str) -> str:
    """How many cores of the size's family are left. Raises InvalidConfig where there are too few for one machine."""
    path = f"/subscriptions/{service.at.subscription}/providers/Microsoft.MachineLearningServices/locations/{location}/usages"
    known = SIZES.get(size)
    page = service.arm("GET", path)
    found = list(page.get("value", []))
    while page.get("nextLink") and len(found) < 10_000:
        page = service.arm("GET", str(page["nextLink"]))
        found += page.get("value", [])
    if known is None:
        return f"{size or 'the size'} is not known here; {len(found)} quotas can be read"
    for each in found:
        if str((each.get("name") or {}).get("value", "")).lower() == known.family.lower():
            left = int(each.get("limit", 0)) - int(each.get("currentValue", 0))
            if 0 <= int(each.get("limit", 0)) < known.cores:  # -1: none
                text = f"the quota of {known.family} is {each['limit']} cores, and {size} has {known.cores}"
                raise settings.fail("compute" if settings.values.get("compute") else "instance_type", text)
            return f"{left} of {each['limit']} cores of {known.family} are free"
    return f"no quota is told for {known.family}"
