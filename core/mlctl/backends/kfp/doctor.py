"""What `mlctl doctor` finds of a server, each by a call, and how to mend it."""

from __future__ import annotations

from collections.abc import Iterator

from mlctl.backend import Finding, Settings

from .service import Missing, Service

__all__ = ["findings"]


def findings(service: Service, settings: Settings) -> Iterator[Finding]:
    """In an order in which each needs those before it; ends where nothing more can be asked."""
    target, values = settings.target, settings.values

    shared: list[bool] = []

    def server() -> str:
        found = service.call("GET", "healthz")
        shared.append(bool(found.get("multi_user")))
        return f"{service.host}, {found.get('tag_name') or 'of no version'}{', for several users' if shared[0] else ''}"

    found = Finding.of(
        "server", server, f"set targets.{target}.host to the API's address, and token where it asks for a login"
    )
    yield found
    if not found.ok:
        return
    if shared[0] and not values.get("namespace"):
        yield Finding(
            "namespace", False, "the server has several users", f"set targets.{target}.namespace to your profile's"
        )
        return
    name, known = str(values.get("experiment", "mlctl")), []

    def experiment() -> str:
        where = ("EQUALS", "display_name", name)
        for each in service.listed("experiments", namespace=values.get("namespace"), where=where):
            known.append(str(each["experiment_id"]))
        return name if known else f"{name}, which the first run makes"

    found = Finding.of(
        "experiment", experiment, f"set targets.{target}.namespace and token, or ask for the right to its experiments"
    )
    yield found
    if not found.ok:
        return

    def runs() -> str:
        asked = {"experiment_id": known[0]} if known else {"namespace": values.get("namespace")}
        try:
            service.call("GET", "runs", page_size=1, **asked)
        except Missing as error:
            raise settings.fail("experiment", str(error)) from None
        return "runs can be listed"

    yield Finding.of("runs", runs, "ask for the role kubeflow-edit in the namespace")
    if not values.get("storage"):
        text = "it is not set: no job with outputs runs, and a pod that KFP starts again runs its job again"
        yield Finding("storage", False, text, f"set targets.{target}.volumes, and storage to a folder of one")
