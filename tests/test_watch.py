"""The loop that waits: what it asks, how often, and what it makes of a platform that doesn't answer.

The platforms here are scripted: a real one can't be made to fail on cue.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import pytest

import mlctl
from mlctl import watch
from mlctl.backend import Base, Settings
from mlctl.errors import MlctlError, RunNotFound, Unauthorized, Unavailable
from mlctl.runs import Run, State, Status
from mlctl.watch import Poller, rounds, until_done

RUNNING = Status(State.RUNNING)
DONE = Status(State.SUCCEEDED, exit_code=0)
Answer = Status | MlctlError


class Scripted(Base):
    """A platform whose answers are given; it notes what it was asked, by which thread, and how long it paused."""

    name = "scripted"
    interval = 1.0

    def __init__(self, answer: Callable[[int, Run], Answer]) -> None:
        super().__init__(Settings("scripted", {}, Path("/nowhere")))
        self.answer = answer
        self.asked: list[list[Run]] = []
        self.threads: set[int] = set()
        self.pauses: list[float] = []
        self.gate: threading.Semaphore | None = None

    def status(self, runs: Sequence[Run]) -> Mapping[Run, Answer]:
        self.asked.append(list(runs))
        self.threads.add(threading.get_ident())
        return {run: self.answer(len(self.asked) - 1, run) for run in runs}

    def pause(self, runs: Sequence[Run], seconds: float) -> None:
        self.pauses.append(seconds)
        if self.gate:
            self.gate.acquire(timeout=10)


def scripted(answer: Callable[[int, Run], Answer]) -> Any:
    return Scripted(answer)


def run(number: int = 0) -> Run:
    return Run("scripted", "a", "b", f"r-{number}")


def after(rounds: int, status: Answer = DONE) -> Callable[[int, Run], Answer]:
    return lambda round_, _: status if round_ >= rounds else RUNNING


def raising(error: BaseException, first: int = 0, last: int = 10**9) -> Callable[[int, Run], Answer]:
    """Raises in the rounds from `first` to before `last`; then all is done."""

    def answer(round_: int, _: Run) -> Answer:
        if first <= round_ < last:
            raise error
        return DONE if round_ >= last else RUNNING

    return answer


def answer_of(poller: Poller, run: Run) -> Future[Answer | BaseException]:
    """What a waiter for that run will be told."""
    answer: Future[Answer | BaseException] = Future()
    poller.watch(run, answer.set_result)
    return answer


def ended(poller: Poller) -> bool:
    """True once the poller's thread is gone."""
    deadline = time.monotonic() + 10
    while any(thread.name == f"mlctl-{poller.backend.name}" for thread in threading.enumerate()):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


# ---- One waiter


def test_each_status_is_seen_and_the_last_is_given() -> None:
    backend, seen = scripted(after(3)), []
    assert until_done(backend, run(), each=seen.append) == DONE
    assert seen == [RUNNING] * 3 + [DONE]
    assert backend.asked == [[run()]] * 4


def test_pauses_grow_from_short_to_the_platforms_own() -> None:
    """Less the time that the question took, up to half of them."""
    backend = scripted(after(20))
    until_done(backend, run())
    paces = [min(watch.FIRST * watch.GROWTH**number, backend.interval) for number in range(20)]
    assert paces[-1] == backend.interval
    assert all(0.499 * pace <= pause < pace for pace, pause in zip(paces, backend.pauses, strict=True))
    slow = scripted(lambda round_, _: time.sleep(0.01) or after(3)(round_, run()))
    until_done(slow, run(), interval=0.001)
    assert slow.pauses == [0.0005] * 3


def test_an_outage_is_waited_out_however_long(caplog: pytest.LogCaptureFixture) -> None:
    """Slower and slower, to a minute; a failed poll is never a failed run. 1,100 failures are most of a day."""
    backend = scripted(raising(Unavailable("503"), 2, 1102))
    with caplog.at_level(logging.WARNING, "mlctl"):
        assert until_done(backend, run()) == DONE
    assert len(backend.asked) == 1103
    assert max(backend.pauses) == watch.SLOWEST and backend.pauses[100:1100] == [watch.SLOWEST] * 1000
    assert "503; trying again" in caplog.text


def test_after_an_outage_the_pace_is_the_old_one() -> None:
    def answer(round_: int, _: Run) -> Answer:
        if 5 <= round_ < 15:
            raise Unavailable("503")
        return DONE if round_ == 20 else RUNNING

    backend = scripted(answer)
    until_done(backend, run())
    assert max(backend.pauses[5:15]) > backend.interval
    assert all(pause <= backend.interval for pause in backend.pauses[15:])


def test_an_outage_of_one_run_is_waited_out() -> None:
    """Once it was seen: a run that can't be seen from the start, such as another machine's, would be waited for for ever."""
    backend = scripted(lambda round_, _: RUNNING if round_ == 0 else Unavailable("lost") if round_ < 30 else DONE)
    assert until_done(backend, run()) == DONE
    assert backend.pauses == sorted(backend.pauses) and backend.pauses[-1] == watch.SLOWEST
    backend = scripted(lambda round_, _: Unavailable("lives elsewhere"))
    with pytest.raises(Unavailable, match="lives elsewhere"):
        until_done(backend, run())
    assert len(backend.asked) == 1
    told = answer_of(Poller(backend), run()).result(10)
    assert isinstance(told, Unavailable) and str(told) == "lives elsewhere"


def test_a_run_that_was_made_may_be_out_of_reach_at_first() -> None:
    """For so long, and no longer."""
    backend = scripted(lambda round_, _: Unavailable("lost") if round_ < 30 else DONE)
    assert until_done(backend, run(), unseen=60) == DONE
    assert until_done(scripted(lambda *_: Unavailable("lost")), run(), timeout=0, unseen=60) is None
    backend = scripted(lambda *_: time.sleep(0.001) or Unavailable("lost"))
    with pytest.raises(Unavailable, match="lost"):
        until_done(backend, run(), unseen=0.05)
    assert len(backend.asked) > 1


def test_a_run_that_lives_elsewhere_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever `unseen` says; but where that can't be told just now, it is."""

    def unknown(one: Run) -> bool:
        raise Unavailable("who can say")

    backend = scripted(lambda round_, _: Unavailable("lives elsewhere") if round_ < 3 else DONE)
    monkeypatch.setattr(backend, "reaches", unknown)
    assert until_done(backend, run(), unseen=60) == DONE
    backend = scripted(lambda *_: Unavailable("lives elsewhere"))
    monkeypatch.setattr(backend, "reaches", lambda one: False)
    with pytest.raises(Unavailable, match="lives elsewhere"):
        until_done(backend, run(), unseen=60)
    assert len(backend.asked) == 1


@pytest.mark.parametrize("error", [RunNotFound("gone"), Unauthorized("no")])
def test_an_error_about_the_run_is_raised(error: MlctlError) -> None:
    with pytest.raises(type(error)):
        until_done(scripted(after(2, error)), run())  # type: ignore[arg-type]
    with pytest.raises(type(error)):
        until_done(scripted(raising(error, 2)), run())


def test_a_wait_that_is_not_enough() -> None:
    backend = scripted(after(10**9))
    assert until_done(backend, run(), timeout=0) is None
    assert len(backend.asked) == 1  # asked once all the same
    assert until_done(scripted(raising(Unavailable("503"))), run(), timeout=0.01) is None
    assert until_done(scripted(after(0)), run(), timeout=0) == DONE


def test_rounds_end_when_nobody_waits() -> None:
    backend = scripted(after(10**9))
    assert list(rounds(backend, list)) == []
    live = [run()]
    assert [live.clear() for _ in rounds(backend, lambda: live)] == [None]
    assert len(backend.asked) == 1 and backend.pauses == []


# ---- Many waiters


def test_thousands_of_runs_are_one_call_a_round() -> None:
    ends = {run(number): number % 7 for number in range(5000)}
    backend = scripted(lambda round_, one: DONE if round_ >= ends[one] + 1 else RUNNING)
    backend.gate = threading.Semaphore(0)
    poller = Poller(backend, interval=0.001)
    futures = [answer_of(poller, one) for one in ends]
    for _ in range(20):
        backend.gate.release()
    assert not wait(futures, 20).not_done
    assert {future.result() for future in futures} == {DONE}
    assert ended(poller)
    sizes = [len(asked) for asked in backend.asked]
    assert len(sizes) <= 9 and max(sizes) == 5000
    assert sizes[-6:] == sorted(sizes[-6:], reverse=True)  # what has ended is not asked about again
    assert len(backend.threads) == 1
    assert all(len(set(asked)) == len(asked) for asked in backend.asked)


def test_a_run_with_two_waiters_is_asked_about_once_and_until_the_last_has_gone() -> None:
    backend = scripted(after(10**9))
    backend.gate = threading.Semaphore(0)
    poller, told = Poller(backend), [lambda _: None, lambda _: None]
    for one in told:
        poller.watch(run(), one)
    poller.forget(run(), told[0])
    poller.forget(run(), told[0])  # again
    poller.forget(run(1), told[1])  # which nobody waits for
    for _ in range(3):
        backend.gate.release()
    deadline = time.monotonic() + 10
    while len(backend.asked) < 3 and time.monotonic() < deadline:
        time.sleep(0.002)
    assert backend.asked[:3] == [[run()]] * 3
    poller.forget(run(), told[1])
    backend.gate.release()
    assert ended(poller)
    assert not poller._seen


def test_each_of_two_waiters_is_told_whatever_becomes_of_the_other(caplog: pytest.LogCaptureFixture) -> None:
    def closed(_: object) -> None:
        raise RuntimeError("Event loop is closed")

    backend = scripted(after(1))
    backend.gate = threading.Semaphore(0)
    poller = Poller(backend)
    poller.watch(run(), closed)
    second, other = answer_of(poller, run()), answer_of(poller, run(1))
    backend.gate.release()
    assert (second.result(10), other.result(10)) == (DONE, DONE)
    assert ended(poller)
    assert "scripted://a/b/r-0: a waiter could not be told" in caplog.text


def test_the_thread_ends_and_another_starts() -> None:
    backend = scripted(after(0))
    poller = Poller(backend)
    for number in range(5):
        assert answer_of(poller, run(number)).result(10) == DONE
        assert ended(poller)
    assert len(backend.asked) == 5


def test_watching_never_meets_a_thread_that_is_just_ending() -> None:
    """A waiter who is left to no thread would never be told."""
    poller = Poller(scripted(after(0)), interval=0)
    for number in range(2000):
        assert answer_of(poller, run(number)).result(10) == DONE
    assert ended(poller)


def test_many_threads_watch_and_forget() -> None:
    poller = Poller(scripted(lambda round_, one: DONE if hash((round_, one.name)) % 3 == 0 else RUNNING), interval=0)
    results: list[object] = []
    dropped: list[object] = []

    def work(me: int) -> None:
        for number in range(100):
            mine, other = run(me * 1000 + number), run(me * 1000 + number + 500)
            future = answer_of(poller, mine)
            poller.watch(other, dropped.append)
            poller.forget(other, dropped.append)
            results.append(future.result(20))

    threads = [threading.Thread(target=work, args=(me,)) for me in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [DONE] * 800
    assert set(dropped) <= {DONE}
    assert ended(poller)


def test_a_bad_run_spoils_no_other() -> None:
    answers: dict[Run, Answer] = {run(0): RunNotFound("gone"), run(2): DONE}
    later: list[Answer] = [
        RUNNING,
        Unavailable("lost"),
        Unavailable("lost"),
        DONE,
    ]  # of its own looks: it may miss a round
    backend = scripted(lambda round_, one: later.pop(0) if one == run(1) else answers[one])
    backend.gate = threading.Semaphore(0)
    poller = Poller(backend)
    futures = [answer_of(poller, run(number)) for number in range(3)]
    for _ in range(10):
        backend.gate.release()
    assert isinstance(futures[0].result(10), RunNotFound)
    assert (futures[1].result(10), futures[2].result(10)) == (DONE, DONE)
    assert ended(poller)


def test_an_outage_ends_no_wait() -> None:
    poller = Poller(scripted(raising(Unavailable("503"), 0, 50)))
    assert answer_of(poller, run()).result(10) == DONE
    assert ended(poller)


@pytest.mark.parametrize("error", [Unauthorized("expired"), ZeroDivisionError("a bug"), SystemExit(3)])
def test_what_ends_the_loop_reaches_every_waiter(error: BaseException) -> None:
    backend = scripted(raising(error, 1, 2))
    backend.gate = threading.Semaphore(0)
    poller = Poller(backend)
    futures = [answer_of(poller, run(number)) for number in range(10)]
    backend.gate.release()
    assert [future.result(10) for future in futures] == [error] * 10
    assert ended(poller)
    assert answer_of(poller, run()).result(10) == DONE  # and the poller goes on for who comes next
    assert ended(poller)


def test_a_thread_that_cannot_start_leaves_the_poller_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    poller = Poller(scripted(after(0)))

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as broken:
        broken.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError):
            poller.watch(run(), print)
    assert answer_of(poller, run()).result(10) == DONE
    assert ended(poller)


# ---- A real platform


def test_a_poller_over_real_runs() -> None:
    handles = [
        mlctl.submit({"kind": "process", "name": "t", "command": {"shell": f"sleep 0.{code}; exit {code}"}})
        for code in range(1, 6)
    ]
    poller = Poller(handles[0].backend)
    futures = [answer_of(poller, handle.run) for handle in handles]
    unknown = answer_of(poller, Run("local", handles[0].run.account, handles[0].run.scope, "t-none-0"))
    assert [getattr(future.result(20), "exit_code", None) for future in futures] == [1, 2, 3, 4, 5]
    assert isinstance(unknown.result(10), RunNotFound)
    assert ended(poller)
