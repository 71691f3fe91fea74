"""Where a run's numbers, tables, figures and results go, as those who compute and draw see it.

A `Run` (runs.py) writes to MLflow. `Silent` is for jobs inside other jobs, of which MLflow hears nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

from pipeline.tracking.kept import RESULT as RESULT
from pipeline.tracking.kept import Kept

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure


class Found(NamedTuple):
    """A result that was finished earlier."""

    source: str
    """The MLflow run it was found in; empty where it comes from this machine's disk."""
    text: str


class Sink(Protocol):
    """One run's place to write to."""

    run_id: str
    shows: bool
    """Whether anybody can look at what is written."""

    def metrics(self, values: Mapping[str, float | None], step: int = 0) -> None: ...
    def metric_steps(self, values: Mapping[str, Mapping[int, float | None]]) -> None: ...
    def params(self, values: Mapping[str, Any]) -> None: ...
    def tags(self, values: Mapping[str, str]) -> None: ...
    def table(self, name: str, columns: Mapping[str, Sequence[Any]]) -> None: ...
    def text(self, name: str, text: str) -> None: ...
    def figure(self, name: str, figure: Figure | Callable[[], Figure], width_pixels: int | None = None) -> None:
        """A figure, or what draws it, which a sink that shows nothing does not call. By default as large as it was
        drawn."""

    def file(self, path: Path, folder: str | None = None) -> None: ...
    def dataset(
        self, name: str, source: str, digest: str, first: pl.DataFrame | None = None, n_rows: int = 0
    ) -> None: ...
    def child(self, name: str) -> AbstractContextManager[Self]:
        """A run nested below this one."""

    def phase(self, name: str, title: str = "") -> AbstractContextManager[Self]:
        """A child run of a phase, with its wall time and memory peaks. `title`: its name in the UI."""

    def find_result(self, key: str) -> Found | None:
        """The newest result that was finished under this key."""

    def finish(self, text: str, key: str | None) -> None:
        """Store the phase's result; with a key it is found again."""


class Silent:
    """Shows nothing, knows no MLflow, and keeps results on this machine's disk; its children are itself."""

    run_id = ""
    shows = False

    def __init__(self, kept: Kept) -> None:
        self.kept = kept

    def metrics(self, values: Mapping[str, float | None], step: int = 0) -> None:
        pass

    def metric_steps(self, values: Mapping[str, Mapping[int, float | None]]) -> None:
        pass

    def params(self, values: Mapping[str, Any]) -> None:
        pass

    def tags(self, values: Mapping[str, str]) -> None:
        pass

    def table(self, name: str, columns: Mapping[str, Sequence[Any]]) -> None:
        pass

    def text(self, name: str, text: str) -> None:
        pass

    def figure(self, name: str, figure: Figure | Callable[[], Figure], width_pixels: int | None = None) -> None:
        pass

    def file(self, path: Path, folder: str | None = None) -> None:
        pass

    def dataset(self, name: str, source: str, digest: str, first: pl.DataFrame | None = None, n_rows: int = 0) -> None:
        pass

    @contextmanager
    def child(self, name: str) -> Iterator[Self]:
        yield self

    @contextmanager
    def phase(self, name: str, title: str = "") -> Iterator[Self]:
        yield self

    def find_result(self, key: str) -> Found | None:
        text = self.kept.result(key)
        return None if text is None else Found("", text)

    def finish(self, text: str, key: str | None) -> None:
        if key and self.kept.result(key) != text:
            self.kept.keep_result(key, text)
