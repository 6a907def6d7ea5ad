"""What is Prefect's own in tasks and blocks: flows of this process, on a real server. What holds in every orchestrator is in
test_behaviour.py."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect import allow_failure, flow, task, unmapped
from prefect.blocks.core import Block
from prefect.cache_policies import INPUTS
from prefect.client.orchestration import SyncPrefectClient
from prefect.context import FlowRunContext
from prefect.plugins import load_prefect_collections
from prefect_harness import SCRIPT, Jobs, Prefect, until

import mlctl_prefect
from behaviour import PATIENCE
from mlctl.errors import InvalidConfig, InvalidJob, MlctlError, RunFailed
from mlctl.job import KINDS
from mlctl_prefect import MlctlJob, MlctlResult, mlctl_process, mlctl_task, mlctl_train, output

Log = Callable[[Any], str]
Artifacts = Callable[[Any], dict[str, str]]


def flow_run_id() -> Any:
    context = FlowRunContext.get()
    assert context and context.flow_run
    return context.flow_run.id


def test_success(jobs: Jobs, log_of: Log, artifacts_of: Artifacts) -> None:
    """A typed result; the job's log in the flow's; plan, link and table on the flow run."""
    train = mlctl_train(jobs.write())

    @flow
    def nightly() -> tuple[Any, MlctlResult]:
        return flow_run_id(), train()

    run, result = nightly()
    assert isinstance(result, MlctlResult)
    assert (result.metrics, result.job, result.kind) == ({"loss": 0.25}, "train", "train")
    assert Path(result.outputs["model"], "model.txt").read_text() == "trained\n"
    assert MlctlResult.model_validate_json(result.model_dump_json()) == result
    assert "hello from the job" in log_of(run).splitlines()
    shown = artifacts_of(run)
    assert set(shown) == {"train-plan", "train-run", "train-results"}
    assert result.run in shown["train-run"]
    assert f"prefect/{run}/train/0" in shown["train-plan"]
    assert {"what": "metric loss", "value": 0.25} in json.loads(shown["train-results"])


def test_success_async(jobs: Jobs) -> None:
    """In an async flow the same task is awaited, and the event loop goes on meanwhile."""
    train = mlctl_train(jobs.write(gated=True))

    @flow
    async def nightly() -> list[MlctlResult]:
        waiting = asyncio.gather(train(), train())
        while jobs.said("started") < 2:  # both run, and this loop turns
            await asyncio.sleep(0.02)
        jobs.open()
        return await waiting

    first, second = asyncio.run(nightly())
    assert first.run != second.run and jobs.attempts() == 2


def test_map_and_submit(jobs: Jobs) -> None:
    """A job for each element; what is a mapping is the same for all; results come in order."""
    path = jobs.write(
        params={"lr": {"type": "number"}, "seed": 1}, script='cat "$MLCTL_PARAMS_FILE" > "$MLCTL_OUTPUT_MODEL/p"'
    )
    train = mlctl_train(path)

    @task
    def choose() -> list[dict[str, float]]:
        return [{"lr": 0.1}, {"lr": 0.2}]

    @flow
    def sweep() -> Any:
        listed = train.map([{"lr": 0.3}, {"lr": 0.4}], unmapped({}))
        later = train.with_options(name="later", tags=["sweep"], params={"seed": 2}).map(choose.submit(), {})
        return [one.result() for one in (*listed, *later, train.submit({"lr": 0.5}))]

    seen = [json.loads(Path(one.outputs["model"], "p").read_text()) for one in sweep()]
    assert [one["lr"] for one in seen] == [0.3, 0.4, 0.1, 0.2, 0.5]
    assert [one["seed"] for one in seen] == [1, 1, 2, 2, 1]
    assert jobs.attempts() == 5


def test_mapped_jobs_are_found_again(jobs: Jobs) -> None:
    """Whatever gives the elements, each call has its key; a mapping is the same for all, a future's too."""
    train = mlctl_train(jobs.write(params={"lr": 0.1, "seed": 1}))
    seen: list[list[str]] = []

    @task
    def choose(found: Any) -> Any:
        return found

    @flow(retries=1)
    def sweep() -> None:
        lists = (
            ({"lr": lr} for lr in (0.1, 0.2)),
            choose([{"lr": 0.3}, {"lr": 0.4}], return_state=True),
            allow_failure([{"lr": 0.5}, {"lr": 0.6}]),
        )
        futures = [one for given in lists for one in train.map(given)]
        futures += train.map(choose.submit({"lr": 0.7}), key=["one", "two"])
        seen.append([one.result().run for one in futures])
        if len(seen) < 2:
            raise RuntimeError("once")

    sweep()
    assert seen[0] == seen[1] and jobs.attempts() == len(set(seen[0])) == 8


def test_subflows_of_tasks(jobs: Jobs) -> None:
    """A subflow that a task calls says whether its jobs are awaited, not the task."""
    train = mlctl_train(jobs.write())

    @flow
    def plain() -> str:
        return str(train().run)

    @flow
    async def awaiting() -> str:
        return str((await train()).run)

    @task
    async def calls_plain() -> str:
        return plain()

    @task
    def calls_awaiting() -> str:
        return asyncio.run(awaiting())  # type: ignore[arg-type]

    @flow
    async def nightly() -> list[str]:
        return [await calls_plain(), await asyncio.to_thread(calls_awaiting)]

    assert len(set(asyncio.run(nightly()))) == jobs.attempts() == 2


def test_background(jobs: Jobs, prefect: Prefect, tmp_path: Path) -> None:
    """A task worker runs the call that was delayed, with what `with_options` changed of the job; a flow's retry finds it again."""
    path = jobs.write(params={"lr": 0.1}, script='cat "$MLCTL_PARAMS_FILE" > "$MLCTL_OUTPUT_MODEL/p"')
    served = tmp_path / "served.py"
    served.write_text(f"import mlctl_prefect\ntrain = mlctl_prefect.mlctl_train({str(path)!r})\n")
    prefect.serve_task(served, "train", jobs.home)
    train = mlctl_train(path)
    seen: list[tuple[str, float]] = []

    def left(future: Any) -> None:
        future.wait(PATIENCE)
        result = future.result()
        seen.append((result.run, json.loads(Path(result.outputs["model"], "p").read_text())["lr"]))

    @flow(retries=1)
    def nightly() -> None:
        left(train.with_options(params={"lr": 0.3}).delay())
        if len(seen) < 3:
            raise RuntimeError("once")

    left(train.delay({"lr": 0.2}))
    nightly()
    assert [lr for _, lr in seen] == [0.2, 0.3, 0.3]
    assert seen[1] == seen[2] and jobs.attempts() == 2


def test_kinds(jobs: Jobs) -> None:
    """A task of one kind for each row of the table of kinds; a job of another kind fails at once."""
    names = {f"mlctl_{kind.replace('-', '_')}" for kind in KINDS}
    assert names <= set(mlctl_prefect.__all__) and all(hasattr(mlctl_prefect, name) for name in names)
    wrong = mlctl_process(jobs.write(), retries=3)
    assert_fails_at_once(wrong, InvalidJob, "kind: got train, expected process", jobs)


def assert_fails_at_once(wrong: Any, kind: type[MlctlError], text: str, jobs: Jobs, **given: Any) -> None:
    tries = []
    told = wrong.with_options(on_running=[lambda task, run, state: tries.append(state)], retry_delay_seconds=60)

    @flow
    def nightly() -> None:
        told(**given)

    with pytest.raises(kind) as raised:
        nightly()
    assert text in str(raised.value) and "\n" not in str(raised.value)
    assert len(tries) == 1 and jobs.attempts() == 0


@pytest.mark.parametrize(
    ("options", "given", "kind", "text"),
    [
        ({}, {"inputs": {"nowhere": "x"}}, InvalidJob, "nowhere"),
        ({}, {"params": [1]}, InvalidJob, "params: got [1], expected a mapping"),
        ({}, {"inputs": "x"}, InvalidJob, "inputs: got 'x', expected a mapping"),
        ({"on_change": "maybe"}, {}, InvalidConfig, "on_change"),
    ],
)  # fmt: skip
def test_bad_input(jobs: Jobs, options: Any, given: Any, kind: type[MlctlError], text: str) -> None:
    """mlctl's error and its one line reach the flow at once, whatever the task's retries say."""
    options = {"job": jobs.write(), "retries": 3, **options}
    assert_fails_at_once(mlctl_task(options.pop("job"), **options), kind, text, jobs, **given)


def test_key_is_of_a_call(jobs: Jobs) -> None:
    """As an option it would be the key of nothing: each call has its own."""
    with pytest.raises(TypeError, match="'key'"):
        mlctl_train(jobs.write()).with_options(key="mine")


FAILS_ONCE = 'echo started >> "$TRACE"; [ "$(wc -l < "$TRACE")" -gt 1 ] || exit 3; echo done > "$MLCTL_OUTPUT_MODEL/x"'


def test_retry_condition(jobs: Jobs) -> None:
    """A condition of the user's is asked before the task's retries start the next attempt."""
    asked: list[Any] = []

    async def condition(task: Any, run: Any, state: Any) -> bool:
        asked.append(state)
        return True

    train = mlctl_train(jobs.write(script=FAILS_ONCE), retries=2, retry_condition_fn=condition)

    @flow
    def nightly() -> MlctlResult:
        return train()

    assert nightly().run.endswith("-1")
    assert jobs.said("started") == 2 and len(asked) == 1


def test_flow_retry(jobs: Jobs) -> None:
    """A flow's retry finds what succeeded under the same keys, and tries anew what failed."""
    steady, shaky = mlctl_train(jobs.write("steady", script=":")), mlctl_train(jobs.write("shaky", script=FAILS_ONCE))
    seen = []

    @flow(retries=1)
    def nightly() -> None:
        seen.append(steady().run)
        seen.append(steady().run)
        shaky()

    nightly()
    assert seen[:2] == seen[2:] and seen[0] != seen[1]
    assert jobs.said("started") == 2 and jobs.attempts() == 4


@pytest.mark.parametrize("where", ["subflow", "task", "submit", "deep", "block"])
def test_own_key_at_a_later_try(jobs: Jobs, where: str) -> None:
    """A job that failed under a key of the user's is tried anew at a later try of whatever its caller is called in, though the
    caller itself is new there; a first try reports it."""
    path = jobs.write(script=FAILS_ONCE)

    def train() -> str:
        if where == "block":
            return str(MlctlJob(job=str(path)).trigger(key="mine").fetch_result().run)
        asked = mlctl_train(path)
        return str((asked.submit(key="mine").result() if where == "submit" else asked(key="mine")).run)

    @flow
    def below() -> str:
        return task(train)() if where == "deep" else train()

    @task(retries=1)
    def around() -> str:
        return below() if where == "deep" else train()

    @flow
    def nightly() -> str:
        return around()

    @flow(retries=1)
    def retried() -> str:
        return below()

    for _ in range(2):  # a first try each, which reports what it finds
        with pytest.raises(RunFailed, match="-0: failed"):
            below()
    end = nightly() if where in ("task", "submit", "deep") else retried()
    assert end.endswith("-1") and jobs.attempts() == 2


def test_adopted_failure_is_this_trys_own(jobs: Jobs) -> None:
    """A later try that finds the run alive reports how it ends; the next attempt is for the try after that."""
    path = jobs.write(gated=True, script=f"{SCRIPT} exit 3")
    tries: list[Any] = []

    @flow(retries=1)
    def nightly() -> None:
        tries.append(MlctlJob(job=str(path)).trigger(key="mine"))
        if len(tries) < 2:
            raise RuntimeError("once")
        jobs.open()
        tries[1].wait_for_completion()

    with pytest.raises(RunFailed, match="-0: failed"):
        nightly()
    assert jobs.attempts() == 1


def test_persisted_results_keep_their_place(jobs: Jobs) -> None:
    """What Prefect answers from its cache counts as a call: the next one keeps its key."""
    train = mlctl_train(jobs.write(script='echo "$N" >> "$TRACE"', params={"n": 0}, env={"N": "${{params.n}}"}))
    seen: list[list[str]] = []

    @flow(retries=1)
    def nightly() -> None:
        cached = train.with_options(persist_result=True, cache_policy=INPUTS)
        seen.append([cached({"n": 1}).run, train({"n": 2}).run])
        if len(seen) < 2:
            raise RuntimeError("once")

    nightly()
    assert seen[0] == seen[1] and jobs.trace.read_text().split() == ["1", "2"]


def test_jobs_dont_share_prefects_cache(jobs: Jobs) -> None:
    """Two jobs with the same parameters are two cache keys, by inputs and by source."""
    one, two = (mlctl_train(jobs.write(name, script=":"), persist_result=True) for name in ("one", "two"))

    @flow
    def nightly() -> tuple[str, str]:
        return one().job, two().job

    assert nightly() == ("one", "two")
    by_inputs = [each.with_options(cache_policy=INPUTS) for each in (one, two)]
    one, two = by_inputs
    assert nightly() == ("one", "two")


def test_timeout_async(jobs: Jobs) -> None:
    """Prefect's timeout ends the job of an async flow too."""
    long = mlctl_train(jobs.write(gated=True), timeout_seconds=8)

    @flow
    async def nightly() -> None:
        await long()

    with pytest.raises(TimeoutError):
        asyncio.run(nightly())
    until(lambda: jobs.said("stopped"), what="the end of the job")


def test_changed_job(jobs: Jobs) -> None:
    """A key of the user's own is the same run from every flow run; with another job it is an error that says what changed, at
    once; on_change decides."""
    train = mlctl_train(jobs.write(params={"lr": 0.1}), retries=3)

    @flow
    def nightly(lr: float, on_change: str = "fail") -> str:
        return str(train.with_options(on_change=on_change)({"lr": lr}, key="mine").run)

    first = nightly(0.1)
    assert nightly(0.1) == first
    with pytest.raises(InvalidJob, match="params changed"):
        nightly(0.2)
    assert nightly(0.2, "adopt") == first
    assert nightly(0.2, "replace") == first[:-1] + "1"


def test_outputs_of_futures(jobs: Jobs) -> None:
    """Outputs of futures are inputs of the next job; a name that isn't there is one line."""
    train = mlctl_train(jobs.write())
    apply = {"kind": "batch-inference", "inputs": {"model": {"type": "model"}}, "outputs": {"model": {}}}
    predict = mlctl_task(
        jobs.write("apply", script='cp "$MLCTL_INPUT_MODEL/model.txt" "$MLCTL_OUTPUT_MODEL/"', **apply), retries=3
    )

    @flow
    def nightly() -> list[MlctlResult]:
        trained = train.submit()
        later = predict.submit(inputs={"model": output(trained, "model")})
        return [later.result(), predict(inputs={"model": trained})]

    assert [Path(one.outputs["model"], "model.txt").read_text() for one in nightly()] == ["trained\n"] * 2

    @flow
    def wrong(late: bool) -> None:
        trained = train()
        predict(inputs={"model": output(trained, "modle") if late else trained.outputs["modle"]})

    for late in (True, False):
        with pytest.raises(InvalidJob, match=r"outputs.modle: the job has no such output; did you mean 'model'\?"):
            wrong(late)
    with pytest.raises(InvalidJob, match=r"inputs\.model: got nothing, expected a path or URI"):
        flow(lambda: predict(inputs={"model": None}))()


def test_secrets_masked(
    jobs: Jobs, log_of: Log, artifacts_of: Artifacts, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A secret that the job prints is *** in Prefect's log, and in no artifact."""
    monkeypatch.setenv("HF_TOKEN", "s3cr3t-7f1e9c\nsecond-l1ne")
    train = mlctl_train(jobs.write(secrets=["HF_TOKEN"], script='echo "token: $HF_TOKEN"; exit 1'))
    seen = []

    @flow
    def nightly() -> None:
        seen.append(flow_run_id())
        train()

    with pytest.raises(RunFailed, match=r"train-\w+-0: failed \(error\)") as raised:
        nightly()
    assert raised.value.status.exit_code == 1
    said = log_of(seen[0])
    assert "token: ***" in said
    for text in (said, str(artifacts_of(seen[0])), "".join(capfd.readouterr())):
        assert "s3cr3t" not in text and "second-l1ne" not in text


def test_block(jobs: Jobs) -> None:
    """A block, saved and loaded; triggered from a flow and from a task of the user's; sync and async."""
    MlctlJob(job=str(jobs.write(params={"lr": 0.1})), params={"lr": 0.2}).save(
        "nightly-train", overwrite=True, _sync=True
    )
    tries = []

    @task(retries=1)
    def mine() -> str:
        run = MlctlJob.load("nightly-train", _sync=True).trigger()
        tries.append(run.url)
        if len(tries) < 2:
            raise RuntimeError("once")
        return str(run.fetch_result().run)

    @flow
    def nightly() -> tuple[str, str]:
        run = MlctlJob.load("nightly-train", _sync=True).trigger({"lr": 0.3})
        run.wait_for_completion()
        assert run.fetch_result().metrics == {"loss": 0.25}
        return run.url, mine()

    first, second = nightly()
    assert first != second and tries == [second, second] and jobs.attempts() == 2

    @flow
    async def later() -> MlctlResult:
        block = await MlctlJob.aload("nightly-train")
        run = await block.trigger()
        await run.wait_for_completion()
        return await run.fetch_result()

    assert asyncio.run(later()).metrics == {"loss": 0.25}


def test_block_refuses(jobs: Jobs) -> None:
    """What is wrong is said by trigger; a cancelled run is ended."""
    with pytest.raises(InvalidJob, match=r"missing\.yaml"):
        MlctlJob(job="missing.yaml").trigger()
    run = MlctlJob(job=str(jobs.write(gated=True))).trigger()
    while not jobs.said("started"):
        time.sleep(0.02)
    run.cancel()
    with pytest.raises(RunFailed, match="cancelled"):
        run.wait_for_completion()
    assert jobs.said("stopped") == 1


def test_block_fields(jobs: Jobs, client: SyncPrefectClient, caplog: pytest.LogCaptureFixture) -> None:
    """A field that isn't there is refused; in a block that the server has had for long it is told, and left out."""
    path = str(jobs.write())
    for wrong in ({"on_chnge": "adopt"}, {"on_chnge": "adopt", "block_type_slug": "mlctl-job"}):
        with pytest.raises(InvalidJob, match=r"^MlctlJob: on_chnge: unknown field; did you mean 'on_change'\?$"):
            MlctlJob(job=path, **wrong)
    block = MlctlJob(job=path, on_change="adopt")
    with pytest.raises(ValueError, match="on_chnge"):
        block.on_chnge = "fail"
    saved = block.save("old", overwrite=True, _sync=True)
    assert MlctlJob.load("old", _sync=True).model_dump() == block.model_dump()
    assert Block.load("mlctl-job/old", _sync=True) == MlctlJob.load("old", _sync=True)

    @flow
    def given(one: MlctlJob) -> str:
        return one.on_change

    assert given(block) == given(block.model_dump(context={"include_secrets": True})) == "adopt"
    for data in ({"job": path}, {"job": path, "on_chnge": "adopt"}):
        kept = {"data": data, "merge_existing_data": False}
        client.request("PATCH", "/block_documents/{id}", path_params={"id": saved}, json=kept)
        assert client.read_block_document(saved).data == data
        old = MlctlJob.load("old", _sync=True)
        assert (old.job, old.on_change, old.model_extra) == (path, "fail", None)
    assert "MlctlJob: on_chnge: unknown field; did you mean 'on_change'?: left out" in caplog.text


def test_collection(client: SyncPrefectClient) -> None:
    """Prefect finds the collection by its entry point; a server that has it shows the block, and none that isn't one."""
    assert load_prefect_collections()["mlctl_prefect"] is mlctl_prefect
    shown = client.request("POST", "/block_types/filter", json={"limit": 200}).json()
    assert [one["name"] for one in shown if "mlctl" in one["slug"]] == ["mlctl job"]
