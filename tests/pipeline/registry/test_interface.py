"""What a live process has to change, said precisely."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.registry.interface import Interface, changes
from tft.checkpoint import TrainedModel
from tft.table import TableFormat
from tft.volatility import Timing


def test_the_same_inputs_in_another_order_are_the_same(good: TrainedModel) -> None:
    turned = replace(good, symbols=good.symbols[::-1], feature_names=good.feature_names[::-1], fit_end="2030-01-01")
    assert changes(Interface.of(good), Interface.of(turned)) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"symbols": ("S0", "S9")}, "instruments to deliver besides: S9; no longer read: S1"),
        ({"symbols": ("S0",)}, "instruments no longer read: S1"),
        (
            {"feature_names": ("group_0", "group_1", "b", "a")},
            "columns to deliver besides: a, b; no longer read: group_2",
        ),
        ({"timing": Timing(252.0 * 375)}, "bars a year 252 -> 94500"),
        ({"timing": Timing(delay_bars=0)}, "execution delay in bars 1 -> 0"),
        ({"timing": Timing(horizon=5)}, "horizon in bars 1 -> 5"),
        (
            {"table_format": TableFormat(time_format="epoch_s")},
            "times are written otherwise (as dates, times or ISO text -> epoch_s)",
        ),
        (
            {"table_format": TableFormat({"timestamp": "date", "close": "px"})},
            "key columns are read by other names (the usual ones -> close from px)",
        ),
    ],
)
def test_each_difference_is_named(good: TrainedModel, given: dict[str, object], said: str) -> None:
    assert changes(Interface.of(good), Interface.of(replace(good, **given))) == [said]


def test_a_column_known_in_advance_is_delivered_under_its_own_name(good: TrainedModel) -> None:
    """`expiry.ahead` is made from the column expiry, whose later values have to be there."""
    ahead = replace(good, feature_names=("group_0", "group_1", "expiry.ahead"), known=("expiry",))
    assert changes(Interface.of(good), Interface.of(ahead)) == [
        "columns to deliver besides: expiry; no longer read: group_2",
        "columns known in advance to deliver besides: expiry",
    ]
