"""Pieces of work side by side: order, reports, errors, and an end that leaves nothing running."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from tft.runtime.threads import Report, Stopped, run_in_threads

pytestmark = pytest.mark.alone


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("fold-thread")]


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_results_come_in_the_order_of_the_work_whichever_is_done_first(n_threads: int) -> None:
    def piece(number: int) -> int:
        time.sleep(0.02 * (3 - number % 4))
        return number

    work = [lambda report, number=number: piece(number) for number in range(8)]
    assert list(run_in_threads(work, n_threads, lambda report: None)) == list(range(8))
    assert not workers()


def test_two_workers_work_at_the_same_time_and_one_does_not() -> None:
    """Two pieces that wait for each other end only if both run at once."""
    meeting = threading.Barrier(2, timeout=10)
    work = [lambda report: meeting.wait() >= 0] * 2
    assert list(run_in_threads(work, 2, lambda report: None)) == [True, True]
    alone = threading.Barrier(2, timeout=0.1)
    with pytest.raises(threading.BrokenBarrierError):
        list(run_in_threads([lambda report: alone.wait()] * 2, 1, lambda report: None))


def test_each_worker_has_one_torch_thread_and_the_caller_keeps_its_own() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert list(run_in_threads([lambda report: torch.get_num_threads()] * 3, 2, lambda report: None)) == [1, 1, 1]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_reports_arrive_in_the_caller_s_thread_before_the_result_they_belong_to() -> None:
    seen: list[tuple[str, threading.Thread]] = []

    def piece(report: Report) -> str:
        for number in range(3):
            report(f"report {number}")
            report(None)  # only asks whether to go on
        return "result"

    for result in run_in_threads([piece], 1, lambda what: seen.append((what, threading.current_thread()))):
        assert result == "result"
        assert [what for what, _ in seen] == ["report 0", "report 1", "report 2"]
    assert {thread for _, thread in seen} == {threading.current_thread()}


def test_an_exception_is_raised_when_its_turn_comes() -> None:
    def fails(report: Report) -> int:
        raise ValueError("this one")

    results = run_in_threads([lambda report: 1, fails, lambda report: 3], 2, lambda what: None)
    assert next(results) == 1
    with pytest.raises(ValueError, match="this one"):
        next(results)
    assert not workers()


def test_when_the_caller_leaves_what_runs_stops_and_what_waits_never_starts() -> None:
    started: list[int] = []
    stopped: list[int] = []

    def piece(number: int, report: Report) -> int:
        started.append(number)
        try:
            while number:
                report(None)
                time.sleep(0.001)
        except Stopped:
            stopped.append(number)
            raise
        return number

    work = [lambda report, number=number: piece(number, report) for number in range(10)]
    results = run_in_threads(work, 2, lambda what: None)
    assert next(results) == 0
    results.close()
    assert not workers()
    assert sorted(stopped) == sorted(set(started) - {0})
    assert len(started) <= 4
