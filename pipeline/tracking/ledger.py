"""The ledger of looks: every evaluation of a holdout, whoever made it, and what it saw.

A look is a small MLflow run in an experiment of its own, so that it outlives the run that looked, is shared by all who
share the tracking store, and can be read in the UI. It is entered before its number is known, and entered again with
the number and the record that it was computed from: a process that dies in between leaves a look without either, which
still counts. What counts as the same holdout and the same recipe is in pipeline/statistics/looks.py.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import polars as pl
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from pipeline.statistics.looks import HoldoutRecord, recipes, share_an_instrument
from pipeline.tracking.experiment import describe_experiment
from pipeline.tracking.runs import Run

EXPERIMENT = "tft-holdout-looks"
LOOK_KEY = "look_key"
RECORD = "holdout_record.parquet"
"""One row a bar and instrument: time of the bar, symbol, the instrument's return, and the portfolio's net return."""
NOTE = """\
Every evaluation of a holdout: a run each, with the dates, the instruments and what was seen. By these the Sharpe of \
later runs is deflated. `tft-pipeline looks list` shows them by holdout and recipe; the runs that looked are in their \
own experiment.
"""
"""The description of the ledger's experiment."""
_TAG_LENGTH = 5000
"""Characters in one tag of the store; a longer list of instruments goes on in the next tag."""
_PAGE = 1000


@dataclass(frozen=True)
class Look:
    """One evaluation on the holdout bars from `first` to `last` of some instruments."""

    kind: str
    """The work that looked: production, comparison or promotion; or added by hand."""
    first: str
    """ISO time of the first bar of decision."""
    last: str
    symbols: tuple[str, ...]
    config_sha256: str
    """For information: what has looked is told by what it earned."""
    run: str
    """MLflow run that looked."""
    evaluation: str = ""
    """Equal for the same evaluation in another run: the phase's key. By default the run itself. Those
    of a promotion are named after the version, which is one recipe on whichever bars it is compared."""
    sharpe: float | None = None
    """Annual, net, beyond drift; None where it is undefined or was never learnt."""
    n_bars: int | None = None
    entered: str = ""
    """UTC time of the first entry, set by the ledger unless it comes from another ledger."""
    why: str = ""
    """What a person said who added it by hand."""
    entry: str = ""
    """MLflow run in the ledger's experiment, set by the ledger."""
    record_sha256: str = ""
    """Hash of the stored record, set by the ledger; empty for a look without one."""
    recipe: int = 0
    """Number, from 1, of its recipe among those at the same holdout, set where looks are grouped."""

    @property
    def key(self) -> str:
        """Equal for one evaluation that is entered twice: with its number, or by a run that was resumed or reused."""
        said = (self.kind, self.first, self.last, sorted(self.symbols), self.evaluation or self.run)
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def enter(look: Look, record: HoldoutRecord | None = None) -> Look:
    """Write the look down, unless it already is; Sharpe and record are added as soon as an entry brings them."""
    client = MlflowClient()
    experiment = _experiment(client)
    describe_experiment(experiment, NOTE)
    found = client.search_runs([experiment], f"tags.{LOOK_KEY} = '{look.key}'", max_results=1)
    if found:
        run = found[0]
    else:
        name = f"{look.kind} {look.first[:10]} to {look.last[:10]}"
        at = int(np.datetime64(look.entered, "ms").astype(np.int64)) if look.entered else None
        run = client.create_run(experiment, start_time=at, run_name=name, tags=_tags(look))
        client.set_terminated(run.info.run_id)
    entry = Run(run.info.run_id)
    entry.metrics({"sharpe": look.sharpe, "n_bars": look.n_bars})
    if record is not None and "record_sha256" not in run.data.tags:
        with tempfile.TemporaryDirectory(dir=_cache()) as scratch:
            file = Path(scratch) / RECORD
            _frame(record).write_parquet(file)
            sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
            entry.file(file)
            entry.tags({"record_sha256": sha256})
            file.replace(_cached(sha256))
    return _look(client.get_run(run.info.run_id))


def all_looks() -> list[Look]:
    """Every look, oldest first; once, though two processes may have entered it at the same moment."""
    client = MlflowClient()
    found: dict[str, Look] = {}
    for look in sorted(_entries(client, _experiment(client)), key=lambda look: (look.entered, look.entry)):
        found.setdefault(look.key, look)
    return list(found.values())


def restore() -> bool:
    """Bring back the ledger's experiment, with its looks, if somebody deleted it; returns whether that was so.

    Deleting it would make all earlier looks unknown, and MLflow enters nothing in a deleted experiment.
    """
    client = MlflowClient()
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None or found.lifecycle_stage != "deleted":
        return False
    client.restore_experiment(found.experiment_id)
    return True


def is_empty() -> bool:
    """Whether no look has ever been entered in this store."""
    client = MlflowClient()
    return not client.search_runs([_experiment(client)], max_results=1)


def overlapping(first: str, last: str, symbols: Sequence[str], record: HoldoutRecord | None = None) -> list[Look]:
    """Looks at a holdout from `first` to `last` (ISO times, both included) of some instruments, oldest first.

    Those at the same one: they share a date, and any instrument by its returns on common bars, or by its name where no
    record says otherwise.
    """
    asked = Look("", first, last, tuple(symbols), "", "")
    return [look for look in all_looks() if _same_holdout(asked, record, look)]


def by_holdout(looks: Sequence[Look]) -> list[list[Look]]:
    """Looks in groups, each in order: two are in one group if they are at the same holdout or both at a third's."""
    groups: list[list[Look]] = []
    for look in looks:
        record = record_of(look)
        joined = [group for group in groups if any(_same_holdout(look, record, other) for other in group)]
        groups = [group for group in groups if group not in joined]
        merged = sorted((one for group in joined for one in group), key=lambda one: (one.entered, one.entry))
        groups.append([*merged, look])
    return sorted(groups, key=lambda group: (group[0].entered, group[0].entry))


def by_recipe(looks: Sequence[Look]) -> list[list[Look]]:
    """Looks at one holdout in groups of one recipe each, in order of their first look; each look with its number."""
    named = [look.evaluation if look.kind == "promotion" else None for look in looks]
    numbers = recipes([record_of(look) for look in looks], named)
    groups: dict[int, list[Look]] = {}
    for look, number in zip(looks, numbers, strict=True):
        groups.setdefault(number, []).append(replace(look, recipe=number + 1))
    return list(groups.values())


def stands_for(group: Sequence[Look]) -> Look:
    """The look whose Sharpe is a recipe's: its latest look with one, or the latest if none has one."""
    return ([look for look in group if look.sharpe is not None] or list(group))[-1]


def record_of(look: Look) -> HoldoutRecord | None:
    """What a look saw; None for one that has no record, or whose record was deleted.

    Records lie in the user's cache folder under their hash, so that only others' are fetched, and once.
    """
    return _stored(look.entry, look.record_sha256) if look.record_sha256 else None


@lru_cache(maxsize=2048)
def _stored(entry: str, sha256: str) -> HoldoutRecord | None:
    kept = _cached(sha256)
    if not kept.exists():
        client = MlflowClient()
        if RECORD not in {file.path for file in client.list_artifacts(entry)}:
            return None
        with tempfile.TemporaryDirectory(dir=_cache()) as scratch:
            Path(client.download_artifacts(entry, RECORD, scratch)).replace(kept)
    frame = pl.read_parquet(kept)
    times, symbols = frame["time"].unique(maintain_order=True), frame["symbol"].unique(maintain_order=True)
    shape = len(times), len(symbols)
    return HoldoutRecord(
        times=times.to_numpy(),
        symbols=tuple(symbols),
        returns=frame["return"].to_numpy().reshape(shape),
        net=frame["net"].to_numpy().reshape(shape)[:, 0],
    )


def _cached(sha256: str) -> Path:
    return _cache() / f"{sha256}.parquet"


def _cache() -> Path:
    """The user's cache folder; where nobody may write to that, one that lasts as long as the process."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tft-pipeline" / "looks"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return _scratch()
    return folder if os.access(folder, os.W_OK) else _scratch()


@lru_cache(maxsize=1)
def _scratch() -> Path:
    folder = tempfile.mkdtemp(prefix="tft-pipeline-looks-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _frame(record: HoldoutRecord) -> pl.DataFrame:
    n_bars, n_symbols = record.returns.shape
    return pl.DataFrame(
        {
            "time": np.repeat(record.times.astype("datetime64[us]"), n_symbols),
            "symbol": list(record.symbols) * n_bars,
            "return": record.returns.ravel(),
            "net": np.repeat(record.net, n_symbols),
        }
    )


def _same_holdout(look: Look, record: HoldoutRecord | None, other: Look) -> bool:
    if np.datetime64(other.first) > np.datetime64(look.last) or np.datetime64(other.last) < np.datetime64(look.first):
        return False
    seen = record_of(other) if record is not None else None
    told = share_an_instrument(record, seen) if record is not None and seen is not None else None
    return bool(set(look.symbols) & set(other.symbols)) if told is None else told


def _entries(client: MlflowClient, experiment: str) -> Iterator[Look]:
    token = None
    while True:
        page = client.search_runs([experiment], max_results=_PAGE, page_token=token)
        yield from (_look(run) for run in page if LOOK_KEY in run.data.tags)
        token = page.token
        if not token:
            return


def _experiment(client: MlflowClient) -> str:
    """The ledger's experiment, made by whoever comes first."""
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        try:
            return str(client.create_experiment(EXPERIMENT))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(EXPERIMENT)
            assert found is not None
    return str(found.experiment_id)


def _tags(look: Look) -> dict[str, str]:
    symbols = json.dumps(look.symbols)
    pieces = [symbols[start : start + _TAG_LENGTH] for start in range(0, len(symbols), _TAG_LENGTH)]
    return {
        "kind": look.kind,
        "first": look.first,
        "last": look.last,
        "config_sha256": look.config_sha256,
        "run": look.run,
        "evaluation": look.evaluation,
        "why": look.why,
        **{f"symbols.{i}" if i else "symbols": piece for i, piece in enumerate(pieces)},
        LOOK_KEY: look.key,
    }


def _look(run: MlflowRun) -> Look:
    tags, metrics = run.data.tags, run.data.metrics
    names = ["symbols", *(f"symbols.{i}" for i in range(1, len(tags)))]
    n_bars = metrics.get("n_bars")
    return Look(
        kind=tags["kind"],
        first=tags["first"],
        last=tags["last"],
        symbols=tuple(json.loads("".join(tags.get(name, "") for name in names))),
        config_sha256=tags["config_sha256"],
        run=tags["run"],
        evaluation=tags["evaluation"],
        sharpe=metrics.get("sharpe"),
        n_bars=None if n_bars is None else int(n_bars),
        entered=str(np.datetime64(run.info.start_time, "ms")),
        why=tags.get("why", ""),
        entry=run.info.run_id,
        record_sha256=tags.get("record_sha256", ""),
    )
