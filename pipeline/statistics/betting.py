"""Is one strategy better than another? A bet on it, bar by bar, whose capital may be looked at as often as one likes.

Under "the first is no better" the capital is a supermartingale that starts at 1, whatever the returns look like: the
chance that it ever reaches 1 / alpha is at most alpha (Ville 1939), so that neither the number of looks nor the day on
which one stops needs a correction. The form of the bets is that of Waudby-Smith & Ramdas (2024), "Estimating means of
bounded random variables by betting", JRSS B 86: a stake lambda_t in [0, 1/2], chosen before bar t, on a payoff within
[-1, 1]. What is bet on is the difference of the two net returns, each over its own volatility, so that a larger
position is no better one:

    g_t = x_t / vol_x - y_t / vol_y,    d_t = clip(g_t / sd_g, -4, 4),    E_t = E_(t-1) (1 + lambda_t d_t / 4)

vol_x, vol_y, sd_g and lambda_t are known before t. No better means E[d_t | past] <= 0: of the clipped difference.
Simulated in benchmarks/promotion.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tft.volatility import MIN_RETURNS, SPAN_BARS

CLIP = 4.0
"""Largest absolute difference, in standard deviations, that is bet on."""
MAX_STAKE = 0.5
PRIOR_BARS = 60
"""Bars by which the stake leans to the largest one at first."""
YEAR_ALPHA = 0.05
"""Chance that any of the candidates that enter in one calendar year passes without being better."""


@dataclass(frozen=True)
class Scale:
    """Exponentially weighted root mean square of a series, known after its newest value. Span SPAN_BARS."""

    n: int = 0
    weight: float = 0.0
    squares: float = 0.0

    def after(self, value: float) -> Scale:
        decay = 1.0 - 2.0 / (SPAN_BARS + 1.0)
        return Scale(self.n + 1, decay * self.weight + 1.0, decay * self.squares + value * value)

    @property
    def value(self) -> float | None:
        """None with fewer than MIN_RETURNS values, or where all of them are 0."""
        return math.sqrt(self.squares / self.weight) if self.n >= MIN_RETURNS and self.squares > 0.0 else None


@dataclass(frozen=True)
class Bet:
    """The capital after some bars, and all that the next bar's stake depends on."""

    candidate: Scale = Scale()
    incumbent: Scale = Scale()
    difference: Scale = Scale()
    n_bars: int = 0
    """Bars that were bet on, or could have been."""
    total: float = 0.0
    """Sum of the payoffs d / 4."""
    squares: float = 0.0
    """Sum of their squares."""
    log_capital: float = 0.0
    log_peak: float = 0.0
    """Logarithm of the largest capital so far: what is compared with 1 / alpha."""

    @property
    def capital(self) -> float:
        return math.exp(self.log_capital)

    @property
    def peak(self) -> float:
        return math.exp(self.log_peak)

    @property
    def stake(self) -> float:
        """The next stake: mean / mean square of the payoffs so far, within [0, MAX_STAKE].

        This is the stake of approximately largest growth (aGRAPA in Waudby-Smith & Ramdas 2024). It begins as the
        largest one, by PRIOR_BARS payoffs that never were, and gives way to what is earned: most differences worth
        finding call for a large stake, and waiting for the mean to say so costs half a year.
        """
        prior = PRIOR_BARS / CLIP**2  # payoffs with the mean square of an unclipped difference, and a mean as large
        return min(max((prior + self.total) / (prior + self.squares), 0.0), MAX_STAKE)

    def learn(self, candidate: Sequence[float], incumbent: Sequence[float]) -> Bet:
        """Learn the three scales from the net returns of earlier bars, on which nothing is bet."""
        return self._after(candidate, incumbent, counted=False)

    def go_on(self, candidate: Sequence[float], incumbent: Sequence[float]) -> Bet:
        """Bet on the next bars, given the net returns of both in order of time. A bar without both is no bar."""
        return self._after(candidate, incumbent, counted=True)

    def _after(self, candidate: Sequence[float], incumbent: Sequence[float], *, counted: bool) -> Bet:
        bet = self
        for x, y in zip(candidate, incumbent, strict=True):
            if math.isfinite(x) and math.isfinite(y):
                bet = bet._bar(float(x), float(y), counted=counted)
        return bet

    def _bar(self, x: float, y: float, *, counted: bool) -> Bet:
        volatilities = self.candidate.value, self.incumbent.value
        after = replace(self, candidate=self.candidate.after(x), incumbent=self.incumbent.after(y))
        if volatilities[0] is None or volatilities[1] is None:
            return after
        difference = x / volatilities[0] - y / volatilities[1]
        after = replace(after, difference=self.difference.after(difference))
        if not counted or self.difference.value is None:
            return after
        payoff = min(max(difference / self.difference.value, -CLIP), CLIP) / CLIP
        log_capital = self.log_capital + math.log1p(self.stake * payoff)
        return replace(
            after,
            n_bars=self.n_bars + 1,
            total=self.total + payoff,
            squares=self.squares + payoff**2,
            log_capital=log_capital,
            log_peak=max(self.log_peak, log_capital),
        )


def alpha_of(number: int) -> float:
    """The share of a calendar year's YEAR_ALPHA that its `number`-th candidate (from 1) has: 6 / (pi² number²).

    However many candidates enter, their shares add up to no more than the whole. Raises ValueError below 1.
    """
    if number < 1:
        raise ValueError(f"number is {number}, the first candidate of a year is number 1")
    return YEAR_ALPHA * 6.0 / (math.pi * number) ** 2
