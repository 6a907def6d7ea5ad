"""A job as a Prefect block: kept on the server, triggered from flows, after Prefect's JobBlock and JobRun."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from prefect.blocks.abstract import JobBlock, JobRun
from prefect.logging import get_logger
from pydantic import ConfigDict, Field

from mlctl.errors import InvalidJob, did_you_mean

from .call import Call, asynchronous, later, next_key
from .drive import Drive
from .results import MlctlResult

__all__ = ["MlctlJob", "MlctlRun"]


class MlctlRun(JobRun[MlctlResult]):
    """A job that was triggered. In an async flow, what a method returns is to be awaited."""

    def __init__(self, drive: Drive) -> None:
        self._drive = drive

    @property
    def url(self) -> str:
        """The attempt in hand, from anywhere; `mlctl.reach` and `mlctl status` take it."""
        assert self._drive.outcome  # noqa: S101 - it has begun
        return str(self._drive.outcome.run)

    def wait_for_completion(self) -> Any:
        """Returns once the job has succeeded. Raises RunFailed. Whatever interrupts the wait ends the job."""
        if asynchronous():
            return self._completed()
        self._drive.result()
        return None

    async def _completed(self) -> None:
        await self._drive.result_async()

    def fetch_result(self) -> Any:
        """The job's MlctlResult; waits for it where need be. Raises RunFailed."""
        return self._drive.result_async() if asynchronous() else self._drive.result()

    def cancel(self) -> Any:
        """Ends the job, and waits some time for its end."""
        if asynchronous():
            return asyncio.to_thread(self._drive.end)
        return self._drive.end()


class MlctlJob(JobBlock):  # JobBlock[MlctlResult] would be one more type of block on the server
    """A job of mlctl's: its file, and where it runs."""

    model_config = ConfigDict(extra="ignore")  # what Prefect itself adds isn't kept; what else comes is refused below

    _block_type_name = "mlctl job"
    _block_type_slug = "mlctl-job"
    _description = "Runs a job file on any platform that mlctl knows, and finds it again after a crash."

    job: str | dict[str, Any] = Field(description="The path of the job's file, or what it would hold.")
    params: dict[str, Any] = Field(default_factory=dict, description="Parameters of each run.")
    inputs: dict[str, str] = Field(default_factory=dict, description="Input -> address.")
    target: str | None = Field(default=None, description="Where to run; the profile's rules choose where it is empty.")
    profile: str | None = Field(
        default=None, description="The profile of mlctl.yaml; its own default where it is empty."
    )
    config: str | None = Field(default=None, description="The path of mlctl.yaml; looked for where it is empty.")
    on_change: str = Field(
        default="fail", description="Where a key names a run of another job: fail, adopt or replace."
    )

    def __init__(self, **given: Any) -> None:
        if unknown := self._unknown(given):
            raise InvalidJob(min(unknown.values()))
        super().__init__(**given)

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> MlctlJob:
        """As Prefect reads what a server keeps: of that, a field that isn't there (any more, or yet) is left out, and told."""
        if isinstance(obj, Mapping) and (unknown := cls._unknown(obj)):
            for text in unknown.values():
                get_logger("mlctl").warning("%s: left out", text)
            obj = {name: value for name, value in obj.items() if name not in unknown}
        return super().model_validate(obj, **options)

    @classmethod
    def _unknown(cls, given: Mapping[str, Any]) -> dict[str, str]:
        """The fields that there aren't, with what to say of each; names that begin with _ are Prefect's own."""
        known = {*cls.model_fields, "block_type_slug"}
        return {
            name: f"MlctlJob: {name}: unknown field{did_you_mean(name, cls.model_fields)}"
            for name in given
            if name not in known and not name.startswith("_")
        }

    def trigger(
        self, params: Mapping[str, Any] | None = None, inputs: Mapping[str, Any] | None = None, key: str | None = None
    ) -> Any:
        """Starts the job, or finds it where this call of the flow run started it before; an MlctlRun.

        Raises mlctl's errors for a wrong job and configuration.
        """
        call = Call(**{name: getattr(self, name) for name in Call.model_fields if name in type(self).model_fields})
        known, retry = key or next_key(self._block_document_name or call.name), not key or later()
        drive = Drive(lambda: call.execution(params, inputs, known, retry), self.logger)
        return _begun_async(drive) if asynchronous() else _begun(drive)


def _begun(drive: Drive) -> MlctlRun:
    drive.begun()
    return MlctlRun(drive)


async def _begun_async(drive: Drive) -> MlctlRun:
    await drive.begun_async()
    return MlctlRun(drive)
