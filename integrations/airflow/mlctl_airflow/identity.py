"""Which run belongs to a try: what Airflow keeps over its automatic retries, and changes at a clear.

`max_tries` stays over retries and over a `kill -9`, and a clear sets it anew: it is in the key. Two corners escape it (a
DAG's `retries` edited before the clear; a clear in the very seconds in which worker and task die), so `retries` and the
DAG run's `clear_number` are kept with the run: an ended run for which both differ from now is another clear's. And
when the DAG run began: one that was deleted may be made anew under its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .moved import conf

if TYPE_CHECKING:
    from airflow.sdk import Context

    from mlctl.runs import Stamp

_KEPT = "mlctl_target"
_RUN = "mlctl_run"


def key_of(context: Context) -> str:
    """The key of this task instance up to its next clear."""
    ti = context["ti"]
    parts = ("airflow", ti.dag_id, ti.run_id, ti.task_id, ti.map_index, ti.max_tries)
    deployment = conf.get("mlctl", "deployment", fallback="")
    return "/".join(map(str, (deployment, *parts) if deployment else parts))


def values_of(context: Context) -> dict[str, str]:
    """What is kept with the run."""
    run: Any = context["dag_run"]
    clears, began = getattr(run, "clear_number", 0) or 0, getattr(run, "start_date", None)
    return {"retries": str(context["task"].retries), "clear_number": str(clears), "began": str(began or "")}


def accepts(values: Mapping[str, str]) -> Callable[[Stamp], bool]:
    """Whether an ended run with that stamp is this try's own: not of another clear, nor of a DAG run of that name that was
    deleted, which began at another time. Without `values` any is."""

    def own(stamp: Stamp) -> bool:
        if not values:
            return True

        def same(name: str) -> bool:
            return stamp.values.get(name) in (None, values.get(name))

        return same("began") if same("clear_number") else same("retries")

    return own


def first_target(context: Context, key: str) -> str | None:
    """The target that the first try under `key` chose, where this Airflow remembers it (3.3 and later)."""
    store: Any = context.get("task_state_store")
    kept = store.get(_KEPT) if store is not None and context["ti"].try_number > 1 else None
    return str(kept["target"]) if isinstance(kept, Mapping) and kept.get("key") == key else None


def keep_target(context: Context, key: str, target: str) -> None:
    """Has this Airflow remember the target for the next tries."""
    store: Any = context.get("task_state_store")
    if store is not None:
        store.set(_KEPT, {"key": key, "target": target})


def state_of(ti: Any) -> str | None:
    """The state that Airflow now holds that task instance to be in; None for none."""
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    index = ti.map_index if ti.map_index is not None and ti.map_index >= 0 else None
    answer = RuntimeTaskInstance.get_task_states(
        dag_id=ti.dag_id, task_ids=[ti.task_id], run_ids=[ti.run_id], map_index=index
    )
    states = [getattr(state, "value", state) for tasks in answer.values() for state in tasks.values()]
    return states[0] if states else None


def wanted(context: Context) -> bool:
    """Whether Airflow still holds this try for running: False once a user failed, cleared or finished it by hand."""
    return state_of(context["ti"]) == "running"


def keep_run(context: Context, run: str) -> None:
    """Has this Airflow remember, up to the task's next clear, the run that the task waits for: see `given_up`."""
    context["ti"].xcom_push(_RUN, run)


def given_up(ti: Any, run: str) -> bool:
    """Whether a user acted on the deferred task instance that waits for `run`: it isn't deferred any more, or it is again,
    after a clear, and waits for another."""
    from airflow.sdk.execution_time.xcom import XCom

    if state_of(ti) != "deferred":
        return True
    kept = XCom.get_one(key=_RUN, dag_id=ti.dag_id, task_id=ti.task_id, run_id=ti.run_id, map_index=ti.map_index)
    return kept not in (None, run)
