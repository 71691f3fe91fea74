"""Independent tasks in parallel threads, one CPU core each.

torch releases the interpreter lock while it computes, so that threads suffice: they share the panel without pickling,
and end with the process.
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
"""Longest wait for a message at a time, in seconds"""

Result = TypeVar("Result")
Report = Callable[[Any], None]


class Stopped(Exception):
    """Raised by the report function of a task whose result is no longer wanted, in order to end it."""


def run_in_threads(
    tasks: Sequence[Callable[[Report], Result]], n_threads: int, on_report: Callable[[Any], None]
) -> Iterator[Result]:
    """Run `tasks` in `n_threads` threads with one torch thread each, and yield the results in the order of `tasks`.

    A task is called with a report function; what it passes to that is passed on to `on_report` in the caller's thread,
    unless it is None. A task's exception is raised when its result is due. A thread without a task left lends its core
    to the others, whose results do not change (lent_cores.py). When the iterator is closed, running tasks are stopped
    at their next report.
    """
    keep_freed_memory()
    messages: queue.SimpleQueue[tuple[int, str, Any]] = queue.SimpleQueue()
    todo = iter(range(len(tasks)))
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

            def report(value: Any, number: int = number) -> None:
                if stop.is_set():
                    raise Stopped
                if value is not None:
                    messages.put((number, "report", value))

            try:
                messages.put((number, "result", tasks[number](report)))
            except Stopped:
                return
            except BaseException as error:  # raised again in the caller's thread
                messages.put((number, "error", error))

    threads = [threading.Thread(target=run, name=f"fold-thread-{i}", daemon=True) for i in range(n_threads)]
    for thread in threads:
        thread.start()
    arrived: dict[int, tuple[str, Any]] = {}
    try:
        for wanted in range(len(tasks)):
            while wanted not in arrived:
                try:
                    number, kind, value = messages.get(timeout=WAIT_S)
                except queue.Empty:  # an unlimited wait may not be interrupted by Ctrl-C: polars resumes it
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
