"""Who gets Production, by which rule, and what a comparison leaves behind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from pipeline.registry import comparison
from pipeline.registry.comparison import Comparison, comparisons
from pipeline.registry.decided import net_returns
from pipeline.registry.evidence import Evidence
from pipeline.registry.promotion import promote, promote_by_hand
from pipeline.registry.standing import rollback
from pipeline.registry.versions import ALIAS, STAGE, find_version
from pipeline.statistics.betting import Bet
from pipeline.tracking.ledger import overlapping
from tests.pipeline.registry.conftest import (
    ARCHIVED,
    CHALLENGES,
    FIT_END,
    IN_PRODUCTION,
    LAST,
    SKILL,
    WAITS,
    deliver,
    standing,
)
from tft import checkpoint
from tft.checkpoint import TrainedModel
from tft.panel import Panel
from tft.positions import PositionsConfig

N_COUNTED = LAST - FIT_END - 2
"""Bars after the fit whose return is known: a decision is held two bars later."""


def the_comparison(client: MlflowClient, name: str, version: str) -> Comparison:
    (only,) = comparisons(client.get_model_version(name, version).tags)
    return only


def test_the_opposite_positions_are_taken_by_construction(good: TrainedModel, bad: TrainedModel, panel: Panel) -> None:
    """What the comparisons below rest on: one earns, the other loses as much."""
    gain, loss = (net_returns(trained, panel, FIT_END + 1)[:N_COUNTED] for trained in (good, bad))
    assert np.allclose(gain, -loss, atol=1e-7)
    assert gain.mean() / gain.std() * np.sqrt(252) > 10.0


# ---- always, never, by hand


def test_always_promotes(client: MlflowClient, bad: TrainedModel, panel: Panel, tmp_path: Path) -> None:
    """Even what loses: stage and alias, exclusively; the version before is archived."""
    first = deliver(bad, panel, tmp_path / "one", "always", "always")
    assert (first.version, first.promoted, first.trouble) == ("1", True, ())
    assert standing(client, "always") == {"1": IN_PRODUCTION}
    worse = replace(bad, metrics={"oos_sharpe": -4.0})
    second = deliver(worse, panel, tmp_path / "two", "always", "always")
    assert second.promoted
    assert standing(client, "always") == {"2": IN_PRODUCTION, "1": ARCHIVED}
    assert (STAGE, ALIAS) == ("Production", "production")
    tags = client.get_model_version("always", "2").tags
    assert tags["oos_sharpe"] == "-4.0000"
    assert tags["promoted_at"].startswith("20")


def test_never_promotes_nothing(client: MlflowClient, good: TrainedModel, panel: Panel, tmp_path: Path) -> None:
    """However good; the version is the challenger all the same, and the sentence says what a person can do."""
    done = deliver(good, panel, tmp_path / "one", "never", "never")
    assert (done.version, done.promoted) == ("1", False)
    assert (
        done.reason == 'the rule is never to promote; by hand: `tft-pipeline models promote 1 --name never --why "..."`'
    )
    assert standing(client, "never") == {"1": CHALLENGES}


def test_a_person_promotes_with_a_reason_that_stays(
    client: MlflowClient, good: TrainedModel, panel: Panel, tmp_path: Path
) -> None:
    """As a tag and in the description, below the card."""
    deliver(good, panel, tmp_path / "one", "person", "never")
    with pytest.raises(ValueError, match="--why is empty"):
        promote_by_hand("person", "1", why=" ")
    assert standing(client, "person") == {"1": CHALLENGES}
    assert promote_by_hand("person", "1", why="paper-traded since May").promoted
    assert standing(client, "person") == {"1": IN_PRODUCTION}
    version = client.get_model_version("person", "1")
    assert version.tags["promoted_why"] == "by hand: paper-traded since May"
    card, line = (version.description or "").split("\n\n")
    assert card == "# Card of one"
    assert line.startswith("Production since 20") and line.endswith(": by hand: paper-traded since May.")
    with pytest.raises(ValueError, match="version 1 of person has Production already"):
        promote_by_hand("person", "1", why="again")


# ---- the first version


@pytest.mark.parametrize(
    ("evidence", "lacks"),
    [
        (SKILL, ""),
        (replace(SKILL, long_only_high=0.0), ""),
        # The real panel's first version, whose holdout Sharpe of 0.29 ± 0.48 was above 0.
        (Evidence(False, "Holdout Sharpe 0.29 ± 0.48: not distinguishable from luck.", 0.4), "a verdict of skill"),
        (
            replace(SKILL, long_only_high=-0.25),
            "a Sharpe that is not worse than that of long only (the 95 % interval of the difference ends at -0.25)",
        ),
        (Evidence(False, "There is no holdout.", None), "a verdict of skill and a comparison with long only"),
    ],
)
def test_a_first_version_needs_skill_and_is_no_worse_than_long_only(
    client: MlflowClient, good: TrainedModel, panel: Panel, tmp_path: Path, evidence: Evidence, lacks: str
) -> None:
    """What is missing is said, and how a person promotes it; asked again, the rule says the same."""
    name = tmp_path.name
    done = deliver(good, panel, tmp_path / "one", name, "if_better", evidence=evidence)
    assert done.promoted == (lacks == "")
    assert standing(client, name) == {"1": CHALLENGES if lacks else IN_PRODUCTION}
    if lacks:
        by_hand = f'`tft-pipeline models promote 1 --name {name} --why "..."`'
        assert done.reason == f"a first version needs {lacks}; by hand: {by_hand}"
        assert promote(name, "1", rule="if_better", panel=None).reason == done.reason


# ---- a new recipe


def test_a_new_recipe_has_nothing_for_itself_when_it_is_registered(
    client: MlflowClient, good: TrainedModel, bad: TrainedModel, panel: Panel, tmp_path: Path
) -> None:
    """However good its own holdout was: no bar is newer than both. It says how the comparison goes on."""
    deliver(bad, panel, tmp_path / "one", "new", "always")
    done = deliver(good, panel, tmp_path / "two", "new", "if_better", recipe=2)
    assert not done.promoted and not done.trouble
    assert "compared with version 1, only decisions after 20" in done.reason
    assert "none of those bars is known yet" in done.reason
    assert "`tft-pipeline models promote 2 --config ...` goes on with newer bars" in done.reason
    assert standing(client, "new") == {"2": CHALLENGES, "1": IN_PRODUCTION}
    assert the_comparison(client, "new", "2").bet == Bet()


def test_a_new_recipe_that_earns_more_on_newer_bars_is_promoted(
    client: MlflowClient, good: TrainedModel, bad: TrainedModel, panel: Panel, tmp_path: Path
) -> None:
    deliver(bad, panel, tmp_path / "one", "better", "always")
    deliver(good, panel, tmp_path / "two", "better", "if_better", recipe=2)
    done = promote("better", "2", rule="if_better", panel=panel)
    assert done.promoted
    found = the_comparison(client, "better", "2")
    assert found.bet.n_bars == N_COUNTED and found.won and found.needed == pytest.approx(32.9, abs=0.01)
    assert f"after {N_COUNTED} bars, up to {str(panel.times[LAST - 2])[:16]}" in done.reason
    assert standing(client, "better") == {"2": IN_PRODUCTION, "1": ARCHIVED}
    assert find_version("better", alias=ALIAS) == find_version("better", stage=STAGE) == "2"


def test_a_worse_one_and_an_equal_one_stay_challengers(
    client: MlflowClient, good: TrainedModel, bad: TrainedModel, panel: Panel, tmp_path: Path
) -> None:
    deliver(good, panel, tmp_path / "one", "worse", "always")
    for recipe, other in ((2, bad), (3, good)):
        deliver(other, panel, tmp_path / str(recipe), "worse", "if_better", recipe=recipe)
        done = promote("worse", str(recipe), rule="if_better", panel=panel)
        assert not done.promoted, done.reason
    assert "the returns of the two do not differ" in done.reason  # of the equal one
    assert standing(client, "worse") == {"3": CHALLENGES, "2": WAITS, "1": IN_PRODUCTION}
    assert the_comparison(client, "worse", "2").bet.capital < 1.0


def test_looking_every_week_is_looking_once(
    client: MlflowClient, good: TrainedModel, bad: TrainedModel, panel: Panel, tmp_path: Path
) -> None:
    """The bet goes on where it stopped, on tables that end or begin elsewhere. Positions are those of a path begun
    anew, equal after `min_history_bars` and here, without smoothing, at once."""
    deliver(good, panel, tmp_path / "one", "weekly", "always")
    for recipe in (2, 3):
        deliver(bad, panel, tmp_path / str(recipe), "weekly", "if_better", recipe=recipe)
    for n_bars in range(FIT_END + 4, LAST + 2, 5):
        promote("weekly", "2", rule="if_better", panel=panel.first_bars(n_bars))
    promote("weekly", "2", rule="if_better", panel=panel)
    promote("weekly", "3", rule="if_better", panel=panel)
    weekly, once = (the_comparison(client, "weekly", version) for version in "23")
    assert weekly.bet.n_bars == once.bet.n_bars == N_COUNTED
    assert weekly.bet.log_capital == pytest.approx(once.bet.log_capital, rel=1e-9)
    assert (weekly.number, once.number) == (1, 2)


def test_looking_again_without_newer_bars_costs_nothing(
    client: MlflowClient,
    good: TrainedModel,
    bad: TrainedModel,
    panel: Panel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deliver(good, panel, tmp_path / "one", "again", "always")
    deliver(bad, panel, tmp_path / "two", "again", "if_better", recipe=2)
    first = promote("again", "2", rule="if_better", panel=panel)

    def refused(*_: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(comparison, "net_returns", refused)
    monkeypatch.setattr(comparison, "enter", refused)
    assert promote("again", "2", rule="if_better", panel=panel) == first


def test_bars_before_the_registration_do_not_count_though_neither_was_fitted_on_them(
    client: MlflowClient, good: TrainedModel, bad: TrainedModel, panel: Panel, tmp_path: Path
) -> None:
    """Both fits end 100 bars earlier; a candidate may have been chosen on what came since. The clock of the table may
    be 14 hours ahead of UTC."""
    early = str(panel.times[FIT_END - 100])
    deliver(replace(bad, fit_end=early), panel, tmp_path / "one", "since", "always")
    deliver(replace(good, fit_end=early), panel, tmp_path / "two", "since", "if_better", recipe=2)
    promote("since", "2", rule="if_better", panel=panel)
    found = the_comparison(client, "since", "2")
    opened = np.datetime64(found.opened_at.removesuffix("Z")) + np.timedelta64(14, "h")
    counted = [time for time in panel.times[: LAST - 1] if time > opened]
    assert found.bet.n_bars == len(counted)
    assert N_COUNTED < len(counted) <= N_COUNTED + 2


def test_a_comparison_is_a_look_by_both_versions(
    client: MlflowClient, good: TrainedModel, bad: TrainedModel, panel: Panel, tmp_path: Path
) -> None:
    """A later run's holdout holds these bars. It is entered once for each stretch of bars."""
    bars = (str(panel.times[FIT_END + 1]), str(panel.times[LAST - 2]))
    deliver(good, panel, tmp_path / "one", "looked", "always")
    deliver(bad, panel, tmp_path / "two", "looked", "if_better", recipe=2)
    for _ in range(2):
        promote("looked", "2", rule="if_better", panel=panel)
    looks = [look for look in overlapping(*bars, panel.symbols) if look.evaluation.startswith("looked version")]
    assert [look.evaluation for look in looks] == ["looked version 2", "looked version 1"]
    assert {(look.kind, look.first, look.last, look.symbols) for look in looks} == {("promotion", *bars, panel.symbols)}
    assert [look.sharpe for look in looks] == [None, None]  # what a bet won is shown, and no Sharpe


def test_each_comparison_of_a_year_needs_more(
    client: MlflowClient, good: TrainedModel, bad: TrainedModel, panel: Panel, tmp_path: Path
) -> None:
    """Numbered when they are opened, before any of their bars is known: 1, 4 and 9 times pi² / 0.3."""
    deliver(good, panel, tmp_path / "one", "year", "always")
    for recipe in (2, 3, 4):
        deliver(bad, panel, tmp_path / str(recipe), "year", "if_better", recipe=recipe)
    needed = [the_comparison(client, "year", version).needed for version in "234"]
    assert needed == pytest.approx([np.pi**2 / 0.3 * factor for factor in (1, 4, 9)])


def test_a_refresh_of_the_incumbent_does_not_interrupt_the_bet(
    client: MlflowClient, good: TrainedModel, bad: TrainedModel, panel: Panel, tmp_path: Path
) -> None:
    """It goes on against the refreshed version, with the number it has; there is one bet, also after a rollback."""
    deliver(good, panel, tmp_path / "one", "chain", "if_better")
    deliver(bad, panel, tmp_path / "two", "chain", "if_better", recipe=2)
    promote("chain", "2", rule="if_better", panel=panel.first_bars(FIT_END + 60))
    before = the_comparison(client, "chain", "2")
    assert deliver(good, panel, tmp_path / "three", "chain", "if_better").promoted
    promote("chain", "2", rule="if_better", panel=panel)
    after = the_comparison(client, "chain", "2")
    assert (before.incumbent, before.bet.n_bars, after.incumbent, after.number) == ("1", 57, "3", 1)
    assert after.bet.n_bars == N_COUNTED  # the refreshed version was registered before all of these bars
    assert after.bet.total < before.bet.total < 0.0
    rollback("chain")
    assert "stands at" in promote("chain", "2", rule="if_better", panel=panel).reason
    assert the_comparison(client, "chain", "2").bet == after.bet


# ---- a refresh


def test_a_refresh_that_does_what_the_incumbent_does_is_promoted_at_once(
    client: MlflowClient, good: TrainedModel, panel: Panel, tmp_path: Path
) -> None:
    """The same recipe: no bar has to come, and nothing is compared."""
    deliver(good, panel, tmp_path / "one", "refresh", "if_better")
    again = replace(good, metrics={"oos_sharpe": 0.1})
    done = deliver(again, panel, tmp_path / "two", "refresh", "if_better", evidence=Evidence(False, "Luck.", None))
    assert (done.promoted, done.reason) == (True, "it is a refresh of version 1 and passes its gates")
    assert standing(client, "refresh") == {"2": IN_PRODUCTION, "1": ARCHIVED}
    assert comparisons(client.get_model_version("refresh", "2").tags) == []


def test_a_refresh_says_each_gate_that_it_does_not_pass(
    client: MlflowClient, good: TrainedModel, bad: TrainedModel, panel: Panel, tmp_path: Path
) -> None:
    """A leak, a wrong distribution, four times the positions, the opposite ones."""
    deliver(good, panel, tmp_path / "one", "gates", "if_better")
    larger = replace(bad, gain=4.0, positions=PositionsConfig(cost_bps=0.0, position_smooth=0.0, max_position=1.0))
    evidence = replace(SKILL, worse_calibration="it is too sure of itself", errors=("column x: it is the future",))
    done = deliver(larger, panel, tmp_path / "two", "gates", "if_better", evidence=evidence)
    assert not done.promoted
    assert done.reason.startswith(
        "it is a refresh of version 1, but the data checks call this an error: column x: it is the future; "
        "it is too sure of itself; its turnover over the last 63 bars is "
    )
    assert (
        "its positions over the last 63 bars correlate -1.00 with those of the incumbent, the least is 0.5"
        in done.reason
    )
    assert done.reason.endswith('by hand: `tft-pipeline models promote 2 --name gates --why "..."`')
    assert standing(client, "gates") == {"2": CHALLENGES, "1": IN_PRODUCTION}


# ---- another schema


@pytest.mark.parametrize("rule", ["always", "if_better"])
def test_another_schema_is_refused_by_every_rule(
    client: MlflowClient, good: TrainedModel, bad: TrainedModel, panel: Panel, tmp_path: Path, rule: str
) -> None:
    """A toy that shares the name of a real model and is promoted always does not take over Production. What a live
    process would have to change is said."""
    name = f"toy-{rule}"
    real = replace(good, timing=replace(good.timing, delay_bars=0), symbols=("NIFTY", "S1"))
    deliver(real, panel, tmp_path / "one", name, "always")
    done = deliver(bad, panel, tmp_path / "two", name, rule, recipe=2)
    assert not done.promoted and not done.trouble
    assert (
        "against version 1, instruments to deliver besides: S0; no longer read: NIFTY; "
        "execution delay in bars 0 -> 1" in done.reason
    )
    assert "--force" in done.reason
    assert standing(client, name) == {"2": CHALLENGES, "1": IN_PRODUCTION}
    with pytest.raises(ValueError, match="no longer read: NIFTY"):
        promote_by_hand(name, "2", why="I said so")
    assert standing(client, name)["1"] == IN_PRODUCTION
    forced = promote_by_hand(name, "2", why="I said so", force=True)
    assert forced.reason.startswith("by hand: I said so (for the live process changes: instruments")
    assert standing(client, name) == {"2": IN_PRODUCTION, "1": ARCHIVED}


def test_a_new_recipe_with_other_columns_is_compared_and_then_waits_for_a_person(
    client: MlflowClient, good: TrainedModel, bad: TrainedModel, panel: Panel, tmp_path: Path
) -> None:
    """It has won, and what a live process delivers would change."""
    deliver(bad, panel, tmp_path / "one", "columns", "always")
    renamed = tuple(f"new_{name}" for name in panel.feature_names)
    both = replace(
        panel,
        feature_names=(*panel.feature_names, *renamed),
        features=np.concatenate([panel.features, panel.features], axis=2),
    )
    deliver(replace(good, feature_names=renamed), both, tmp_path / "two", "columns", "if_better", recipe=2)
    done = promote("columns", "2", rule="if_better", panel=both)
    assert the_comparison(client, "columns", "2").won
    assert not done.promoted
    assert "columns to deliver besides: new_group_0, new_group_1, new_group_2; no longer read: group_0" in done.reason
    assert promote("columns", "2", rule="if_better", panel=both, force=True).promoted
    lacking = promote("columns", "1", rule="if_better", panel=both.select(renamed))
    assert "the table lacks the columns group_0, group_1, group_2" in lacking.reason


def test_an_incumbent_of_an_earlier_schema_is_not_compared_and_ends_no_run(
    client: MlflowClient,
    good: TrainedModel,
    bad: TrainedModel,
    panel: Panel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(checkpoint, "SCHEMA_VERSION", checkpoint.SCHEMA_VERSION - 1)
        deliver(bad, panel, tmp_path / "one", "earlier", "always")
    done = deliver(good, panel, tmp_path / "two", "earlier", "if_better", recipe=2)
    assert not done.promoted and not done.trouble
    assert "against version 1, what it reads is unknown, since its checkpoint cannot be read (" in done.reason
    assert f"has schema version {checkpoint.SCHEMA_VERSION - 1}, this version reads" in done.reason
    assert standing(client, "earlier")["1"] == IN_PRODUCTION


def test_the_state_of_a_bet_is_readable(
    client: MlflowClient, good: TrainedModel, bad: TrainedModel, panel: Panel, tmp_path: Path
) -> None:
    """A tag of the candidate, named after the incumbent's recipe, in JSON."""
    deliver(good, panel, tmp_path / "one", "state", "always")
    deliver(bad, panel, tmp_path / "two", "state", "if_better", recipe=2)
    promote("state", "2", rule="if_better", panel=panel)
    recipe = client.get_model_version("state", "1").tags["recipe_sha256"]
    held = json.loads(client.get_model_version("state", "2").tags[f"bet.against.{recipe[:16]}"])
    assert (held["incumbent"], held["number"], held["last"]) == ("1", 1, str(panel.times[LAST - 2]))
    assert held["bet"]["n_bars"] == N_COUNTED
