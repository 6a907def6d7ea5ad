"""A job's log: one stream a host in CloudWatch, read in order from a cursor on.

The cursor says for each stream the time of the last line and how many lines of that time were read: unlike
CloudWatch's own tokens it doesn't expire.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from mlctl import contract
from mlctl.errors import InvalidConfig, RunNotFound
from mlctl.runs import Logs, Metric, Run

from .aws import Aws

__all__ = ["lines", "metrics"]

_BATCH = 10_000  # events, or a megabyte: what CloudWatch gives at once


def _group(run: Run) -> str:
    return f"/aws/sagemaker/{'TrainingJobs' if run.scope.endswith('/training') else 'ProcessingJobs'}"


def _streams(aws: Aws, region: str, run: Run) -> list[str]:
    """Their names, in the order of the hosts."""
    names: list[str] = []
    more: dict[str, str] = {}
    while True:
        answer = aws.call(
            "logs", "describe_log_streams", region, logGroupName=_group(run), logStreamNamePrefix=f"{run.name}/", **more
        )
        names += [stream["logStreamName"] for stream in answer["logStreams"]]
        if not answer.get("nextToken"):
            return sorted(names, key=lambda name: (len(name.split("-")), [_number(part) for part in name.split("-")]))
        more = {"nextToken": answer["nextToken"]}


def _number(text: str) -> tuple[int, str]:
    return (int(text), "") if text.isdigit() else (0, text)


def lines(aws: Aws, region: str, run: Run, since: str) -> Logs | None:
    """What came after `since`, by time; with the host's name where there are several. None where nothing was logged yet."""
    try:
        seen: dict[str, list[int]] = json.loads(since) if since else {}
        seen = {name: [int(at[0]), int(at[1])] for name, at in seen.items()}
    except (ValueError, TypeError, AttributeError, IndexError):
        raise InvalidConfig(f"got the cursor '{since[:80]}', which is none of a SageMaker log") from None
    try:
        streams = _streams(aws, region, run)
    except RunNotFound:  # the account never logged a job of this kind
        return None
    if not streams:
        return None
    found: list[tuple[int, int, int, str]] = []
    for number, stream in enumerate(streams):
        host = stream.partition("/")[2].rpartition("-")[0]
        mark = f"[{host}] " if len(streams) > 1 else ""
        at = seen.get(stream, [0, 0])
        for order, event in enumerate(_events(aws, region, run, stream, at, _BATCH // len(streams))):
            time = int(event["timestamp"])
            at = [time, at[1] + 1 if time == at[0] else 1]
            found.append((time, number, order, mark + event["message"].rstrip("\r\n")))
        seen[stream] = at
    cursor = json.dumps(seen, separators=(",", ":"), sort_keys=True) if found or since else ""
    return Logs(tuple(line for *_, line in sorted(found)), cursor)


def _events(aws: Aws, region: str, run: Run, stream: str, at: list[int], limit: int) -> Iterator[dict[str, Any]]:
    """The events after `at`, one answer of CloudWatch's that has any."""
    more: dict[str, Any] = {"startTime": at[0]} if at[0] else {}
    skip = at[1]
    while True:
        answer = aws.call(
            "logs", "get_log_events", region, logGroupName=_group(run), logStreamName=stream, startFromHead=True,
            limit=limit, **more,
        )  # fmt: skip
        events = answer["events"]
        for event in events:
            if event["timestamp"] == at[0] and skip > 0:
                skip -= 1
            else:
                yield event
                skip = -1
        if skip == -1 or answer["nextForwardToken"] == more.get("nextToken"):
            return  # something came, or the token is the same, which is CloudWatch's word for the end
        more["nextToken"] = answer["nextForwardToken"]


def metrics(aws: Aws, region: str, run: Run) -> tuple[Metric, ...]:
    """The points that the job logged."""
    found: list[str] = []
    more: dict[str, str] = {}
    try:
        while True:
            answer = aws.call(
                "logs", "filter_log_events", region, logGroupName=_group(run), logStreamNamePrefix=f"{run.name}/",
                filterPattern=f'"{contract.METRIC.strip()}"', **more,
            )  # fmt: skip
            found += [event["message"] for event in answer["events"]]
            if not answer.get("nextToken"):
                break
            more = {"nextToken": answer["nextToken"]}
    except RunNotFound:
        return ()
    marked = (line for line in found if line.startswith(contract.METRIC))
    return contract.metrics(line[len(contract.METRIC) :] for line in marked)
