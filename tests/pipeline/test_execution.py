"""Pieces of work over processes: order, exceptions, and an end with nothing left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from pipeline.execution import in_processes, n_workers
from tests.conftest import CPU, ROOT
from tests.pieces import die, fail_below_zero, ignore, sleep_as_told, surroundings, wait_for_the_second


def test_results_come_in_the_order_of_the_items_and_are_heard_of_as_they_are_done(tmp_path: Path) -> None:
    """The first piece ends only once the second has been heard of."""
    heard: list[int] = []

    def hear(item: int) -> None:
        heard.append(item)
        if item == 2:
            (tmp_path / "second").touch()

    assert list(in_processes(wait_for_the_second, tmp_path, [1, 2, 3], n_workers=2, on_done=hear)) == [1, 2, 3]
    assert heard.index(2) < heard.index(1)
    assert sorted(heard) == [1, 2, 3]


def test_workers_have_one_thread_each_and_threads_that_wait_do_not_spin() -> None:
    found = list(in_processes(surroundings, None, [1, 2, 3], n_workers=2, on_done=ignore))
    assert {(threads, policy) for threads, policy, _ in found} == {(1, "PASSIVE")}
    assert os.getpid() not in {pid for _, _, pid in found}


def test_an_exception_is_raised_when_its_turn_comes_with_its_text() -> None:
    results = in_processes(fail_below_zero, 1, [3, -1, 5], n_workers=2, on_done=ignore)
    assert next(results) == 10
    with pytest.raises(ValueError, match=r"^-1 is negative\nand that twice$"):
        next(results)


def test_a_dead_worker_is_said_in_one_sentence() -> None:
    with pytest.raises(ChildProcessError, match="a worker process died"):
        list(in_processes(die, None, [0, 1], n_workers=1, on_done=ignore))


def test_nothing_is_started_for_nothing() -> None:
    assert list(in_processes(fail_below_zero, 0, [], n_workers=2, on_done=ignore)) == []


def test_one_process_for_each_core_torch_may_use_and_one_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    assert n_workers(CPU) == 5
    assert n_workers(torch.device("cuda")) == 1


def workers_in(folder: Path, count: int) -> list[psutil.Process]:
    """The processes that have begun a piece, once there are `count`."""
    deadline = time.monotonic() + 60.0
    while len(found := list(folder.iterdir())) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return [psutil.Process(int(path.name.rpartition(".")[2])) for path in found]


def test_closing_the_iterator_ends_what_still_runs(tmp_path: Path) -> None:
    results = in_processes(sleep_as_told, tmp_path, [0.0, 600.0, 601.0], n_workers=2, on_done=ignore)
    assert next(results) == 0.0
    running = workers_in(tmp_path, 3)
    results.close()  # type: ignore[attr-defined]
    assert psutil.wait_procs(running, timeout=10.0)[1] == []


SCRIPT = """
import sys
from pathlib import Path
from tests.pieces import ignore, sleep_as_told
from pipeline.execution import in_processes
import pipeline.data.dataset
import signal

class Killed(BaseException):
    pass

def end(signum, frame):
    raise Killed

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, end)
    try:
        list(in_processes(sleep_as_told, Path(sys.argv[1]), [600.0, 601.0], n_workers=2, on_done=ignore))
    except (Killed, KeyboardInterrupt) as error:
        print("ended by", type(error).__name__)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "said"),
    [(signal.SIGTERM, "ended by Killed\n"), (signal.SIGINT, "ended by KeyboardInterrupt\n"), (signal.SIGKILL, "")],
)
def test_workers_end_with_the_process_that_started_them(tmp_path: Path, sent: signal.Signals, said: str) -> None:
    """However it ends. Ctrl-C reaches every process of the terminal, so it is sent to all of them.

    The parent has loaded what a real one has: a library's handler may make waits go on where Python's ends them.
    """
    script, folder = tmp_path / "parent.py", tmp_path / "begun"
    script.write_text(SCRIPT)
    folder.mkdir()
    parent = subprocess.Popen(
        [sys.executable, str(script), str(folder)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    running = workers_in(folder, 2)
    if sent == signal.SIGINT:
        os.killpg(parent.pid, sent)
    else:
        parent.send_signal(sent)
    output, errors = parent.communicate(timeout=30.0)
    assert psutil.wait_procs(running, timeout=10.0)[1] == []
    assert output == said
    if sent != signal.SIGKILL:  # Python's resource tracker cleans up after a killed process, and says so
        assert errors == ""
