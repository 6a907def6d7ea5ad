"""The script that a pod's container starts with: it makes the contract of the job out of what Kubernetes mounts.

Needs /bin/sh; tar with gzip where code is shipped; Python with pip where there are requirements. The job is its child, not
its successor: so SIGTERM reaches a job that sets no handler (it would be process 1), outputs are copied once it succeeded,
and its metrics are said on the log's end, which is the one place that whoever started it can read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from shlex import quote

from mlctl import contract
from mlctl.backends._pods import METRICS

__all__ = ["FILES", "PORT", "RERUN", "ROOT", "UID_VARIABLE", "UNBUILT", "UNSAVED", "Launch", "script"]

ROOT = "/mlctl"
"""A folder of the pod's own."""

FILES = f"{ROOT}/files"
"""Where ConfigMaps with the code and inputs are mounted."""

UNBUILT = "mlctl: the requirements could not be installed"
RERUN = "mlctl: this attempt was started before"
UNSAVED = "mlctl: an output could not be saved"
"""What a pod says that ends because of that."""

PORT = 29500
"""Where the nodes of a run meet."""

UID_VARIABLE = "MLCTL_JOB_UID"
"""Has the Job's uid: another Job may have the same name, once this one is forgotten."""

_KEPT = 1_000_000  # bytes of the metrics file's end that are said on the log


@dataclass(frozen=True)
class Launch:
    """What the script does, in this order. Paths are the pod's."""

    params: str
    claim: str = ""
    """A folder that the first pod of the attempt makes, on a volume: no second one runs the job."""
    folders: Iterable[str] = ()
    copied: Mapping[str, str] = field(default_factory=dict)
    """An input's place -> where it is copied to."""
    code: bool = False
    requirements: Iterable[str] = ()
    saved: Mapping[str, str] = field(default_factory=dict)
    """An output's place -> where it is copied to after success."""
    staged: bool = False
    """Whether a container beside the job's waits for its end: see stager.py."""
    nodes: int = 1
    master: str = "127.0.0.1"
    distribution: tuple[str, int] | None = None
    """Its type, and processes a node."""


def script(launch: Launch) -> str:
    """For /bin/sh, with the job's words as its arguments."""
    lines = [
        "set -eu",
        'fail() { echo "$1" >&2; { printf %s "$1" >/dev/termination-log; } 2>/dev/null || :; exit 1; }',
    ]
    if launch.nodes > 1:
        old = f"mlctl: this cluster knows no Indexed Jobs, which nodes: {launch.nodes} needs; it takes Kubernetes 1.24 or newer"
        lines.append(f'[ -n "${{JOB_COMPLETION_INDEX:-}}" ] || fail {quote(old)}')
    if launch.staged:
        lines.append(f"exec 9<>{ROOT}/alive")  # until this container has ended, however it does
    lines.append(f"mkdir {ROOT}/started 2>/dev/null || fail {quote(RERUN + ', in this pod')}")
    if launch.claim:
        claim = f'{quote(launch.claim)}"${UID_VARIABLE}-${{JOB_COMPLETION_INDEX:-0}}"'
        parent = quote(launch.claim.rpartition("/")[0])
        lines.append(f"mkdir -p {parent} || fail {quote(f'mlctl: {parent} cannot be written')}")
        lines.append(f"mkdir {claim} 2>/dev/null || fail {quote(RERUN + ', in another pod')}")
    lines += [f"mkdir -p {quote(folder)}" for folder in launch.folders]
    lines.append(f"printf %s {quote(launch.params)} >{ROOT}/params.json")
    for source, target in launch.copied.items():
        lines.append(f"mkdir -p {quote(target.rpartition('/')[0])}; cp -R {quote(source)} {quote(target)}")
    if launch.code:
        lines.append(f"mkdir {ROOT}/code; tar -xzf {FILES}/code.tar.gz -C {ROOT}/code")
        lines.append(f"cd {ROOT}/code")
    if requirements := list(launch.requirements):
        lines += [
            f"_python=$(command -v python3 || command -v python) || fail {quote(UNBUILT + ': the image has no Python')}",
            f"export PYTHONUSERBASE={ROOT}/user PATH={ROOT}/user/bin:$PATH PIP_BREAK_SYSTEM_PACKAGES=1",
            f"printf '%s\\n' {' '.join(map(quote, requirements))} >{ROOT}/requirements.txt",
            f'"$_python" -m pip install --disable-pip-version-check --no-cache-dir --quiet -r {ROOT}/requirements.txt'
            f" || fail {quote(UNBUILT)}",
        ]
    if launch.nodes > 1 or launch.distribution:
        lines += _distributed(launch)
    lines += _RUN
    for source, target in launch.saved.items():
        failed = quote(f"{UNSAVED}: {source.rpartition('/')[2]}")
        lines.append(f'[ "$_code" != 0 ] || cp -R {quote(source)}/. {quote(target)}/ || fail {failed}')
    if launch.staged:
        note = f"""printf %s "$_code" >{ROOT}/ended.new && mv {ROOT}/ended.new {ROOT}/ended"""
        lines.append(f"{note} || fail {quote(UNSAVED + ': the disk is full')}")
    return "\n".join([*lines, 'exit "$_code"', ""])


# A wait is cut short by the signal: then the job is waited for again. 127: it was reaped by the wait before. The variables begin
# with `_`: one that the job's environment has, such as `code`, would reach the job changed.
_RUN = (
    "_job= _told= _again= _code=0",
    """trap '_told=1; [ -z "$_job" ] || kill -TERM "$_job" 2>/dev/null || :' TERM""",
    '"$@" 9>&- & _job=$!',  # nothing that the job starts keeps what this shell holds
    '[ -z "$_told" ] || kill -TERM "$_job" 2>/dev/null || :',
    "while :; do",
    '    _told= _last=0; wait "$_job" || _last=$?',
    '    [ "$_last" = 127 ] && [ -n "$_again" ] || _code=$_last',
    '    _again=$_told; [ -n "$_told" ] || break',
    "done",
    f'if [ -s {ROOT}/metrics.jsonl ] && [ "${{JOB_COMPLETION_INDEX:-0}}" = 0 ]; then',
    f'    tail -c {_KEPT} {ROOT}/metrics.jsonl | while IFS= read -r _line || [ -n "$_line" ]; do'
    f""" printf '{METRICS}%s\\n' "$_line"; done >&2 || :""",
    "fi",
)  # fmt: skip


def _distributed(launch: Launch) -> list[str]:
    lines = [f'export NODE_RANK="${{JOB_COMPLETION_INDEX:-0}}" MASTER_ADDR={launch.master} MASTER_PORT={PORT}']
    kind, processes = launch.distribution or ("", 1)
    if kind == "env":
        lines.append(f"export RANK=$NODE_RANK WORLD_SIZE={launch.nodes}")
    elif kind == "torchrun":
        lines.append(contract.torchrun(launch.nodes, processes, '"$NODE_RANK"', launch.master, PORT))
    return lines
