"""Who gets the stage and the alias, by which rule, and what a comparison leaves behind."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from pipeline.registry import promotion
from pipeline.registry.promotion import promote
from pipeline.registry.versions import ALIAS, STAGE, find_version
from pipeline.tracking.ledger import overlapping
from tests.pipeline.registry.conftest import FIT_END, deliver, standing
from tft import checkpoint
from tft.checkpoint import TrainedModel
from tft.panel import Panel


def test_the_opposite_positions_are_taken_by_construction(good: TrainedModel, bad: TrainedModel, panel: Panel) -> None:
    """What the comparisons below rest on: one earns, the other loses as much."""
    gain, loss = (promotion._returns_after(trained, panel, FIT_END + 1) for trained in (good, bad))
    assert np.allclose(gain, -loss, atol=1e-7)
    assert gain.mean() / gain.std() * np.sqrt(252) > 10.0


def test_always_promotes(client: MlflowClient, bad: TrainedModel, panel: Panel, tmp_path: Path) -> None:
    """Even what loses: stage and alias, exclusively; the version before is archived."""
    first = deliver(bad, panel, tmp_path / "one", "always", "always", holdout_sharpe=-3.0)
    assert (first.version, first.promoted, first.trouble) == ("1", True, ())
    assert standing(client, "always") == {"1": (STAGE, [ALIAS])}
    worse = replace(bad, metrics={"oos_sharpe": -4.0})
    second = deliver(worse, panel, tmp_path / "two", "always", "always", holdout_sharpe=-4.0)
    assert second.promoted
    assert standing(client, "always") == {"2": (STAGE, [ALIAS]), "1": ("Archived", [])}
    assert (STAGE, ALIAS) == ("Production", "production")
    tags = client.get_model_version("always", "2").tags
    assert tags["oos_sharpe"] == "-4.0000"
    assert tags["promoted_at"].startswith("20")


def test_never_promotes_nothing(client: MlflowClient, good: TrainedModel, panel: Panel, tmp_path: Path) -> None:
    """However good; the version is registered all the same, and says why."""
    done = deliver(good, panel, tmp_path / "one", "never", "never", holdout_sharpe=9.0)
    assert (done.version, done.promoted, done.reason) == ("1", False, "the rule is never to promote")
    assert standing(client, "never") == {"1": ("None", [])}


@pytest.mark.parametrize(
    ("sharpe", "promoted", "said"),
    [(0.4, True, "holdout Sharpe is 0.40"), (-0.4, False, "holdout Sharpe is -0.40"), (None, False, "no holdout")],
)
def test_without_an_incumbent_the_holdout_sharpe_must_be_positive(
    client: MlflowClient,
    good: TrainedModel,
    panel: Panel,
    tmp_path: Path,
    sharpe: float | None,
    promoted: bool,
    said: str,
) -> None:
    name = f"alone-{promoted}-{sharpe is None}"
    done = deliver(good, panel, tmp_path / "one", name, "if_better", holdout_sharpe=sharpe)
    assert done.promoted is promoted
    assert said in done.reason
    assert standing(client, name) == {"1": (STAGE, [ALIAS]) if promoted else ("None", [])}


def test_better_than_the_incumbent_is_promoted(
    client: MlflowClient, good: TrainedModel, bad: TrainedModel, panel: Panel, tmp_path: Path
) -> None:
    """Over the bars after both fits, whatever its holdout Sharpe was."""
    deliver(bad, panel, tmp_path / "one", "better", "always")
    done = deliver(good, panel, tmp_path / "two", "better", "if_better", holdout_sharpe=-1.0)
    assert done.promoted
    n_bars = 319 - FIT_END - 2
    assert re.fullmatch(
        rf"its annual Sharpe is \+\d+\.\d\d against version 1 over {n_bars} bars after both fits "
        r"\(p = 0\.[01]\d, the limit is 0\.2\)",
        done.reason,
    )
    assert standing(client, "better") == {"2": (STAGE, [ALIAS]), "1": ("Archived", [])}


def test_a_comparison_with_the_incumbent_is_a_look_by_both_versions(
    client: MlflowClient, good: TrainedModel, bad: TrainedModel, panel: Panel, tmp_path: Path
) -> None:
    """Over the bars after both fits whose return is known; comparing them again is no other look."""
    bars = (str(panel.times[FIT_END + 1]), str(panel.times[319 - 2]))
    before = len(overlapping(*bars, panel.symbols))
    deliver(bad, panel, tmp_path / "one", "looked", "always")
    deliver(good, panel, tmp_path / "two", "looked", "if_better")
    promote("looked", "1", rule="if_better", panel=panel, holdout_sharpe=None)
    looks = [look for look in overlapping(*bars, panel.symbols) if look.evaluation.startswith("looked version")]
    assert len(overlapping(*bars, panel.symbols)) == before + len(looks)
    assert [look.evaluation for look in looks] == ["looked version 2 against 1", "looked version 1 against 2"]
    assert {(look.kind, look.first, look.last, look.symbols) for look in looks} == {("promotion", *bars, panel.symbols)}
    assert all(look.n_bars == 319 - FIT_END - 2 for look in looks)
    new, old = (look.sharpe for look in looks)
    assert new is not None and old is not None and new > 0.0 > old


def test_worse_than_the_incumbent_is_not_promoted(
    client: MlflowClient, good: TrainedModel, bad: TrainedModel, panel: Panel, tmp_path: Path
) -> None:
    """Significantly worse is as little a reason as any: the incumbent stays."""
    deliver(good, panel, tmp_path / "one", "worse", "always")
    done = deliver(bad, panel, tmp_path / "two", "worse", "if_better", holdout_sharpe=5.0)
    assert not done.promoted
    assert "its annual Sharpe is -" in done.reason
    assert standing(client, "worse") == {"2": ("None", []), "1": (STAGE, [ALIAS])}


def test_as_good_as_the_incumbent_is_not_promoted(
    client: MlflowClient, good: TrainedModel, panel: Panel, tmp_path: Path
) -> None:
    """The difference has to be positive: the same model again is no better."""
    deliver(good, panel, tmp_path / "one", "same", "always")
    done = deliver(good, panel, tmp_path / "two", "same", "if_better")
    assert not done.promoted, done.reason
    assert not done.trouble


@pytest.mark.parametrize("who", ["candidate", "incumbent"])
def test_too_few_bars_after_both_fits_are_refused_with_a_sentence(
    client: MlflowClient, good: TrainedModel, bad: TrainedModel, panel: Panel, tmp_path: Path, who: str
) -> None:
    """The later of the two fits counts, whichever of them it is; 62 bars are too few."""
    late = str(panel.times[320 - 62 - 2 - 1])
    name = f"few-{who}"
    deliver(replace(bad, fit_end=late) if who == "incumbent" else bad, panel, tmp_path / "one", name, "always")
    new = replace(good, fit_end=late) if who == "candidate" else good
    done = deliver(new, panel, tmp_path / "two", name, "if_better")
    assert not done.promoted
    assert done.reason == (
        "62 bars lie after the fit of both it and the incumbent (version 1), 63 are needed to compare them: try "
        "`tft-pipeline models --promote 2` with newer bars, or set registry.promote: always"
    )
    assert standing(client, name)["1"] == (STAGE, [ALIAS])


def test_63_bars_after_both_fits_are_enough(
    client: MlflowClient, good: TrainedModel, bad: TrainedModel, panel: Panel, tmp_path: Path
) -> None:
    late = str(panel.times[320 - 63 - 2 - 1])
    deliver(replace(bad, fit_end=late), panel, tmp_path / "one", "enough", "always")
    done = deliver(good, panel, tmp_path / "two", "enough", "if_better")
    assert "over 63 bars after both fits" in done.reason
    assert done.promoted


def test_an_incumbent_of_other_instruments_is_not_compared(
    client: MlflowClient, good: TrainedModel, bad: TrainedModel, panel: Panel, tmp_path: Path
) -> None:
    deliver(replace(bad, symbols=("A", "B")), panel, tmp_path / "one", "other", "always")
    done = deliver(good, panel, tmp_path / "two", "other", "if_better")
    assert not done.promoted
    assert "the incumbent (version 1) uses other instruments or columns" in done.reason


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
    done = deliver(good, panel, tmp_path / "two", "earlier", "if_better")
    assert not done.promoted and not done.trouble
    assert done.reason.startswith("the incumbent (version 1) cannot be read: ")
    assert f"has schema version {checkpoint.SCHEMA_VERSION - 1}, this version reads" in done.reason
    assert standing(client, "earlier")["1"] == (STAGE, [ALIAS])


def test_a_version_registered_earlier_can_be_promoted_later(
    client: MlflowClient, good: TrainedModel, bad: TrainedModel, panel: Panel, tmp_path: Path
) -> None:
    deliver(bad, panel, tmp_path / "one", "later", "always")
    deliver(good, panel, tmp_path / "two", "later", "never")
    assert promote("later", "2", rule="if_better", panel=panel, holdout_sharpe=None)[0]
    assert find_version("later", alias=ALIAS) == find_version("later", stage=STAGE) == "2"
