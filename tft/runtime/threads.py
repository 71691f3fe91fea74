"""Independent pieces of work side by side in threads, one CPU core each.

torch releases the interpreter while it computes, so that threads are enough: they share the panel, nothing is pickled,
and nothing is left running when the process dies.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch

from tft.runtime.heap import keep_freed_memory
from tft.runtime.lent_cores import lend

WAIT_S = 1.0

Result = TypeVar("Result")
Report = Callable[[Any], None]


class Stopped(Exception):
    """Raised inside a piece of work whose result nobody waits for any more."""


def run_in_threads(
    work: Sequence[Callable[[Report], Result]], n_threads: int, on_report: Callable[[Any], None]
) -> Iterator[Result]:
    """Results in the order of `work`, at most `n_threads` pieces at a time, each in a thread with one torch thread.

    A worker without a piece lends its core to the others, which are done sooner with the same results (lent_cores.py).
    What a piece hands to the function it is called with arrives at `on_report`, in the caller's thread. The exception
    of a piece is raised when its turn comes. When the iterator is closed, what runs stops at its next report.
    """
    keep_freed_memory()
    messages: queue.SimpleQueue[tuple[int, str, Any]] = queue.SimpleQueue()
    todo = iter(range(len(work)))
    lock, stop = threading.Lock(), threading.Event()

    def run() -> None:
        torch.set_num_threads(1)
        while not stop.is_set():
            with lock:
                number = next(todo, None)
            if number is None:
                with lend():
                    stop.wait()
                return

            def report(what: Any, number: int = number) -> None:
                if stop.is_set():
                    raise Stopped
                if what is not None:
                    messages.put((number, "report", what))

            try:
                messages.put((number, "result", work[number](report)))
            except Stopped:
                return
            except BaseException as error:  # handed on to the caller, whatever it is
                messages.put((number, "error", error))

    threads = [threading.Thread(target=run, name=f"fold-thread-{i}", daemon=True) for i in range(n_threads)]
    for thread in threads:
        thread.start()
    arrived: dict[int, tuple[str, Any]] = {}
    try:
        for wanted in range(len(work)):
            while wanted not in arrived:
                try:
                    number, kind, value = messages.get(timeout=WAIT_S)
                except queue.Empty:  # a wait without limit can be deaf to Ctrl-C: polars restarts it
                    continue
                if kind == "report":
                    on_report(value)
                else:
                    arrived[number] = (kind, value)
            kind, value = arrived.pop(wanted)
            if kind == "error":
                raise value
            yield value
    finally:
        stop.set()
        for thread in threads:
            thread.join()
