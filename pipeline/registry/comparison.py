"""A new recipe against the version that has Production: a bet on the bars that neither can have been chosen on.

Which bars these are: a version's fit ends at its `fit_end`, but what counts is when it was registered. Whoever fits ten
recipes up to January and registers in June the one that did best since has chosen it on the bars from January to June.
A comparison is opened when the later of the two versions is registered (or, against a version that got Production
later, when it is first asked for), and counts decisions made after that. The opening also takes the candidate's
number in the calendar year, which decides how much it has to win: before anything is known, or the best of many would
be given the first number. A refresh of the incumbent does not interrupt it: the bet is against the recipe in
Production, at each bar in the version that was registered before it.

The bet may be looked at whenever one likes and needs no deflation. It is a look at a holdout all the same: at that of a
later run, whose table holds these bars, and whose recipe may be the one that won on them. Both versions are entered in
the ledger, before their returns are computed. Looking again without newer bars computes nothing and enters nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from mlflow.tracking import MlflowClient

from pipeline.config.reading import from_json, to_json
from pipeline.registry.decided import net_returns
from pipeline.registry.recipe import FINGERPRINT
from pipeline.registry.standing import now
from pipeline.statistics.betting import Bet, alpha_of
from pipeline.tracking.ledger import Look, enter
from tft.checkpoint import TrainedModel
from tft.panel import Panel
from tft.volatility import MEMORY_BARS

TAG = "bet.against."
LEARNT_BARS = MEMORY_BARS
"""Bars before the first counted one from which the bet learns the volatilities."""
AHEAD_OF_UTC = np.timedelta64(14, "h")
"""The furthest that a clock on the wall runs ahead of UTC: times of bars without a zone are such clocks."""


@dataclass(frozen=True)
class Comparison:
    """A candidate's bet against one incumbent. Kept as a tag of the candidate."""

    incumbent: str
    opened_at: str
    """UTC: decisions count after it and after what was counted before. When the incumbent was refreshed, the time at
    which this was first known here."""
    number: int
    """Place among the comparisons opened for this model in the calendar year."""
    year: str
    """The calendar year it was opened in."""
    bet: Bet = field(default_factory=Bet)
    last: str = ""
    """ISO time of the last bar counted; empty before the first."""

    @property
    def needed(self) -> float:
        """The capital at which the candidate has won."""
        return 1.0 / alpha_of(self.number)

    @property
    def won(self) -> bool:
        return self.bet.peak >= self.needed

    def in_words(self) -> str:
        if self.last and not self.bet.n_bars:
            return (
                f"nothing could be bet up to {self.last[:16]}: the returns of the two do not differ, or there are too "
                f"few to know their volatility"
            )
        if not self.last:
            return (
                f"only decisions after {self.opened_at[:16].replace('T', ' ')} UTC count, when both were registered, "
                f"and none of those bars is known yet"
            )
        return (
            f"a bet on it won {self.bet.peak:.3g} times its stake at best and stands at {self.bet.capital:.3g} after "
            f"{self.bet.n_bars} bars, up to {self.last[:16]}; as comparison {self.number} of {self.year} it "
            f"needs {self.needed:.1f}"
        )


def open_or_find(name: str, version: str, incumbent: str) -> Comparison:
    """The comparison of the two, opened now if it is not yet."""
    client = MlflowClient()
    text = client.get_model_version(name, version).tags.get(_tag(name, incumbent))
    if text:
        found = from_json(Comparison, text)
        # One bet against all versions of a recipe: copies of it could each win.
        return found if found.incumbent == incumbent else replace(found, incumbent=incumbent, opened_at=now())
    opened_at = now()
    year = opened_at[:4]
    counter = f"comparisons.{year}"
    number = int(client.get_registered_model(name).tags.get(counter, "0")) + 1
    client.set_registered_model_tag(name, counter, str(number))  # first: a number that is lost harms nobody
    opened = Comparison(incumbent, opened_at, number, year)
    _keep(name, version, opened)
    return opened


def go_on(
    name: str, version: str, comparison: Comparison, panel: Panel, new: TrainedModel, old: TrainedModel
) -> Comparison:
    """Bet on the bars of `panel` that are newer than the last one counted, and keep where that led to.

    The panel has the instruments of both and the columns of both.
    """
    last = len(panel.times) - new.timing.label_bars  # exclusive: later decisions have no return yet
    first = int(np.searchsorted(panel.times, _after(comparison, new, old), side="right"))
    if first >= last:
        return comparison
    for own in (version, comparison.incumbent):
        enter(_look(name, own, panel, range(first, last)))
    n_learnt = 0 if comparison.last else min(LEARNT_BARS, first)
    start = first - n_learnt
    returns = [net_returns(trained, panel, start)[: last - start] for trained in (new, old)]
    earlier, counted = [own[:n_learnt].tolist() for own in returns], [own[n_learnt:] for own in returns]
    bet = comparison.bet.learn(*earlier).go_on(*(own.tolist() for own in counted))
    continued = replace(comparison, bet=bet, last=str(panel.times[last - 1]))
    _keep(name, version, continued)
    return continued


def _after(comparison: Comparison, new: TrainedModel, old: TrainedModel) -> np.datetime64:
    """The time after which a bar counts that has not been counted."""
    opened = np.datetime64(comparison.opened_at.removesuffix("Z")) + AHEAD_OF_UTC
    counted = [np.datetime64(comparison.last)] if comparison.last else []
    return max(opened, np.datetime64(new.fit_end), np.datetime64(old.fit_end), *counted)


def _look(name: str, version: str, panel: Panel, bars: range) -> Look:
    """The ledger entry of one version on some bars. All those of a version have one name, and are one recipe's; no
    Sharpe is shown, so that none is entered."""
    client = MlflowClient()
    run = client.get_model_version(name, version).run_id or ""
    tags = client.get_run(run).data.tags if run else {}
    return Look(
        kind="promotion",
        first=str(panel.times[bars.start]),
        last=str(panel.times[bars.stop - 1]),
        symbols=panel.symbols,
        config_sha256=tags.get("config_sha256", f"{name} version {version}"),
        run=run,
        evaluation=f"{name} version {version}",
    )


def _keep(name: str, version: str, comparison: Comparison) -> None:
    MlflowClient().set_model_version_tag(name, version, _tag(name, comparison.incumbent), to_json(comparison))


def comparisons(tags: Mapping[str, str]) -> list[Comparison]:
    """The comparisons that the tags of a version hold, oldest first."""
    found = [from_json(Comparison, text) for tag, text in tags.items() if tag.startswith(TAG)]
    return sorted(found, key=lambda one: one.opened_at)


def _tag(name: str, incumbent: str) -> str:
    """Named after the incumbent's recipe; where it does not carry one, after its number."""
    recipe = MlflowClient().get_model_version(name, incumbent).tags.get(FINGERPRINT)
    return f"{TAG}{recipe[:16] if recipe else incumbent}"
