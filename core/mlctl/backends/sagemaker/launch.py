"""The script that a container starts with: it makes the contract of the job out of what SageMaker puts in place.

SageMaker's own fields hold no line breaks and few characters; a file that is mounted holds anything. Needs /bin/sh, and
tar with gzip where code is shipped; Python with boto3 where there are secrets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from shlex import quote

from mlctl import contract

__all__ = ["ROOT", "UNBUILT", "Launch", "script"]

ROOT = "/opt/ml"

UNBUILT = "mlctl: the requirements could not be installed"
"""What a job says that ends because of that."""

_PORT = 29500

_FETCH = """\
import boto3, sys
source, region = sys.argv[1:]
kind, _, name = source.partition(":")
if kind == "aws-sm":
    answer = boto3.client("secretsmanager", region).get_secret_value(SecretId=name)
    text = answer["SecretString"] if "SecretString" in answer else answer["SecretBinary"].decode()
else:
    text = boto3.client("ssm", region).get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"]
sys.stdout.write(text)
"""


@dataclass(frozen=True)
class Launch:
    """What the script does, in this order. Paths are the container's."""

    argv: list[str]
    env: Mapping[str, str]
    message: str
    """The file that SageMaker reads the reason of a failure from."""
    hosts: str
    """The file that says which of the hosts this is."""
    folders: Iterable[str] = ()
    copied: tuple[str, str] | None = None
    """A folder, and where to copy what is in it."""
    unpacked: Mapping[str, str] = field(default_factory=dict)
    """Archive -> the folder to unpack it in."""
    code: tuple[str, str] | None = None
    """The code's archive, and the working folder."""
    requirements: str = ""
    secrets: Mapping[str, str] = field(default_factory=dict)
    """Variable -> aws-sm:NAME or aws-ssm:NAME."""
    region: str = ""
    """Where secrets are: SageMaker sets AWS_REGION alone, which boto3 doesn't read."""
    nodes: int = 1
    distribution: tuple[str, int] | None = None
    """Its type, and processes a node."""


def script(launch: Launch) -> str:
    """For /bin/sh. It ends by becoming the job, so that the job gets SIGTERM and its exit code is the container's."""
    lines = [
        "set -eu",
        f'fail() {{ echo "$1" >&2; mkdir -p {ROOT}/output; printf %s "$1" >{launch.message}; exit 1; }}',
    ]
    lines += [f"mkdir -p {quote(folder)}" for folder in launch.folders]
    if launch.copied:
        lines.append(f"cp -R {quote(launch.copied[0])}/. {quote(launch.copied[1])}/")
    for archive, folder in launch.unpacked.items():
        lines.append(f"mkdir -p {quote(folder)}; tar -xzf {quote(archive)} -C {quote(folder)}")
    if launch.code:
        archive, folder = launch.code
        lines.append(f"mkdir -p {quote(folder)}; tar -xzf {quote(archive)} -C {quote(folder)}; cd {quote(folder)}")
    if launch.requirements or launch.secrets:
        lines.append("python=$(command -v python3 || command -v python) || fail 'mlctl: the image has no Python'")
    if launch.requirements:
        pip = f'"$python" -m pip install --disable-pip-version-check --quiet -r {quote(launch.requirements)}'
        lines.append(f"{pip} || fail {quote(UNBUILT)}")
    for name, source in launch.secrets.items():
        failed = quote(f"mlctl: secret {name}: {source} could not be read; see the log")
        fetch = f'"$python" -c {quote(_FETCH)} {quote(source)} {quote(launch.region)} && printf x'
        lines.append(f"{name}=$({fetch}) || fail {failed}; {name}=${{{name}%x}}; export {name}")
    lines += [f"export {name}={quote(value)}" for name, value in launch.env.items()]
    lines.append(f"set -- {' '.join(quote(word) for word in launch.argv)}")
    if launch.nodes > 1 or launch.distribution:
        lines += _distributed(launch)
    return "\n".join([*lines, 'exec "$@"', ""])


def _distributed(launch: Launch) -> list[str]:
    """SageMaker's hosts are algo-1, algo-2 and so on, and a file says which one this is."""
    lines = [
        f'host=$(sed -n \'s/.*"current_host"[^"]*"\\([^"]*\\)".*/\\1/p\' {launch.hosts})',
        f'export NODE_RANK=$((${{host#algo-}} - 1)) MASTER_ADDR=algo-1 MASTER_PORT={_PORT} SM_CURRENT_HOST="$host"',
    ]
    kind, processes = launch.distribution or ("", 1)
    if kind == "env":
        lines.append(f"export RANK=$NODE_RANK WORLD_SIZE={launch.nodes}")
    elif kind == "torchrun":
        lines.append(contract.torchrun(launch.nodes, processes, '"$NODE_RANK"', "algo-1", _PORT))
    return lines
