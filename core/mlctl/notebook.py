"""How a notebook shows things: plain tables, everything escaped."""

from __future__ import annotations

import html
from collections.abc import Mapping

__all__ = ["folded", "table"]


def table(title: str, rows: Mapping[str, str]) -> str:
    """Names and values under a title; rows without a value are left out."""
    left = "style='text-align:left'"
    cells = "".join(
        f"<tr><th {left}>{html.escape(name)}</th><td {left}>{html.escape(value)}</td></tr>"
        for name, value in rows.items()
        if value
    )
    return f"<table><caption>{html.escape(title)}</caption>{cells}</table>"


def folded(title: str, text: str) -> str:
    """Text to be opened by a click."""
    return f"<details><summary>{html.escape(title)}</summary><pre>{html.escape(text)}</pre></details>"
