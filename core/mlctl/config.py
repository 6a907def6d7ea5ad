"""Where jobs may run and under which rules: layers of configuration, and where each value came from.

From the weakest to the strongest: what is built in, the organisation's file, the project's mlctl.yaml, the user's file,
environment variables, flags. Mappings are joined key by key; everything else is replaced. What the organisation locks,
nothing below may set.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__, document, schemas
from .document import Document, Keys, dotted
from .errors import InvalidConfig, MlctlError, Unauthorized, Unavailable, did_you_mean, one_line, refused

if TYPE_CHECKING:
    from .job import Job

__all__ = ["Config", "Target", "home", "load"]

FILE = "mlctl.yaml"
_BUILT_IN: Mapping[str, Any] = {
    "profile": "dev",
    "targets": {"local": {"backend": "local"}},
    "profiles": {"dev": [{"target": "local"}]},
}


@dataclass(frozen=True)
class Target:
    """Where: a name, a backend and its settings."""

    name: str
    backend: str
    settings: Mapping[str, Any]
    build: Mapping[str, Any] | str = "never"
    """auto, or how: a job's image is built where it isn't there; never: a job brings its own."""


@dataclass(frozen=True)
class Config:
    """The layers, joined. `origins` has the place that each value came from: `mlctl.yaml:12`, `MLCTL_PROFILE`,
    `--target`."""

    values: Mapping[str, Any]
    origins: Mapping[Keys, str]
    locked: Mapping[str, str] = field(default_factory=dict)
    """Dotted key -> the organisation's file that locks it."""
    home: Path = Path()

    @property
    def profile(self) -> str:
        """The profile in force."""
        return str(self.values["profile"])

    @property
    def defaults(self) -> Mapping[str, Any]:
        """Fields for jobs that leave them out."""
        found: Mapping[str, Any] = self.values.get("defaults", {})
        return found

    def target(self, name: str, overrides: Mapping[str, Any] | None = None) -> Target:
        """The target called `name`, with settings of this call over its own. Raises InvalidConfig."""
        targets = self.values["targets"]
        if name not in targets:
            asked = f"{self.origins[('target',)]}: " if name == self.values.get("target") else ""
            raise InvalidConfig(f"{asked}target '{name}' is not in the configuration{_near(name, targets)}")
        if text := document.misnamed(overrides or {}):
            raise InvalidConfig(f"settings: {text}")
        for key in overrides or {}:
            _refuse_locked(self.locked, ("targets", name, key), f"--set {key}", whole=True)
        if "backend" in (overrides or {}):
            raise InvalidConfig("--set backend: another platform is another target; choose it with --target")
        settings = {**targets[name], **(overrides or {})}
        for key in ("conn_id", "orchestrators"):  # an orchestrator's to read, from `values`: no platform's business
            settings.pop(key, None)
        build = settings.pop("build", "never")  # image.py's
        if build not in ("auto", "never") and not isinstance(build, Mapping):
            raise InvalidConfig(f"targets.{name}.build: got {one_line(build)}, expected auto, never, or a mapping")
        return Target(name, str(settings.pop("backend")), settings, build)

    def refuse_locked(self, job: Job, target: Target, settings: Collection[str]) -> None:
        """Raises InvalidJob where the job, under `platforms`, says one of the target's `settings` that is locked."""
        for key in job.platforms.get(target.backend, {}):
            if key in settings and (text := _lock(self.locked, ("targets", target.name, key), whole=True)):
                raise job.fail(("platforms", target.backend, key), text)

    def route(self, job: Job, target: str | None = None) -> str:
        """The name of the target for `job`: `target`, the one asked for before, or that of the first rule of the profile
        that matches."""
        if target:
            _refuse_locked(self.locked, ("target",), "target")
        if asked := target or self.values.get("target"):
            return str(asked)
        profiles, targets = self.values["profiles"], self.values["targets"]
        if self.profile not in profiles:
            text = f"profile '{self.profile}' is not in the configuration{_near(self.profile, profiles)}"
            raise InvalidConfig(f"{self.origins[('profile',)]}: {text}")
        where = self.origins[("profiles", self.profile)]
        for rule in profiles[self.profile]:
            if _matches(rule, job):
                name = str(rule["target"])
                if name not in targets:
                    text = f"target '{name}' is not in the configuration{_near(name, targets)}"
                    raise InvalidConfig(f"{where}: profiles.{self.profile}: {text}")
                return name
        text = f"no rule matches {job.kind.name} job '{job.name}'; add one, such as {{target: local}}, or name one with --target"
        raise InvalidConfig(f"{where}: profiles.{self.profile}: {text}")

    def rows(self) -> Iterator[tuple[str, Any, str]]:
        """(dotted key, value, origin) for every value, as `mlctl config` shows them."""
        for keys, value in _leaves(self.values):
            yield dotted(keys), value, self.origins.get(keys, "built in")


def _near(name: str, known: Mapping[str, Any]) -> str:
    return did_you_mean(name, known) or f"; there are: {', '.join(sorted(known))}"


def _matches(rule: Mapping[str, Any], job: Job) -> bool:
    labels = rule.get("labels", {})
    return (
        rule.get("kind", job.kind.name) == job.kind.name
        and fnmatch.fnmatchcase(job.name, rule.get("job", "*"))
        and all(job.labels.get(name) == value for name, value in labels.items())
    )


def home() -> Path:
    """Where runs, packages, environments and the record live: $MLCTL_HOME, else the user's data folder."""
    given = os.environ.get("MLCTL_HOME")
    if given:
        path = _path(given, "MLCTL_HOME")
        if not path.is_absolute():  # else a key would be another run in every working folder
            raise InvalidConfig(f"MLCTL_HOME: got '{given}', expected an absolute path")
        return path
    from platformdirs import user_data_path

    try:
        return user_data_path("mlctl", appauthor=False)
    except RuntimeError:
        raise InvalidConfig("this user has no home folder; set MLCTL_HOME") from None


def load(
    job_file: Path | None = None, file: str | Path | None = None, profile: str | None = None, target: str | None = None
) -> Config:
    """The configuration for a job, from all its layers. Arguments are what the flags say.

    The project's file is `file`, else $MLCTL_CONFIG, else the first mlctl.yaml from the job file's folder upwards, then
    from the working folder, no further than the repository's root. Raises InvalidConfig with file and line;
    Unavailable.
    """
    if file and not isinstance(file, (str, os.PathLike)):
        raise InvalidConfig(f"config: got {one_line(file)}, expected the path of a file")
    project = _project(job_file, file or os.environ.get("MLCTL_CONFIG"))
    organisation = _organisation(project)
    layers = [layer for layer in (organisation, project, _user()) if layer]
    for layer in layers:
        _require(layer)
    locked = dict.fromkeys(organisation.data.get("locked", []), organisation.source) if organisation else {}
    values: dict[str, Any] = {}
    origins: dict[Keys, str] = {}
    _join(values, _BUILT_IN, origins, lambda keys: "built in")
    for layer in layers:
        if layer is not organisation:
            if "locked" in layer.data:
                raise layer.fail(("locked",), "only the organisation's configuration can lock keys")
            for keys, value in _leaves(layer.data):
                _refuse_locked(locked, keys, _place(layer, keys), whole=not isinstance(value, Mapping))
        _join(values, layer.data, origins, lambda keys, layer=layer: _place(layer, keys))
    given = {
        "MLCTL_PROFILE": ("profile", os.environ.get("MLCTL_PROFILE")),
        "MLCTL_TARGET": ("target", os.environ.get("MLCTL_TARGET")),
    }
    given |= {"--profile": ("profile", profile), "--target": ("target", target)}
    for origin, (key, value) in given.items():
        if value:
            _refuse_locked(locked, (key,), origin)
            _join(values, {key: value}, origins, lambda keys, origin=origin: origin)
    for name, settings in values["targets"].items():  # not each layer's to say: a layer may refine what is there
        if "backend" not in settings:
            where = next((origin for keys, origin in origins.items() if keys[:2] == ("targets", name)), "")
            raise InvalidConfig(f"{where}: targets.{name}: backend is missing: the platform, such as local")
    return Config(values, origins, locked, home())


def _path(text: str | Path, origin: str) -> Path:
    """The path, `~` expanded."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise InvalidConfig(f"{origin}: got '{text}', and there is no such home folder") from None


def _project(job_file: Path | None, file: str | Path | None) -> Document | None:
    if file:
        return _read(_path(file, "the configuration"))
    starts = [os.path.dirname(os.path.abspath(job_file))] if job_file else []  # noqa: PTH100, PTH120
    with contextlib.suppress(FileNotFoundError):  # the working folder was removed
        starts.append(os.getcwd())  # noqa: PTH109
    for start in starts:
        folder, above = start, None
        while folder and folder != above:
            if os.path.isfile(f"{folder}/{FILE}"):  # noqa: PTH113 - a folder that can't be searched has none
                return _read(Path(folder, FILE))
            if os.path.exists(f"{folder}/.git"):  # noqa: PTH110
                break
            folder, above = os.path.dirname(folder), folder  # noqa: PTH120
    return None


def _user() -> Document | None:
    from platformdirs import user_config_path

    try:
        path = user_config_path("mlctl", appauthor=False) / "config.yaml"
    except RuntimeError:  # a user without a home, as containers have
        return None
    return _read(path) if path.is_file() else None


def _organisation(project: Document | None) -> Document | None:
    """The organisation's file: of the machine's site configuration, of $MLCTL_ORGANISATION, or the one that the project
    names."""
    from platformdirs import site_config_path

    site = site_config_path("mlctl", appauthor=False) / "config.yaml"
    if site.is_file():
        return _read(site)
    if given := os.environ.get("MLCTL_ORGANISATION"):
        return _fetch(given, Path.cwd(), "MLCTL_ORGANISATION")
    if project and "organisation" in project.data:
        return _fetch(
            project.data["organisation"], Path(project.source).absolute().parent, _place(project, ("organisation",))
        )
    return None


def _fetch(where: str, base: Path, origin: str) -> Document:
    """A path as it is; a URL by its digest, kept so that it is fetched once."""
    if "://" not in where:
        return _read((base / _path(where, origin)).resolve())
    url, _, fragment = where.partition("#")
    match = re.fullmatch(r"sha256=([0-9a-f]{64})", fragment)
    if not url.startswith(("https://", "http://")) or not match:
        raise InvalidConfig(
            f"{origin}: got '{where}', expected a path, or an https URL that ends in #sha256= and 64 hex digits"
        )
    kept = home() / "organisation" / f"{match[1]}.yaml"
    try:
        raw = kept.read_bytes()
    except OSError:
        raw = b""
    if hashlib.sha256(raw).hexdigest() != match[1]:  # not there, or damaged
        raw = _download(url, match[1], origin)
        _keep(raw, kept)
    return _checked(document.parse(raw, url, InvalidConfig))


_ANSWERS: Mapping[int, type[MlctlError]] = {
    401: Unauthorized, 403: Unauthorized, 404: InvalidConfig, 410: InvalidConfig,
}  # fmt: skip


def _download(url: str, digest: str, origin: str) -> bytes:
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import urlopen

    try:
        with urlopen(url, timeout=30) as answer:  # noqa: S310 - http or https, checked by the caller; verified by its digest
            raw: bytes = answer.read(document.MAX_BYTES + 1)
    except HTTPError as reason:
        reason.close()
        kind = _ANSWERS.get(reason.code, Unavailable)
        raise kind(f"{origin}: {url}: {reason.code} {reason.reason}") from None
    except (OSError, HTTPException) as reason:
        raise Unavailable(f"{origin}: {url}: {getattr(reason, 'reason', '') or reason}") from None
    except ValueError as reason:
        raise InvalidConfig(f"{origin}: {url}: {reason}") from None
    got = hashlib.sha256(raw).hexdigest()
    if got != digest:
        raise InvalidConfig(
            f"{origin}: {url}: its sha256 is {got}, expected {digest}; update the digest if the change is meant"
        )
    return raw


def _keep(raw: bytes, kept: Path) -> None:
    import tempfile

    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=kept.parent, delete=False) as draft:
            draft.write(raw)
        Path(draft.name).replace(kept)
    except OSError as reason:
        raise refused(kept, reason) from None


def _read(path: Path) -> Document:
    return _checked(document.read(path, InvalidConfig))


def _checked(found: Document) -> Document:
    schemas.check(found, "config")
    return found


def _require(layer: Document) -> None:
    wanted = layer.data.get("requires")
    if wanted is None:
        return
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        fits = SpecifierSet(wanted, prereleases=True).contains(__version__)
    except InvalidSpecifier:
        raise layer.fail(("requires",), f"got '{wanted}', expected versions such as '>=0.1'") from None
    if not fits:
        raise layer.fail(
            ("requires",), f"this project works with mlctl {wanted}, and this is {__version__}; install another"
        )


def _place(layer: Document, keys: Keys) -> str:
    line = next((layer.lines[keys[:cut]] for cut in range(len(keys), -1, -1) if keys[:cut] in layer.lines), 1)
    return f"{layer.source}:{line}"


def _leaves(data: Mapping[str, Any], above: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, (*above, key))
        else:
            yield (*above, key), value


def _join(
    into: dict[str, Any], layer: Mapping[str, Any], origins: dict[Keys, str], origin: Any, above: Keys = ()
) -> None:
    for key, value in layer.items():
        keys = (*above, key)
        if isinstance(value, Mapping):
            if not isinstance(into.get(key), dict):
                into[key] = {}
                origins[keys] = origin(keys)
            _join(into[key], value, origins, origin, keys)
        else:
            into[key] = value
            origins[keys] = origin(keys)


def _lock(locked: Mapping[str, str], keys: Keys, whole: bool = False) -> str:
    """What is to be said of `keys` where they are locked, or lie below what is; with `whole`, where something below them is, too.
    Empty where they are free."""
    name = dotted(keys)
    for lock, by in locked.items():
        if f"{name}.".startswith(f"{lock}.") or (whole and lock.startswith(f"{name}.")):
            what = "" if lock == name else f", as {lock}"
            return f"{name}: locked by the organisation in {by}{what}; remove it here"
    return ""


def _refuse_locked(locked: Mapping[str, str], keys: Keys, origin: str, whole: bool = False) -> None:
    """Raises where `_lock` has something to say."""
    if text := _lock(locked, keys, whole):
        raise InvalidConfig(f"{origin}: {text}")
