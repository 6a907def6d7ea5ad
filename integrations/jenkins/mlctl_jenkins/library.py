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

from mlctl.job import KINDS, Kind

__all__ = ["generated", "step_of", "write"]

HERE = Path(__file__).parent.parent
PARTS = ("vars", "src", "resources")


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
Map call(Map options) {{
    return mlctl(options + [kind: '{kind.name}'])
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
    """The tree whose root Jenkins loads, whole or not at all; what was at `folder` is replaced."""
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
    for part in PARTS:
        shutil.copytree(HERE / part, draft / part)
    for name, text in generated().items():
        (draft / name).write_text(text, encoding="utf-8")
    draft.chmod(0o755)
    if folder.exists():
        shutil.rmtree(folder)
    draft.rename(folder)


def main() -> None:
    if len(sys.argv) > 1:
        write(Path(sys.argv[1]))
        return
    for name, text in generated().items():
        (HERE / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
