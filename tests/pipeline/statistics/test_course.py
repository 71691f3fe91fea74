"""The course of a record beside plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.statistics.course import course, rolling_sharpe
from pipeline.statistics.standard_errors import sharpe_standard_error
from tests.pipeline.statistics.records import random_record
from tft.metrics import sharpe


def test_each_window_has_the_sharpe_of_its_bars() -> None:
    net = 0.01 * np.random.default_rng(0).standard_normal(120)
    net[40:60] = 0.002
    found = rolling_sharpe(net, 20, periods_per_year=252.0)
    assert np.isnan(found[:19]).all() and np.isnan(found[59]), "too early, and returns that do not vary"
    for last in [19, 39, 75, 119]:
        assert found[last] == pytest.approx(sharpe(net[last - 19 : last + 1], periods_per_year=252.0))


def test_the_series_are_means_over_the_instruments_that_hold_something() -> None:
    record, _ = random_record(400, 3, n_holdout=200)
    found = course(record)
    net = record.net()
    judged = np.isfinite(net) & (record.segment != "between")
    assert len(found.times) == judged.sum() == 396 and found.window_bars == 252 and found.month_bars == 21
    for number, row in enumerate(np.flatnonzero(judged).tolist()):
        held = [asset for asset in range(3) if np.isfinite(record.earned.net[row, asset])]
        positions = [record.position[row, asset] for asset in held]
        assert found.net_exposure[number] == pytest.approx(np.mean(positions))
        assert found.gross_exposure[number] == pytest.approx(np.mean(np.abs(positions)))
    last = np.flatnonzero(np.isfinite(net))[-21:]
    changes = [np.nanmean(record.earned.change[row]) for row in last]
    assert found.turnover[-1] == pytest.approx(252.0 * np.mean(changes))
    assert np.isnan(found.turnover[:20]).all()


def test_the_noise_of_a_year_is_the_error_of_the_whole_at_the_length_of_a_year() -> None:
    record, _ = random_record(600, 2, n_holdout=200)
    found = course(record)
    net = record.net()[np.isfinite(record.net()) & (record.segment != "between")]
    assert found.whole == pytest.approx(sharpe(net, periods_per_year=252.0))
    expected = sharpe_standard_error(net) * np.sqrt(252.0) * np.sqrt(len(net) / 252.0)
    assert found.noise == pytest.approx(expected)
    assert 0.8 < expected < 1.2, "about 1 / sqrt(years)"


def test_a_short_record_has_no_year() -> None:
    record, _ = random_record(60, 2, n_holdout=30)
    found = course(record)
    assert np.isnan(found.sharpe).all() and found.whole is None and found.noise is None
