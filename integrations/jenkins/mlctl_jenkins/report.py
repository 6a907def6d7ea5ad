"""A run as Jenkins shows it: a JUnit file for its trends, and a page of HTML.

The page has no style and no script: Jenkins' content security policy drops both.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET  # written, never read

from mlctl.job import Job
from mlctl.runs import Reason, Status

__all__ = ["Report", "write"]

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_OWN = (Reason.ERROR, Reason.OOM, Reason.TIMEOUT)


@dataclass(frozen=True)
class Report:
    """What is told of a run: `result` is the Jenkinsfile's, `error` how it ended badly, `tail` the end of its log.

    The first two and the log are without secrets; `masked` takes them out of what else is shown.
    """

    job: Job
    status: Status
    result: Mapping[str, Any]
    error: str | None
    tail: Sequence[str]
    masked: Callable[[str], str]

    @property
    def took(self) -> float:
        """Seconds that it ran."""
        start, end = self.status.started, self.status.finished
        return (end - start).total_seconds() if start and end else 0.0


def write(folder: Path, told: Report) -> None:
    """Writes junit.xml and report.html into `folder`."""
    (folder / "junit.xml").write_bytes(_junit(told))
    (folder / "report.html").write_text(_page(told), encoding="utf-8")


def _clean(text: object) -> str:
    return _NOT_XML.sub("\ufffd", str(text))


def _junit(told: Report) -> bytes:
    bad = told.error is not None
    own = told.status.reason in _OWN  # the job's doing is a failure, all else an error
    took = f"{told.took:.3f}"
    failures, errors = str(int(bad and own)), str(int(bad and not own))
    suite = ET.Element("testsuite", name="mlctl", tests="1", failures=failures, errors=errors, time=took)
    case = ET.SubElement(suite, "testcase", classname=f"mlctl.{told.job.kind.name}", name=told.job.name, time=took)
    if bad:
        kind, message = told.result["reason"] or told.result["state"], _clean(told.error)
        ended = ET.SubElement(case, "failure" if own else "error", type=kind, message=message)
        ended.text = _clean("\n".join(told.tail))
    metrics = "".join(f"{name} = {value:g}\n" for name, value in told.result["metrics"].items())
    ET.SubElement(case, "system-out").text = _clean(f"{told.result['run']}\n{metrics}")
    text = ET.tostring(suite, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'.encode()


def _page(told: Report) -> str:
    result = told.result
    rows = {name: result[name] for name in ("state", "reason", "exitCode", "message")} | {"took": f"{told.took:.1f} s"}
    rows |= {name: result[name] for name in ("run", "attempt", "target", "key", "link")}
    parts = [f"<h1>{_text(told.job.name)}: {_text(result['state'])}</h1>", _table("run", rows)]
    parts += [_table("metrics", {name: f"{value:g}" for name, value in result["metrics"].items()})]
    parts += [_table("outputs", result["outputs"])]
    parts += [_table("parameters", {name: told.masked(str(value)) for name, value in told.job.values().items()})]
    parts += [f"<h2>end of the log</h2><pre>{_text(chr(10).join(told.tail))}</pre>"]
    return f"<!doctype html><meta charset=utf-8><title>{_text(result['name'])}</title>{''.join(parts)}\n"


def _text(value: object) -> str:
    return html.escape(_clean(value))


def _table(title: str, rows: Mapping[str, Any]) -> str:
    cells = "".join(
        f"<tr><th align=left>{_text(name)}</th><td>{_text(value)}</td></tr>"
        for name, value in rows.items()
        if value not in (None, "")
    )
    return f"<h2>{title}</h2><table>{cells}</table>" if cells else ""
