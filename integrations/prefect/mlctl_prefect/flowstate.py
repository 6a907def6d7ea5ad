"""Whether somebody cancelled the flow run, as the server has it.

Prefect tells a flow of its cancellation by a signal to the process that a runner executes it in. A flow in a plain
process never hears of it, nor does a task in a thread or on another machine: so they ask.
"""

from __future__ import annotations

import threading
import time
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.context import FlowRunContext

__all__ = ["cancelled"]

_EVERY = 3.0  # seconds between two questions about one flow run, however many tasks it has

_asked: dict[tuple[UUID, int], float] = {}  # a flow run and its execution -> when
_called_off: set[tuple[UUID, int]] = set()
_lock = threading.Lock()


def cancelled() -> bool:
    """True once the flow run around this, or one that it is a subflow of, is cancelling or cancelled. False where that
    can't be told now."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return False
    flow_run = context.flow_run.id, context.flow_run.run_count
    with _lock:
        if flow_run in _called_off or time.monotonic() < _asked.get(flow_run, 0.0) + _EVERY:
            return flow_run in _called_off
        _asked[flow_run] = time.monotonic()
    try:
        with get_client(sync_client=True) as client:
            called_off = _of(client, flow_run[0])
    except Exception:  # the server is away: Prefect says so itself
        return False
    if called_off:
        with _lock:
            _called_off.add(flow_run)
    return called_off


def _of(client: SyncPrefectClient, flow_run: UUID) -> bool:
    known = client.read_flow_run(flow_run)
    if known.state and (known.state.is_cancelling() or known.state.is_cancelled()):
        return True
    if known.parent_task_run_id is None or known.deployment_id:  # Prefect itself cancels a deployment's
        return False
    parent = client.read_task_run(known.parent_task_run_id).flow_run_id
    return parent is not None and _of(client, parent)
