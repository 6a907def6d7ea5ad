"""A job as Azure ML gets it, without I/O: the body of a command job, the environment that it names, the files it mounts.

Nothing of the job's is in the body: Azure ML replaces `${{...}}` in a command and limits what a variable holds. It is in the
files (launch.py), whose address has their digest in it, so that a second submit of the name never changes what the first
one reads.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from mlctl import contract, data
from mlctl.backend import Facts, Settings
from mlctl.backends import _record
from mlctl.errors import Unsupported
from mlctl.job import Job
from mlctl.runs import Loss, Plan, Run, Stamp, Upload

from .fields import Fields
from .launch import Launch, script
from .settings import Place

__all__ = ["NONCE", "PIECE", "REACHED", "make", "recorded", "stamped"]

RECORD = "mlctl.record."
"""How the properties of a job begin that hold mlctl's record of it, cut to what a property may hold."""

PIECE = 250
NONCE = "MLCTL_NONCE"
"""A variable of the job. Azure ML takes a PUT of a name that is taken as an update, but not of variables: so two submits
of one name, which differ in this, never become one job that both think is theirs."""

REACHED: Mapping[str, str] = {
    "azureml": "mount", "abfss": "mount", "wasbs": "mount", "https": "download", "file": "upload",
}  # fmt: skip
_OURS = ("mlctl", "mlctl_code", "mlctl_state")
_INPUTS, _OUTPUTS = 200, 20
"""How many a job may have, mlctl's own included."""


_MODES = {"mount": "ReadOnlyMount", "download": "Download", "": "ReadOnlyMount"}
_OUTPUT_MODES = {"mount": "ReadWriteMount", "upload": "Upload", "": "Upload"}


def make(job: Job, facts: Facts, name: str, settings: Settings, losses: tuple[Loss, ...]) -> Plan:
    """The plan. Raises InvalidJob, Unsupported, and InvalidConfig for a setting that is wrong."""
    return _Maker(job, facts, name, settings).plan(losses)


class _Maker:
    def __init__(self, job: Job, facts: Facts, name: str, settings: Settings) -> None:
        self.job, self.facts, self.name, self.settings = job, facts, name, settings
        self.at = Place(settings)
        self.stem, _, self.attempt = name.rpartition("-")
        self.root = f"/tmp/mlctl-{name}"  # noqa: S108 - of the container that the job has for itself
        self.uploads: list[Upload] = []
        self.inputs: dict[str, dict[str, str]] = {}
        self.outputs: dict[str, dict[str, str]] = {}
        self.links: dict[str, str] = {}
        """`inputs.NAME` or `outputs.NAME`, as Azure ML has them -> where it is linked to."""

    def plan(self, losses: tuple[Loss, ...]) -> Plan:
        job, root = self.job, self.root
        places, addresses = self._inputs(), self._outputs()
        outputs = {name: f"{root}/outputs/{name}" for name in job.outputs}
        state, own = f"{root}/state", f"runs/{self.stem}/state"
        self._link("outputs", "mlctl_state", f"{self.at.base}/{own}", state, "ReadWriteMount")
        metrics = f"metrics-{self.attempt}.jsonl"
        seen = contract.Places(places, outputs, f"{root}/mlctl/params.json", f"{root}/{metrics}", f"{state}/job")
        run = Run("azureml", self.at.subscription, self.at.scope, self.name)
        argv, env = contract.argv(job, seen), contract.environment(job, seen, str(run))
        contract.passable(job, (*argv, *env.values()), contract.WORD)
        contract.exportable(job, env)
        code = ""
        if job.package:
            address = f"{self.at.base}/packages/{job.package.sha256}.tar.gz"
            self.uploads.append(Upload(str(job.package.path), job.package.sha256, address))
            code = f"{root}/code.tar.gz"
            self._link("inputs", "mlctl_code", address, code, "Download")
        for sort, most in (("inputs", _INPUTS), ("outputs", _OUTPUTS)):
            asked = len(getattr(job, sort))
            ours = sum(each.startswith(f"{sort}.mlctl_") for each in self.links) + (sort == "inputs")
            if asked + ours > most:
                text = f"{asked} of them, and mlctl's own {ours}: Azure ML takes {most}"
                raise Unsupported(str(job.fail((sort,), text)))
        fields = Fields(job, self.facts, self.name, self.settings, self.at)
        links = dict(sorted(self.links.items()))
        launch = Launch(
            argv, {"PYTHONUNBUFFERED": "1", **env}, root, list(links.values()), seen.checkpoints, seen.metrics_file,
            f"{state}/{metrics}", code, bool(fields.installed),
            {each: self._secret(each) for each in job.secrets}, fields.torchrun,
        )  # fmt: skip
        files = {"launch.sh": script(launch), "params.json": json.dumps(job.values(), ensure_ascii=False)}
        if fields.installed:
            files["requirements.txt"] = "\n".join([*fields.installed, ""])
        below = f"{self.at.base}/launch/{_sha256(files)}/"
        self._input("mlctl", below, "Download", False)
        words = " ".join(f'"${{{{{each}}}}}"' for each in ("inputs.mlctl", *links))
        environment_id, environment = fields.environment()
        properties = {
            **fields.properties(),
            "command": f'sh "${{{{inputs.mlctl}}}}/launch.sh" {words}',
            "environmentId": environment_id,
            "inputs": self.inputs,
            "outputs": self.outputs,
        }
        request = {
            "id": f"{self.at.arm}/jobs/{self.name}",
            "body": {"properties": properties},
            "environment": environment,
            "files": {f"{below}{file}": text for file, text in files.items()},
            "record": {"outputs": addresses, "metrics": f"{self.at.base}/{own}/{metrics}"},
        }
        try:
            stamped(request, _record.LARGEST)
        except ValueError as reason:
            raise Unsupported(str(job.fail(("outputs",), str(reason)))) from None
        return Plan(self.name, "azureml", self.settings.target, request, tuple(self.uploads), (*losses, *fields.losses))

    def _input(self, name: str, address: str, mode: str, single: bool) -> None:
        self.inputs[name] = {"jobInputType": "uri_file" if single else "uri_folder", "uri": address, "mode": mode}

    def _link(self, sort: str, name: str, address: str, place: str, mode: str) -> None:
        if sort == "inputs":
            self._input(name, address, mode, address.endswith(".tar.gz"))
        else:
            self.outputs[name] = {"jobOutputType": "uri_folder", "uri": address, "mode": mode}
        self.links[f"{sort}.{name}"] = place

    def _named(self, sort: str, name: str) -> str:
        """Azure ML takes letters, digits and `_` only."""
        made = re.sub(r"[^A-Za-z0-9_]", "_", name)
        if made in _OURS:
            raise self.job.fail((sort, name), "mlctl has one of that name itself; choose another")
        if f"{sort}.{made}" in self.links:
            raise self.job.fail((sort, name), f"Azure ML has it as {made}, and there is one; choose another name")
        return made

    def _inputs(self) -> dict[str, str]:
        """Input -> its place in the job."""
        places = {}
        for name, each in self.job.inputs.items():
            made, known = self._named("inputs", name), self.facts["inputs"][name]
            single, address, place = known["single"], each.uri, f"{self.root}/inputs/{name}"
            places[name] = place
            if "local" in known:  # a file, too, is an input as its folder, whose address is but a digest
                local = data.Local.of_json(known["local"])
                self.uploads += local.uploads(f"{self.at.base}/inputs")
                address, single = f"{self.at.base}/inputs/{local.sha256}", False
                if local.single:
                    places[name] = f"{place}/{local.files[0][0]}"
            if single:  # which keeps its name: some readers go by it
                last = re.sub(r"[?#].*", "", address).rpartition("/")[2]
                places[name] = place = f"{place}/{re.sub(r'[^A-Za-z0-9._=-]', '_', last)}"
            else:
                address = address.rstrip("/") + "/"
            if each.mode == "mount" and data.scheme(each.uri) == "https":
                text = f"{each.uri}: Azure ML mounts no https: addresses; leave out mode:, or copy it to the datastore"
                raise Unsupported(str(self.job.fail(("inputs", name, "mode"), text)))
            mode = "Download" if data.scheme(each.uri) == "https" else _MODES[each.mode]
            self._input(made, address, mode, single)
            self.links[f"inputs.{made}"] = place
        return places

    def _outputs(self) -> dict[str, str]:
        """Output -> its address."""
        addresses = {}
        for name, each in self.job.outputs.items():
            if each.uri and data.scheme(each.uri) not in ("azureml", "abfss", "wasbs"):
                text = f"got '{each.uri}', and Azure ML writes to azureml:, abfss: and wasbs:; leave it out for the datastore"
                raise Unsupported(str(self.job.fail(("outputs", name, "uri"), text)))
            own = f"{self.at.base}/runs/{self.stem}/{self.attempt}/outputs"
            addresses[name] = data.output(self.job, name, self.name, own)
            made = self._named("outputs", name)
            self._link("outputs", made, addresses[name], f"{self.root}/outputs/{name}", _OUTPUT_MODES[each.mode])
        return addresses

    def _secret(self, name: str) -> tuple[str, str]:
        """The vault's host, and the secret's name in it."""
        pattern = r"azure-kv:([A-Za-z0-9-]{3,24}(?:\.[a-z0-9.-]+)?)/([A-Za-z0-9-]{1,127})"
        expected = "azure-kv:VAULT/NAME (Key Vault), which the job reads"
        match = self.settings.reference(name, pattern, expected)
        if self.settings.values.get("identity") != "managed":
            text = f"the job reads {name} from Key Vault as a managed identity; set it to managed"
            raise self.settings.fail("identity", text)
        return match[1] if "." in match[1] else f"{match[1]}.vault.azure.net", match[2]


def _sha256(files: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def stamped(request: Mapping[str, Any], stamp: Stamp) -> dict[str, Any]:
    """The body with mlctl's record of the run in it. Raises ValueError where that is more than a job may have."""
    kept = _record.cut(request["record"], stamp, RECORD, PIECE, 40, "mlctl")
    properties = request["body"]["properties"]
    return {
        "properties": {
            **properties,
            "properties": {**properties.get("properties", {}), **kept},
            "environmentVariables": {NONCE: stamp.nonce},
        }
    }


def recorded(job: Mapping[str, Any]) -> dict[str, Any]:
    """What `stamped` kept, from a job's record. Raises ValueError for a job that is none of mlctl's."""
    return _record.joined(job.get("properties", {}).get("properties") or {}, RECORD)
