"""Takes the record of a walk-forward apart, once it has been judged: where it comes from, and what it lives on."""

from __future__ import annotations

from typing import get_args

from pipeline.job import Job
from pipeline.phases.combinatorial import Paths, combinatorial_paths
from pipeline.phases.folds import combinatorial_splits
from pipeline.phases.permutation import group_losses, n_passes
from pipeline.phases.production import Choice, Walked
from pipeline.reporting.origins import Origins
from pipeline.statistics.attribution import Judged, attribution
from pipeline.statistics.course import course
from pipeline.statistics.information_coefficient import information_coefficients
from pipeline.tracking.progress import Reporter
from tft.runtime.store import Store


def find_origins(job: Job, chosen: Choice, walked: Walked, reporter: Reporter, *, store: Store) -> Origins:
    """Everything about where the record comes from.

    chosen: what the deployed model uses · store: where finished passes and splits wait in case the process dies.
    """
    record, market = walked.record, walked.market
    returns = market.panel.returns
    segments: tuple[Judged, ...] = get_args(Judged)
    reporter.start("permuted groups", n_passes(walked))
    groups = group_losses(
        job.all_bars,
        walked,
        seed=job.config.seed,
        store=store.within("permuted"),
        on_pass=lambda group: reporter.step(f"forecast without {group}"),
    )
    return Origins(
        attributions=tuple(one for each in segments if (one := attribution(record, returns, each))),
        course=course(record),
        lags=tuple(row for each in segments for row in information_coefficients(record, returns, market.sigma, each)),
        groups=groups,
        paths=_paths(job, chosen, walked, reporter, store) if job.config.selection == "combinatorial" else None,
    )


def _paths(job: Job, chosen: Choice, walked: Walked, reporter: Reporter, store: Store) -> Paths:
    """The chosen recipe by combinatorial purged cross-validation, on development bars."""
    config = chosen.config
    splits, epochs = combinatorial_splits(config, job.n_development), config.production.epochs
    reporter.say(
        f"combinatorial: {len(splits)} splits of the development bars are trained, which give {splits.n_paths} paths"
    )
    reporter.start("combinatorial", len(splits) * epochs * config.production.seeds)
    settings = f"{splits.n_groups}-{splits.n_test_groups}-{splits.embargo}"
    return combinatorial_paths(
        job.development,
        chosen,
        walked.record,
        store=store.within(f"combinatorial-{settings}"),
        on_epoch=reporter.epochs(epochs, config.training.loss_mode),
    )
