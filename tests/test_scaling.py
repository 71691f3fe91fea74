"""Standardisation: which rows it learns from, what it clips, what it calls missing."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tft.scaling import CLIP, Scaler


def rows(n_bars: int = 40, n_assets: int = 3, n_features: int = 4, seed: int = 0) -> NDArray[np.float32]:
    draws = np.random.default_rng(seed)
    features = draws.normal(5.0, 3.0, size=(n_bars, n_assets, n_features))
    features[draws.random(features.shape) < 0.2] = np.nan
    return features.astype(np.float32)


def test_statistics_pool_bars_and_instruments_and_leave_missing_values_out() -> None:
    """Mean and population standard deviation of a column, by a plain loop over its cells."""
    features = rows()
    scaler = Scaler.fit(features)
    for column in range(features.shape[-1]):
        values = [float(v) for bar in features for v in bar[:, column] if not np.isnan(v)]
        mean = sum(values) / len(values)
        std = (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5
        assert scaler.mean[column] == pytest.approx(mean, rel=1e-6)
        assert scaler.std[column] == pytest.approx(std, rel=1e-6)


def test_two_dimensional_rows_give_the_same_statistics() -> None:
    features = rows()
    flat = Scaler.fit(features.reshape(-1, features.shape[-1]))
    pooled = Scaler.fit(features)
    np.testing.assert_array_equal(flat.mean, pooled.mean)
    np.testing.assert_array_equal(flat.std, pooled.std)


def test_transformed_training_rows_have_mean_0_and_deviation_1() -> None:
    features = rows(n_bars=400)
    scaled = Scaler.fit(features).transform(features)
    np.testing.assert_allclose(np.nanmean(scaled, axis=(0, 1)), 0.0, atol=1e-5)
    np.testing.assert_allclose(np.nanstd(scaled, axis=(0, 1)), 1.0, atol=1e-5)
    assert scaled.dtype == np.float32


def test_values_worked_by_hand_are_scaled_and_clipped_at_five_deviations() -> None:
    """Training rows 1 and 3: mean 2, deviation 1."""
    scaler = Scaler.fit(np.array([[1.0], [3.0], [np.nan]], dtype=np.float32))
    assert (scaler.mean.item(), scaler.std.item()) == (2.0, 1.0)
    scaled = scaler.transform(np.array([[2.0], [0.5], [7.0], [7.5], [-2.9], [-30.0], [np.nan]], dtype=np.float32))
    np.testing.assert_allclose(scaled[:, 0], [0.0, -1.5, 5.0, 5.0, -4.9, -5.0, np.nan], rtol=1e-6)
    assert CLIP == 5.0


def test_missing_stays_missing_and_nothing_else_becomes_missing() -> None:
    features = rows()
    scaled = Scaler.fit(features).transform(features)
    np.testing.assert_array_equal(np.isnan(scaled), np.isnan(features))


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, 4512.25, 1e-12, 3.3e7])
def test_a_column_constant_in_the_training_rows_is_missing_throughout_the_fold(value: float) -> None:
    """Whatever the level, and with gaps; a later move does not bring the column back."""
    training = rows()
    training[:, :, 1] = np.where(np.isnan(training[:, :, 1]), np.nan, value)
    scaler = Scaler.fit(training)
    assert np.isnan(scaler.mean[1])
    assert np.isnan(scaler.std[1])
    scaled = scaler.transform(rows(seed=1))
    assert np.isnan(scaled[:, :, 1]).all()
    assert np.isfinite(scaled[:, :, [0, 2, 3]]).any(axis=(0, 1)).all()


def test_a_column_empty_in_the_training_rows_is_missing_throughout_the_fold() -> None:
    training = rows()
    training[:, :, 2] = np.nan
    assert np.isnan(Scaler.fit(training).transform(rows(seed=1))[:, :, 2]).all()


def test_a_spread_of_rounding_alone_counts_as_constant() -> None:
    """Values that differ in their last bit carry nothing."""
    level = np.float32(4512.25)
    training = np.tile(np.array([[level], [np.nextafter(level, np.float32(np.inf))]]), (20, 1))
    assert np.isnan(Scaler.fit(training).std).all()


def test_a_small_spread_on_a_large_level_is_kept() -> None:
    """A rate quoted around 4500 that moves by one is not constant."""
    training = np.tile(np.array([[4500.0], [4501.0]], dtype=np.float32), (20, 1))
    assert Scaler.fit(training).std.item() == pytest.approx(0.5)
