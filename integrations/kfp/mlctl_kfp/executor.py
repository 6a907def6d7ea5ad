"""KFP's side of a step: the JSON that describes it, and the file that tells KFP what came of it.

KFP fetches an input artifact to a path that follows from its URI, and uploads what a step left at an output artifact's
path; with kfp.local the URI is a path already.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from mlctl.errors import InvalidConfig, one_line

from . import files

__all__ = ["Call", "Given", "answer"]

_MOUNTS: Mapping[str, str] = {"gs://": "/gcs/", "s3://": "/s3/", "minio://": "/minio/"}
_WORKSPACE = "/kfp-workspace/.artifacts"
"""Where KFP keeps what an importer downloaded to the pipeline's workspace."""

_LATER = "pipelinechannel--"
"""How the name begins of a value that KFP puts into a text, a mapping or a list of the pipeline's."""
_PLACE = re.compile(rf"\{{\{{\$\.inputs\.parameters\['({_LATER}[^']+)'\]\}}\}}")

ADDRESS = "mlctl_address"
"""In an artifact's metadata: where its content is, when that is not the artifact's own place."""


@dataclass(frozen=True)
class Given:
    """An artifact, as KFP hands it over."""

    name: str
    uri: str
    metadata: Mapping[str, Any]

    @property
    def path(self) -> Path:
        """Where it is in the step's file system."""
        if self.metadata.get("_kfp_workspace") is True:
            return Path(f"{_WORKSPACE}{self._fetched}")
        return self._fetched

    @property
    def _fetched(self) -> Path:
        if self.uri.startswith("oci://"):
            return Path("/oci", self.uri.removeprefix("oci://").replace("/", "_"), "models")
        for scheme, folder in _MOUNTS.items():
            if self.uri.startswith(scheme):
                return Path(folder + self.uri.removeprefix(scheme))
        return Path(self.uri)

    def address(self, here: bool) -> str:
        """What a job is given: where a job's own output is, else a path if it runs `here`, beside the step, else the URI."""
        return str(self.metadata.get(ADDRESS) or (self.path if here else self.uri))


@dataclass(frozen=True)
class Call:
    """One step, as KFP describes it."""

    parameters: Mapping[str, Any]
    inputs: Mapping[str, Given]
    outputs: Mapping[str, Given]
    answer: Path

    @classmethod
    def of(cls, text: str) -> Call:
        """Raises InvalidConfig for what KFP did not write, or left a placeholder in that the step needs."""
        try:
            data = json.loads(text, parse_float=_number)
            inputs, outputs = data.get("inputs", {}), data["outputs"]
            call = cls(
                _filled(inputs.get("parameterValues", {})),
                _artifacts(inputs.get("artifacts", {})),
                _artifacts(outputs.get("artifacts", {})),
                Path(outputs["outputFile"]),
            )
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            if _LATER in text:
                raise InvalidConfig(_BROKEN) from None
            raise InvalidConfig(
                f"executor input: got {one_line(text)}, expected what KFP puts for '{{{{$}}}}'"
            ) from None
        for name, fill in (("pipeline_job_id", "JOB_ID"), ("pipeline_task_name", "TASK_NAME")):
            value = call.text(name)
            if not value or "{{" in value:
                raise InvalidConfig(
                    f"{name}: got {one_line(value)}, expected what KFP fills in; pass it as it is, and to this component "
                    f"directly: {name}=dsl.PIPELINE_{fill}_PLACEHOLDER"
                )
        return call

    def text(self, name: str) -> str:
        """A parameter that is a string; empty where it was not given."""
        value = self.parameters.get(name) or ""
        if not isinstance(value, str):
            raise InvalidConfig(f"{name}: got {one_line(value)}, expected a string")
        return value

    def mapping(self, name: str) -> dict[str, Any]:
        """A parameter that is a mapping; empty where it was not given."""
        value = self.parameters.get(name) or {}
        if not isinstance(value, dict):
            raise InvalidConfig(f"{name}: got {one_line(value)}, expected a mapping of names to values")
        return value


_BROKEN = (
    "params: KFP puts a value of the pipeline into a mapping or a text as it is, and one has a quote, a backslash, a line break or "
    "a mapping in it; pass the mapping whole, as one parameter or output of type dict"
)


def _filled(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """With the pipeline's values in their places: older servers fill some of them only, in no order. What a try of the step
    gets is what each gets, or a retry would be another run.

    Raises InvalidConfig for a value that would become other JSON than it was where KFP puts it in."""
    texts = {name: _text(value) for name, value in parameters.items() if name.startswith(_LATER)}
    if any(json.dumps(text, ensure_ascii=False) != f'"{text}"' for text in texts.values()):
        raise InvalidConfig(_BROKEN)

    def fill(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: fill(each) for name, each in value.items()}
        if isinstance(value, list):
            return [fill(each) for each in value]
        if isinstance(value, str):
            return _PLACE.sub(lambda match: texts.get(match[1], match[0]), value)
        return value

    return {name: value if name in texts else fill(value) for name, value in parameters.items()}


def _text(value: Any) -> str:
    """As KFP's server writes a value into a text."""
    if isinstance(value, float):
        return f"{Decimal(repr(value)):f}"
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _number(text: str) -> int | float:
    """KFP has no integers inside a mapping: 3 arrives as 3.0."""
    value = float(text)
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _artifacts(lists: Mapping[str, Any]) -> dict[str, Given]:
    found = {}
    for name, each in lists.items():
        for one in each.get("artifacts", [])[:1]:
            found[name] = Given(one.get("name", name), str(one["uri"]), one.get("metadata") or {})
    return found


def answer(call: Call, parameters: Mapping[str, Any], metadata: Mapping[str, Mapping[str, Any]]) -> None:
    """Tells KFP what the step's outputs are. The artifacts stay at KFP's own places, which it alone can upload to."""
    artifacts = {
        name: {"artifacts": [{"name": one.name, "uri": one.uri, "metadata": _plain(metadata.get(name, {}))}]}
        for name, one in call.outputs.items()
    }
    data = {"parameterValues": parameters, "artifacts": artifacts}
    files.write(call.answer, json.dumps(data, allow_nan=False).encode())


def _plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no NaN and no infinity: they become words."""
    return {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in metadata.items()
    }
