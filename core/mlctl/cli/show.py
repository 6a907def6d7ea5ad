"""How answers look: JSON where it was asked for, colour on a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mlctl import units

if TYPE_CHECKING:
    from mlctl.runs import State, Status

__all__ = ["as_json", "described", "duration", "json_option", "paint", "table"]

F = TypeVar("F", bound=Callable[..., Any])
_COLOURS = {
    "succeeded": "green", "failed": "red", "cancelled": "yellow", "running": "cyan", "starting": "cyan", "queued": "blue",
    "stopping": "yellow",
}  # fmt: skip


def json_option(command: F) -> F:
    """--json, on every command that answers something."""
    return click.option("--json", "json_", is_flag=True, help="Answer in JSON.")(command)


def as_json(data: Any) -> None:
    """One JSON value on stdout. JSON has no NaN: it is a string, as in the metrics file."""
    click.echo(json.dumps(_plain(data), indent=2, ensure_ascii=False, default=str, allow_nan=False))


def _plain(data: Any) -> Any:
    if isinstance(data, float) and not math.isfinite(data):
        return "NaN" if math.isnan(data) else "Infinity" if data > 0 else "-Infinity"
    if isinstance(data, Mapping):
        return {key: _plain(value) for key, value in data.items()}
    return [_plain(value) for value in data] if isinstance(data, (list, tuple)) else data


def paint(state: State | None) -> str:
    """A state in its colour."""
    return click.style(state.value, fg=_COLOURS[state.value]) if state else click.style("unknown", dim=True)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns, as wide as their widest cell; the last one is free."""
    cells = [list(header), *(list(row) for row in rows)]
    widths = [max(len(click.unstyle(row[column])) for row in cells) for column in range(len(header))]
    for index, row in enumerate(cells):
        padded = [cell + " " * (width - len(click.unstyle(cell))) for cell, width in zip(row, widths, strict=True)]
        line = "  ".join(padded).rstrip()
        click.echo(click.style(line, bold=True) if index == 0 else line)


def described(rows: Mapping[str, str], err: bool = False) -> None:
    """Names and values, a line each; those without a value are left out."""
    width = max((len(name) for name, value in rows.items() if value), default=0)
    for name, value in rows.items():
        if value:
            click.echo(f"{click.style(name.ljust(width), dim=True)}  {value}", err=err)


def duration(status: Status) -> str:
    """How long the run has been going on, or went on."""
    if not status.started:
        return ""
    end = status.finished or datetime.now(timezone.utc)
    return units.shown_seconds(max(0.0, (end - status.started).total_seconds()))
