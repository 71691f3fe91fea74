"""The ledger of looks: every evaluation of a holdout, whoever made it, by the bars and instruments that were looked at.

A look is a small MLflow run in an experiment of its own, so that it outlives the run that looked, is shared by all who
share the tracking store, and can be read in the UI. It is entered before its number is known, and entered again with
the number: a process that dies in between leaves a look without a Sharpe, which still counts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from pipeline.tracking.runs import Run

EXPERIMENT = "tft-holdout-looks"
LOOK_KEY = "look_key"
_TAG_LENGTH = 5000
"""Characters in one tag of the store; a longer list of instruments goes on in the next tag."""
_PAGE = 1000


@dataclass(frozen=True)
class Look:
    """One configuration evaluated on the holdout bars from `first` to `last` of some instruments."""

    kind: str
    """The work that looked: production, comparison or promotion."""
    first: str
    """ISO time of the first bar of decision."""
    last: str
    symbols: tuple[str, ...]
    config_sha256: str
    run: str
    """MLflow run that looked."""
    evaluation: str = ""
    """Equal for the same evaluation in another run: the phase's key. By default the run itself."""
    sharpe: float | None = None
    """Annual, net; None where it is undefined or was never learnt."""
    n_bars: int | None = None
    entered: str = ""
    """UTC time of the first entry, set by the ledger."""

    @property
    def key(self) -> str:
        """Equal for one evaluation that is entered twice: with its number, or by a run that was resumed or reused."""
        said = (self.kind, self.first, self.last, sorted(self.symbols), self.config_sha256, self.evaluation or self.run)
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def enter(look: Look) -> Look:
    """Write the look down, unless it already is; its Sharpe is added as soon as an entry brings one."""
    client = MlflowClient()
    experiment = _experiment(client)
    found = client.search_runs([experiment], f"tags.{LOOK_KEY} = '{look.key}'", max_results=1)
    if found:
        run = found[0]
    else:
        name = f"{look.kind} {look.first[:10]} to {look.last[:10]}"
        run = client.create_run(experiment, run_name=name, tags=_tags(look))
        client.set_terminated(run.info.run_id)
    Run(run.info.run_id).metrics({"sharpe": look.sharpe, "n_bars": look.n_bars})
    return _look(client.get_run(run.info.run_id))


def overlapping(first: str, last: str, symbols: Sequence[str]) -> list[Look]:
    """Looks at any bar from `first` to `last` (ISO times, both included) of any of the instruments, oldest first."""
    start, end, wanted = np.datetime64(first), np.datetime64(last), set(symbols)
    found = {
        look.key: look  # once, though two processes may have entered it at the same moment
        for look in _looks()
        if np.datetime64(look.first) <= end and np.datetime64(look.last) >= start and wanted & set(look.symbols)
    }
    return sorted(found.values(), key=lambda look: look.entered)


def by_configuration(looks: Sequence[Look]) -> dict[str, Look]:
    """The latest look with a Sharpe of each configuration (any of its looks if none has one), by config_sha256."""
    latest: dict[str, Look] = {}
    for look in looks:
        if look.sharpe is not None or look.config_sha256 not in latest:
            latest[look.config_sha256] = look
    return latest


def _looks() -> Iterator[Look]:
    client = MlflowClient()
    experiment, token = _experiment(client), None
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
    )
