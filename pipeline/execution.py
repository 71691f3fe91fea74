"""Independent pieces of work, side by side in processes of this machine with one core each.

Processes and not threads, because a whole job is more than torch: wherever Python itself computes, threads would wait
for each other.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import torch

Common = TypeVar("Common")
Item = TypeVar("Item")
Result = TypeVar("Result")

_PATIENCE_S = 0.5
"""The longest wait before Ctrl-C is noticed."""


def n_workers(device: torch.device) -> int:
    """How many processes to run at once: one for each core that torch may use, or one if they would share a GPU."""
    return torch.get_num_threads() if device.type == "cpu" else 1


def in_processes(
    work: Callable[[Common, Item], Result],
    common: Common,
    items: Sequence[Item],
    *,
    n_workers: int,
    on_done: Callable[[Result], None],
) -> Generator[Result]:
    """`work(common, item)` for every item, in the order of `items`, at most `n_workers` at a time.

    `work` is a function of a module; a worker is handed `common` once, when it starts. `on_done` is called in this
    thread as soon as a piece is done, whatever its turn; the exception of a piece is raised when its turn comes, a
    ValueError as one with the same text. When the iterator is closed, for whatever reason, or this process dies, the
    workers end at once, and with them what they were at. Raises ChildProcessError if a worker dies.
    """
    if not items:
        return
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # workers inherit it before they load torch
    context = get_context("spawn")
    lifeline, held = context.Pipe(duplex=False)  # `held` is open in this process alone
    executor = ProcessPoolExecutor(min(n_workers, len(items)), context, _begin, (lifeline, work, common))
    try:
        waiting = {executor.submit(_call, item): number for number, item in enumerate(items)}
        arrived: dict[int, Future[Any]] = {}
        for wanted in range(len(items)):
            while wanted not in arrived:
                # With a limit, because Ctrl-C does not end a wait without one where polars has set its handler.
                for future in wait(waiting, _PATIENCE_S, FIRST_COMPLETED).done:
                    arrived[waiting.pop(future)] = future
                    if future.exception() is None:
                        on_done(future.result())
            yield arrived.pop(wanted).result()
    except BrokenProcessPool as error:
        raise ChildProcessError(
            "a worker process died, as it does where memory ends: run the same command again, which goes on from what "
            "is finished, if need be with OMP_NUM_THREADS=1"
        ) from error
    finally:
        held.close()
        executor.shutdown(cancel_futures=True)
        lifeline.close()


_assigned: tuple[Callable[[Any, Any], Any], Any]


def _begin(lifeline: Connection, work: Callable[[Any, Any], Any], common: Any) -> None:
    """Initialise a worker process."""
    global _assigned
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the parent decides
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    torch.set_num_threads(1)
    _assigned = work, common


def _end_with(lifeline: Connection) -> None:
    lifeline.poll(None)  # nothing is ever sent: it returns when the other end is closed
    os._exit(1)


def _call(item: Any) -> Any:
    work, common = _assigned
    try:
        return work(common, item)
    except ValueError as error:  # our own kinds take more than their text, and could not be unpickled
        raise ValueError(str(error)) from error
