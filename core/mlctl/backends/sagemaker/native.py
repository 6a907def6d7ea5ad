"""The fields of CreateTrainingJob and CreateProcessingJob, from the job and the target's settings. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlctl.backend import Facts, Settings
from mlctl.backends import _tags
from mlctl.errors import Unsupported
from mlctl.job import Job
from mlctl.runs import Loss

from . import images, instances

__all__ = ["ADDRESS", "LONGEST", "Carried", "Fields"]

_DAY = 86400
LONGEST = 2500
"""Characters that a hyperparameter may have."""

ADDRESS = 1024
"""Characters that an address in S3 may have."""

_IMAGE, _HYPERPARAMETERS, _NODES, _DISK = 255, 100, 100, 16384
"""How many characters, of them, or GB, a request may have; training jobs have no such limit of nodes."""


@dataclass(frozen=True)
class Carried:
    """What goes in and out of a container: channel -> (address, whether it is streamed), output -> its place and its
    address, where a training job's archives go, the folder kept between attempts and its address, the entry point."""

    sources: Mapping[str, tuple[str, bool]]
    places: Mapping[str, str]
    addresses: Mapping[str, str]
    store: str
    state: tuple[str, str]
    folder: str
    """Where the channels are."""
    entry: list[str]


class Fields:
    """One job's. `losses` grows by what a field couldn't take."""

    def __init__(self, job: Job, facts: Facts, name: str, settings: Settings) -> None:
        self.job, self.facts, self.name, self.settings = job, facts, name, settings
        self.training = job.kind.name == "train"
        self.own = _platform(job)
        self.losses: list[Loss] = []

    def _image(self) -> str:
        job, region = self.job, self.facts["region"]
        image = job.image or (str(self.settings.values.get("image", "")) if not job.python else "")
        gpu = job.resources.accelerators is not None
        try:
            if not image:
                return images.of_python(job.python, region, gpu)
            if len(image) > _IMAGE:
                raise ValueError(f"and SageMaker takes {_IMAGE} characters")
            return image if images.is_address(image) else images.framework(image, region, gpu)
        except ValueError as reason:
            if image and not job.image:
                raise self.settings.fail("image", f"got '{image}', {reason}") from None
            raise Unsupported(
                str(job.fail(("image" if image else "python",), f"got '{image or job.python}': {reason}"))
            ) from None

    def _instance(self) -> str:
        asked = self.job.resources
        named = self.own.get("instance_type")
        if named is None and not instances.asks(asked):
            return str(self.settings.values.get("instance_type", "ml.m5.xlarge"))
        if named is None:
            try:
                return instances.choose(asked, self.training)
            except ValueError as reason:
                raise Unsupported(str(self.job.fail(("resources",), str(reason)))) from None
        if named in instances.SIZES and (lacks := instances.lacks(instances.SIZES[named], asked)):
            raise self.job.fail(
                ("platforms", "sagemaker", "instance_type"), f"{named} has {lacks}, and resources: asks for more"
            )
        return str(named)

    def _cluster(self) -> dict[str, Any]:
        asked = self.job.resources
        disk = -(-asked.disk // 10**9) if asked.disk else self.settings.values.get("volume", 30)
        if disk > _DISK:
            text = f"got {disk} GB, and SageMaker takes {_DISK}"
            raise Unsupported(str(self.job.fail(("resources", "disk"), text)))
        if asked.nodes > _NODES and not self.training:
            text = f"got {asked.nodes}, and SageMaker takes {_NODES} for a processing job"
            raise Unsupported(str(self.job.fail(("resources", "nodes"), text)))
        cluster: dict[str, Any] = {
            "InstanceType": self._instance(), "InstanceCount": asked.nodes, "VolumeSizeInGB": disk,
        }  # fmt: skip
        if key := self.settings.values.get("kms_key"):
            cluster["VolumeKmsKeyId"] = key
        return cluster

    def _tags(self) -> list[dict[str, str]]:
        rule = "AWS's tags take letters, digits, blanks and _.:/=+-@, 256 at most, and 128 of a name, which doesn't begin with aws:"
        found = _tags.pairs(self.job, self.settings, ":", _wrong, rule)
        return [{"Key": name, "Value": value} for name, value in found.items()]

    def _runtime(self) -> int:
        limit = 28 * _DAY if self.training else 9 * _DAY
        seconds = self.job.timeout or self.settings.values.get("max_runtime", _DAY)
        if seconds > limit:
            text = f"got {seconds} s, and SageMaker runs such a job for {limit} s at most"
            raise self.job.fail(("timeout",), text) if self.job.timeout else self.settings.fail("max_runtime", text)
        return int(seconds)

    def _network(self) -> dict[str, Any]:
        values = self.settings.values
        network: dict[str, Any] = {}
        if vpc := values.get("vpc"):
            network["VpcConfig"] = {"Subnets": vpc["subnets"], "SecurityGroupIds": vpc["security_groups"]}
        if values.get("network_isolation"):
            if self.job.secrets or self.job.requirement_lines:
                text = "is true, and this job's secrets or requirements are fetched over the network; put them into its image"
                raise self.settings.fail("network_isolation", text)
            network["EnableNetworkIsolation"] = True
        if values.get("encrypt_traffic"):
            network["EnableInterContainerTrafficEncryption"] = True
        return network

    def train(self, carried: Carried) -> dict[str, Any]:
        """The parameters of CreateTrainingJob."""
        job, values = self.job, self.settings.values
        stopping: dict[str, int] = {"MaxRuntimeInSeconds": self._runtime()}
        if job.resources.spot:
            stopping["MaxWaitTimeInSeconds"] = stopping["MaxRuntimeInSeconds"] + (job.queue_timeout or _DAY)
        elif job.queue_timeout:
            if not 1800 <= job.queue_timeout <= 28 * _DAY:
                text = f"got {job.queue_timeout} s, and SageMaker takes 30m to 28d; leave it out, or ask for spot"
                raise Unsupported(str(job.fail(("queue_timeout",), text)))
            stopping["MaxPendingTimeInSeconds"] = job.queue_timeout
        output = {"S3OutputPath": carried.store}
        if key := values.get("kms_key"):
            output["KmsKeyId"] = key
        request: dict[str, Any] = {
            "TrainingJobName": self.name,
            "AlgorithmSpecification": {
                "TrainingImage": self._image(),
                "TrainingInputMode": "File",
                "ContainerEntrypoint": carried.entry,
            },
            "RoleArn": self.facts["role"],
            "InputDataConfig": [
                {
                    "ChannelName": name,
                    "DataSource": {
                        "S3DataSource": {
                            "S3DataType": "S3Prefix", "S3Uri": address, "S3DataDistributionType": "FullyReplicated",
                        },
                    },
                    "InputMode": "FastFile" if streamed else "File",
                }
                for name, (address, streamed) in sorted(carried.sources.items())
            ],
            "OutputDataConfig": output,
            "ResourceConfig": self._cluster(),
            "StoppingCondition": stopping,
            "CheckpointConfig": {"S3Uri": carried.state[1], "LocalPath": carried.state[0]},
            "EnableManagedSpotTraining": job.resources.spot,
            "Tags": self._tags(),
            **self._network(),
        }  # fmt: skip
        if parameters := self._hyperparameters():
            request["HyperParameters"] = parameters
        return request

    def _hyperparameters(self) -> dict[str, str]:
        """As SageMaker's toolkits read them: JSON in strings. The params file has all of them, whatever is left out here."""
        asked = self.own.get("hyperparameters")
        if not (asked if asked is not None else not images.is_address(self.job.image)):
            return {}
        values = {name: json.dumps(value) for name, value in self.job.values().items()}
        long = [name for name, value in values.items() if len(value) > LONGEST]
        if len(values) - len(long) > _HYPERPARAMETERS:
            long = list(values)
        if long:
            text = f"HyperParameters take {_HYPERPARAMETERS} values of {LONGEST} characters"
            text += f"; left out there, not in the params file: {', '.join(long)}"
            self.losses.append(Loss("params", text))
        return {name: value for name, value in values.items() if name not in long}

    def process(self, carried: Carried) -> dict[str, Any]:
        """The parameters of CreateProcessingJob."""
        job, values = self.job, self.settings.values
        left: dict[str, tuple[str, str, bool]] = {
            name: (carried.addresses[name], place, job.outputs[name].mode == "mount")
            for name, place in carried.places.items()
        }
        left["mlctl-state"] = (carried.state[1], carried.state[0], True)
        output: dict[str, Any] = {
            "Outputs": [
                {
                    "OutputName": name,
                    "S3Output": {
                        "S3Uri": address, "LocalPath": at, "S3UploadMode": "Continuous" if continuous else "EndOfJob",
                    },
                }
                for name, (address, at, continuous) in sorted(left.items())
            ]
        }  # fmt: skip
        if key := values.get("kms_key"):
            output["KmsKeyId"] = key
        request: dict[str, Any] = {
            "ProcessingJobName": self.name,
            "AppSpecification": {"ImageUri": self._image(), "ContainerEntrypoint": carried.entry},
            "RoleArn": self.facts["role"],
            "ProcessingInputs": [
                {
                    "InputName": name,
                    "S3Input": {
                        "S3Uri": address, "LocalPath": f"{carried.folder}/{name}", "S3DataType": "S3Prefix",
                        "S3InputMode": "File", "S3DataDistributionType": "FullyReplicated",
                    },
                }
                for name, (address, _) in sorted(carried.sources.items())
            ],
            "ProcessingOutputConfig": output,
            "ProcessingResources": {"ClusterConfig": self._cluster()},
            "StoppingCondition": {"MaxRuntimeInSeconds": self._runtime()},
            "Tags": self._tags(),
        }  # fmt: skip
        if network := self._network():
            request["NetworkConfig"] = network
        return request


def _wrong(name: str, value: str) -> bool:
    """Whether AWS takes no such tag."""
    words = r"[\w .:/=+@-]"
    return (
        not re.fullmatch(f"{words}{{1,128}}", name)
        or name.lower().startswith("aws:")
        or not re.fullmatch(f"{words}{{0,256}}", value)
    )


def _platform(job: Job) -> Mapping[str, Any]:
    """What the job says under `platforms: {sagemaker: ...}`."""
    own = job.platforms.get("sagemaker", {})
    kinds = {
        "instance_type": (str, "an instance type such as ml.m5.xlarge"),
        "hyperparameters": (bool, "true or false"),
    }
    for name, value in own.items():
        if name not in kinds:
            raise job.fail(("platforms", "sagemaker", name), f"unknown field; expected {', '.join(kinds)}")
        if not isinstance(value, kinds[name][0]):
            raise job.fail(("platforms", "sagemaker", name), f"expected {kinds[name][1]}")
    return own
