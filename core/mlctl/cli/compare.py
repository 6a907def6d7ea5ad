"""One job on several targets, side by side: what each would be sent, which fields it honours, which it refuses."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import click

from mlctl.backend import FIELDS
from mlctl.errors import Unsupported
from mlctl.lifecycle import Execution
from mlctl.runs import Plan

from . import complain, show

__all__ = ["plans"]

_CELLS = {"honoured": "green", "lost": "yellow", "refused": "red"}


def plans(executions: Sequence[Execution], json_: bool) -> int:
    """Shows them; gives the exit code, that of Unsupported where a target refuses the job."""
    answers = [_answer(execution) for execution in executions]
    names = [execution.settings.target for execution in executions]
    errors = {name: answer for name, answer in zip(names, answers, strict=True) if isinstance(answer, Unsupported)}
    found = [answer for answer in answers if isinstance(answer, Plan)]
    if json_:
        show.as_json([_plain(name, answer) for name, answer in zip(names, answers, strict=True)])
    else:
        _requests(found)
        asked = [name for name, asks in FIELDS.items() if asks(executions[0].job)]
        show.table(["field", *names], ([field, *(_cell(answer, field) for answer in answers)] for field in asked))
        for plan in found:
            for loss in plan.losses:
                click.echo(f"{click.style(f'not honoured by {plan.target}', fg='yellow')}  {loss.field}: {loss.why}")
    for name, error in errors.items():
        complain(f"{name} refuses the job: {error}", error.exit_code)
    return Unsupported.exit_code if errors else 0


def _answer(execution: Execution) -> Plan | Unsupported:
    try:
        return execution.plan()
    except Unsupported as error:
        return error


def _plain(name: str, answer: Plan | Unsupported) -> dict[str, Any]:
    return answer.to_json() if isinstance(answer, Plan) else {"target": name, "error": str(answer)}


def _cell(answer: Plan | Unsupported, field: str) -> str:
    if isinstance(answer, Unsupported):
        word = "refused"
    else:
        word = "lost" if any(loss.field == field for loss in answer.losses) else "honoured"
    return click.style(word, fg=_CELLS[word])


def _requests(found: Sequence[Plan]) -> None:
    """Two as what differs between them, more one after another."""
    texts = [json.dumps(plan.to_json(), indent=2, ensure_ascii=False).splitlines() for plan in found]
    if len(found) == 2:
        for line in _difference(found, texts):
            colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
            click.echo(click.style(line, fg=colour) if colour else line)
        return
    for plan, lines in zip(found, texts, strict=True):
        click.echo(click.style(f"target {plan.target} ({plan.backend})", bold=True))
        click.echo("\n".join(lines))


def _difference(found: Sequence[Plan], texts: Sequence[list[str]]) -> Iterator[str]:
    one, other = (f"target {plan.target}" for plan in found)
    return difflib.unified_diff(texts[0], texts[1], one, other, lineterm="", n=2)
