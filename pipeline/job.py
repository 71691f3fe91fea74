"""One run of the pipeline: what all phases share, and how a phase is run, reused and logged.

An inner job runs the same phases on other data, inside another job's: nothing of it reaches MLflow.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.config.schema import Config, build, to_mapping
from pipeline.data.checks import SEVERITIES, Finding, check_data, summary
from pipeline.data.table import DataError, Dataset, panel_sha256
from pipeline.tracking.keys import PHASE_KEY, RESULT, find_finished, phase_key
from pipeline.tracking.progress import Quiet, Reporter
from pipeline.tracking.runs import Run, Silent, git_commit
from tft.checkpoint import write_folder_atomically
from tft.folds import Fold, walk_forward
from tft.kernels.implementation import kernels_for
from tft.panel import AHEAD, Panel
from tft.train import EpochReport, Market

JOB_KEY = "job_key"
FITS = Path("checkpoints") / "fits"
INNER = Path("checkpoints") / "inner"
"""Finished phases of inner jobs, by key: what MLflow is to other jobs."""

Result = TypeVar("Result")


@dataclass(eq=False)
class Job:
    """Phases are functions of a job; each calls the phase before it, which is reused, or run, or remembered."""

    config: Config
    data: Dataset
    parent: Run
    reporter: Reporter
    device: torch.device
    fresh: bool = False
    keys: dict[str, str] = field(default_factory=dict)
    """phase_key by phase"""
    run_ids: dict[str, str] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    """of `check`"""
    _results: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def n_development(self) -> int:
        return self.config.n_development(self.data.panel.times)

    @cached_property
    def development(self) -> Panel:
        """What phases 1-4 may see: the bars before the holdout, none of which looks ahead into it."""
        panel = self.data.panel.first_bars(self.n_development)
        ahead = [i for i, name in enumerate(panel.feature_names) if name.endswith(AHEAD)]
        if not ahead:
            return panel
        features = panel.features.copy()
        features[-1 - self.config.execution_delay_bars :, :, ahead] = np.nan
        return replace(panel, features=features)

    @cached_property
    def development_sha256(self) -> str:
        return panel_sha256(self.development, self._sigma(self.n_development))

    def _sigma(self, n_bars: int) -> NDArray[np.float64] | None:
        return None if self.data.sigma is None else self.data.sigma[:n_bars]

    def market(self, panel: Panel) -> Market:
        """Made ready for fitting: some of the data's columns over its first bars, scaled by the data's volatility."""
        return Market(panel, self.config.timing, self.device, self._sigma(len(panel.times)))

    @property
    def is_inner(self) -> bool:
        return isinstance(self.parent, Silent)

    def inner(self, data: Dataset, *, config: Config | None = None, n_development: int | None = None) -> Job:
        """The same phases on other data, computed in silence: results are kept in memory, and on disk by key, so that
        a process that died goes on from the last phase that was finished.

        `n_development`: bars that phases 1-4 may see; by default what the configuration says of the data's bars.
        """
        job = Job(config or self.config, data, Silent(), Quiet(), self.device, fresh=self.fresh)
        if n_development is not None:
            job.n_development = n_development
        return job

    def check(self) -> None:
        """Look for leaks and faults in the development bars before anything is trained on them.

        What is found is said, logged in the job's own run, and kept. Raises DataError for errors.
        """
        lead = 1 + self.config.execution_delay_bars
        n_holdout = max(len(self.data.panel.times) - self.n_development - lead, 0)
        self.findings = found = check_data(
            self.development,
            timing=self.config.timing,
            n_holdout_bars=n_holdout if self.config.selection == "holdout" else None,
            accept=self.config.data.accept,
        )
        columns = ("severity", "check", "where", "message")
        self.parent.table("findings.json", {name: [getattr(finding, name) for finding in found] for name in columns})
        self.parent.metrics({f"n_findings_{s}": sum(f.severity == s for f in found) for s in SEVERITIES})
        for line in summary([finding for finding in found if finding.severity != "error"]):
            self.reporter.say(line)
        errors = [f"{finding.where}: {finding.message}" for finding in found if finding.severity == "error"]
        if errors:
            raise DataError(self.data.source, errors)

    def folds(
        self, n_bars: int, *, step_size: int, max_folds: int | None, test_window: int | None = None
    ) -> list[Fold]:
        """Folds over the labelled bars of the first `n_bars`, after the warm-up; the most recent `max_folds`."""
        config = self.config
        folds = walk_forward(
            n_bars - config.timing.label_bars - config.warm_up_bars,
            train_window=config.walk_forward.train_window,
            validation_window=config.walk_forward.validation_window,
            test_window=test_window or config.walk_forward.test_window or step_size,
            step_size=step_size,
            purge_gap=config.purge_gap,
            expanding=config.walk_forward.expanding,
        )
        kept = folds if max_folds is None else folds[-max_folds:]
        return [fold.shifted(config.warm_up_bars) for fold in kept]

    def run_phase(
        self,
        name: str,
        kind: type[Result],
        *,
        settings: dict[str, Any],
        upstream: Sequence[str],
        compute: Callable[[Run], Result],
        log: Callable[[Run, Result], None],
        reusable: bool = True,
        complete: Callable[[Result], bool] = lambda result: True,
    ) -> Result:
        """The phase's result: remembered, reused from a finished run with the same key, or computed.

        Either way it is logged in a nested run of its own, so that every production run shows all of its phases; of
        an inner job nothing is logged. A result that is not `complete` serves this job and is not found again.
        `settings`: the parts of the configuration that the phase reads. `upstream`: phases whose results it uses.
        """
        if name in self._results:
            remembered: Result = self._results[name]
            return remembered
        key = phase_key(
            name,
            data_sha256=self.development_sha256 if reusable else self.data.sha256,
            settings=settings,
            upstream=tuple(self.keys[phase] for phase in upstream),
            device=self.device.type,
            kernels=kernels_for(self.device),
        )
        self.keys[name] = key
        if self.fresh:
            shutil.rmtree(self.fits_folder(name), ignore_errors=True)
        reuse = reusable and not self.fresh
        if self.is_inner:
            result = self._compute_inner(kind, key, compute, complete, reuse=reuse)
        else:
            result = self._compute_and_log(name, kind, key, settings, compute, log, complete, reuse=reuse)
        self._results[name] = result
        shutil.rmtree(self.fits_folder(name), ignore_errors=True)  # the result is delivered
        return result

    def _compute_inner(
        self,
        kind: type[Result],
        key: str,
        compute: Callable[[Run], Result],
        complete: Callable[[Result], bool],
        *,
        reuse: bool,
    ) -> Result:
        file = INNER / key / RESULT
        if reuse and file.exists():
            return from_json(kind, file.read_text())
        result = compute(self.parent)
        if complete(result):
            try:
                write_folder_atomically(file.parent, {RESULT: to_json(result).encode()})
            except OSError as error:  # only a restart would have read it
                warnings.warn(f"finished phases cannot be kept in {INNER} ({error.strerror})", stacklevel=2)
        return result

    def _compute_and_log(
        self,
        name: str,
        kind: type[Result],
        key: str,
        settings: dict[str, Any],
        compute: Callable[[Run], Result],
        log: Callable[[Run, Result], None],
        complete: Callable[[Result], bool],
        *,
        reuse: bool,
    ) -> Result:
        found = find_finished(key) if reuse else None
        with self.parent.phase(name) as run:
            self.run_ids[name] = run.run_id
            run.tags(self.tags())
            run.dataset("feature table", self.data.source, self.data.sha256)
            run.params(flattened(settings))
            if found:
                run_id, text = found
                result = from_json(kind, text)
                run.tags({"reused_from": run_id})
                self.reporter.say(f"{name}: nothing it depends on has changed, reusing run {run_id}")
            else:
                self.reporter.say(f"{name}: running")
                result = compute(run)
            log(run, result)
            run.text(RESULT, to_json(result))
            if complete(result):
                run.tags({PHASE_KEY: key})
        return result

    def fits_folder(self, name: str) -> Path:
        """Where finished folds of a running phase wait in case its process dies: the next one goes on from there."""
        return FITS / self.keys[name][:16]

    def log_inputs(self, **tags: str) -> None:
        """What the job is run on, and these tags, in its own run."""
        settings = to_mapping(self.config)
        self.parent.tags(self.tags() | {JOB_KEY: self.key} | tags)
        self.parent.dataset("feature table", self.data.source, self.data.sha256)
        self.parent.params(flattened(settings))
        self.parent.text("config.json", json.dumps(settings, indent=2))

    @property
    def key(self) -> str:
        """The hash of all that the whole job's record depends on: where the model is registered is no part of it."""
        settings = to_mapping(self.config)
        del settings["registry"]
        return phase_key(
            "production",
            data_sha256=self.data.sha256,
            settings=settings,
            upstream=(),
            device=self.device.type,
            kernels=kernels_for(self.device),
        )

    def tags(self) -> dict[str, str]:
        """What every run of this job is tagged with."""
        return {
            "data_sha256": self.data.sha256,
            "config_sha256": self.config.sha256,
            "git_commit": git_commit(),
            "purge_gap": str(self.config.purge_gap),
            "selection": self.config.selection,
            "device": str(self.device),
            "kernels": kernels_for(self.device),
            "n_threads": str(torch.get_num_threads()),
        }

    def epoch_reporter(self, n_folds: int, epochs: int) -> Callable[[EpochReport], None]:
        """Progress of training: fold, epoch and validation score of each stack as it goes."""

        def report(epoch: EpochReport) -> None:
            folds = ", ".join(str(index) for index in epoch.folds)
            score = sum(epoch.validation_score) / len(epoch.validation_score)
            loss = sum(epoch.train_loss) / len(epoch.train_loss)
            self.reporter.step(
                f"fold {folds} epoch {epoch.epoch + 1}/{epochs} loss {loss:.3f} validation {score:.3f}",
                n=len(epoch.folds),
            )
            if not epoch.n_active:
                self.reporter.skip((epochs - epoch.epoch - 1) * len(epoch.folds))

        return report


def to_json(result: object) -> str:
    """A phase's result as it is stored."""
    return json.dumps(asdict(result))  # type: ignore[call-overload]


def from_json(kind: type[Result], text: str) -> Result:
    """A phase's result as it was stored."""
    faults: list[str] = []
    result = build(kind, json.loads(text), "", faults)
    assert result is not None and not faults, faults
    return result


def flattened(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as `a.b: value`, for the parameter table."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict) and value and prefix.count(".") < 2:
            flat |= flattened(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
