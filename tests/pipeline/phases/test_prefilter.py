"""Columns that cannot carry information are dropped, each for the reason that applies, and no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.config.sections import DataConfig, PrefilterConfig
from pipeline.data.dataset import load_panel
from pipeline.data.sample import write_sample
from pipeline.phases.prefilter import Prefiltered, collinear, prefilter
from tft.panel import Panel

CONFIG = PrefilterConfig()


def panel_of(columns: dict[str, Any], n_bars: int = 40, n_assets: int = 2) -> Panel:
    """Each column (T, A), or (T,) for every instrument alike."""
    shaped = [np.broadcast_to(np.asarray(v, dtype=np.float32).T, (n_assets, n_bars)).T for v in columns.values()]
    return Panel(
        times=np.datetime64("2020-01-01", "us") + np.arange(n_bars) * np.timedelta64(1, "D"),
        symbols=tuple(f"S{i}" for i in range(n_assets)),
        feature_names=tuple(columns),
        features=np.stack(shaped, axis=-1),
        returns=np.zeros((n_bars, n_assets)),
    )


def noise(seed: int, n_bars: int = 40, n_assets: int = 2) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.random.default_rng(seed).standard_normal((n_bars, n_assets))


def without(values: np.ndarray[Any, Any], bars: slice, asset: int | slice = slice(None)) -> np.ndarray[Any, Any]:
    lacking = values.copy()
    lacking[bars, asset] = np.nan
    return lacking


def reasons(result: Prefiltered) -> dict[str, str]:
    return {dropped.feature: dropped.reason for dropped in result.dropped}


def test_each_reason_is_given_to_the_column_it_applies_to() -> None:
    """Empty, constant (missing values aside), mostly missing, collinear; the others go on in table order."""
    good, other = noise(1), noise(2)
    result = prefilter(
        panel_of(
            {
                "a_good": good,
                "a_empty": np.full(40, np.nan),
                "a_constant": without(np.full((40, 2), 3.0), slice(0, 5)),
                "a_sparse": without(noise(3), slice(0, 30)),
                "a_other": other,
                "a_copy": without(-2.0 * good + 7.0, slice(0, 1)),
            }
        ),
        CONFIG,
    )
    assert result.kept == ("a_good", "a_other") and result.n_initial == 6
    assert list(reasons(result)) == ["a_empty", "a_constant", "a_sparse", "a_copy"]
    assert reasons(result)["a_empty"] == "empty" and reasons(result)["a_constant"] == "constant"
    assert reasons(result)["a_sparse"].startswith("missing in 75%") and "limit is 50%" in reasons(result)["a_sparse"]
    assert reasons(result)["a_copy"] == "collinear with a_good (correlation -1.0000000)"


def test_a_column_that_is_constant_within_each_instrument_is_not_constant() -> None:
    """It tells the instruments apart."""
    result = prefilter(panel_of({"a_level": np.array([[1.0, 2.0]] * 40), "a_good": noise(1)}), CONFIG)
    assert result.kept == ("a_level", "a_good")


@pytest.mark.parametrize(
    ("n_missing", "kept"), [((30, 30), False), ((30, 20), True), ((40, 0), True), ((21, 21), False)]
)
def test_a_column_is_missing_too_often_only_if_it_is_so_in_every_instrument(
    n_missing: tuple[int, int], kept: bool
) -> None:
    """Out of 40 bars, at a limit of a half, which itself is still allowed."""
    values = noise(1)
    for asset, n in enumerate(n_missing):
        values[:n, asset] = np.nan
    result = prefilter(panel_of({"a_good": noise(2), "a_tried": values}), CONFIG)
    assert ("a_tried" in result.kept) is kept


def test_of_a_collinear_pair_the_one_with_more_data_stays() -> None:
    """Wherever it stands in the table; of equals the first."""
    values = noise(1)
    less = without(3.0 * values, slice(0, 4), 0)
    assert prefilter(panel_of({"a_less": less, "a_more": values}), CONFIG).kept == ("a_more",)
    assert prefilter(panel_of({"a_more": values, "a_less": less}), CONFIG).kept == ("a_more",)
    assert prefilter(panel_of({"a_first": values, "a_second": -values}), CONFIG).kept == ("a_first",)


def test_a_column_that_was_dropped_drops_no_other() -> None:
    """x ~ y and y ~ z, but not x ~ z: x and z stay if x has the most data, y alone if y has."""
    x, step = noise(1, 400), 0.11 * noise(2, 400)
    y, z = x + step, x + 2 * step
    config = PrefilterConfig(max_correlation=0.99)
    r = pd.DataFrame({"x": x.ravel(), "y": y.ravel(), "z": z.ravel()}).corr().to_numpy()
    assert r[0, 1] > 0.99 < r[1, 2] and r[0, 2] < 0.99, "the example is as described"
    some, most = slice(0, 5), slice(0, 9)
    kept = prefilter(panel_of({"a_x": x, "a_y": without(y, some), "a_z": without(z, most)}, 400), config).kept
    assert kept == ("a_x", "a_z")
    kept = prefilter(panel_of({"a_x": without(x, some), "a_y": y, "a_z": without(z, most)}, 400), config).kept
    assert kept == ("a_y",)


def test_a_chain_of_exact_copies_leaves_one_that_all_others_name() -> None:
    """A dropped column names one that stays, never one that was dropped itself."""
    values = noise(1)
    columns = {f"a_{i}": without((-1.0) ** i * (i + 1) * values, slice(0, (7 * i) % 5)) for i in range(5)}
    result = prefilter(panel_of(columns), CONFIG)
    assert result.kept == ("a_0",)
    assert all(reason.startswith("collinear with a_0 ") for reason in reasons(result).values())


def test_a_column_that_overlaps_in_fewer_than_three_rows_is_no_copy() -> None:
    """Two points always lie on a line."""
    values = noise(1, 40, 1)
    early, late = without(values, slice(21, 40)), without(values, slice(0, 19))
    assert int((np.isfinite(early) & np.isfinite(late)).sum()) == 2
    assert len(prefilter(panel_of({"a_early": early, "a_late": late}, n_assets=1), CONFIG).kept) == 2


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("max_correlation", [0.7, 0.95, 0.999999])
def test_collinear_columns_are_those_that_pandas_finds(seed: int, max_correlation: float) -> None:
    """Oracle: pandas' correlation over pairwise complete rows, and the rule applied one column at a time.

    150 columns from 20 sources, on scales from 1e-6 to 1e6 and far from zero, with up to 40 % missing.
    """
    rng = np.random.default_rng(seed)
    sources = rng.standard_normal((300, 20))
    mixing = rng.choice([0.0, 0.0005, 0.1, 0.6], 150)
    rows = sources[:, rng.integers(0, 20, 150)] + mixing * rng.standard_normal((300, 150))
    rows = (rows + rng.choice([0.0, 50.0], 150)) * 10.0 ** rng.integers(-6, 7, 150) * rng.choice([-1, 1], 150)
    rows[rng.random(rows.shape) < rng.choice([0.0, 0.1, 0.4], 150)] = np.nan
    rows = rows.astype(np.float32)
    candidates = [c for c in range(150) if c % 11]

    frame = pd.DataFrame(rows.astype(np.float64))
    correlation = frame.corr(min_periods=3).to_numpy()
    near = np.abs(np.abs(correlation) - max_correlation) < 1e-9
    assert not near.any(), "no pair is so close to the limit that rounding decides"
    expected: dict[int, tuple[int, float]] = {}
    for column in sorted(candidates, key=lambda c: (-frame[c].count(), c)):
        stay = [c for c in sorted(candidates, key=lambda c: (-frame[c].count(), c)) if c not in expected]
        for other in stay[: stay.index(column)]:
            if abs(correlation[column, other]) > max_correlation:
                expected[column] = (other, correlation[column, other])
                break
    found = collinear(rows, candidates, max_correlation)
    assert len(expected) > 20
    assert {c: other for c, (other, _) in found.items()} == {c: other for c, (other, _) in expected.items()}
    for column, (_, r) in found.items():
        assert r == pytest.approx(expected[column][1], abs=1e-9)


def test_the_degenerate_columns_of_the_sample_table_are_exactly_those_dropped(tmp_path: Path) -> None:
    """Each for the reason it was made with."""
    truth = write_sample(tmp_path / "s.parquet", n_bars=260, n_symbols=3, n_features=60, n_degenerate=40, seed=3)
    panel = load_panel(DataConfig(source=str(tmp_path / "s.parquet"))).panel
    result = prefilter(panel, CONFIG)
    found = reasons(result)
    assert set(found) == set(truth.degenerate)
    assert len(result.kept) == 60 and not set(result.kept) & set(found)
    for name, why in truth.degenerate.items():
        source = why.removeprefix("copy of ").removeprefix("linear in ")
        expected = {"constant": "constant", "more than half missing in every instrument": "missing in "}
        assert found[name].startswith(expected.get(why, f"collinear with {source} ")), (why, found[name])


def test_a_table_without_a_useful_column_is_refused() -> None:
    """A limit to raise is named where it would let a column through, after the table."""
    with pytest.raises(ValueError, match=r"none of the 1 columns \(a_constant is constant\): check the table$"):
        prefilter(panel_of({"a_constant": np.ones(40)}), CONFIG)
    sparse = panel_of({"a_sparse": without(noise(3), slice(0, 30))})
    with pytest.raises(ValueError, match=r"\(a_sparse is missing .*\): check the table, or raise prefilter.max_nan_"):
        prefilter(sparse, CONFIG)


def test_every_column_is_counted_once_when_it_is_judged() -> None:
    """Two that can be dropped at once, then 64 at a time of the 70 that are compared with each other."""
    columns = {f"a_{i}": noise(i) for i in range(70)} | {"b_constant": np.ones(40), "b_empty": np.full(40, np.nan)}
    judged: list[int] = []
    prefilter(panel_of(columns), CONFIG, on_columns=judged.append)
    assert judged == [2, 64, 6]
