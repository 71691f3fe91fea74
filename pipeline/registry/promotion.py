"""The rule by which a version gets the stage and the alias, and the comparison with the incumbent that it asks for."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Literal

import numpy as np
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from numpy.typing import NDArray

from pipeline.registry.versions import ALIAS, ARTIFACT, STAGE, download, quiet_mlflow
from pipeline.statistics.difference import sharpe_difference
from pipeline.tracking.ledger import Look, enter
from tft.checkpoint import CheckpointError, TrainedModel, load_checkpoint
from tft.metrics import MIN_INFERENCE_BARS, sharpe
from tft.panel import Panel
from tft.positions import portfolio_return
from tft.predict import Predictor
from tft.record import block_earnings

Rule = Literal["always", "never", "if_better"]
PROMOTION_P = 0.2
"""Two-sided p-value below which a better Sharpe than the incumbent's is enough."""


def promote(
    name: str, version: str, *, rule: Rule, panel: Panel | None, holdout_sharpe: float | None
) -> tuple[bool, str]:
    """Give the version the stage and the alias if the rule allows it. Returns whether it did, and a sentence on why.

    `if_better`: against the incumbent, the paired Sharpe difference on the bars of `panel` after both versions' fit
    must be positive with p < 0.2 over at least 63 bars; without an incumbent, the holdout Sharpe must be positive.
    The comparison is a look at those bars, and is entered in the ledger for both versions.
    """
    client = MlflowClient()
    incumbent = _by_alias(client, name, ALIAS)
    passed, reason = True, "the rule is to promote always"
    if rule == "never":
        passed, reason = False, "the rule is never to promote"
    elif rule == "if_better" and (incumbent is None or incumbent.version == version):
        if holdout_sharpe is None:
            passed, reason = False, "there is no holdout, so nothing says that it is any good"
        else:
            passed = holdout_sharpe > 0.0
            reason = f"there is no incumbent and its holdout Sharpe is {holdout_sharpe:.2f}"
    elif rule == "if_better":
        assert incumbent is not None
        passed, reason = _better(client, name, version, str(incumbent.version), panel)
    if passed:
        with quiet_mlflow():
            if hasattr(client, "transition_model_version_stage"):
                client.transition_model_version_stage(name, version, STAGE, archive_existing_versions=True)
        client.set_registered_model_alias(name, ALIAS, version)
        client.set_model_version_tag(name, version, "promoted_at", datetime.now(UTC).isoformat(timespec="seconds"))
    return passed, reason


def _better(client: MlflowClient, name: str, candidate: str, incumbent: str, panel: Panel | None) -> tuple[bool, str]:
    """Whether the candidate beats the incumbent on the bars of `panel` after both fits, and a sentence on why."""
    if panel is None:
        return False, "no bars were given on which to compare it with the incumbent"
    new = load_checkpoint(download(name, candidate) / ARTIFACT)
    try:
        old = load_checkpoint(download(name, incumbent) / ARTIFACT)
    except CheckpointError as error:  # registered by an earlier version of this project, say
        return False, f"the incumbent (version {incumbent}) cannot be read: {error}; compare them by hand"
    after = max(np.datetime64(new.fit_end), np.datetime64(old.fit_end))
    first = int(np.searchsorted(panel.times, after, side="right"))
    n_bars = len(panel.times) - first - 1 - new.timing.delay_bars
    if n_bars < MIN_INFERENCE_BARS:
        return False, (
            f"{max(n_bars, 0)} bars lie after the fit of both it and the incumbent (version {incumbent}), "
            f"{MIN_INFERENCE_BARS} are needed to compare them: try `tft-pipeline models --promote {candidate}` with "
            f"newer bars, or set registry.promote: always"
        )
    if old.symbols != panel.symbols or not set(old.feature_names) <= set(panel.feature_names):
        return False, f"the incumbent (version {incumbent}) uses other instruments or columns: compare them by hand"
    looks = [
        enter(_look(client, name, version, panel, first, n_bars, against))
        for version, against in ((candidate, incumbent), (incumbent, candidate))
    ]
    returns = [_returns_after(trained, panel, first) for trained in (new, old)]
    for look, own in zip(looks, returns, strict=True):
        enter(replace(look, sharpe=sharpe(own, periods_per_year=new.timing.periods_per_year), n_bars=n_bars))
    compared = sharpe_difference(*returns)
    annual = compared.difference * np.sqrt(new.timing.periods_per_year)
    passed = compared.difference > 0.0 and compared.p_value < PROMOTION_P
    return passed, (
        f"its annual Sharpe is {annual:+.2f} against version {incumbent} over {n_bars} bars after both fits "
        f"(p = {compared.p_value:.2f}, the limit is {PROMOTION_P})"
    )


def _look(client: MlflowClient, name: str, version: str, panel: Panel, first: int, n_bars: int, against: str) -> Look:
    """The ledger entry for one version, compared with version `against` on `n_bars` bars from bar `first` on."""
    run = client.get_model_version(name, version).run_id or ""
    tags = client.get_run(run).data.tags if run else {}
    return Look(
        kind="promotion",
        first=str(panel.times[first]),
        last=str(panel.times[first + n_bars - 1]),
        symbols=panel.symbols,
        config_sha256=tags.get("config_sha256", f"{name} version {version}"),
        run=run,
        evaluation=f"{name} version {version} against {against}",
    )


def _returns_after(trained: TrainedModel, panel: Panel, first: int) -> NDArray[np.float64]:
    """Net portfolio returns (n,) of a checkpoint's own decisions from bar `first` on."""
    prediction = Predictor(trained).run(panel.select(trained.feature_names))
    position = prediction.position[len(prediction.times) - (len(panel.times) - first) :]
    net = block_earnings(position, range(first, len(panel.times)), panel.returns, trained.positions, trained.timing).net
    return portfolio_return(net)[: len(position) - 1 - trained.timing.delay_bars]


def _by_alias(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
