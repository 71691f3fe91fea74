"""What a live process has to deliver to a version, and what it gets: what changes with another version."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.registry.versions import ARTIFACT, download
from tft.checkpoint import CheckpointError, TrainedModel, load_checkpoint
from tft.panel import AHEAD
from tft.table import CONTRACT, TableFormat
from tft.volatility import Timing


@dataclass(frozen=True)
class Interface:
    """The schema of a version: its instruments, columns, bar frequency and timing."""

    symbols: frozenset[str]
    columns: frozenset[str]
    known: frozenset[str]
    """Columns whose value has to be there in advance."""
    key_columns: tuple[tuple[str, str], ...]
    """(usual name, the table's own) of renamed key columns."""
    time_format: str | None
    timing: Timing

    @classmethod
    def of(cls, trained: TrainedModel) -> Interface:
        plain = (name for name in trained.feature_names if not name.endswith(AHEAD))
        return cls(
            frozenset(trained.symbols),
            frozenset((*plain, *trained.known)),
            frozenset(trained.known),
            tuple(sorted(renamed_keys(trained.table_format).items())),
            trained.table_format.time_format,
            trained.timing,
        )

    @property
    def market(self) -> tuple[frozenset[str], Timing]:
        """Two versions whose returns can be compared bar by bar agree in this."""
        return self.symbols, self.timing


def renamed_keys(table_format: TableFormat) -> dict[str, str]:
    """The table's own name of each key that has none of its contract, by its usual name."""
    return {key: own for key, own in table_format.columns.items() if own not in CONTRACT[key]}


def changes(old: Interface, new: Interface) -> list[str]:
    """What a live process has to change when `new` takes the place of `old`, in words; empty for nothing."""
    said = [
        *_sets("instruments", old.symbols, new.symbols),
        *_sets("columns", old.columns, new.columns),
        *_sets("columns known in advance", old.known, new.known),
    ]
    if old.key_columns != new.key_columns:
        named = [", ".join(f"{name} from {own}" for name, own in one.key_columns) for one in (old, new)]
        said.append(f"key columns are read by other names ({named[0] or 'the usual ones'} -> {named[1] or 'those'})")
    if old.time_format != new.time_format:
        formats = [one.time_format or "as dates, times or ISO text" for one in (old, new)]
        said.append(f"times are written otherwise ({formats[0]} -> {formats[1]})")
    for what, before, after in (
        ("bars a year", old.timing.periods_per_year, new.timing.periods_per_year),
        ("execution delay in bars", old.timing.delay_bars, new.timing.delay_bars),
        ("horizon in bars", old.timing.horizon, new.timing.horizon),
    ):
        if before != after:
            said.append(f"{what} {before:g} -> {after:g}")
    return said


def _sets(what: str, old: frozenset[str], new: frozenset[str]) -> list[str]:
    parts = [
        f"{verb} {', '.join(sorted(names))}"
        for verb, names in (("to deliver besides:", new - old), ("no longer read:", old - new))
        if names
    ]
    return [f"{what} {'; '.join(parts)}"] if parts else []


def trained_version(name: str, version: str) -> TrainedModel:
    """The checkpoint of a registered version. Raises CheckpointError."""
    return load_checkpoint(download(name, version) / ARTIFACT)


def changes_for_live(name: str, new: TrainedModel, incumbent: str) -> list[str]:
    """What a live process that follows Production has to change when `new` takes it from version `incumbent`."""
    try:
        old = trained_version(name, incumbent)
    except CheckpointError as error:  # registered by an earlier version of this project, say
        return [f"what it reads is unknown, since its checkpoint cannot be read ({error})"]
    return changes(Interface.of(old), Interface.of(new))
