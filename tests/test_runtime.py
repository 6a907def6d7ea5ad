"""The contract inside the job, as a job meets it: small scripts in processes of their own, beside a copy of the module.

Each test runs under this interpreter and under every other from 3.8 on that is on the PATH and starts.
"""

from __future__ import annotations

import ast
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mlctl import runtime

SOURCE = Path(runtime.__file__)
PRELUDE = """\
import json, os, pathlib, signal, sys, time
import mlctl_runtime as job
job._SAGEMAKER = pathlib.Path("opt", "ml").resolve()     # read late, so that this is in time
def show(value): print(json.dumps(value, default=str))
def ready(): os.write(1, b"ready\\n")                    # one call: print() could take the signal in its middle
"""


def interpreters() -> dict[str, str]:
    """{version: path} of this interpreter and of the others at hand."""
    found = {f"{sys.version_info[0]}.{sys.version_info[1]}": sys.executable}
    for version in (f"3.{minor}" for minor in range(8, 16)):
        program = shutil.which(f"python{version}")
        if version in found or program is None:
            continue
        probe = subprocess.run([program, "-c", "import sys; print(sys.executable)"], capture_output=True, text=True)
        if probe.returncode == 0:  # a version manager's stand-in may be there for a Python that isn't
            found[version] = probe.stdout.strip()
    return found


PYTHONS = interpreters()


@dataclass
class Sandbox:
    """A folder with a copy of the module, in which scripts run with an environment of the test's own."""

    folder: Path
    python: str
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, script: str, env: Mapping[str, object] | None = None, **popen: Any) -> subprocess.Popen[str]:
        file = (
            self.folder / f"job{len(self.started) or ''}.py"
        )  # one each: none is rewritten while another starts from it
        file.write_text(PRELUDE + script, encoding="utf-8")
        base = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(
            [self.python, file.name],
            cwd=self.folder,
            env={**base, **{name: str(value) for name, value in (env or {}).items()}},
            text=True,
            **{**pipes, **popen},
        )
        self.started.append(process)
        return process

    def run(self, script: str, env: Mapping[str, object] | None = None, code: int = 0) -> tuple[str, str]:
        """(stdout, stderr) of the script, which must end with `code`."""
        process = self.start(script, env)
        out, err = process.communicate(timeout=60)
        assert process.returncode == code, err
        return out, err

    def value(self, script: str, env: Mapping[str, object] | None = None) -> Any:
        """What the script's expression gives, by way of JSON."""
        out, err = self.run(f"show({script})\n", env)
        assert err == ""
        return json.loads(out)

    def error(self, script: str, env: Mapping[str, object] | None = None) -> str:
        """The last line of the traceback that the script ends with."""
        return self.run(script, env, code=1)[1].splitlines()[-1]

    def write(self, path: str, value: object) -> Path:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(value), encoding="utf-8")
        return target

    def close(self) -> None:
        for process in self.started:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe:
                    pipe.close()


@pytest.fixture(params=list(PYTHONS.values()), ids=list(PYTHONS))
def box(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sandbox]:
    shutil.copy(SOURCE, tmp_path / "mlctl_runtime.py")
    sandbox = Sandbox(tmp_path, request.param)
    yield sandbox
    sandbox.close()


def strict(line: str) -> Any:
    """`line` as a reader sees it that knows JSON and no more."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(line, parse_constant=refuse)


def lines_of(file: Path) -> list[Any]:
    return [strict(line) for line in file.read_text(encoding="utf-8").splitlines()]


# One file, of the standard library only


def test_imports_are_the_standard_library() -> None:
    nodes = list(ast.walk(ast.parse(SOURCE.read_text(encoding="utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.add(node.module or "")
    assert {name.partition(".")[0] for name in names} <= set(sys.stdlib_module_names)


def test_grammar_is_of_python_3_8() -> None:
    ast.parse(SOURCE.read_text(encoding="utf-8"), feature_version=(3, 8))


@pytest.mark.parametrize("python", PYTHONS.values(), ids=PYTHONS)
def test_a_copy_under_another_name_in_a_hostile_folder(python: str, tmp_path: Path) -> None:
    folder = tmp_path / "a'; echo foo"
    folder.mkdir()
    shutil.copy(SOURCE, folder / "my_job.py")
    heavy = "{'asyncio', 'logging', 'multiprocessing', 'socket', 'subprocess', 'tempfile'}"
    script = f"import sys; sys.path.insert(0, '.'); import my_job; print(my_job.CONTRACT, {heavy} & set(sys.modules))"
    done = subprocess.run([python, "-S", "-I", "-B", "-c", script], cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 set()\n", "")


def test_importing_changes_nothing(box: Sandbox) -> None:
    script = "[signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, sorted(os.listdir('.'))]"
    assert box.value(script) == [True, ["job.py", "mlctl_runtime.py"]]


def test_a_mistyped_name_is_an_attribute_error(box: Sandbox) -> None:
    assert "has no attribute 'checkpoints_dir'" in box.error("job.checkpoints_dir")


# An mlctl run


def test_everything_of_a_run(box: Sandbox) -> None:
    params = {"lr": 0.1, "epochs": 3, "deep": {"a": [1, None, True]}, "name": "x"}
    env = {
        "MLCTL_RUN": "local:///runs/churn-0",
        "MLCTL_PARAMS_FILE": box.write("p.json", params),
        "MLCTL_INPUT_TRAIN": box.write("data/train.csv", "x"),
        "MLCTL_OUTPUT_MODEL": box.folder / "out" / "model",
        "MLCTL_CHECKPOINT_DIR": box.folder / "ckpt" / "0",
    }
    script = """[dict(job.params), job.params.get("lr"), len(job.params), job.run,
        job.inputs["train"], job.inputs["train"].is_file(), job.outputs["model"], job.outputs["model"].is_dir(),
        job.checkpoint_dir, job.checkpoint_dir.is_dir(), list(job.inputs), list(job.outputs), repr(job.params)]"""
    train, model, checkpoints = env["MLCTL_INPUT_TRAIN"], env["MLCTL_OUTPUT_MODEL"], env["MLCTL_CHECKPOINT_DIR"]
    folders = [str(train), True, str(model), True, str(checkpoints), True]
    rest = [["train"], ["model"], repr(params)]
    assert box.value(script, env) == [params, 0.1, 4, env["MLCTL_RUN"], *folders, *rest]


@pytest.mark.parametrize("name", ["train-set.v1", "train_set_v1", "Train-Set V1"])
def test_names_are_upper_cased_and_all_else_is_an_underscore(box: Sandbox, name: str) -> None:
    env = {"MLCTL_INPUT_TRAIN_SET_V1": "/data", "MLCTL_OUTPUT_TRAIN_SET_V1": box.folder / "out"}
    assert box.value(f"[job.inputs[{name!r}], job.outputs[{name!r}]]", env) == ["/data", str(box.folder / "out")]


HOSTILE = [
    "a'; echo foo",
    "a\nb\r\n\tc\n",
    "naïve 日本語 🚀",
    "x" * 10_000,
    "$(HOME)",
    "${{inputs.x}}",
    '"\\',
    "",
    "\u2028",
]


def test_hostile_strings_arrive_as_sent(box: Sandbox) -> None:
    params = {str(number): value for number, value in enumerate(HOSTILE)} | dict.fromkeys(HOSTILE, 1)
    file = box.folder / "a'; echo foo.json"
    file.write_text(json.dumps(params, ensure_ascii=False), encoding="utf-8")
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": 0, "PYTHONUTF8": 0}
    assert box.value("dict(job.params)", {"MLCTL_PARAMS_FILE": file.name, **ascii_only}) == params


def test_what_is_not_declared_is_refused_with_what_is(box: Sandbox) -> None:
    env = {
        "MLCTL_RUN": "local:///runs/churn-0",
        "MLCTL_PARAMS_FILE": box.write("p.json", {"lr": 1, "epochs": 2}),
        "MLCTL_INPUT_TRAIN": "/data",
    }
    assert box.error("job.params['lrr']", env) == (
        "mlctl_runtime.NotGiven: no param 'lrr' (this job has: epochs, lr): declare it under `params:` in the job file;"
        " outside a run, set MLCTL_PARAMS_FILE or use params.get('lrr', DEFAULT)"
    )
    assert box.error("job.inputs['test-set']", env) == (
        "mlctl_runtime.NotGiven: no input 'test-set' (this job has: train): declare it under `inputs:` in the job file;"
        " outside a run, set MLCTL_INPUT_TEST_SET=PATH"
    )
    assert box.error("job.outputs['model']", env) == (
        "mlctl_runtime.NotGiven: no output 'model' (this job has: none): declare it under `outputs:` in the job file"
    )
    script = "[job.params.get('x', 7), job.inputs.get('x'), job.outputs.get('x'), 'x' in job.params]"
    assert box.value(script, env) == [7, None, None, False]
    assert not (box.folder / "outputs").exists()


def test_params_that_cannot_be_read_are_an_error_and_not_empty(box: Sandbox) -> None:
    assert "FileNotFoundError" in box.error("job.params.get('lr')", {"MLCTL_PARAMS_FILE": "gone.json"})
    box.write("list.json", [1])
    error = box.error("len(job.params)", {"MLCTL_PARAMS_FILE": "list.json"})
    assert error == "ValueError: list.json: expected a JSON object, got list"
    (box.folder / "half.json").write_text('{"lr": ')
    error = box.error("len(job.params)", {"MLCTL_PARAMS_FILE": "half.json"})
    assert error.startswith("ValueError: half.json: expected a JSON object, got what is not JSON: ")


# Outside a run


def test_defaults_outside_a_run(box: Sandbox) -> None:
    script = """[dict(job.params), job.params.get("lr", 0.1), job.outputs["my-model"], job.outputs["my-model"].is_dir(),
        job.checkpoint_dir, job.checkpoint_dir.is_dir(), job.run, job.rank, job.world_size, dict(job.inputs)]"""
    found = box.value(script, {"MLCTL_RUN": "", "MLCTL_INPUT_TRAIN": ""})
    assert found == [{}, 0.1, "outputs/my-model", True, "checkpoints", True, "", 0, 1, {}]
    assert "set MLCTL_INPUT_TRAIN=PATH" in box.error("job.inputs['train']")
    assert "params.get('lr', DEFAULT)" in box.error("job.params['lr']")


def test_metrics_outside_a_run_are_printed_only(box: Sandbox) -> None:
    out, err = box.run("job.log_metric('loss', 1)")
    assert (out.startswith('mlctl.metric {"name": "loss"'), err) == (True, "")
    assert {path.name for path in box.folder.iterdir()} == {"job.py", "mlctl_runtime.py"}


# Metrics


def test_a_metric_is_a_line_of_the_file_and_of_stdout(box: Sandbox) -> None:
    file = box.folder / "metrics.jsonl"
    script = """
class Scalar:                             # as numpy's and torch's are
    def __float__(self): return 0.25
    def __index__(self): return 4
start = time.time()
job.log_metric("loss", 0.1, step=3)
job.log_metrics({"a": 1, "b\\n": Scalar()}, step=Scalar())
job.log_metric("c", True)
job.log_metrics({})
show([start, time.time()])
"""
    out, err = box.run(script, {"MLCTL_METRICS_FILE": file, "PYTHONIOENCODING": "ascii"})
    *printed, last = out.splitlines()
    start, end = json.loads(last)
    metrics = lines_of(file)
    assert err == ""
    assert [strict(line.removeprefix("mlctl.metric ")) for line in printed] == metrics
    assert all(line.startswith("mlctl.metric {") for line in printed)
    assert all(start <= metric.pop("time") <= end for metric in metrics)
    assert metrics == [
        {"name": "loss", "value": 0.1, "step": 3},
        {"name": "a", "value": 1.0, "step": 4},
        {"name": "b\n", "value": 0.25, "step": 4},
        {"name": "c", "value": 1.0, "step": None},
    ]


def test_nan_and_infinity_survive_a_strict_reader(box: Sandbox) -> None:
    file = box.folder / "metrics.jsonl"
    script = "for text in ('nan', 'inf', '-inf'): job.log_metric('x', float(text))"
    box.run(script, {"MLCTL_METRICS_FILE": file})
    values = [line["value"] for line in lines_of(file)]
    assert values == ["NaN", "Infinity", "-Infinity"]
    assert [math.isnan(float(values[0])), float(values[1]), float(values[2])] == [True, math.inf, -math.inf]


@pytest.mark.parametrize("value", ["'0.1'", "b'1'", "None", "[1.0]", "1j", "10**400", "object()"])
def test_what_is_no_number_names_the_metric_and_writes_nothing(box: Sandbox, value: str) -> None:
    file = box.folder / "metrics.jsonl"
    script = f"job.log_metrics({{'good': 1.0, 'my loss': {value}}})"
    env = {"MLCTL_METRICS_FILE": file}
    assert box.error(script, env).startswith("TypeError: metric 'my loss': expected a real number, got ")
    assert not file.exists()


def test_lines_of_four_processes_stay_whole(box: Sandbox) -> None:
    file = box.folder / "metrics.jsonl"
    script = """
who = sys.stdin.readline().strip()
for step in range(500):
    job.log_metrics({who: step, who + "x" * 3000: -step}, step=step)
"""
    with (box.folder / "log").open("a") as log:
        processes = [box.start(script, {"MLCTL_METRICS_FILE": file}, stdout=log) for _ in range(4)]
    for who, process in enumerate(processes):  # all are up by now, or soon: none starts before it is told
        assert process.stdin is not None
        process.stdin.write(f"p{who}\n")
        process.stdin.flush()
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0, 0]
    metrics = lines_of(file)
    wanted = [(f"p{who}" + "x" * size, step) for who in range(4) for step in range(500) for size in (0, 3000)]
    assert sorted((line["name"], line["step"]) for line in metrics) == sorted(wanted)
    for who in range(4):  # each process's own are in its order
        steps = [line["value"] for line in metrics if line["name"] == f"p{who}"]
        assert steps == list(range(500))
    printed = (box.folder / "log").read_text().splitlines()
    assert sorted(printed) == sorted("mlctl.metric " + line for line in file.read_text().splitlines())


def test_a_broken_stdout_does_not_end_the_job(box: Sandbox) -> None:
    file = box.folder / "metrics.jsonl"
    script = """
sys.stdin.readline()
for step in range(3): job.log_metric("loss", step)
print("the job's own print survives too", flush=True)
"""
    process = box.start(script, {"MLCTL_METRICS_FILE": file})
    assert process.stdin and process.stdout and process.stderr
    process.stdout.close()
    process.stdin.write("go\n")
    process.stdin.close()
    err = process.stderr.read()
    assert (process.wait(timeout=60), err.count("\n"), len(lines_of(file))) == (0, 1, 3)
    assert err.startswith("mlctl.runtime: stdout: ")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_under_stdout_does_not_end_the_job(box: Sandbox) -> None:
    file = box.folder / "metrics.jsonl"
    with Path("/dev/full").open("w") as full:
        process = box.start(
            "for step in range(3): job.log_metric('x', step)", {"MLCTL_METRICS_FILE": file}, stdout=full
        )
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.count("\n"), len(lines_of(file))) == (0, 1, 3)


@pytest.mark.parametrize("stdout", ["None", "open(os.devnull)", "closed", "Tee()"])
def test_no_stdout_to_speak_of_does_not_end_the_job(box: Sandbox, stdout: str) -> None:
    file = box.folder / "metrics.jsonl"
    script = f"""
closed = open(os.devnull, "w"); closed.close()
class Tee:                                # one that wraps a broken pipe, and has no file of its own
    def write(self, text): raise BrokenPipeError("gone")
    def flush(self): pass
sys.stdout = {stdout}
job.log_metrics({{"loss": 1, "acc": 2}})
job.log_metric("loss", 1)
"""
    _, err = box.run(script, {"MLCTL_METRICS_FILE": file})
    assert (len(lines_of(file)), err.count("\n")) == (3, 1)


@pytest.mark.parametrize("path", [".", "no/such/folder/metrics.jsonl", "/dev/full"])
def test_an_unwritable_metrics_file_does_not_end_the_job(box: Sandbox, path: str) -> None:
    script = "for step in range(3): job.log_metric('loss', step)"
    out, err = box.run(script, {"MLCTL_METRICS_FILE": path})
    assert (out.count("mlctl.metric "), err.count("\n")) == (3, 1)
    assert err.startswith(f"mlctl.runtime: metrics file: {path}: ")
    assert err.endswith("; metrics are missing from it, the job goes on\n")


def test_a_line_that_fits_in_part_is_said(box: Sandbox) -> None:
    file = box.folder / "metrics.jsonl"
    script = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10)); job.log_metric('loss', 1)"
    _, err = box.run(script, {"MLCTL_METRICS_FILE": file})
    assert (file.read_text(), err.count("\n"), f"{file}: only 10 of " in err) == ('{"name": "', 1, True)


# SIGTERM


def ready(process: subprocess.Popen[str]) -> subprocess.Popen[str]:
    """The process, once it has said so: from here on a signal finds what its script set up."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if line != "ready\n":
        raise AssertionError(process.communicate(timeout=60))
    return process


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_a_script_that_does_not_ask_dies_of_the_signal(box: Sandbox) -> None:
    process = ready(box.start("ready(); time.sleep(60)"))
    process.terminate()
    assert ended(process) == (-signal.SIGTERM, "", "")


def test_a_loop_that_asks_ends_by_itself(box: Sandbox) -> None:
    script = """
for epoch in range(6000):
    if job.stopping():
        print("saved")
        break
    if epoch == 1: ready()
    time.sleep(0.01)
"""
    process = ready(box.start(script))
    process.terminate()
    assert ended(process) == (0, "saved\n", "")


def test_callbacks_run_in_order_and_only_once(box: Sandbox) -> None:
    script = """
done = []
job.on_stop(lambda: done.append("first"))
job.on_stop(lambda: job.log_metric("last", 1))
job.on_stop(lambda: done.append("second"))
ready()
while not done: time.sleep(0.01)
job.on_stop(lambda: done.append("late, at once"))
show(done)
"""
    process = ready(box.start(script))
    process.terminate()
    code, out, err = ended(process)
    metric, shown = out.splitlines()
    assert (code, err, metric.startswith("mlctl.metric ")) == (0, "", True)
    assert json.loads(shown) == ["first", "second", "late, at once"]


def test_a_callback_may_end_the_job(box: Sandbox) -> None:
    script = """
job.on_stop(lambda: sys.exit(143))
try:
    ready()
    time.sleep(60)
finally: print("cleaned up")
"""
    process = ready(box.start(script))
    process.terminate()
    assert ended(process) == (143, "cleaned up\n", "")


HANGS_AFTER_THE_LOOP = """
job.stopping()
ready()
while not job.stopping(): time.sleep(0.01)
ready()
time.sleep(60)
"""
HANGS_IN_A_CALLBACK = """
def save():
    ready()
    time.sleep(60)
job.on_stop(save)
ready()
time.sleep(60)
"""


@pytest.mark.parametrize("script", [HANGS_AFTER_THE_LOOP, HANGS_IN_A_CALLBACK], ids=["loop", "callback"])
def test_the_second_signal_kills_at_once(box: Sandbox, script: str) -> None:
    process = ready(box.start(script))
    process.terminate()
    ready(process).terminate()
    assert ended(process) == (-signal.SIGTERM, "", "")


def test_a_handler_that_was_there_is_called_too_and_gets_the_second(box: Sandbox) -> None:
    script = """
got = []
def before(signum, frame): got.append(("before", signum, frame is not None))
signal.signal(signal.SIGTERM, before)
job.on_stop(lambda: got.append("callback"))
os.kill(os.getpid(), signal.SIGTERM)
show([got, job.stopping(), signal.getsignal(signal.SIGTERM) is before])
"""
    out, _ = box.run(script)
    assert json.loads(out) == [["callback", ["before", signal.SIGTERM, True]], True, True]


def test_a_handler_put_over_ours_stays(box: Sandbox) -> None:
    script = """
job.stopping()
ours = signal.getsignal(signal.SIGTERM)
def over(signum, frame): ours(signum, frame)
signal.signal(signal.SIGTERM, over)
os.kill(os.getpid(), signal.SIGTERM)
show([job.stopping(), signal.getsignal(signal.SIGTERM) is over])
"""
    assert json.loads(box.run(script)[0]) == [True, True]


def test_asking_first_outside_the_main_thread_warns_and_changes_nothing(box: Sandbox) -> None:
    script = """
import threading
answers = []
def work():
    job.on_stop(lambda: answers.append("called"))
    answers.extend([job.stopping(), job.stopping()])
def in_thread():
    thread = threading.Thread(target=work)
    thread.start(); thread.join()
in_thread()
answers.append(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
job.stopping()                                     # in the main thread: from here on it works in all
os.kill(os.getpid(), signal.SIGTERM)
in_thread()
show(answers)
"""
    out, err = box.run(script)
    assert json.loads(out) == [False, False, True, "called", "called", True, True]
    assert err == (
        "mlctl.runtime: stop: first asked for outside the main thread, so SIGTERM just ends this job:"
        " call stopping() there\n"
    )


def test_a_forked_worker_dies_of_sigterm_unless_it_asks_itself(box: Sandbox) -> None:
    script = """
job.on_stop(lambda: print("the parent's", flush=True))
def child(asks):
    reads, writes = os.pipe()
    pid = os.fork()
    if pid == 0:
        if asks: job.stopping()
        os.write(writes, b".")
        while not (asks and job.stopping()): time.sleep(0.01)
        os._exit(7)
    os.read(reads, 1)
    os.kill(pid, signal.SIGTERM)
    status = os.waitpid(pid, 0)[1]
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
show([child(False), child(True), job.stopping()])
"""
    out, _ = box.run(script)
    assert json.loads(out) == [-signal.SIGTERM, 7, False]


# SageMaker, without mlctl


def training_job(box: Sandbox) -> None:
    texts = {"lr": "0.1", "layers": "[1, 2]", "name": "plain", "quoted": '"7"', "flag": "true", "empty": ""}
    own = {"sagemaker_program": '"train.py"', "_tuning_objective_metric": "loss"}
    box.write("opt/ml/input/config/hyperparameters.json", {**texts, **own})
    (box.folder / "opt/ml/input/data/train-set").mkdir(parents=True)


def test_the_layout_of_a_training_job(box: Sandbox) -> None:
    training_job(box)
    script = """[dict(job.params), job.inputs["train-set"], list(job.inputs), job.outputs["model"],
        job.outputs["report"], job.outputs["report"].is_dir(), job.checkpoint_dir, job.run]"""
    root = box.folder / "opt" / "ml"
    params = {"lr": 0.1, "layers": [1, 2], "name": "plain", "quoted": "7", "flag": True, "empty": ""}
    folders = [str(root / "model"), str(root / "output" / "data" / "report"), True, str(root / "checkpoints")]
    found = box.value(script, {"TRAINING_JOB_NAME": "churn-1"})
    assert found == [params, str(root / "input" / "data" / "train-set"), ["train_set"], *folders, "churn-1"]
    assert "this job has: train_set" in box.error("job.inputs['test']")


def test_the_variables_of_sagemakers_own_images(box: Sandbox) -> None:
    training_job(box)
    env = {
        "SM_HPS": json.dumps({"lr": 0.2, "quoted": "7"}),
        "SM_CHANNELS": '["train-set"]',
        "SM_CHANNEL_TRAIN-SET": "/channel",
        "SM_MODEL_DIR": box.folder / "m",
        "SM_OUTPUT_DATA_DIR": box.folder / "o",
        "TRAINING_JOB_NAME": "churn-1",
        "TRAINING_JOB_ARN": "arn:aws:sagemaker:eu-west-1:123456789012:training-job/churn-1",
    }
    script = "[dict(job.params), dict(job.inputs), job.outputs['model'], job.outputs['report'], job.run]"
    folders = [str(box.folder / "m"), str(box.folder / "o" / "report")]
    wanted = [{"lr": 0.2, "quoted": "7"}, {"train_set": "/channel"}, *folders, env["TRAINING_JOB_ARN"]]
    script = script.replace("dict(job.inputs)", "{name: str(path) for name, path in job.inputs.items()}")
    assert box.value(script, env) == wanted


def test_the_layout_of_a_processing_job(box: Sandbox) -> None:
    root = box.folder / "opt" / "ml" / "processing"
    (root / "input" / "usual").mkdir(parents=True)
    config = {
        "ProcessingJobArn": "arn:aws:sagemaker:eu-west-1:123456789012:processing-job/clean-1",
        "ProcessingInputs": [
            {"InputName": "raw", "S3Input": {"LocalPath": "/elsewhere"}},
            {"InputName": "managed", "AppManaged": True, "S3Input": None},
        ],
        "ProcessingOutputConfig": {
            "Outputs": [{"OutputName": "clean", "S3Output": {"LocalPath": str(box.folder / "there")}}]
        },
    }
    box.write("opt/ml/config/processingjobconfig.json", config)
    script = """[job.inputs["raw"], job.inputs["usual"], sorted(job.inputs), job.outputs["clean"], job.outputs["more"],
        job.outputs["more"].is_dir(), dict(job.params), job.run]"""
    places = ["/elsewhere", str(root / "input" / "usual"), ["raw", "usual"], str(box.folder / "there")]
    assert box.value(script) == [*places, str(root / "output" / "more"), True, {}, config["ProcessingJobArn"]]


def test_what_mlctl_says_wins_over_sagemaker(box: Sandbox) -> None:
    training_job(box)
    env = {
        "MLCTL_PARAMS_FILE": box.write("p.json", {"lr": 9}),
        "MLCTL_INPUT_TRAIN_SET": "/mine",
        "MLCTL_OUTPUT_MODEL": box.folder / "mine",
        "MLCTL_CHECKPOINT_DIR": box.folder / "ckpt",
        "SM_CHANNEL_TEST": "/channel",
        "TRAINING_JOB_NAME": "churn-1",
    }
    script = """[dict(job.params), job.inputs["train-set"], job.outputs["model"], job.checkpoint_dir,
        sorted(job.inputs), job.run]"""
    mine = [{"lr": 9}, "/mine", str(box.folder / "mine"), str(box.folder / "ckpt")]
    assert box.value(script, env) == [*mine, ["test", "train_set"], "churn-1"]
    env["MLCTL_RUN"] = "sagemaker://123456789012/eu-west-1/training-job/churn-0"
    assert box.value(script, env) == [*mine, ["train_set"], env["MLCTL_RUN"]]
    assert "this job has: model" in box.error("job.outputs['report']", env)  # as on any other platform
    del env["MLCTL_PARAMS_FILE"]
    assert box.value("dict(job.params)", env) == {}


HOSTS = {"current_host": "algo-2", "hosts": ["algo-3", "algo-1", "algo-2"]}


@pytest.mark.parametrize(
    ("env", "wanted"),
    [
        ({"RANK": "5", "WORLD_SIZE": "8", "SM_CURRENT_HOST": "algo-1", "SM_HOSTS": '["algo-1"]'}, [5, 8]),
        ({"SM_CURRENT_HOST": "algo-2", "SM_HOSTS": '["algo-1", "algo-2"]'}, [1, 2]),
        ({"RANK": "5"}, [0, 1]),
        ({}, [0, 1]),
    ],
)
def test_rank_and_world_size(box: Sandbox, env: dict[str, str], wanted: list[int]) -> None:
    assert box.value("[job.rank, job.world_size]", env) == wanted


@pytest.mark.parametrize("folder", ["input/config", "config"])
def test_rank_among_sagemakers_nodes(box: Sandbox, folder: str) -> None:
    box.write(f"opt/ml/{folder}/resourceconfig.json", HOSTS)
    assert box.value("[job.rank, job.world_size]") == [1, 3]
