"""Whether somebody cancelled the flow run, as the server has it.

Prefect tells a flow of its cancellation by a signal to the process that a runner executes it in. A flow in a plain
process never hears of it, nor does a task in a thread or on another machine: so they ask.
"""

from __future__ import annotations

import threading
import time
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext

__all__ = ["cancelled"]

_EVERY = 3.0  # seconds between two questions about one flow run, however many tasks it has

_asked: dict[UUID, float] = {}
_called_off: set[UUID] = set()
_lock = threading.Lock()


def cancelled() -> bool:
    """True once the flow run around this is cancelling, or cancelled. False where that can't be told now."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return False
    flow_run = context.flow_run.id
    with _lock:
        if flow_run in _called_off or time.monotonic() < _asked.get(flow_run, 0.0) + _EVERY:
            return flow_run in _called_off
        _asked[flow_run] = time.monotonic()
    try:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(flow_run).state
    except Exception:  # the server is away: Prefect says so itself
        return False
    if state and (state.is_cancelling() or state.is_cancelled()):
        with _lock:
            _called_off.add(flow_run)
        return True
    return False
