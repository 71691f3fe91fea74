"""Walk-forwards of the candidates that tuning tries.

The first candidates of a search depend on no result. Where a stack has room for the folds of several of them,
candidates with networks of one shape are trained side by side as soon as the first of them is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tft.backtest import FoldOutcome, walk
from tft.folds import Fold
from tft.market import Market
from tft.train import Recipe, evenly, largest_stack


class CandidateWalks:
    """Outcomes of candidates, fold by fold."""

    def __init__(
        self, market: Market, folds: Sequence[Fold], first: Sequence[Recipe | None], *, at_once: int | None = None
    ) -> None:
        """first: of the trials that depend on no result, in their order; None where the configuration refuses one.
        at_once: trials to train side by side, at most; by default as many as one stack holds.
        """
        self.market, self.folds, self.first = market, folds, first
        self._stacks: dict[Recipe, list[Recipe]] = {}
        self._made: dict[Recipe, list[FoldOutcome]] = {}
        by_shape: dict[Recipe, list[Recipe]] = {}
        for one in dict.fromkeys(first):
            if one:
                by_shape.setdefault(one.common, []).append(one)
        for shape, alike in by_shape.items():
            size = evenly(len(alike), at_once or max(1, largest_stack(market, folds, shape) // len(folds)))
            for number, one in enumerate(alike):
                start = number // size * size
                self._stacks[one] = alike[start : start + size]

    def outcomes(self, one: Recipe) -> Iterator[FoldOutcome]:
        """The outcome of each fold in order. A candidate's stack is the same whichever trials have ended: what a fit is
        depends on it. If the stack has a fault, each of its candidates is walked alone, which shows whose it is.
        """
        stack = self._stacks.get(one, [one])
        if len(stack) > 1 and one not in self._made:
            try:
                self._made.update(self._side_by_side(stack))
            except (FloatingPointError, ValueError):
                for each in stack:
                    del self._stacks[each]
        if one in self._made:
            yield from self._made[one]
        else:
            for _, outcome in walk(self.market, self.folds, one):
                yield outcome

    def begun(self, number: int) -> bool:
        """Whether trial `number`, which has not been asked for, was trained beside one that has."""
        return number < len(self.first) and self.first[number] in self._made

    def _side_by_side(self, stack: Sequence[Recipe]) -> dict[Recipe, list[FoldOutcome]]:
        n = len(self.folds)
        walked = walk(
            self.market,
            [*self.folds] * len(stack),
            [one for one in stack for _ in self.folds],
        )
        outcomes = [outcome for _, outcome in walked]
        return {one: outcomes[k * n : (k + 1) * n] for k, one in enumerate(stack)}
