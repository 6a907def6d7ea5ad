"""A job as SageMaker's request: CreateTrainingJob for `train`, CreateProcessingJob for the others. Pure.

What SageMaker's fields can't carry (long values, line breaks) goes into files that are mounted: see launch.py. Their
address has their digest in it, so that a second submit of the name never changes what the first one reads.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlctl import contract, data
from mlctl.backend import Facts, Settings
from mlctl.backends import _record
from mlctl.errors import Unsupported
from mlctl.job import Job
from mlctl.runs import Loss, Plan, Run, Stamp, Upload

from .launch import ROOT, Launch, script
from .native import ADDRESS, LONGEST, Carried, Fields

__all__ = ["RECORD", "make", "record", "recorded", "sources", "split_member"]

RECORD = "MLCTL_RECORD_"
"""How the variables of a job begin that hold mlctl's record of it, cut to what a variable may hold."""

_OURS = ("mlctl", "mlctl-code", "mlctl-state")
_ARCHIVE = re.compile(r"/output/(model|output)\.tar\.gz\Z")


@dataclass(frozen=True)
class _Layout:
    """Where things are inside a container, and how many of them SageMaker takes."""

    inputs: str
    outputs: str
    hosts: str
    message: str
    state: str
    channels: int
    outputs_limit: int


_TRAINING = _Layout(
    f"{ROOT}/input/data", f"{ROOT}/output/data", f"{ROOT}/input/config/resourceconfig.json", f"{ROOT}/output/failure",
    f"{ROOT}/checkpoints", 20, 100,
)  # fmt: skip
_PROCESSING = _Layout(
    f"{ROOT}/processing/input", f"{ROOT}/processing/output", f"{ROOT}/config/resourceconfig.json",
    f"{ROOT}/output/message", f"{ROOT}/processing/mlctl-state", 10, 10,
)  # fmt: skip


def split_member(uri: str) -> tuple[str, str]:
    """The object of an input, and what of the archive is meant: `.../output.tar.gz#eval` has a member of its own."""
    base, _, member = uri.partition("#")
    return (base, member) if _ARCHIVE.search(base) else (uri, "")


def make(job: Job, facts: Facts, name: str, settings: Settings, losses: tuple[Loss, ...]) -> Plan:
    """The plan. Raises InvalidJob, Unsupported, and InvalidConfig for a setting that is wrong."""
    return _Maker(job, facts, name, settings, losses).plan()


class _Maker:
    def __init__(self, job: Job, facts: Facts, name: str, settings: Settings, losses: tuple[Loss, ...]) -> None:
        self.job, self.facts, self.name, self.settings = job, facts, name, settings
        self.training = job.kind.name == "train"
        self.layout = _TRAINING if self.training else _PROCESSING
        self.losses = losses
        self.stem, _, self.attempt = name.rpartition("-")
        self.base = f"s3://{facts['bucket']}/{settings.values.get('prefix', 'mlctl')}"
        self.state = f"{self.base}/runs/{self.stem}/state/"
        self.uploads: list[Upload] = []

    def plan(self) -> Plan:
        job, layout = self.job, self.layout
        inputs, sources, unpacked = self._inputs()
        outputs, addresses, store = self._outputs()
        launched = f"{layout.inputs}/mlctl"
        metrics = f"{layout.state}/metrics-{self.attempt}.jsonl"
        places = contract.Places(inputs, outputs, f"{launched}/params.json", metrics, f"{layout.state}/job")
        scope = f"{self.facts['region']}/{'training' if self.training else 'processing'}"
        run = Run("sagemaker", self.facts["account"], scope, self.name)
        argv, env = contract.argv(job, places), contract.environment(job, places, str(run))
        if self.training:
            env = {**self._toolkit(inputs, outputs), **env}
        contract.passable(job, (*argv, *env.values()), contract.WORD)
        contract.exportable(job, env)
        code = None
        if job.package:
            address = f"{self.base}/packages/{job.package.sha256}.tar.gz"
            self.uploads.append(Upload(str(job.package.path), job.package.sha256, address))
            sources["mlctl-code"] = (address, False)
            code = (f"{layout.inputs}/mlctl-code/{job.package.sha256}.tar.gz", f"{ROOT}/code")
        launch = Launch(
            argv, {"PYTHONUNBUFFERED": "1", **env}, layout.message, layout.hosts,
            folders=[*outputs.values(), places.checkpoints],
            copied=None if self.training else (f"{layout.inputs}/mlctl-state", layout.state),
            unpacked=unpacked, code=code,
            requirements=f"{launched}/requirements.txt" if job.requirement_lines else "",
            secrets={secret: self._secret(secret) for secret in job.secrets}, region=self.facts["region"],
            nodes=job.resources.nodes, distribution=contract.distribution(job, "an image of your own may start it"),
        )  # fmt: skip
        files = {"launch.sh": script(launch), "params.json": json.dumps(job.values(), ensure_ascii=False)}
        if job.requirement_lines:
            files["requirements.txt"] = "\n".join([*job.requirement_lines, ""])
        digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
        sources["mlctl"] = (f"{self.base}/launch/{digest}/", False)
        if not self.training:
            sources["mlctl-state"] = (self.state, False)
        if len(sources) > layout.channels:
            text = f"{len(job.inputs)} inputs, and mlctl's own {len(sources) - len(job.inputs)}: SageMaker takes {layout.channels}"
            raise Unsupported(str(job.fail(("inputs",), text)))
        entry = ["/bin/sh", f"{launched}/launch.sh"]
        carried = Carried(sources, outputs, addresses, store, (layout.state, self.state), layout.inputs, entry)
        fields = Fields(job, self.facts, self.name, self.settings)
        parameters = fields.train(carried) if self.training else fields.process(carried)
        request = {
            "operation": "create_training_job" if self.training else "create_processing_job",
            "region": self.facts["region"],
            "parameters": parameters,
            "files": {f"{self.base}/launch/{digest}/{file}": text for file, text in files.items()},
            "state": self.state,
            "record": {"outputs": addresses, "metrics": f"{self.state}metrics-{self.attempt}.jsonl"},
        }
        try:
            record(request, _record.LARGEST)
        except ValueError as reason:
            raise Unsupported(str(job.fail(("outputs",), str(reason)))) from None
        return Plan(
            self.name, "sagemaker", self.settings.target, request, tuple(self.uploads), (*self.losses, *fields.losses)
        )

    def _inputs(self) -> tuple[dict[str, str], dict[str, tuple[str, bool]], dict[str, str]]:
        """Input -> its place; channel -> (address, whether it is streamed); archive -> where it is unpacked."""
        places: dict[str, str] = {}
        sources: dict[str, tuple[str, bool]] = {}
        unpacked: dict[str, str] = {}
        for name, each in self.job.inputs.items():
            if name in _OURS:
                raise self.job.fail(("inputs", name), "mlctl has a channel of that name itself; choose another")
            at, known = f"{self.layout.inputs}/{name}", self.facts["inputs"][name]
            if "local" in known:
                local = data.Local.of_json(known["local"])
                self.uploads += local.uploads(f"{self.base}/inputs")
                address, member = local.address(f"{self.base}/inputs"), ""
            else:
                address, member = split_member(each.uri)
            address = address if known["single"] else address.rstrip("/") + "/"
            self._reached(("inputs", name), address)
            sources[name] = (address, each.mode == "mount" and self.training)
            file = f"{at}/{address.rpartition('/')[2]}"
            places[name] = file if known["single"] else at
            if known["single"] and _ARCHIVE.search(address):
                folder = f"{ROOT}/{'' if self.training else 'processing/'}mlctl-unpacked/{name}"
                unpacked[file], places[name] = folder, f"{folder}/{member}".rstrip("/")
        return places, sources, unpacked

    def _outputs(self) -> tuple[dict[str, str], dict[str, str], str]:
        """Output -> its place; output -> its address once the run has ended; where a training job's archives go."""
        own = f"{self.base}/runs/{self.stem}/{self.attempt}/outputs"
        for name, each in self.job.outputs.items():
            if each.uri and data.scheme(each.uri) != "s3":
                text = f"got '{each.uri}', and SageMaker writes to s3: only; leave it out for a place in the target's bucket"
                raise Unsupported(str(self.job.fail(("outputs", name, "uri"), text)))
        if not self.training:
            if len(self.job.outputs) >= self.layout.outputs_limit:
                text = f"{len(self.job.outputs)} outputs, and mlctl's own: SageMaker takes {self.layout.outputs_limit}"
                raise Unsupported(str(self.job.fail(("outputs",), text)))
            places = {name: f"{self.layout.outputs}/{name}" for name in self.job.outputs}
            addresses = {name: data.output(self.job, name, self.name, own) for name in self.job.outputs}
            for name, address in addresses.items():
                self._reached(("outputs", name), address)
            return places, addresses, ""
        roots = {each.uri.rstrip("/") for each in self.job.outputs.values()} or {""}
        if len(roots) > 1:
            text = "a training job has one place for all its outputs; give every one the same uri:, or none"
            raise Unsupported(str(self.job.fail(("outputs",), text)))
        store = roots.pop() or own
        self._reached(("outputs", *self.job.outputs)[:2], store)
        models = [name for name, each in self.job.outputs.items() if each.type == "model"]
        main = "model" if "model" in models else models[0] if len(models) == 1 else ""
        places = {name: f"{self.layout.outputs}/{name}" for name in self.job.outputs}
        addresses = {name: f"{store}/{self.name}/output/output.tar.gz#{name}" for name in self.job.outputs}
        if main:  # alone in its archive, as whatever serves it expects
            places[main], addresses[main] = f"{ROOT}/model", f"{store}/{self.name}/output/model.tar.gz"
        return places, addresses, store

    def _reached(self, keys: tuple[str, ...], address: str) -> None:
        if len(address) > ADDRESS:
            text = f"its address has {len(address)} characters, and SageMaker takes {ADDRESS}"
            raise Unsupported(str(self.job.fail(keys, text)))

    def _toolkit(self, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> dict[str, str]:
        """What scripts written for SageMaker look for, and its toolkit would set; the job's own command runs instead."""
        values = {name: value for name, value in self.job.values().items() if len(json.dumps(value)) <= LONGEST}
        wanted = self.job.resources.accelerators
        return {
            **{f"SM_CHANNEL_{contract.variable(name)}": f"{self.layout.inputs}/{name}" for name in inputs},
            "SM_CHANNELS": json.dumps(sorted(inputs)),
            "SM_HPS": json.dumps(values),
            "SM_MODEL_DIR": f"{ROOT}/model",
            "SM_OUTPUT_DATA_DIR": self.layout.outputs,
            "SM_CURRENT_HOST": "algo-1",
            "SM_NUM_GPUS": str(wanted.count if wanted else 0),
            "SM_HOSTS": json.dumps([f"algo-{number + 1}" for number in range(self.job.resources.nodes)]),
        }

    def _secret(self, name: str) -> str:
        expected = "aws-sm:NAME (Secrets Manager) or aws-ssm:NAME (Parameter Store), which the job reads"
        return self.settings.reference(name, r"aws-s(m|sm):[A-Za-z0-9/_+=.@:-]+", expected)[0]


def sources(answer: Mapping[str, Any]) -> list[str]:
    """The addresses that a job reads, in an answer of Describe*."""
    found = [one.get("DataSource", {}).get("S3DataSource", {}) for one in answer.get("InputDataConfig") or []]
    found += [one.get("S3Input", {}) for one in answer.get("ProcessingInputs") or []]
    return [str(one["S3Uri"]) for one in found if "S3Uri" in one]


def record(request: Mapping[str, Any], stamp: Stamp) -> dict[str, str]:
    """The variables that keep the stamp, and where outputs and metrics are, with the job on SageMaker.

    Raises ValueError where they are more than a job may have.
    """
    size = 512 if request["operation"] == "create_training_job" else 256
    return _record.cut(request["record"], stamp, RECORD, size, 100, "SageMaker")


def recorded(environment: Mapping[str, str]) -> dict[str, Any]:
    """What `record` kept. Raises ValueError for a job that is none of mlctl's."""
    return _record.joined(environment, RECORD)
