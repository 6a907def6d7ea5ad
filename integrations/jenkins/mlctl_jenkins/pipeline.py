"""A pipeline job's configuration: config.xml, with every parameter declared before the first build.

Jenkins drops a parameter that a job doesn't declare, without a word; so each param of a job file becomes one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET  # what is read comes from the controller, which may do worse

from mlctl import api
from mlctl.errors import InvalidConfig
from mlctl.job import Param

__all__ = ["config", "pairs", "parameters", "same", "script"]

_CLASS = "hudson.model.{}ParameterDefinition"
_PARAMETERS = "properties/hudson.model.ParametersDefinitionProperty/parameterDefinitions"


def script(path: Path) -> str:
    """A Jenkinsfile. Raises InvalidConfig for one that is no text."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as reason:
        raise InvalidConfig(f"{path}: not UTF-8, at byte {reason.start}") from None


def pairs(given: Sequence[str], option: str) -> dict[str, str]:
    """NAME=VALUE, by name. Raises InvalidConfig."""
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InvalidConfig(f"{option}: got '{text}', expected NAME=VALUE")
        found[name] = value
    return found


def parameters(jobs: Sequence[Path], given: Sequence[str]) -> dict[str, Param]:
    """The parameters to declare: those of the job files, then those given. Raises InvalidJob; InvalidConfig where two
    job files mean different things by one name."""
    found: dict[str, Param] = {}
    for path in jobs:
        for name, param in api.load(path).params.items():
            if found.setdefault(name, param) != param:
                raise InvalidConfig(
                    f"--job {path}: params.{name} differs from another job's; leave one out, and pass it by hand"
                )
    for name, value in pairs(given, "--parameter").items():
        found[name] = Param("string", value)
    return found


def config(script: str, declared: dict[str, Param]) -> str:
    """config.xml of a pipeline that runs `script` in the sandbox. Raises InvalidConfig for what XML can't hold."""
    root = ET.Element("flow-definition")
    ET.SubElement(root, "description").text = "Installed by mlctl jenkins install; changes made here are overwritten."
    ET.SubElement(root, "keepDependencies").text = "false"
    properties = ET.SubElement(root, "properties")
    if declared:
        holder = ET.SubElement(properties, "hudson.model.ParametersDefinitionProperty")
        definitions = ET.SubElement(holder, "parameterDefinitions")
        for name, param in declared.items():
            _definition(definitions, name, param)
    definition = ET.SubElement(root, "definition", {"class": "org.jenkinsci.plugins.workflow.cps.CpsFlowDefinition"})
    ET.SubElement(definition, "script").text = script
    ET.SubElement(definition, "sandbox").text = "true"
    ET.SubElement(root, "disabled").text = "false"
    text = ET.tostring(root, encoding="unicode", xml_declaration=False)
    try:
        ET.fromstring(text)  # noqa: S314 - our own
    except ET.ParseError:
        raise InvalidConfig("the script or a parameter has a control character, which Jenkins can't keep") from None
    return text


def same(ours: str, theirs: str) -> bool:
    """Whether a controller's configuration says what ours does, with the same parameters.

    A controller writes it in its own way: with the versions of plugins, elements of its own, and XML 1.1.
    """
    try:
        one, other = (ET.fromstring(re.sub(r"^\s*<\?xml.*?\?>", "", text)) for text in (ours, theirs))  # noqa: S314
    except ET.ParseError:  # it holds what XML 1.0 can't: none of ours
        return False
    counts = [len(found) if (found := root.find(_PARAMETERS)) is not None else 0 for root in (one, other)]
    return counts[0] == counts[1] and _within(one, other)


def _within(one: ET.Element, other: ET.Element) -> bool:
    """Whether all that `one` has is in `other`: text, class, elements; those of one name in their order."""
    if one.tag != other.tag or one.get("class") != other.get("class"):
        return False
    if not len(one):  # beside elements there is but white space
        return (one.text or "") == ("" if len(other) else other.text or "")
    left = {mine.tag: iter(other.findall(mine.tag)) for mine in one}
    return all(any(_within(mine, its) for its in left[mine.tag]) for mine in one)


def _definition(above: ET.Element, name: str, param: Param) -> None:
    kind = "Boolean" if param.type == "boolean" else "Choice" if param.enum else "String"
    one = ET.SubElement(above, _CLASS.format(kind))
    ET.SubElement(one, "name").text = name
    ET.SubElement(one, "description").text = param.description or param.type
    if kind == "Choice":  # the first is the default
        rest = [value for value in param.enum if value != param.value]
        values = rest if param.value is None else [param.value, *rest]
        choices = ET.SubElement(one, "choices", {"class": "java.util.Arrays$ArrayList"})
        array = ET.SubElement(choices, "a", {"class": "string-array"})
        for value in values:
            ET.SubElement(array, "string").text = _text(value)
    else:
        ET.SubElement(one, "defaultValue").text = _text(param.value)
        if kind == "String":
            ET.SubElement(one, "trim").text = "false"


def _text(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
