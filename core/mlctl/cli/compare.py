"""One job on several targets, side by side: what each would be sent, which fields it honours, which it refuses."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click

from mlctl.backend import FIELDS
from mlctl.errors import InvalidJob, MlctlError, Unsupported
from mlctl.job import Job
from mlctl.lifecycle import Execution
from mlctl.runs import Plan

from . import complain, show

__all__ = ["plans"]

_CELLS = {"honoured": "green", "lost": "yellow", "refused": "red", "unknown": "magenta"}


def plans(names: Sequence[str], make: Callable[[str], Execution], json_: bool) -> int:
    """Shows them; gives the exit code, that of the first target that has no plan: it refuses the job, or can't be planned for."""
    answers: list[Plan | MlctlError] = []
    job: Job | None = None
    for name in names:
        try:
            execution = make(name)
            job = job or execution.job
            answers.append(execution.plan())
        except MlctlError as error:
            answers.append(error)
    found = [answer for answer in answers if isinstance(answer, Plan)]
    errors = {name: answer for name, answer in zip(names, answers, strict=True) if isinstance(answer, MlctlError)}
    alike = not found and len({str(reason) for reason in errors.values()}) == 1
    if alike and not isinstance(answers[0], Unsupported):  # what is wrong is the job's, or the configuration's
        raise next(iter(errors.values()))
    if json_:
        show.as_json([_plain(name, answer) for name, answer in zip(names, answers, strict=True)])
    else:
        _requests(found)
        if job:
            asked = [name for name, asks in FIELDS.items() if asks(job)]
            rows = ([field, *(_cell(answer, field) for answer in answers)] for field in asked)
            show.table(["field", *names], rows)
        for plan in found:
            for loss in plan.losses:
                click.echo(f"{click.style(f'not honoured by {plan.target}', fg='yellow')}  {loss.field}: {loss.why}")
    for name, reason in errors.items():
        what = "refuses the job" if isinstance(reason, InvalidJob) else "has no plan"
        complain(f"{name} {what}: {reason}", reason.exit_code)
    return next((reason.exit_code for reason in errors.values()), 0)


def _plain(name: str, answer: Plan | MlctlError) -> dict[str, Any]:
    return answer.to_json() if isinstance(answer, Plan) else {"target": name, "error": str(answer)}


def _cell(answer: Plan | MlctlError, field: str) -> str:
    if isinstance(answer, Plan):
        word = "lost" if any(loss.field == field for loss in answer.losses) else "honoured"
    else:
        word = "refused" if isinstance(answer, InvalidJob) else "unknown"
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
