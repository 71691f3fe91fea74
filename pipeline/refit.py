"""A refresh: a registered version's recipe, fitted again on the newest bars of the table, and registered."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipeline.config.reading import to_mapping
from pipeline.data.checks import check_data
from pipeline.data.findings import summary
from pipeline.flow import save_checkpoint
from pipeline.job import Job
from pipeline.phase_run import describe
from pipeline.phases import production as producing
from pipeline.phases.folds import deployment_fold, production_folds
from pipeline.phases.refitting import Refitted, refit
from pipeline.phases.stitching import stitch_by_fold
from pipeline.registry import evidence
from pipeline.registry.interface import trained_version
from pipeline.registry.recipe import FitRecipe
from pipeline.registry.registering import Registered, register_and_promote
from pipeline.reporting import artifacts
from pipeline.statistics import calibration_in_words
from pipeline.statistics.calibration import Calibration, calibration
from pipeline.tracking.kept import Kept
from pipeline.tracking.keys import key_of
from pipeline.tracking.progress import Reporter
from pipeline.tracking.runs import Run

MODULES = ("pipeline.phases.refitting", "pipeline.phases.folds")
"""What computes a refresh."""


@dataclass(frozen=True)
class Refreshed:
    """What became of a refresh."""

    checkpoint: str
    """Folder of the checkpoint."""
    registered: Registered
    trouble: tuple[str, ...]
    """What failed after the training was finished."""


def refresh(job: Job, sink: Run, reporter: Reporter, recipe: FitRecipe, version: str) -> Refreshed:
    """Fit the recipe of a registered version on the newest bars, and register and promote what comes of it.

    job: of the recipe's configuration, on the table. Its gates, or what else the rule asks for, decide on the
    promotion (pipeline/registry/promotion.py). Raises ValueError for a table without the recipe's columns, or without
    a bar newer than the version's fit.
    """
    config, name = job.config, job.config.registry.name
    _check_table(job, recipe, name, version)
    panel = job.data.panel
    settings = to_mapping(config)
    key = key_of(
        "refit",
        modules=MODULES,
        data_sha256=job.data.sha256,
        settings={"recipe": recipe.sha256},
        device=job.device,
    )
    describe(sink, job, settings)
    sink.tags({"command": "refit", "refresh_of": version})
    found = check_data(
        panel.select(recipe.features), timing=config.timing, n_holdout_bars=None, accept=config.data.accept
    )
    artifacts.findings(sink, (*found, *job.data.notes))
    artifacts.findings_counts(sink, found)
    for line in summary(found):
        reporter.say(line)
    kept = Kept()
    if job.fresh:
        kept.drop_folds(key)
    epochs = config.production.epochs
    reporter.start("refit", epochs * config.production.seeds)
    fitted = refit(
        job.all_bars.select(recipe.features),
        config,
        deployment_fold(config, len(panel.times), production_folds(config, len(panel.times))[-1].index + 1),
        store=kept.folds(key),
        on_epoch=reporter.epochs(epochs, config.training.loss_mode),
    )
    trained = producing.trained_model(panel, job.data.sha256, job.data.format, recipe, fitted.final, {})
    fit = _calibration(fitted)
    sink.metrics({f"validation_{metric}": value for metric, value in calibration_in_words.metrics(fit).items()})
    folder, trouble = save_checkpoint(trained, key)
    own = replace(
        evidence.kept(name, version),  # the recipe is the same, and so is what its walk-forward showed
        worse_calibration=calibration_in_words.worse(fit),
        errors=evidence.errors_of(found),
    )
    registered = register_and_promote(
        folder, trained, recipe, run=sink, panel=panel, evidence=own, card=_card(job, recipe, version, own)
    )
    sink.tags({"model_name": name, "model_version": registered.version, "checkpoint": str(folder)})
    kept.drop_folds(key)
    return Refreshed(str(folder), registered, (*trouble, *registered.trouble))


def _check_table(job: Job, recipe: FitRecipe, name: str, version: str) -> None:
    panel = job.data.panel
    if absent := sorted(set(recipe.features) - set(panel.feature_names)):
        raise ValueError(
            f"{job.data.source} lacks the column{'s' * (len(absent) > 1)} {', '.join(absent)}, which version {version} "
            f"of {name} reads: bring them, or run `tft-pipeline production` for a new recipe"
        )
    fit_end, last = trained_version(name, version).fit_end, str(panel.times[-1])
    if last <= fit_end:
        raise ValueError(
            f"{job.data.source} ends at {last}, and version {version} of {name} was fitted up to {fit_end}: a refresh "
            f"needs newer bars"
        )


def _calibration(fitted: Refitted) -> Calibration:
    """How the forecast distribution of the fit scores on its validation block, taken as a record of its own."""
    outcome, market = fitted.outcome, fitted.market
    positions = {outcome.fold.index: fitted.positions}
    record = stitch_by_fold([outcome.forecast], positions, market, n_development=0)
    return calibration(record, [outcome], market.y)


def _card(job: Job, recipe: FitRecipe, version: str, own: evidence.Evidence) -> str:
    panel = job.data.panel
    return "\n".join(
        [
            "## Temporal Fusion Transformer",
            f"A refresh of version {version}: its recipe ({len(recipe.features)} columns), fitted up to "
            f"{panel.times[-1]}. Nothing was selected anew, and there is no record of it out of sample.",
            "",
            f"Of the recipe: {own.verdict}",
        ]
    )
