"""A job as a container step of KFP's own, with no launcher between: the job's image, its command, typed inputs and outputs.

It is admitted when it is compiled, and not again. What it gives up stands in this integration's README; what can't be
given up without changing the job's result is refused.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mlctl import api
from mlctl.backend import Features
from mlctl.backends.kfp.ir import Artifact, Parameter, document
from mlctl.command import fill, placeholders
from mlctl.contract import variable
from mlctl.errors import Unsupported
from mlctl.job import KINDS, Job
from mlctl.policy import admit
from mlctl.runs import Plan

from . import spec

__all__ = ["FEATURES", "component", "plan"]

log = logging.getLogger("mlctl.kfp")

_GRACE = 10  # seconds between SIGTERM and SIGKILL, when the job's time is up

_TYPES: Mapping[str, str] = {
    "string": "STRING", "integer": "NUMBER_INTEGER", "number": "NUMBER_DOUBLE", "boolean": "BOOLEAN", "array": "LIST",
    "object": "STRUCT",
}  # fmt: skip

FEATURES = Features(
    kinds=frozenset(KINDS),
    honours=frozenset(
        {
            "image", "command.shell", "params", "inputs", "inputs.mode.download", "outputs", "outputs.mode.upload", "env",
            "resources.cpu", "resources.memory", "resources.accelerators", "timeout",
        }
    ),
    loses={
        "code": "the image has it already: nothing is packed",
        "python": "the image has it already",
        "requirements": "the image has them already",
        "inputs.mode.mount": "KFP downloads it before the job starts",
        "outputs.mode.mount": "KFP uploads it after the job has ended",
        "resources.disk": "the pod has what its node gives it",
        "resources.shm": "the pod has what its node gives it",
        "resources.spot": "the pod runs where the cluster puts it",
        "queue_timeout": "KFP bounds no step's wait",
        "labels": "not put on the pod",
        "tags": "not put on the pod",
    },
)  # fmt: skip


def component(job: api.JobLike, *, image: str = "") -> Callable[..., Any]:
    """What makes a task of the job, inside a pipeline: `train(lr=0.1, data=process.outputs["data"])`.

    `image` has the job's code in its working folder; without it, the job names one. KFP's cache is off for the task, as
    for every job; `.set_caching_options(True)` turns it on. Raises InvalidJob; Unsupported for what a native step can't
    honour; Denied where a rule forbids it.
    """
    from kfp import components
    from kfp.dsl.pipeline_channel import extract_pipeline_channels_from_any as known_later

    job = api.load(job)
    made = plan(job, image=image)
    for loss in made.losses:
        log.warning("%s: %s is not honoured: %s", made.name, loss.field, loss.why)
    load = components.load_component_from_text(spec.dump(made.request["spec"]))

    def task(**arguments: Any) -> Any:
        for name, value in arguments.items():
            if isinstance(value, str | Mapping | list | tuple) and known_later(value):
                text = "has a value of the pipeline inside a text, a mapping or a list, where KFP need not fill it in"
                raise Unsupported(
                    str(job.fail(("params", name), f"{text}; pass the value alone, made by an earlier step"))
                )
        given = {name: value for name, value in arguments.items() if name not in job.inputs and not known_later(value)}
        for name, param in api.load(job, given).params.items():  # raises for a value that the job doesn't take
            _exact(job, name, param.value)
        step = load(**arguments).set_caching_options(False)
        for name, value in made.request["resources"].items():
            getattr(step, f"set_{name}")(value)
        return step

    task.__doc__ = load.description
    task.component = load  # type: ignore[attr-defined]  # what kfp.compiler takes
    return task


def plan(job: api.JobLike, *, image: str = "") -> Plan:
    """The admitted plan: `request["spec"]` is the component, `request["resources"]` what its tasks are given."""
    made = api.load(job)
    image = image or made.image
    if not image:
        raise made.fail(("image",), "a native step needs one; name it here, or component(..., image=...)")
    if made.code and image == made.image:
        raise Unsupported(
            str(made.fail(("code",), "a native step ships none; build it into an image: component(..., image=...)"))
        )
    for name in made.secrets:
        text = (
            f"{name}: a native step has none; use the launcher's component, or kubernetes.use_secret_as_env on the task"
        )
        raise Unsupported(str(made.fail(("secrets",), text)))
    losses = FEATURES.losses("kfp", made)
    component = document(
        made.name, made.description, {"image": image, **_command(made)}, tuple(_inputs(made)), tuple(_outputs(made))
    )
    request = {"spec": component, "resources": _resources(made)}
    return admit(made, Plan(made.name, "kfp", "kfp", request, losses=losses)).plan


def _inputs(job: Job) -> Iterable[Parameter | Artifact]:
    for name, param in job.params.items():
        if name in job.inputs:
            raise job.fail(("inputs", name), "is a parameter too, and KFP has one name for both; rename one")
        for text in _strings(param.value):
            _refuse(job, ("params", name), text, _BY_KFP)
        _exact(job, name, param.value)
        yield Parameter(name, _TYPES[param.type], param.description, param.value)
    for name, each in job.inputs.items():
        yield Artifact(name, each.type, optional=False)


def _outputs(job: Job) -> Iterable[Artifact]:
    for name, each in job.outputs.items():
        if name in job.inputs or name in job.params:
            raise job.fail(("outputs", name), "is an input or parameter too, and KFP has one name for both; rename one")
        yield Artifact(name, each.type)
    if "metrics" not in job.outputs:
        yield Artifact("metrics", "artifact", "The job's metrics file, JSON lines.")


def _command(job: Job) -> dict[str, list[str]]:
    """A shell sets the contract's variables from its arguments, and becomes the job's own command."""
    used = {name for what, name in placeholders([*job.command.argv, *job.env.values()]) if what == "params"}
    for name in job.params.keys() - used:
        text = "neither command: nor env: takes it, and a native step has no MLCTL_PARAMS_FILE; use the launcher's component"
        raise Unsupported(str(job.fail(("params", name), text)))
    exports: dict[str, str] = {}
    for name, text in job.env.items():
        _refuse(job, ("env", name), text)
        exports[name] = fill(text, _place)
    exports |= {f"MLCTL_INPUT_{variable(name)}": _place(("inputs", name)) for name in job.inputs}
    exports |= {f"MLCTL_OUTPUT_{variable(name)}": _place(("outputs", name)) for name in job.outputs}
    if "metrics" not in job.outputs:
        exports["MLCTL_METRICS_FILE"] = _place(("outputs", "metrics"))
    for word in job.command.argv:
        _refuse(job, ("command",), word)
    if "$(" in job.command.script:
        _refuse(job, ("command", "shell"), job.command.script)
    lines = [f'export {name}="$1"; shift' for name in exports]
    lines += [f'mkdir -p "$MLCTL_OUTPUT_{variable(name)}"' for name in job.outputs]
    lines += ["MLCTL_CHECKPOINT_DIR=`mktemp -d`; export MLCTL_CHECKPOINT_DIR"]
    lines += ['case "$1" in /*) mkdir -p "${1%/*}"; printf %s "$2" >"$1";; esac; shift 2']
    bound = ["timeout", "-k", str(_GRACE), str(job.timeout)] if job.timeout else []
    words = [*exports.values(), *_told(job), *bound, *job.command.rendered(_place)]
    return {"command": ["/bin/sh", "-e", "-c", "\n".join([*lines, 'exec "$@"']), "sh"], "args": words}


def _told(job: Job) -> tuple[str, str]:
    """The file in which kfp.local looks for a step's artifacts, and what it wants to find there.

    A server's launcher leaves that placeholder as it is, and needs no file: it looks where the artifacts are to be.
    """
    artifacts = {
        one.name: {"artifacts": [{"name": one.name, "uri": f"{{{{$.outputs.artifacts['{one.name}'].uri}}}}"}]}
        for one in _outputs(job)
    }
    return "{{$.outputs.output_file}}", json.dumps({"artifacts": artifacts})


def _place(placeholder: tuple[str, str]) -> str:
    """KFP's own placeholder for a parameter's value, or for the path of an input or output."""
    what, name = placeholder
    return (
        f"{{{{$.inputs.parameters['{name}']}}}}" if what == "params" else f"{{{{$.{what}.artifacts['{name}'].path}}}}"
    )


_BY_KFP = r"\{\{"  # Argo's and KFP's placeholders
_BY_KUBERNETES = r"\$\$\(|\$\([A-Za-z_][A-Za-z0-9_]*\)"


def _refuse(job: Job, keys: tuple[str, ...], text: str, eaten: str = f"{_BY_KFP}|{_BY_KUBERNETES}") -> None:
    """Raises Unsupported for a text that the platform would replace by something else on its way to the job."""
    found = re.search(eaten, re.sub(r"\$\{\{[^{}]*\}\}", "", text))
    if found:
        what = (
            f"'{found.group()}' means something to Kubernetes or KFP, which replaces it; use the launcher's component"
        )
        raise Unsupported(str(job.fail(keys, what)))


def _strings(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from value
        for each in value.values():
            yield from _strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from _strings(each)


def _exact(job: Job, name: str, value: Any) -> None:
    """Raises Unsupported for an integer that KFP, which has but doubles, would make another one."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 2**53:
        text = f"got {value}, and KFP keeps whole numbers up to 2**53 only; make it a string"
        raise Unsupported(str(job.fail(("params", name), text)))
    for each in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        _exact(job, name, each)


def _resources(job: Job) -> dict[str, Any]:
    """Setters of a task and their values, without the `set_`."""
    asked, found = job.resources, dict[str, Any]()
    if asked.cpu is not None:
        found["cpu_request"] = found["cpu_limit"] = f"{asked.cpu:g}"
    if asked.memory is not None:
        found["memory_request"] = found["memory_limit"] = f"{-(-asked.memory // 2**20)}Mi"
    if asked.accelerators:
        if "/" not in asked.accelerators.name:
            text = f"got '{asked.accelerators.name}', expected a resource of Kubernetes: {{name: nvidia.com/gpu, count: 1}}"
            raise Unsupported(str(job.fail(("resources", "accelerators"), text)))
        found["accelerator_type"], found["accelerator_limit"] = asked.accelerators.name, asked.accelerators.count
    return found
