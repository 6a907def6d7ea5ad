"""A run as Jenkins shows it: a JUnit file for its trends, and a page of HTML.

The page has no style and no script: Jenkins' content security policy drops both.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET  # written, never read

from mlctl.lifecycle import Execution
from mlctl.runs import Status

__all__ = ["write"]

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write(folder: Path, answer: Mapping[str, Any], execution: Execution, status: Status, tail: Sequence[str]) -> None:
    """Writes junit.xml and report.html into `folder`. `tail` is the end of the log, without secrets."""
    took = (status.finished - status.started).total_seconds() if status.started and status.finished else 0.0
    (folder / "junit.xml").write_bytes(_junit(answer, execution, took, tail))
    (folder / "report.html").write_text(_page(answer, execution, took, tail), encoding="utf-8")


def _clean(text: object) -> str:
    return _NOT_XML.sub("�", str(text))


def _junit(answer: Mapping[str, Any], execution: Execution, took: float, tail: Sequence[str]) -> bytes:
    kind, name = execution.job.kind.name, execution.job.name
    bad = answer["state"] != "succeeded"
    own = answer["reason"] in ("error", "oom", "timeout")  # the job's doing is a failure, all else an error
    suite = ET.Element(
        "testsuite",
        name="mlctl",
        tests="1",
        failures=str(int(bad and own)),
        errors=str(int(bad and not own)),
        time=f"{took:.3f}",
    )
    case = ET.SubElement(suite, "testcase", classname=f"mlctl.{kind}", name=name, time=f"{took:.3f}")
    if bad:
        ended = ET.SubElement(
            case, "failure" if own else "error", type=str(answer["reason"]), message=_clean(answer["error"])
        )
        ended.text = _clean("\n".join(tail))
    metrics = "".join(f"{metric} = {value:g}\n" for metric, value in answer["metrics"].items())
    ET.SubElement(case, "system-out").text = _clean(f"{answer['run']}\n{metrics}")
    text = ET.tostring(suite, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'.encode()


def _page(answer: Mapping[str, Any], execution: Execution, took: float, tail: Sequence[str]) -> str:
    rows = {"state": answer["state"], "reason": answer["reason"], "message": answer["message"], "took": f"{took:.1f} s"}
    rows |= {"run": answer["run"], "target": answer["target"], "key": answer["key"], "link": answer["link"]}
    parts = [f"<h1>{_text(execution.job.name)}: {_text(answer['state'])}</h1>", _table("run", rows)]
    parts += [_table("metrics", {name: f"{value:g}" for name, value in answer["metrics"].items()})]
    parts += [_table("outputs", answer["outputs"]), _table("parameters", execution.job.values())]
    parts += [f"<h2>end of the log</h2><pre>{_text(chr(10).join(tail))}</pre>"]
    return f"<!doctype html><meta charset=utf-8><title>{_text(answer['name'])}</title>{''.join(parts)}\n"


def _text(value: object) -> str:
    return html.escape(_clean(value))


def _table(title: str, rows: Mapping[str, Any]) -> str:
    cells = "".join(
        f"<tr><th align=left>{_text(name)}</th><td>{_text(value)}</td></tr>"
        for name, value in rows.items()
        if value not in (None, "")
    )
    return f"<h2>{title}</h2><table>{cells}</table>" if cells else ""
