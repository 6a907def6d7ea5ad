"""Databricks' states and codes as mlctl's. An unknown one is an error, never a guess."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from mlctl.errors import MlctlError
from mlctl.runs import Reason, State, Status

__all__ = ["CODES", "LIVE", "RESULTS", "failed_by_itself", "status_of"]

LIVE: Mapping[str, State] = {
    "BLOCKED": State.QUEUED,
    "QUEUED": State.QUEUED,
    "WAITING": State.QUEUED,
    "WAITING_FOR_RETRY": State.QUEUED,
    "PENDING": State.STARTING,
    "RUNNING": State.RUNNING,
    "TERMINATING": State.STOPPING,
}
"""`status.state`, and the older `state.life_cycle_state`, while a run is going on."""

CODES: Mapping[str, Reason | None] = {
    "SUCCESS": None,
    "SUCCESS_WITH_FAILURES": Reason.ERROR,
    "USER_CANCELED": Reason.CANCELLED,
    "CANCELED": Reason.CANCELLED,
    "SKIPPED": Reason.ABANDONED,
    "DISABLED": Reason.CANCELLED,
    "INTERNAL_ERROR": Reason.INFRA,
    "DRIVER_ERROR": Reason.INFRA,
    "CLUSTER_ERROR": Reason.INFRA,
    "CLUSTER_TERMINATED_BY_USER": Reason.INFRA,
    "REPOSITORY_CHECKOUT_FAILED": Reason.INFRA,
    "STORAGE_ACCESS_ERROR": Reason.INFRA,
    "CLOUD_FAILURE": Reason.INFRA,
    "BREAKING_CHANGE": Reason.INFRA,
    "RUN_EXECUTION_ERROR": Reason.ERROR,
    "INVALID_CLUSTER_REQUEST": Reason.ERROR,
    "INVALID_RUN_CONFIGURATION": Reason.ERROR,
    "FEATURE_DISABLED": Reason.ERROR,
    "RESOURCE_NOT_FOUND": Reason.ERROR,
    "UNAUTHORIZED_ERROR": Reason.ERROR,
    "LIBRARY_INSTALLATION_ERROR": Reason.IMAGE,
    "WORKSPACE_RUN_LIMIT_EXCEEDED": Reason.QUOTA,
    "CLUSTER_REQUEST_LIMIT_EXCEEDED": Reason.QUOTA,
    "MAX_CONCURRENT_RUNS_EXCEEDED": Reason.QUOTA,
    "MAX_JOB_QUEUE_SIZE_EXCEEDED": Reason.QUOTA,
    "MAX_SPARK_CONTEXTS_EXCEEDED": Reason.QUOTA,
    "BUDGET_POLICY_LIMIT_EXCEEDED": Reason.QUOTA,
}
"""`status.termination_details.code` of a run that ended."""

RESULTS: Mapping[str, Reason | None] = {
    "SUCCESS": None,
    "SUCCESS_WITH_FAILURES": Reason.ERROR,
    "FAILED": Reason.ERROR,
    "TIMEDOUT": Reason.TIMEOUT,
    "CANCELED": Reason.CANCELLED,
    "MAXIMUM_CONCURRENT_RUNS_REACHED": Reason.QUOTA,
    "EXCLUDED": Reason.ABANDONED,
    "DISABLED": Reason.CANCELLED,
    "UPSTREAM_CANCELED": Reason.ABANDONED,
    "UPSTREAM_FAILED": Reason.ABANDONED,
}
"""`state.result_state`, of a workspace that has no `status` yet; TIMEDOUT is told nowhere else."""


def status_of(run: Mapping[str, Any]) -> Status:
    """What one record of `runs/get` or `runs/list` says. Raises MlctlError for a state that isn't known."""
    old, new = run.get("state") or {}, run.get("status") or {}
    native = str(new.get("state") or old.get("life_cycle_state") or "")
    details = new.get("termination_details") or {}
    message = str(details.get("message") or old.get("state_message") or "")
    started, finished = (_time(run.get(name)) for name in ("start_time", "end_time"))
    link = str(run.get("run_page_url") or "")
    if native in LIVE:
        queued = (new.get("queue_details") or {}).get("message") or old.get("queue_reason") or message
        return Status(LIVE[native], None, str(queued), None, started, None, link)
    if native not in ("TERMINATED", "SKIPPED", "INTERNAL_ERROR"):
        raise MlctlError(
            f"run {run.get('run_id')}: Databricks says it is '{native}', which mlctl doesn't know; upgrade mlctl"
        )
    code, result = details.get("code"), old.get("result_state")
    if result == "TIMEDOUT":
        reason: Reason | None = Reason.TIMEOUT
    elif code:
        reason = _known(run, CODES, code)
    elif result:
        reason = _known(run, RESULTS, result)
    else:
        reason = Reason.ABANDONED if native == "SKIPPED" else Reason.INFRA
    state = State.SUCCEEDED if reason is None else State.CANCELLED if reason is Reason.CANCELLED else State.FAILED
    said = "" if reason is None else f"{code or result or native}: {message}".rstrip(": ")
    return Status(state, reason, said, 0 if reason is None else None, started, finished, link)


def failed_by_itself(status: Status) -> bool:
    """True where the job's own end has to be looked up: the platform says no more than that it failed."""
    return status.state is State.FAILED and status.reason is Reason.ERROR


def _known(run: Mapping[str, Any], table: Mapping[str, Reason | None], code: str) -> Reason | None:
    if code not in table:
        raise MlctlError(
            f"run {run.get('run_id')}: Databricks says it ended with '{code}', which mlctl doesn't know; upgrade mlctl"
        )
    return table[code]


def _time(milliseconds: Any) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, timezone.utc) if milliseconds else None
