"""The script that a container starts with: it makes the contract of the job out of what Azure ML puts in place.

Azure ML replaces `${{...}}` in a command and hands the rest to a shell, so nothing of the job's is in the command: it is all
in this script, which is an input. Where inputs and outputs are is known only inside, so the command passes their paths
as words, and the script links them to places that are known before. Needs /bin/sh, and tar with gzip where code is
shipped; Python where there are secrets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from shlex import quote

from mlctl import contract

__all__ = ["UNBUILT", "Launch", "script"]

UNBUILT = "mlctl: the requirements could not be installed"
"""What a job's log says that ends because of that."""

_FETCH = """\
import json, os, sys, urllib.parse, urllib.request

def get(url, **headers):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as answer:
        return json.load(answer)

vault, name = sys.argv[1:]
if not os.environ.get("MSI_ENDPOINT"):
    sys.exit("this job has no managed identity")
asked = {"resource": "https://" + vault.partition(".")[2], "api-version": "2017-09-01"}
if os.environ.get("DEFAULT_IDENTITY_CLIENT_ID"):
    asked["clientid"] = os.environ["DEFAULT_IDENTITY_CLIENT_ID"]
url = os.environ["MSI_ENDPOINT"] + "?" + urllib.parse.urlencode(asked)
token = get(url, secret=os.environ.get("MSI_SECRET", ""))["access_token"]
found = get("https://" + vault + "/secrets/" + name + "?api-version=7.4", Authorization="Bearer " + token)
sys.stdout.write(found["value"])
"""


@dataclass(frozen=True)
class Launch:
    """What the script does, in this order. Its words are paths: the script's own folder, then those of `links`."""

    argv: Sequence[str]
    env: Mapping[str, str]
    root: str
    """The folder in which all places are."""
    links: Sequence[str]
    """Where each word after the first is linked to."""
    checkpoints: str
    metrics: str
    kept: str
    """Where the metrics file is copied to at the end."""
    code: str = ""
    """The code's archive."""
    requirements: bool = False
    secrets: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Variable -> the vault's host, the secret's name."""
    torchrun: tuple[int, int] | None = None
    """Nodes, and processes on each."""


def script(launch: Launch) -> str:
    """For /bin/sh. It stays until the job has ended, to keep the metrics, and ends with the job's exit code."""
    lines = [
        "set -eu",
        'fail() { echo "$1" >&2; exit 1; }',
        "own=$1; shift",
        f'mkdir -p {quote(launch.root)}/code; ln -sfn "$own" {quote(launch.root)}/mlctl',
    ]
    for place in launch.links:
        lines.append(f'mkdir -p {quote(place.rpartition("/")[0])}; ln -sfn "$1" {quote(place)}; shift')
    lines.append(f"mkdir -p {quote(launch.checkpoints)}; cd {quote(launch.root)}/code")
    if launch.code:
        lines.append(f"tar -xzf {quote(launch.code)}")
    if launch.requirements or launch.secrets:
        lines.append("python=$(command -v python3 || command -v python) || fail 'mlctl: the image has no Python'")
    if launch.requirements:
        pip = '"$python" -m pip install --disable-pip-version-check --quiet -r "$own/requirements.txt"'
        lines.append(f"{pip} || fail {quote(UNBUILT)}")
    for name, (vault, secret) in launch.secrets.items():
        failed = quote(f"mlctl: secret {name}: {secret} of {vault} could not be read; see above")
        fetch = f'"$python" -c {quote(_FETCH)} {quote(vault)} {quote(secret)} && printf x'
        lines.append(f"{name}=$({fetch}) || fail {failed}; {name}=${{{name}%x}}; export {name}")
    lines += [f"export {name}={quote(value)}" for name, value in launch.env.items()]
    lines.append(f"set -- {' '.join(quote(word) for word in launch.argv)}")
    if launch.torchrun:
        nodes, processes = launch.torchrun
        master, port = '"${MASTER_ADDR:-127.0.0.1}"', '"${MASTER_PORT:-29500}"'
        lines.append(contract.torchrun(nodes, processes, '"${NODE_RANK:-0}"', master, port))
    lines += [
        "set +e",
        '"$@" </dev/null &',
        "job=$!",
        "trap 'kill -s TERM \"$job\" 2>/dev/null' TERM INT",
        'while :; do wait "$job"; code=$?; kill -s 0 "$job" 2>/dev/null || break; done',
        f'if [ "${{NODE_RANK:-0}}" = 0 ] && [ -f {quote(launch.metrics)} ]; then',
        f"  cp {quote(launch.metrics)} {quote(launch.kept)} || echo 'mlctl: the metrics could not be kept' >&2",
        "fi",
        'exit "$code"',
        "",
    ]
    return "\n".join(lines)
