"""A return column against the close beside it: what is meant alike, and what contradicts it."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest

from pipeline.data.frame import read_frame
from tests.pipeline.data.tables import config, findings

N_BARS, SYMBOLS = 80, ("A", "B")


def moves() -> np.ndarray:
    """(T, A) returns of 1 % a bar, over which nothing is known from one bar to the next."""
    return 0.01 * np.random.default_rng(3).standard_normal((N_BARS, len(SYMBOLS)))


def table(returns: np.ndarray, own: np.ndarray | None = None) -> pl.DataFrame:
    """The close of `own` moves, and the return column."""
    close = 50.0 * np.cumprod(1.0 + (moves() if own is None else own), axis=0)
    return pl.DataFrame(
        {
            "date": [date(2024, 1, 1) + timedelta(days=t) for t in range(N_BARS) for _ in SYMBOLS],
            "symbol": [symbol for _ in range(N_BARS) for symbol in SYMBOLS],
            "close": close.ravel(),
            "Return": returns.ravel(),
            "px_x": np.random.default_rng(4).standard_normal(close.size),
        }
    )


def quarterly_dividends(own: np.ndarray) -> np.ndarray:
    paid = own.copy()
    paid[::20] += 0.02
    return paid


def corporate_actions(own: np.ndarray) -> np.ndarray:
    split = own.copy()
    split[[10, 50]] = [[1.0, 0.0], [0.0, -0.5]]
    return split


@pytest.mark.parametrize(
    "same",
    [
        lambda own: own,
        np.log1p,
        lambda own: np.round(own, 3),
        quarterly_dividends,
        corporate_actions,
        lambda own: own - 0.0002,
        lambda own: np.where(np.random.default_rng(5).uniform(size=own.shape) < 0.3, np.nan, own),
    ],
)
def test_what_is_nearly_the_close_s_return_is_taken(same: object) -> None:
    assert callable(same)
    read = read_frame(table(same(moves())), config())
    np.testing.assert_array_equal(read.panel.returns, same(moves()))


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (lambda own: np.vstack([own[1:], own[:1]]), "it is the close's return over the next bar"),
        (lambda own: np.vstack([own[-1:], own[:-1]]), "it is the close's return over the bar before"),
        (lambda own: 20.0 * own, "it is 20 times the close's return over its own bar"),
        (lambda own: -own, "it is -1 times the close's return over its own bar"),
        (lambda own: 100.0 * own, "it is 100 times the close's return over its own bar, percent instead of a fraction"),
        (lambda own: own[::-1], "on the median bar both differ by "),
        (np.zeros_like, "on the median bar both differ by 100% of a usual return"),
    ],
)
def test_another_return_is_one_sentence(other: object, what: str) -> None:
    assert callable(other)
    given = np.maximum(other(moves()), -0.99)
    (said,) = findings(table(given))
    assert said.startswith("column Return contradicts column close in 2 of 2 instruments (A, B): " + what)
    row = int(said.split("(row ")[1].split(")")[0]) - 1
    bar, asset = divmod(row, 2)
    assert asset == 0 and f"{given[bar, 0]:.4g} where the close gives {moves()[bar, 0]:.4g}: choose" in said


def test_one_instrument_is_enough_and_is_named() -> None:
    given = moves()
    given[:, 1] *= 7.0
    (said,) = findings(table(given))
    assert "contradicts column close in 1 of 2 instruments (B): it is 7 times" in said


def test_each_remedy_helps() -> None:
    """Accepted, the column is taken, and that is noted; excluded, returns are those of the close."""
    given = 5.0 * moves()
    accepted = read_frame(table(given), config(accept=("Return",)))
    np.testing.assert_array_equal(accepted.panel.returns, given)
    assert [note.where for note in accepted.notes if note.check == "return and close"] == ["column Return"]
    excluded = read_frame(table(given), config(exclude=("Return",)))
    np.testing.assert_allclose(excluded.panel.returns[1:], moves()[1:], rtol=1e-9)
    right = table(given).with_columns(mine=pl.Series(moves().ravel()))
    chosen = read_frame(right, config(return_column="mine"))
    np.testing.assert_array_equal(chosen.panel.returns, moves())
