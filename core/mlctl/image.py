"""The image of a job's environment, as text: its Dockerfile, and a tag that follows from everything that goes in.

Nothing here runs anything; builder.py does. So `plan` can say which image a job will get before there is one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from . import backend as backends
from .config import Config, Target
from .errors import InvalidConfig, did_you_mean, one_line
from .job import Job

__all__ = ["CODE", "PYTHON", "REPOSITORY", "Build", "Image"]

PYTHON = "3.12"
"""For a job that names no Python."""

REPOSITORY = "mlctl"
"""Where images are that stay on this machine."""

CODE = "/opt/mlctl/code"
"""Where an image has the code, and its working folder."""

_HOME = "/home/job"
_FILES: Mapping[str, str] = {"pip.conf": "PIP_CONFIG_FILE", "netrc": "NETRC"}
"""Secrets that are files -> the variable that says where one is."""

_TEXTS: Mapping[str, tuple[str, str]] = {
    "repository": (r"[a-z0-9][a-z0-9._/:-]*[a-z0-9]", "where images go, such as registry.example.org/ml/jobs"),
    "base": (r"[A-Za-z0-9][A-Za-z0-9._/:@-]*(\{python\}[A-Za-z0-9._/:@-]*)?", "an image, such as python:{python}-slim"),
    "user": (r"[0-9]{1,9}", "a number such as 1000; 0 is root"),
    "platform": (r"linux/[a-z0-9]+(/v[0-9]+)?", "a platform such as linux/amd64"),
    "network": (r"default|host|none", "default, host or none"),
}
_PACKAGE = r"[a-z0-9][a-z0-9.+-]*(:[a-z0-9]+)?(=[A-Za-z0-9.+:~-]+)?"
_SECRET = r"[A-Za-z_][A-Za-z0-9_]*|" + "|".join(map(re.escape, _FILES))


@dataclass(frozen=True)
class Build:
    """How images are built: what `build:` says, of the project and of a target. `secrets` are name -> env:NAME or
    file:PATH, for the time of the installation; their values are in no layer."""

    repository: str = REPOSITORY
    base: str = "python:{python}-slim"
    system: tuple[str, ...] = ()
    secrets: Mapping[str, str] = field(default_factory=dict)
    user: str = "1000"
    platform: str = "linux/amd64"
    network: str = "default"

    @staticmethod
    def of(config: Config, target: Target, flags: Mapping[str, Any] | None = None) -> Build:
        """For jobs of that target: `flags` over what it says, over what the project says. Raises InvalidConfig."""
        own = target.build if isinstance(target.build, Mapping) else {}
        values: dict[str, Any] = {**config.values.get("build", {}), **own, **(flags or {})}
        where = f"targets.{target.name}.build"
        for name in values:
            if name not in Build.__dataclass_fields__:
                near = did_you_mean(name, Build.__dataclass_fields__)
                raise InvalidConfig(f"{where}.{name}: unknown setting{near}")
        for name, (pattern, expected) in _TEXTS.items():
            if name in values and not (
                isinstance(values[name], (str, int)) and re.fullmatch(pattern, str(values[name]))
            ):
                raise InvalidConfig(f"{where}.{name}: got {one_line(values[name])}, expected {expected}")
        for name in values.get("system", ()):
            if not isinstance(name, str) or not re.fullmatch(_PACKAGE, name):
                raise InvalidConfig(
                    f"{where}.system: got {one_line(name)}, expected a package of Debian's, such as libgomp1"
                )
        for name, source in dict(values.get("secrets", {})).items():
            if not re.fullmatch(_SECRET, str(name)):
                raise InvalidConfig(
                    f"{where}.secrets: got {one_line(name)}, expected a variable's name, pip.conf or netrc"
                )
            if not isinstance(source, str) or not re.fullmatch(r"(env|file):.+", source):
                text = f"got {one_line(source)}, expected env:NAME or file:PATH; never the secret itself"
                raise InvalidConfig(f"{where}.secrets.{name}: {text}")
        if "user" not in values and backends.wants_root(target.backend):
            values["user"] = "0"
        values["system"] = tuple(sorted(set(values.get("system", ()))))
        return Build(**{**values, **{name: str(values[name]) for name in _TEXTS if name in values}})

    def image(self, job: Job, code: bool = False) -> Image:
        """What `job` needs, as an image; with its `code`, where that is asked for. The job is a packed one.

        Raises InvalidJob for a requirement that would carry a password into a layer.
        """
        for line in job.requirement_lines:
            for login in re.findall(r"://([^/\s@]+)@", line):
                password = login.rpartition(":")[2]
                name = re.fullmatch(r"\$\{([A-Z0-9_]+)\}", password)
                if (name and name[1] in self.secrets) or login == "git":
                    continue
                shown = line.replace(login, "***")
                way = f"add {name[1]} to build.secrets" if name else "write ${NAME}, and NAME in build.secrets"
                raise job.fail(("requirements",), f"{shown}: has a password, which would be in the image; {way}")
        base = self.base.replace("{python}", job.python or PYTHON)
        wanted = job.python or (PYTHON if base != self.base else "")
        packed = job.package.sha256 if code and job.package else ""
        return Image(replace(self, base=base), wanted, job.requirement_lines, packed)


@dataclass(frozen=True)
class Image:
    """One image. `code` is the digest of the package in it, empty where the code is shipped with each job."""

    build: Build
    python: str
    requirements: tuple[str, ...]
    code: str = ""

    @property
    def files(self) -> Mapping[str, bytes]:
        """What the build is given beside the code's package, by name."""
        lines = "".join(f"{line}\n" for line in self.requirements)
        return {"Dockerfile": self.dockerfile.encode(), **({"requirements.txt": lines.encode()} if lines else {})}

    @property
    def digest(self) -> str:
        """sha256, in hex, of everything that goes in. A base or a requirement that isn't pinned goes in by its name."""
        parts = {name: hashlib.sha256(data).hexdigest() for name, data in self.files.items()}
        text = json.dumps({**parts, "code": self.code, "platform": self.build.platform}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def reference(self) -> str:
        """Repository and tag: 80 bits of the digest, as in the names of runs."""
        return f"{self.build.repository}:{self.digest[:20]}"

    def given(self, job: Job) -> Job:
        """The job that runs in this image: what the image brings is no longer asked of the platform."""
        return replace(job, image=self.reference, python="", requirements=(), requirement_lines=())

    @property
    def dockerfile(self) -> str:
        """What changes least stands first: base, system's packages, user, requirements, code."""
        parts = [f"FROM {self.build.base}", "USER 0:0"]  # a base may have no names for them
        if self.build.system:
            parts.append(_run(_SYSTEM.replace("PACKAGES", " ".join(self.build.system))))
        parts.append(_run(self._prepared()))
        home = f"{_HOME} " if self.build.user != "0" else ""
        parts.append(f"ENV {f'HOME={home}' if home else ''}PYTHONUNBUFFERED=1")
        if self.requirements:
            parts += ["COPY requirements.txt /opt/mlctl/requirements.txt", self._installed()]
        if self.code:
            parts += [f"WORKDIR {CODE}", f"ADD --chown={self.build.user}:0 code.tar.gz {CODE}/"]
        parts += ["ENTRYPOINT []", f"USER {self.build.user}:0", ""]
        return "\n".join(parts)

    def _prepared(self) -> list[str]:
        lines = [_CHECKED.replace("PYTHON", self.python)] if self.python else []
        lines = [_FOUND, *lines, _PLACED, _TOOLS]
        if self.build.user != "0":
            lines.append(_USER.replace("USER", self.build.user).replace("HOME", _HOME))
        return lines

    def _installed(self) -> str:
        names = sorted(self.build.secrets)
        mounts = [f"--mount=type=secret,id={name},required=true" for name in names]
        told = [
            f"{_FILES[name]}=/run/secrets/{name}" if name in _FILES else f'{name}="$(cat /run/secrets/{name})"'
            for name in names
        ]
        words = ["PIP_CACHE_DIR=/var/cache/pip PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore", *told]
        words.append("python -m pip install --disable-pip-version-check -r /opt/mlctl/requirements.txt")
        return " \\\n    ".join(["RUN --mount=type=cache,target=/var/cache/pip", *mounts, *words])


def _run(lines: list[str] | str) -> str:
    return "RUN " + (lines if isinstance(lines, str) else "; \\\n    ".join(["set -eu", *lines]))


_SYSTEM = """\
command -v apt-get >/dev/null || { echo 'mlctl: the base has no apt-get for build.system' >&2; exit 1; }; \\
    apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends PACKAGES && \\
    rm -rf /var/lib/apt/lists/*"""

_FOUND = "python=$(command -v python3 || command -v python) || { echo 'mlctl: the base has no Python on its PATH' >&2; exit 1; }"

_CHECKED = (
    '"$python" -c \'import sys; v = "%d.%d" % sys.version_info[:2]; '
    'sys.exit(v != "PYTHON" and "mlctl: the base has Python " + v + ", and PYTHON is asked for")\''
)

_PLACED = 'command -v python >/dev/null || { mkdir -p /usr/local/bin && ln -s "$python" /usr/local/bin/python; }'

_TOOLS = (
    'for each in tar gzip; do command -v $each >/dev/null || { echo "mlctl: the base has no $each" >&2; exit 1; }; done'
)

_USER = (  # no useradd: it isn't everywhere. Group 0, which a cluster that chooses the user itself keeps
    "grep -q '^[^:]*:[^:]*:USER:' /etc/passwd || echo 'job:x:USER:0:job:HOME:/bin/sh' >>/etc/passwd; "
    f"mkdir -p HOME /opt/ml {CODE}; chown USER:0 HOME /opt/ml {CODE}; chmod 770 HOME /opt/ml {CODE}"
)
