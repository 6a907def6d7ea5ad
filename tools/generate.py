"""Writes anew what is generated: `make generated`. The tests run it with --check, which only says what is out of date.

- examples' copies of the runtime
- the KFP component and the Jenkins step of each kind
- docs/job-file.md, from the schema
- the table of decisions in docs/lifecycle.md, from decide.py
- what each platform does with each kind and field, in README.md and docs/platforms.md, from their `features`
- the table of promises in docs/orchestrators.md, from the contract that every orchestrator's suite runs
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlctl import decide, plugins, schemas
from mlctl.backend import FIELDS, Features
from mlctl.job import KINDS
from mlctl_jenkins import library
from mlctl_kfp import spec

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
import behaviour  # noqa: E402

JOB_FILE = """\
# The job file

Written by `make generated` from the schema, which `mlctl schema` prints and editors complete from. Relative paths are
relative to the file; on the command line, to the working folder. Scalars follow YAML 1.2: `no` and `on` are words,
`1e-3` is a number.

| field | what it is | what it takes |
|---|---|---|
ROWS

A command that is a string is split to words as a shell would, and no shell runs. `${{params.NAME}}`,
`${{inputs.NAME}}` and `${{outputs.NAME}}` are replaced inside words and in `env`, after the split, once. What only a
shell can do (`|`, `&&`, `$NAME`) needs `command: {shell: ...}`, whose script gets its values from the environment only.
"""


def generated() -> Iterator[tuple[Path, str]]:
    """Every generated file and what it should hold."""
    runtime = (ROOT / "core/mlctl/runtime.py").read_text()
    for copy in sorted(ROOT.glob("examples/*/mlctl_runtime.py")):
        yield copy, runtime
    for kind in KINDS:
        yield ROOT / "integrations/kfp/components" / f"{kind}.yaml", spec.text(kind)
    for path, text in library.generated().items():
        yield ROOT / "integrations/jenkins" / path, text
    yield ROOT / "docs/job-file.md", job_file()
    lifecycle = ROOT / "docs/lifecycle.md"
    table = "\n".join(line for line in (decide.__doc__ or "").splitlines() if line.startswith("|"))
    yield lifecycle, _between(lifecycle.read_text(), "decide", table)
    platforms = ROOT / "docs/platforms.md"
    yield platforms, _between(platforms.read_text(), "fields", fields())
    readme = ROOT / "README.md"
    yield readme, _between(readme.read_text(), "platforms", kinds())
    orchestrators = ROOT / "docs/orchestrators.md"
    text = _between(orchestrators.read_text(), "behaviour", behaviour.table())
    yield orchestrators, _between(text, "pipelines", pipelines())


def _between(text: str, name: str, body: str) -> str:
    start, end = f"<!-- generated: {name} -->", "<!-- /generated -->"
    return re.sub(f"{re.escape(start)}.*?{re.escape(end)}", lambda _: f"{start}\n{body}\n{end}", text, flags=re.DOTALL)


def _features() -> Mapping[str, Features]:
    """Of every platform here, without making one: that would want its SDK."""
    names = sorted(plugins.names(plugins.BACKENDS, own=True), key=lambda name: (name != "local", name))
    return {name: plugins.load(plugins.BACKENDS, name).features for name in names}


def _proof(features: Features, name: str) -> str:
    return "never run" if name in features.unproven else features.proven


def kinds() -> str:
    """README's table: a row a platform, a column a kind."""
    lines = ["| platform | " + " | ".join(KINDS) + " |", "|---|" + "---|" * len(KINDS)]
    for name, features in _features().items():
        cells = [f"yes: {_proof(features, kind)}" if kind in features.kinds else "no" for kind in KINDS]
        lines.append(f"| [`{name}`](docs/{name}.md) | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def fields() -> str:
    """A row a field of the job, a column a platform."""
    found = _features()
    lines = ["| field | " + " | ".join(f"`{name}`" for name in found) + " |", "|---|" + "---|" * len(found)]
    for field in FIELDS:
        cells = []
        for features in found.values():
            if field in features.honours:
                cells.append(f"yes: {_proof(features, field)}")
            else:
                cells.append(f"lost: {features.loses[field]}" if field in features.loses else "refused")
        lines.append(f"| `{field}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


_PIPELINES = {
    "Airflow": ("airflow_dag.py", "python", "../integrations/airflow/README.md"),
    "Kubeflow Pipelines": ("kfp_pipeline.py", "python", "../integrations/kfp/README.md"),
    "Prefect": ("prefect_flow.py", "python", "../integrations/prefect/README.md"),
    "Jenkins": ("Jenkinsfile", "groovy", "../integrations/jenkins/README.md"),
}


def pipelines() -> str:
    """The pipelines of examples/04-orchestrators, one after the other."""
    parts = []
    for title, (name, language, page) in _PIPELINES.items():
        code = (ROOT / "examples/04-orchestrators" / name).read_text().strip()
        parts.append(f"### {title}\n\n```{language}\n{code}\n```\n\nMore: [{page.split('/')[2]}]({page}).")
    return "\n\n".join(parts)


def job_file() -> str:
    """The reference of the job file, a row for each field of the schema."""
    schema = json.loads(schemas.text("job"))
    rows = "\n".join(_rows(schema, "", frozenset(schema["required"])))
    return JOB_FILE.replace("ROWS", rows)


def _rows(schema: Mapping[str, Any], prefix: str, required: frozenset[str]) -> Iterator[str]:
    for name, field in schema.get("properties", {}).items():
        must = " (required)" if name in required else ""
        takes = field.get("expected") or " or ".join(map(str, field.get("enum", ()))) or _type(field)
        text = field.get("description", "").replace("|", "\\|")
        yield f"| `{prefix}{name}`{must} | {text} | {takes.replace('|', chr(92) + '|')} |"
        yield from _rows(field, f"{prefix}{name}.", frozenset())
        inner = field.get("additionalProperties")
        if isinstance(inner, Mapping):
            yield from _rows(inner.get("then", inner), f"{prefix}{name}.NAME.", frozenset())


def _type(field: Mapping[str, Any]) -> str:
    kinds = field.get("type", "anything")
    words = {"object": "a mapping", "array": "a list", "boolean": "true or false", "integer": "a whole number"}
    return " or ".join(
        words.get(kind, f"a {kind}" if kind != "anything" else kind)
        for kind in ([kinds] if isinstance(kinds, str) else kinds)
    )


def main() -> int:
    """Writes what differs; with --check names it, and gives 1."""
    check, stale = "--check" in sys.argv[1:], []
    for path, text in generated():
        if not path.exists() or path.read_text() != text:
            stale.append(path.relative_to(ROOT))
            if not check:
                path.write_text(text)
    for path in stale:
        print(f"{path}: {'out of date; run make generated' if check else 'written'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
