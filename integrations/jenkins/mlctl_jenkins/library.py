"""The shared library's tree: a step for each kind, generated from mlctl's one table of kinds, and what is written by hand.

python -m mlctl_jenkins.library            writes the generated files of this checkout anew
python -m mlctl_jenkins.library FOLDER     writes the whole tree, as Jenkins loads it, to FOLDER
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from mlctl.errors import InvalidConfig
from mlctl.job import KINDS, Kind

__all__ = ["generated", "step_of", "write"]

HERE = Path(__file__).parent.parent
PARTS = ("vars", "src", "resources")
WHEEL = Path(__file__).parent / "tree"  # where a wheel has them: see pyproject.toml


def step_of(kind: str) -> str:
    """`batch-inference` as `mlctlBatchInference`: the step's name."""
    return "mlctl" + "".join(part.capitalize() for part in kind.split("-"))


def generated() -> Mapping[str, str]:
    """Path in the tree -> text, of a step and its page for each kind."""
    files = {}
    for kind in KINDS.values():
        files[f"vars/{step_of(kind.name)}.groovy"] = _step(kind)
        files[f"vars/{step_of(kind.name)}.txt"] = _page(kind)
    return files


def _step(kind: Kind) -> str:
    return f"""\
// Generated from mlctl's table of kinds by python -m mlctl_jenkins.library
// {kind.name}: {kind.summary}. The arguments are those of the step mlctl.
Map call(Map options = [:]) {{
    return mlctl(options + [kind: '{kind.name}'])
}}

void call(Map options = [:], Object job) {{
    String known = '{step_of(kind.name)}(job: \\'jobs/{kind.name}.yaml\\'' + (options ? ', ...)' : ')')
    error('{step_of(kind.name)}: got ' + job + ' without a name; its arguments have names, such as ' + known)
}}
"""


def _page(kind: Kind) -> str:
    return f"""\
<p><b>{step_of(kind.name)}</b> runs a job of kind {kind.name}, which {kind.summary}, and returns once it has succeeded.</p>
<pre>def result = {step_of(kind.name)}(job: 'jobs/{kind.name}.yaml', target: 'prod', params: [seed: 7])
echo result.outputs.toString()</pre>
<p>The arguments, and what is returned, are those of the step <b>mlctl</b>; a job of another kind is refused.</p>
"""


def write(folder: Path) -> None:
    """Writes the tree whose root Jenkins loads: PARTS of `folder` are replaced, and nothing else there is touched.

    Raises InvalidConfig where `folder` can't be written to.
    """
    folder = folder.absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=folder) as name:
            draft = Path(name)
            for part in PARTS:
                shutil.copytree((WHEEL if WHEEL.is_dir() else HERE) / part, draft / part)
            for path, text in generated().items():
                (draft / path).write_text(text, encoding="utf-8")
            for part in PARTS:
                if (folder / part).exists():
                    (folder / part).rename(draft / f"old-{part}")
                (draft / part).rename(folder / part)
    except OSError as reason:
        raise InvalidConfig(f"{reason.filename or folder}: {reason.strerror or reason}") from None


def main() -> None:
    if len(sys.argv) > 1:
        write(Path(sys.argv[1]))
        return
    for name, text in generated().items():
        (HERE / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
