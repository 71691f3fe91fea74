"""benchmarks/skill.py: its table, its rule for keeping a change, and that the command runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import skill, skill_measure
from benchmarks.skill_report import Row, comparison, mean_and_error, table
from tests.conftest import ROOT


def row(kind: str, seed: int, share: float, learner: str = "tft") -> Row:
    return Row(
        kind=kind,
        seed=seed,
        learner=learner,
        ceiling="own",
        sharpe=1.0,
        sharpe_gross=1.0,
        sharpe_gross_error=0.45,
        true_sharpe=share * 4.0,
        true_sharpe_gross=share * 4.0,
        share_own=share,
        share_all=share / 2.0,
        realised_share_own=share,
        realised_share_all=share / 2.0,
        ic=0.1,
        rank_ic=0.1,
        slope=None,
        log_score_gain=None,
        log_score_gain_error=None,
        volatility=0.02,
        turnover=10.0,
    )


def rows(linear: Sequence[float], temporal: Sequence[float]) -> list[Row]:
    return [
        row(kind, seed, share)
        for kind, shares in (("linear", linear), ("temporal", temporal))
        for seed, share in enumerate(shares)
    ]


@pytest.mark.parametrize(
    ("linear", "temporal", "expected"),
    [
        ((0.59, 0.60, 0.61), (0.19, 0.20, 0.21), "kept"),
        ((0.40, 0.41, 0.39), (0.00, 0.01, -0.01), "not kept: the mean gain is"),
        ((0.90, 0.91, 0.89), (-0.10, -0.11, -0.09), "not kept: worse by 2 standard errors or more on temporal"),
    ],
)
def test_a_change_is_kept_if_it_gains_together_and_loses_nowhere(
    linear: Sequence[float], temporal: Sequence[float], expected: str
) -> None:
    before = rows((0.40, 0.40, 0.40), (0.0, 0.0, 0.0))
    verdict = comparison(before, rows(linear, temporal), learner="tft", ceiling="own").splitlines()[-1]
    assert verdict.startswith(expected)


def test_gains_are_paired_by_kind_and_seed_in_units_of_their_standard_error() -> None:
    """Gains 0.1, 0.2, 0.3: mean 0.2, standard error 0.1 / sqrt(3); the order of rows does not matter."""
    before, after = rows((0.1, 0.5, 0.9), ()), rows((0.2, 0.7, 1.2), ())
    text = comparison(before, after[::-1], learner="tft", ceiling="own")
    assert "| linear | 3 | 0.500 | 0.700 | 0.200 ± 0.058 | +3.5 |" in text


def test_a_single_pair_gives_no_verdict() -> None:
    assert "no verdict" in comparison(rows((0.1,), ()), rows((0.2,), ()), learner="tft", ceiling="own")
    with pytest.raises(ValueError, match="no pair"):
        comparison(rows((0.1,), ()), rows((0.2,), ()), learner="ridge", ceiling="own")


def test_means_leave_out_what_is_not_defined() -> None:
    mean, error = mean_and_error([1.0, None, 3.0])
    assert (mean, error) == (2.0, pytest.approx(1.0))
    assert all(np.isnan(mean_and_error([None])))
    assert "| linear | tft | 2 |" in table(rows((0.5, 0.7), ()))


def test_rank_correlation_and_slope_by_hand() -> None:
    a = np.array([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0], [3.0, 2.0, np.nan]])
    b = np.array([[10.0, 30.0, 20.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    assert skill_measure.rank_correlation(a, b) == pytest.approx(
        0.5
    )  # the first bar alone is complete and not constant
    assert skill_measure.slope(np.array([0.0, 1.0, 2.0]), np.array([5.0, 5.5, 6.0])) == pytest.approx(0.5)


def test_the_command_writes_rows_table_and_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def here(
        work: Callable[[Any, Any], Any], common: Any, items: Sequence[Any], *, n_workers: int, on_done: Any
    ) -> Iterator[Any]:
        for item in items:
            found = work(common, item)
            on_done(found)
            yield found

    monkeypatch.setattr(skill, "in_processes", here)
    options = ["--small", "--kinds", "relative", "--learners", "ridge", "--costs", "--out", str(tmp_path)]
    result = CliRunner().invoke(skill.main, options, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "skill.json").read_text())
    assert written["settings"]["positions"]["cost_bps"] == 5
    by_learner = {row["learner"]: row for row in written["rows"]}
    assert set(by_learner) == {"ridge", "ridge+x", "knows own window", "knows everything"}
    assert by_learner["knows own window"]["share_own"] == by_learner["knows everything"]["share_all"] == 1.0
    assert by_learner["ridge+x"]["ceiling"] == "all"
    assert (tmp_path / "skill.png").stat().st_size > 0
    assert "| relative | ridge | 1 |" in (tmp_path / "skill.md").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "model.seq_len=90"], "the folds begin after 64 bars"),
        (["--set", "trainin.lr=1"], "did you mean training"),
        (["--learners", "forest"], "learner forest is not known"),
    ],
)
def test_what_cannot_be_run_is_refused(options: list[str], message: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(skill.main, [*options, "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert message in result.output


def test_development_and_report_seeds_do_not_meet() -> None:
    assert not set(skill.SEEDS["development"]) & set(skill.SEEDS["report"])
    assert (ROOT / "benchmarks" / "skill.yaml").exists()


def test_seeds_are_a_name_or_first_and_last() -> None:
    assert skill.read_seeds("report") == range(101, 121)
    assert skill.read_seeds("106-110") == range(106, 111)
    for wrong in ("", "7", "9-3", "a-b", "1-2-3"):
        with pytest.raises(click.UsageError, match="give development, report, or the first and the last"):
            skill.read_seeds(wrong)
