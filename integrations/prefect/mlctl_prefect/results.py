"""What a job left, as a value that flows pass on, persist and print."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from mlctl.errors import InvalidJob, did_you_mean
from mlctl.job import Job
from mlctl.runs import Result, Run, Status

__all__ = ["MlctlResult", "Output", "output"]


class Outputs(dict[str, str]):
    """Output -> address. Raises InvalidJob, in one line, for an output that the job doesn't have."""

    def __missing__(self, name: str) -> str:
        near = did_you_mean(name, self) or f"; there are: {', '.join(self) or 'none'}"
        raise InvalidJob(f"outputs.{name}: the job has no such output{near}")


class MlctlResult(BaseModel):
    """A job that succeeded: the URL of its run, the addresses of its outputs, the last value of each metric."""

    model_config = ConfigDict(frozen=True)

    run: str
    job: str
    kind: str
    outputs: dict[str, str] = {}
    metrics: dict[str, float] = {}
    link: str = ""
    """The platform's own page of the run; empty where it has none."""

    @field_validator("outputs", mode="after")
    @classmethod
    def _checked(cls, value: dict[str, str]) -> dict[str, str]:
        return Outputs(value)

    @classmethod
    def of(cls, job: Job, run: Run, status: Status, result: Result) -> MlctlResult:
        """The result of `run`, an attempt at `job`."""
        return cls(
            run=str(run),
            job=job.name,
            kind=job.kind.name,
            outputs=dict(result.outputs),
            metrics=result.metrics,
            link=status.link,
        )


class Output(BaseModel):
    """The address of one output, once the task that leaves it is done. Made by `output`."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    of: Any
    name: str


def output(of: Any, name: str) -> Output:
    """The output `name` of a submitted task's future, as an input of another: it waits for it, and is no earlier than
    that an error.

    train.submit(inputs={"data": output(prepared, "data")})        # prepared = prepare.submit()
    """
    return Output(of=of, name=name)


def addresses(inputs: Mapping[str, Any] | None) -> dict[str, Any]:
    """The inputs as the job takes them, and refuses them. Raises InvalidJob for an output that isn't there."""
    return {name: _address(name, value) for name, value in (inputs or {}).items()}


def _address(name: str, value: Any) -> Any:
    if isinstance(value, Output) and isinstance(value.of, MlctlResult):
        return value.of.outputs[value.name]
    if isinstance(value, MlctlResult) and len(value.outputs) == 1:
        return next(iter(value.outputs.values()))
    if isinstance(value, MlctlResult):
        have = ", ".join(value.outputs) or "none"
        raise InvalidJob(
            f"inputs.{name}: the job {value.job} has several outputs or none ({have}); name one: output(..., NAME)"
        )
    return value
