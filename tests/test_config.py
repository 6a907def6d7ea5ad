"""Configuration: which layer wins, what is locked, where each value came from, and which target a job is routed to."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

import mlctl
from mlctl import __version__, api, config, jobfile
from mlctl.config import Config
from mlctl.errors import InvalidConfig, InvalidJob, MlctlError, Unauthorized, Unavailable
from mlctl.job import Job

LOCAL = "targets: {local: {backend: local}}\n"


def job(**fields: Any) -> Job:
    return jobfile.load({"kind": "train", "name": "churn-train", "command": "run", **fields})


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's file, not there yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    (tmp_path / "xdg" / "mlctl").mkdir(parents=True)
    return tmp_path / "xdg" / "mlctl" / "config.yaml"


def message(error: type[MlctlError] = InvalidConfig, **given: Any) -> str:
    with pytest.raises(error) as caught:
        config.load(**given)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    return text


# --- layers


def test_with_no_file_at_all(project: Path, home: Path) -> None:
    found = config.load()
    assert found.values == {
        "profile": "dev", "targets": {"local": {"backend": "local"}}, "profiles": {"dev": [{"target": "local"}]},
    }  # fmt: skip
    assert {origin for _, _, origin in found.rows()} == {"built in"}
    assert (found.profile, found.defaults, found.home, found.locked) == ("dev", {}, home, {})
    assert found.route(job()) == "local"


def test_the_stronger_layer_wins_key_by_key(
    project: Path, user: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each layer sets all that the weaker ones set but one key, which stays with the one before."""
    names = ["z", "organisation", "project", "user"]
    organisation = tmp_path / "organisation.yaml"
    texts = {}
    for strength, name in enumerate(names[1:], 1):
        settings = "".join(f"    k{key}: {name}\n" for key in range(strength, 4))
        lines = f"profile: {name}\ntargets:\n  t:\n    backend: local\n{settings}    own_{name}: 1\n"
        lines += f"defaults: {{env: {{A: {name}}}}}\n"
        texts[name] = lines + "profiles:\n" + "".join(f"  {one}: [{{target: t}}]\n" for one in (name, "flag", "env"))
    organisation.write_text(texts["organisation"])
    (project / "mlctl.yaml").write_text(f"{texts['project']}organisation: {organisation}\n")
    user.write_text(texts["user"])

    found = config.load()
    assert {key: value for key, value in found.values["targets"]["t"].items() if key != "backend"} == {
        "k1": "organisation", "k2": "project", "k3": "user", "own_organisation": 1, "own_project": 1, "own_user": 1,
    }  # fmt: skip
    assert found.defaults == {"env": {"A": "user"}}
    assert (found.profile, found.origins[("profile",)]) == ("user", f"{user}:1")
    assert found.origins[("targets", "t", "k1")] == f"{organisation}:5"
    assert found.origins[("targets", "t", "k2")] == f"{project}/mlctl.yaml:5"
    assert found.values["targets"]["local"] == {"backend": "local"}  # built in, still there

    monkeypatch.setenv("MLCTL_PROFILE", "env")
    found = config.load()
    assert (found.profile, found.origins[("profile",)]) == ("env", "MLCTL_PROFILE")
    found = config.load(profile="flag")
    assert (found.profile, found.origins[("profile",)]) == ("flag", "--profile")
    assert found.route(job()) == "t"
    monkeypatch.setenv("MLCTL_TARGET", "local")
    assert config.load().route(job()) == "local"
    found = config.load(target="t")
    assert (found.route(job()), found.origins[("target",)]) == ("t", "--target")
    monkeypatch.setenv("MLCTL_PROFILE", "")
    monkeypatch.setenv("MLCTL_TARGET", "")
    assert (config.load().profile, config.load().route(job())) == ("user", "t")  # an empty variable says nothing


def test_a_layer_may_refine_a_target_without_repeating_it(project: Path, user: Path) -> None:
    (project / "mlctl.yaml").write_text("targets: {prod: {backend: local, grace: 1}, local: {grace: 2}}\n")
    user.write_text("targets: {prod: {grace: 3}}\n")
    found = config.load()
    assert found.values["targets"] == {
        "prod": {"backend": "local", "grace": 3},
        "local": {"backend": "local", "grace": 2},
    }


def test_a_target_that_no_layer_gives_a_backend(project: Path) -> None:
    (project / "mlctl.yaml").write_text("\ntargets:\n  prod: {grace: 1}\n")
    assert message() == f"{project}/mlctl.yaml:3: targets.prod: backend is missing: the platform, such as local"


def test_rules_are_replaced_not_joined(project: Path, user: Path) -> None:
    (project / "mlctl.yaml").write_text(LOCAL + "profiles: {dev: [{target: a}, {target: b}]}")
    user.write_text("profiles: {dev: [{target: local}]}")
    assert config.load().values["profiles"] == {"dev": [{"target": "local"}]}


# --- which file


def test_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Upwards from the job's file, then from the working folder; neither leaves its repository."""

    def put(folder: str, profile: str) -> None:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "mlctl.yaml").write_text(f"profile: {profile}")

    def profile(job_file: str | None = None) -> str:
        return config.load(tmp_path / job_file if job_file else None).profile

    (tmp_path / "outer/repo/jobs/deep").mkdir(parents=True)
    (tmp_path / "outer/repo/.git").mkdir()
    (tmp_path / "work/sub").mkdir(parents=True)
    (tmp_path / "work/.git").write_text("gitdir: elsewhere")  # a worktree's
    monkeypatch.chdir(tmp_path / "work/sub")
    put("outer", "outside")
    assert profile("outer/repo/jobs/deep/job.yaml") == "dev"
    put("work", "working")
    assert profile() == "working"
    assert profile("outer/repo/jobs/deep/job.yaml") == "working"
    put("outer/repo", "repo")
    assert profile("outer/repo/jobs/deep/job.yaml") == "repo"
    put("outer/repo/jobs", "jobs")
    assert profile("outer/repo/jobs/deep/job.yaml") == "jobs"
    monkeypatch.chdir(tmp_path / "outer/repo/jobs")
    assert config.load(Path("deep/job.yaml")).profile == "jobs"
    assert config.load(Path("../job.yaml")).profile == "repo"
    (tmp_path / "outer/repo/.git").rmdir()
    (tmp_path / "outer/repo/mlctl.yaml").unlink()
    assert config.load(Path("../other/job.yaml")).profile == "outside"  # the way through the working folder is none
    (tmp_path / "outer/repo/.git").mkdir()
    put("outer/repo", "repo")
    (tmp_path / "outer/repo/jobs/mlctl.yaml").unlink()
    (tmp_path / "outer/repo/jobs/mlctl.yaml").mkdir()  # a folder of that name is none
    assert profile("outer/repo/jobs/deep/job.yaml") == "repo"
    put("else", "named")
    monkeypatch.setenv("MLCTL_CONFIG", str(tmp_path / "else/mlctl.yaml"))
    assert profile("outer/repo/jobs/deep/job.yaml") == "named"
    put("flag", "flag")
    assert config.load(file=tmp_path / "flag/mlctl.yaml").profile == "flag"


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("MLCTL_CONFIG", "/none/mlctl.yaml", "/none/mlctl.yaml: no such file"), ("MLCTL_CONFIG", "/", "/: is a folder"),
        ("MLCTL_CONFIG", "~nobody-here/x", "the configuration: got '~nobody-here/x', and there is no such home folder"),
        ("MLCTL_HOME", "~nobody-here/x", "MLCTL_HOME: got '~nobody-here/x', and there is no such home folder"),
        ("MLCTL_ORGANISATION", "/none.yaml", "/none.yaml: no such file"), ("MLCTL_PROFILE", "prd", None),
        ("MLCTL_TARGET", "locl", None),
    ],
)  # fmt: skip
def test_bad_variables(project: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, text: str | None) -> None:
    monkeypatch.setenv(name, value)
    if text:
        assert message() == text
        return
    with pytest.raises(InvalidConfig) as caught:
        api.execution(job())
    assert str(caught.value) in (
        "MLCTL_PROFILE: profile 'prd' is not in the configuration; there are: dev",
        "MLCTL_TARGET: target 'locl' is not in the configuration; did you mean 'local'?",
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("target: local", "mlctl.yaml:1: target: unknown field; did you mean 'targets'?"),
        ("targets:\n  a:", "mlctl.yaml:2: targets.a: got nothing, expected a mapping"),
        ("targets: {A: {backend: local}}",
            "mlctl.yaml:1: targets.A: got 'A', expected a name of lower-case letters, digits, '-' and '_'"),
        ("targets: {a: {backend: 1}}", "mlctl.yaml:1: targets.a.backend: got 1, expected a string"),
        ("profiles: {dev: []}", "mlctl.yaml:1: profiles.dev: got [], expected at least 1 item"),
        ("targets: {a: {backend: local, secrets: {T: [x]}}}",
            "mlctl.yaml:1: targets.a.secrets.T: got ['x'], expected a string"),
        ("profiles: {dev: [{kind: train}]}", "mlctl.yaml:1: profiles.dev[0]: target is missing: a name under targets"),
        ("profiles:\n  dev:\n  - {target: a}\n  - {target: a, job: [x]}",
            "mlctl.yaml:4: profiles.dev[1].job: got ['x'], expected a string"),
        ("profiles: {dev: [{target: a, kind: tune}]}",
            "mlctl.yaml:1: profiles.dev[0].kind: got 'tune', expected process, train or batch-inference"),
        ("profiles: {dev: [{target: a, labels: {team: 1}}]}",
            "mlctl.yaml:1: profiles.dev[0].labels.team: got 1, expected a string"),
        ("defaults: {image: x}",
            "mlctl.yaml:1: defaults.image: unknown field; expected env, labels, queue_timeout, resources, retry, tags or timeout"),
        ("defaults: {timeout: soon}", "mlctl.yaml:1: defaults.timeout: got 'soon', expected a duration"),
        ("profile: [a]", "mlctl.yaml:1: profile: got ['a'], expected a string"),
        ("locked: [profile]", "mlctl.yaml:1: locked: only the organisation's configuration can lock keys"),
        ("- a", "mlctl.yaml: expected a mapping of fields, got ['a']"),
        ("locked: [target.prod, targts.x]",
            "mlctl.yaml:1: locked[1]: got 'targts.x', expected a dotted key of the configuration, such as targets.prod"),
        ("requires: '>=99'",
            f"mlctl.yaml:1: requires: this project works with mlctl >=99, and this is {__version__}; install another"),
        ("requires: 'new'", "mlctl.yaml:1: requires: got 'new', expected versions such as '>=0.1'"),
        ("requires: 0.1", "mlctl.yaml:1: requires: got 0.1, expected a string"),
        ("a: 1\na: 2", "mlctl.yaml:2: a: given twice"),
        ("organisation: ''", "mlctl.yaml:1: organisation: got '', expected at least 1 character"),
    ],
)  # fmt: skip
def test_bad_files(project: Path, text: str, said: str) -> None:
    (project / "mlctl.yaml").write_text(text)
    assert message().startswith(f"{project}/{said}")


@pytest.mark.parametrize("text", [f"'=={__version__}'", "'>=0.0'", "''", "'>=0.1.0.dev0,<9'"])
def test_requires(project: Path, text: str) -> None:
    (project / "mlctl.yaml").write_text(f"requires: {text}")
    assert config.load().profile == "dev"


# --- locks


def layered(project: Path, tmp_path: Path, organisation: str, below: str = "") -> Path:
    path = tmp_path / "organisation.yaml"
    path.write_text(organisation)
    (project / "mlctl.yaml").write_text(f"organisation: {path}\n{below}")
    return path


PROD = "targets: {prod: {backend: local, role: r, network: {vpc: v, zone: z}}}\n"


@pytest.mark.parametrize(
    ("lock", "below", "key"),
    [
        ("targets.prod", "targets: {prod: {grace: 1}}", "targets.prod.grace"),
        ("targets.prod", "targets:\n  prod: {backend: x}", "targets.prod.backend"),
        ("targets.prod.role", "targets: {prod: {role: mine}}", "targets.prod.role"),
        ("targets", "targets: {new: {backend: local}}", "targets.new.backend"),
        ("profile", "profile: mine", "profile"), ("profiles.dev", "profiles: {dev: [{target: local}]}", "profiles.dev"),
        ("defaults.env", "defaults: {env: {A: b}}", "defaults.env.A"),
        ("defaults.env.A", "defaults: {env: {A: b}}", "defaults.env.A"),
        ("targets.prod.network", "targets: {prod: {network: {vpc: mine}}}", "targets.prod.network.vpc"),
        ("requires", "requires: '>=0'", "requires"),
    ],
)  # fmt: skip
def test_what_is_locked(project: Path, tmp_path: Path, lock: str, below: str, key: str) -> None:
    """Both files are named: where the key was set, and by whom it is locked."""
    organisation = layered(project, tmp_path, f"{PROD}locked: [{lock}]\n", below)
    line = 2 if "\n" not in below else 3
    place = f"{project}/mlctl.yaml:{line}"
    by = "" if lock == key else f", as {lock}"
    assert message() == f"{place}: {key}: locked by the organisation in {organisation}{by}; remove it here"


@pytest.mark.parametrize("below", ["targets: {prod: {network: none}}", "targets: {prod: {network: [a]}}"])
def test_a_lock_is_not_passed_by_replacing_what_is_above_it(project: Path, tmp_path: Path, below: str) -> None:
    organisation = layered(project, tmp_path, f"{PROD}locked: [targets.prod.network.vpc]\n", below)
    assert message() == (
        f"{project}/mlctl.yaml:2: targets.prod.network: locked by the organisation in {organisation}, "
        "as targets.prod.network.vpc; remove it here"
    )


@pytest.mark.parametrize(
    "below", ["targets: {prod: {network: {zone: mine}}}", "targets: {prod: {grace: 1}}",
        "targets: {prod: {network: {}}}", "targets: {prod2: {backend: local}}"]
)  # fmt: skip
def test_beside_a_lock(project: Path, tmp_path: Path, below: str) -> None:
    layered(project, tmp_path, f"{PROD}locked: [targets.prod.network.vpc, targets.prod.role]\n", below)
    target = config.load().target("prod")
    assert (target.settings["role"], target.settings["network"]["vpc"]) == ("r", "v")


def test_the_user_is_below_too(project: Path, tmp_path: Path, user: Path) -> None:
    layered(project, tmp_path, "locked: [profile]\n")
    user.write_text("\nprofile: mine")
    assert message().startswith(f"{user}:2: profile: locked by the organisation in {tmp_path}/organisation.yaml")


@pytest.mark.parametrize(
    ("lock", "given", "origin"),
    [
        ("profile", {"profile": "x"}, "--profile"), ("target", {"target": "x"}, "--target"),
        ("profile", {"MLCTL_PROFILE": "x"}, "MLCTL_PROFILE"),
        ("target", {"MLCTL_TARGET": "x"}, "MLCTL_TARGET"),
    ],
)  # fmt: skip
def test_variables_and_flags_are_below_too(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lock: str, given: dict[str, str], origin: str
) -> None:
    layered(project, tmp_path, f"locked: [{lock}]\n")
    if origin.startswith("MLCTL"):
        monkeypatch.setenv(*next(iter(given.items())))
        given = {}
    assert message(**given).startswith(f"{origin}: {lock}: locked by the organisation in {tmp_path}/organisation.yaml")


def test_a_target_asked_of_a_configuration_in_hand_is_below_too(project: Path, tmp_path: Path) -> None:
    layered(project, tmp_path, f"{PROD}locked: [target]\n")
    job = {"kind": "train", "name": "a", "command": "run"}
    with pytest.raises(InvalidConfig, match=r"^target: target: locked by the organisation in"):
        api.plan(job, config=config.load(), target="prod")


@pytest.mark.parametrize(
    ("lock", "override", "refused"),
    [
        ("targets.prod", {"grace": 1}, True), ("targets.prod.role", {"role": "mine"}, True),
        ("targets.prod.role", {"grace": 1}, False),
        ("targets.prod.network.vpc", {"network": {"zone": "mine"}}, True),
        ("targets.prod.network.vpc", {"network": "none"}, True),
        ("targets.prod.backend", {"backend": "other"}, True), ("targets.prod.roles", {"role": "mine"}, False),
        ("targets.other", {"role": "mine"}, False),
    ],
)  # fmt: skip
def test_settings_of_a_call_are_below_too(
    project: Path, tmp_path: Path, lock: str, override: dict[str, Any], refused: bool
) -> None:
    layered(project, tmp_path, f"{PROD}locked: [{lock}]\n")
    found = config.load()
    if not refused:
        assert next(iter(override)) in found.target("prod", override).settings
        return
    with pytest.raises(InvalidConfig) as caught:
        found.target("prod", override)
    assert str(caught.value).startswith(
        f"--set {next(iter(override))}: targets.prod.{next(iter(override))}: locked by the organisation"
    )


@pytest.mark.parametrize(
    ("lock", "refused"),
    [
        ("targets.prod.layout", "targets.prod.layout"), ("targets.prod", "targets.prod.layout"),
        ("targets", "targets.prod.layout"), ("targets.prod.layout.root", "targets.prod.layout"),
        ("targets.prod.grace", None), ("targets.dev", None), ("targets.prod.layouts", None),
    ],
)  # fmt: skip
def test_a_job_is_below_too(project: Path, tmp_path: Path, lock: str, refused: str | None) -> None:
    """What it says under platforms: stands for a setting of the target."""
    layered(project, tmp_path, f"targets: {{prod: {{backend: local}}}}\nlocked: [{lock}]\n")
    file = project / "job.yaml"
    file.write_text("kind: train\nname: a\ncommand: run\nplatforms:\n  local: {layout: sagemaker}\n")
    if not refused:
        assert api.plan(file, target="prod").request["layout"]
        return
    by = f"{refused}: locked by the organisation in {tmp_path}/organisation.yaml"
    for start in (api.plan, api.run, api.submit):
        with pytest.raises(InvalidJob) as caught:
            start(file, target="prod")
        text = str(caught.value)
        assert text.startswith(f"{file}:5: platforms.local.layout: {by}") and text.endswith("; remove it here")


def test_what_is_no_setting_of_the_target_is_the_jobs_own(project: Path, tmp_path: Path) -> None:
    layered(project, tmp_path, "targets: {prod: {backend: local}}\nlocked: [targets.prod]\n")
    own = {"kind": "train", "name": "a", "command": "run", "platforms": {"databricks": {"host": "x"}}}
    assert api.plan(own, target="prod").target == "prod"
    with pytest.raises(InvalidJob, match=r"platforms.local.nosuch: unknown field"):
        api.plan({**own, "platforms": {"local": {"nosuch": 1}}}, target="prod")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"settings": [1]}, "settings: got [1], expected a mapping of names to values"),
        ({"settings": 5}, "settings: got 5, expected a mapping"),
        ({"settings": {1: 2}}, "settings: got the name 1, expected a string"),
        ({"config": 5}, "config: got 5, expected the path of a file"),
    ],
)
def test_options_of_another_type(project: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        api.plan({"kind": "train", "name": "a", "command": "run"}, **given)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("run", [None, 5, ["x"], b"local://x/y/z-0"])
def test_a_run_is_named_by_text(run: Any) -> None:
    with pytest.raises(InvalidConfig, match=r"run: got .*, expected its URL, its name, its key or its job's name"):
        api.reach(run)


def test_the_organisation_of_the_machine_comes_first(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layered(project, tmp_path, "profile: of-the-project\n")
    (tmp_path / "env.yaml").write_text("profile: of-the-variable\n")
    assert config.load().profile == "of-the-project"
    monkeypatch.setenv("MLCTL_ORGANISATION", str(tmp_path / "env.yaml"))
    assert config.load().profile == "of-the-variable"
    (tmp_path / "site" / "mlctl").mkdir(parents=True)
    (tmp_path / "site" / "mlctl" / "config.yaml").write_text("profile: of-the-machine\nlocked: [profile]\n")
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "site"))
    found = config.load()
    if found.profile != "of-the-machine":
        pytest.skip("this platform has another place for the site's configuration")
    assert found.locked == {"profile": f"{tmp_path}/site/mlctl/config.yaml"}


def test_an_organisation_beside_the_project(project: Path) -> None:
    (project / "org.yaml").write_text("profile: org\nprofiles: {org: [{target: local}]}\n")
    (project / "mlctl.yaml").write_text("organisation: org.yaml")
    (project / "sub").mkdir()
    assert config.load(project / "sub" / "job.yaml").profile == "org"


# --- an organisation by URL

TEXT = b"profile: far\nprofiles: {far: [{target: local}]}\nlocked: [profiles.far]\n"


class Server:
    """A real web server that counts."""

    def __init__(self) -> None:
        self.answer: tuple[int, bytes] = (200, TEXT)
        self.asked = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked += 1
                code, body = outer.answer
                self.send_response(code)
                self.send_header("Content-Length", str(len(body) + (5 if code == 206 else 0)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/org.yaml"

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    made = Server()
    yield made
    made.stop()


def url(server: Server, text: bytes = TEXT) -> str:
    return f"{server.url}#sha256={sha256(text).hexdigest()}"


def test_an_organisation_by_url_is_fetched_once(project: Path, home: Path, server: Server) -> None:
    (project / "mlctl.yaml").write_text(f"organisation: {url(server)}\n")
    assert config.load().profile == "far"
    assert config.load().origins[("profile",)] == f"{server.url}:1"
    assert server.asked == 1
    kept = home / "organisation" / f"{sha256(TEXT).hexdigest()}.yaml"
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]
    kept.write_bytes(b"profile: forged")  # what is kept is checked too: a forgery, or half of a file after a crash
    assert config.load().profile == "far"
    assert (kept.read_bytes(), server.asked) == (TEXT, 2)
    server.answer = (200, b"profile: next")
    (project / "mlctl.yaml").write_text(f"organisation: {url(server, b'profile: next')}\n")
    assert (config.load().profile, len(list(kept.parent.iterdir()))) == ("next", 2)  # beside the one before
    (project / "mlctl.yaml").write_text(f"organisation: {url(server)}\nprofiles: {{far: [{{target: x}}]}}\n")
    assert message().endswith(f"mlctl.yaml:2: profiles.far: locked by the organisation in {server.url}; remove it here")


def test_what_is_kept_needs_no_network(project: Path, server: Server) -> None:
    (project / "mlctl.yaml").write_text(f"organisation: {url(server)}\n")
    config.load()
    server.stop()
    assert config.load().profile == "far"
    (project / "mlctl.yaml").write_text(f"organisation: {url(server, b'other')}\n")
    assert message(Unavailable) == f"{project}/mlctl.yaml:1: {server.url}: [Errno 111] Connection refused"


def test_another_content_is_refused(project: Path, home: Path, server: Server) -> None:
    (project / "mlctl.yaml").write_text(f"organisation: {url(server, b'what was agreed')}\n")
    got, wanted = sha256(TEXT).hexdigest(), sha256(b"what was agreed").hexdigest()
    assert message() == (
        f"{project}/mlctl.yaml:1: {server.url}: its sha256 is {got}, expected {wanted}; update the digest if the change is meant"
    )
    assert not (home / "organisation").exists()


@pytest.mark.parametrize(
    ("code", "error", "text"),
    [
        (404, InvalidConfig, "404 Not Found"), (403, Unauthorized, "403 Forbidden"),
        (503, Unavailable, "503 Service Unavailable"),
        (429, Unavailable, "429 Too Many Requests"),
    ],
)  # fmt: skip
def test_a_server_in_trouble(project: Path, server: Server, code: int, error: type[MlctlError], text: str) -> None:
    server.answer = (code, b"")
    (project / "mlctl.yaml").write_text(f"organisation: {url(server)}\n")
    assert message(error) == f"{project}/mlctl.yaml:1: {server.url}: {text}"


def test_half_an_answer(project: Path, home: Path, server: Server) -> None:
    server.answer = (206, TEXT[:9])
    (project / "mlctl.yaml").write_text(f"organisation: {url(server)}\n")
    with pytest.raises((Unavailable, InvalidConfig), match=r"sha256 is|IncompleteRead"):
        config.load()
    assert not (home / "organisation").exists()


def test_a_bad_file_from_a_server(project: Path, server: Server) -> None:
    server.answer = (200, b"a: 1\nprofile: [")
    (project / "mlctl.yaml").write_text(f"organisation: {url(server, server.answer[1])}\n")
    assert message().startswith(f"{server.url}:2: not YAML: ")


@pytest.mark.parametrize(
    "where",
    [
        "http://host/x.yaml",
        "http://host/x.yaml#sha256=abc",
        "ftp://host/x#sha256=" + "0" * 64,
        f"https://h/x#sha256={'A' * 64}",
        "file:///x",
    ],
)
def test_a_url_needs_its_digest(project: Path, where: str) -> None:
    (project / "mlctl.yaml").write_text(f"organisation: '{where}'\n")
    assert (
        message()
        == f"{project}/mlctl.yaml:1: got '{where}', expected a path, or an https URL that ends in #sha256= and 64 hex digits"
    )


@pytest.mark.parametrize("where", ["http://[bad/x", "http://host:port/x", "http://127.0.0.1:1/a b"])
def test_a_url_that_is_none(project: Path, where: str) -> None:
    (project / "mlctl.yaml").write_text(f"organisation: '{where}#sha256={'0' * 64}'\n")
    with pytest.raises((InvalidConfig, Unavailable)) as caught:
        config.load()
    assert str(caught.value).startswith(f"{project}/mlctl.yaml:1: {where}: ")


# --- routes


@pytest.mark.parametrize(
    ("rules", "fields", "target"),
    [
        ("[{kind: train, target: a}, {target: b}]", {}, "a"), ("[{kind: process, target: a}, {target: b}]", {}, "b"),
        ("[{job: churn-*, target: a}, {target: b}]", {}, "a"),
        ("[{job: 'churn', target: a}, {target: b}]", {}, "b"),
        ("[{job: '*-t[rx]ain', target: a}, {target: b}]", {}, "a"), ("[{job: Churn-*, target: a}, {target: b}]", {}, "b"),
        ("[{labels: {team: x}, target: a}, {target: b}]", {"labels": {"team": "x", "other": "y"}}, "a"),
        ("[{labels: {team: x}, target: a}, {target: b}]", {"labels": {"team": "z"}}, "b"),
        ("[{labels: {team: x}, target: a}, {target: b}]", {}, "b"),
        ("[{labels: {team: x, data: pii}, target: a}, {target: b}]", {"labels": {"team": "x"}}, "b"),
        ("[{kind: train, job: churn-*, labels: {t: x}, target: a}, {target: b}]", {"labels": {"t": "x"}}, "a"),
        ("[{target: b}, {kind: train, target: a}]", {}, "b"),
    ],
)  # fmt: skip
def test_the_first_rule_that_matches(project: Path, rules: str, fields: dict[str, Any], target: str) -> None:
    (project / "mlctl.yaml").write_text(
        f"targets: {{a: {{backend: local}}, b: {{backend: local}}}}\nprofiles: {{dev: {rules}}}\n"
    )
    assert config.load().route(job(**fields)) == target


@pytest.mark.parametrize(
    ("text", "given", "said"),
    [
        ("profiles: {dev: [{kind: process, target: local}]}", {},
            "{0}:1: profiles.dev: no rule matches train job 'churn-train'; add one, such as {{target: local}}, "
            "or name one with --target"),
        ("profiles: {dev: [{target: locla}]}", {},
            "{0}:1: profiles.dev: target 'locla' is not in the configuration; did you mean 'local'?"),
        ("profile: prod", {}, "{0}:1: profile 'prod' is not in the configuration; there are: dev"),
        ("profile: dve", {}, "{0}:1: profile 'dve' is not in the configuration; did you mean 'dev'?"),
        ("profile: dev", {"profile": "prod"}, "--profile: profile 'prod' is not in the configuration; there are: dev"),
        ("profile: dev", {"target": "lcal"}, "--target: target 'lcal' is not in the configuration; did you mean 'local'?"),
        ("targets: {prod: {backend: local}}", {"target": "zzz"},
            "--target: target 'zzz' is not in the configuration; there are: local, prod"),
    ],
)  # fmt: skip
def test_a_job_that_goes_nowhere(project: Path, text: str, given: dict[str, str], said: str) -> None:
    (project / "mlctl.yaml").write_text(text)
    with pytest.raises(InvalidConfig) as caught:
        api.execution(job(), **given)
    assert str(caught.value) == said.format(project / "mlctl.yaml")


def test_labels_that_defaults_add_are_routed_by(project: Path) -> None:
    (project / "mlctl.yaml").write_text(
        "targets: {a: {backend: local}}\ndefaults: {labels: {team: x}}\n"
        "profiles: {dev: [{labels: {team: x}, target: a}, {target: local}]}\n"
    )
    assert api.execution(job()).settings.target == "a"


# --- what becomes of it


def test_defaults_reach_the_job_and_not_its_digest(project: Path) -> None:
    (project / "mlctl.yaml").write_text("defaults: {timeout: 1h, env: {A: d, B: d}, retry: {infra: 2}}\n")
    mine = job(env={"A": "mine"})
    made = api.execution(mine).job
    assert (made.timeout, dict(made.env), made.retry) == (3600, {"A": "mine", "B": "d"}, {"infra": 2})
    assert made.digest("local") == mine.digest("local")
    assert mine.timeout is None


def test_a_target_and_its_settings(project: Path) -> None:
    (project / "mlctl.yaml").write_text("targets: {t: {backend: local, grace: 1, inherit_env: [A]}}")
    found = config.load().target("t", {"grace": 2, "more": [1]})
    assert (found.name, found.backend, found.settings) == (
        "t",
        "local",
        {"grace": 2, "inherit_env": ["A"], "more": [1]},
    )
    assert config.load().target("t").settings["grace"] == 1


def test_rows_name_every_value_and_its_origin(project: Path, user: Path) -> None:
    (project / "mlctl.yaml").write_text(
        "targets:\n  t:\n    backend: local\n    secrets: {}\n    list: [1, 2]\nprofile: p\n"
    )
    user.write_text("profile: q\n")
    at = f"{project}/mlctl.yaml"
    assert {key: (value, origin) for key, value, origin in config.load().rows()} == {
        "profile": ("q", f"{user}:1"), "targets.local.backend": ("local", "built in"),
        "targets.t.backend": ("local", f"{at}:3"),
        "targets.t.secrets": ({}, f"{at}:4"), "targets.t.list": ([1, 2], f"{at}:5"),
        "profiles.dev": ([{"target": "local"}], "built in"),
    }  # fmt: skip
    json.dumps([value for _, value, _ in config.load().rows()])


def test_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLCTL_HOME", "~/x")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert config.home() == tmp_path / "x"
    monkeypatch.setenv("MLCTL_HOME", "rel")
    with pytest.raises(InvalidConfig, match="MLCTL_HOME: got 'rel', expected an absolute path"):
        config.home()
    monkeypatch.delenv("MLCTL_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert config.home().name == "mlctl"


def test_a_configuration_in_hand_is_taken_as_it_is(project: Path) -> None:
    (project / "mlctl.yaml").write_text("targets: {t: {backend: local}}\nprofiles: {dev: [{target: t}]}\n")
    found: Config = config.load()
    (project / "mlctl.yaml").unlink()
    assert mlctl.plan(job(), config=found, key="k").target == "t"
