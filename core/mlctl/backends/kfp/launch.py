"""The script that a pod's container starts with: it makes the contract of the job out of what is in the run itself.

Kubernetes replaces `$(NAME)` in a container's words, and KFP and Argo `{{...}}`; so the words have neither: a short script
that never changes, and all else in base64. Needs /bin/sh and base64; tar with gzip where code is shipped; Python with pip
where there are requirements. How the job ended, and its metrics, are said on the log's end: the one thing that KFP's API gives
to whoever started the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from shlex import quote

from mlctl.backends._pods import METRICS

__all__ = ["END", "FILES", "OUTER", "ROOT", "Launch", "script"]

ROOT = "/tmp/mlctl"  # noqa: S108 - the pod's
"""A folder of the pod's own."""

FILES = f"{ROOT}/files"
"""Where the files are that the run has in it."""

END = "mlctl.end "
"""How the line begins that tells the end: an exit code, a reason, and words about it."""

OUTER = f"""set -eu
mkdir -p {FILES}
printf %s "$1" | base64 -d >{ROOT}/launch.sh
nonce=$2; shift 2
while [ $# -gt 0 ]; do
    mkdir -p "${{1%/*}}"; printf %s "$2" | base64 -d >"$1"; shift 2
done
exec /bin/sh {ROOT}/launch.sh "$nonce"
"""
"""Gets the script, a nonce, and a path and a file for each; script and files in base64."""

_KEPT = 1_000_000  # bytes of the metrics file's end that are said on the log


@dataclass(frozen=True)
class Launch:
    """What the script does, in this order. Paths are the pod's."""

    words: Iterable[str]
    env: Mapping[str, str]
    params: str
    claim: str = ""
    """A folder on a volume, in which the first pod of a submit makes one by its nonce: no second pod runs the job."""
    folders: Iterable[str] = ()
    copied: Mapping[str, str] = field(default_factory=dict)
    """An input's place -> where it is copied to."""
    code: bool = False
    requirements: Iterable[str] = ()
    saved: Mapping[str, str] = field(default_factory=dict)
    """An output's place -> where it is copied to after success."""
    timeout: int = 0
    """Seconds; 0: none."""
    grace: int = 30
    """Seconds between SIGTERM and SIGKILL once the time is up."""


def script(launch: Launch) -> str:
    """For /bin/sh."""
    lines = [
        "set -u",
        f"""end() {{ printf '{END}%s %s %s\\n' "$1" "$2" "$3" >&2; [ "$1" = 0 ] || exit "$1"; exit 0; }}""",
        """fail() { echo "$2" >&2; end 1 "$1" "$2"; }""",
    ]
    if launch.claim:
        lines += [
            f"mkdir -p {quote(launch.claim)} || fail infra {quote(f'mlctl: {launch.claim} cannot be written')}",
            f'mkdir {quote(launch.claim)}/started-"$1" 2>/dev/null'
            " || fail infra 'mlctl: this attempt was started before, in another pod'",
        ]
    unwritten = "mlctl: no room in the pod"
    lines += [
        f"mkdir -p {quote(each)} || fail infra {quote(f'mlctl: {each} cannot be made')}" for each in launch.folders
    ]
    lines.append(f"printf %s {quote(launch.params)} >{ROOT}/params.json || fail infra {quote(unwritten)}")
    for source, target in launch.copied.items():
        copy = f"mkdir -p {quote(target.rpartition('/')[0])} && cp -R {quote(source)} {quote(target)}"
        lines.append(f"{{ {copy}; }} || fail infra {quote(f'mlctl: the input {source} could not be copied')}")
    lines.append(f"mkdir -p {ROOT}/code && cd {ROOT}/code || fail infra {quote(unwritten)}")
    if launch.code:
        lines.append(f"tar -xzf {FILES}/code.tar.gz || fail infra 'mlctl: the code could not be unpacked'")
    lines += ["environment() {", *(f"export {name}={quote(value)}" for name, value in launch.env.items()), "}"]
    if requirements := list(launch.requirements):
        unbuilt = "mlctl: the requirements could not be installed"
        lines += [
            f"python=$(command -v python3 || command -v python) || fail image {quote(unbuilt + ': the image has no Python')}",
            f"export PYTHONUSERBASE={ROOT}/user PATH={ROOT}/user/bin:$PATH PIP_BREAK_SYSTEM_PACKAGES=1",
            f"printf '%s\\n' {' '.join(map(quote, requirements))} >{ROOT}/requirements.txt",
            'pip() { environment; "$python" -m pip install --disable-pip-version-check --no-cache-dir --quiet "$@"; }',
            f"( pip -r {ROOT}/requirements.txt ) || fail image {quote(unbuilt)}",
        ]
    lines.append("set -- " + " ".join(map(quote, launch.words)))
    lines += _RUN
    if launch.timeout:
        lines += [
            f'( slept=; trap \'kill "$slept"; exit\' TERM; sleep {launch.timeout} & slept=$!; wait "$slept"',
            f'  : >{ROOT}/late; kill -TERM "$job"; sleep {launch.grace} & slept=$!; wait "$slept"',
            '  kill -KILL "$job" ) >/dev/null 2>&1 & watch=$!',
        ]
    lines += _WAIT
    for source, target in launch.saved.items():
        unsaved = quote(f"mlctl: an output could not be saved: {source.rpartition('/')[2]}")
        lines.append(f'[ "$code" != 0 ] || cp -R {quote(source)}/. {quote(target)}/ || fail infra {unsaved}')
    return "\n".join([*lines, *_ENDED, ""])


_RUN = (
    "ooms() { cat /sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control 2>/dev/null | grep '^oom_kill '; }",
    "before=$(ooms) watch= job= told= again= stopped= code=0",
    """trap 'told=1 stopped=1; [ -z "$job" ] || kill -TERM "$job" 2>/dev/null || :' TERM""",
    """( environment; exec "$@" ) & job=$!""",  # a child's own: variables of the job's may be called as ours are
    '[ -z "$told" ] || kill -TERM "$job" 2>/dev/null || :',
)
# A wait is cut short by the signal: then the job is waited for again. 127: it was reaped by the wait before.
_WAIT = (
    "while :; do",
    '    told= last=0; wait "$job" || last=$?',
    '    [ "$last" = 127 ] && [ -n "$again" ] || code=$last',
    '    again=$told; [ -n "$told" ] || break',
    "done",
    '[ -z "$watch" ] || kill -TERM "$watch" 2>/dev/null || :',
    f"if [ -s {ROOT}/metrics.jsonl ]; then",
    f'    tail -c {_KEPT} {ROOT}/metrics.jsonl | while IFS= read -r line || [ -n "$line" ]; do'
    f""" printf '{METRICS}%s\\n' "$line"; done >&2 || :""",
    "fi",
)
_ENDED = (
    """[ -z "$stopped" ] || end "$code" stopped 'told to stop'""",
    f'[ ! -e {ROOT}/late ] || [ "$code" = 0 ] || end "$code" timeout \'ended after its timeout\'',
    '[ "$code" != 137 ] || [ "$(ooms)" = "$before" ] || end 137 oom \'out of memory\'',
    '[ "$code" = 0 ] || end "$code" error "exit code $code"',
    "end 0 ok ''",
)
