"""The two arms of a comparison of purge gaps: what each is configured to do.

A gap lies on both sides of the validation block. Were it all that is changed, a wider one would train on fewer bars,
and would test later dates. Both arms are made to train on equally many bars and to test the same dates, bar by bar, so
that nothing but the gap differs: with the wider gap the training block lies twice the difference earlier, and the
validation block once.

    gap 0    . . . . T T T T T T V V V S S S S        T training, V validation, S test; a bar each
    gap 2    T T T T T T . . V V V . . S S S S
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pipeline.config.schema import Config, ConfigError
from pipeline.phases.folds import production_folds
from pipeline.statistics.paired import Compared
from tft.metrics import MIN_BARS
from tft.record import segments


def parse_purge_gaps(text: str) -> tuple[int, int]:
    """Two different whole numbers of bars, the baseline's first. Raises ValueError for anything else."""
    try:
        gaps = [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"purge_gaps is {text!r}, it must be two whole numbers of bars such as 0,5") from None
    if len(gaps) != 2:
        raise ValueError(f"purge_gaps is {text!r}, it must be two gaps such as 0,5: the baseline's and the candidate's")
    if min(gaps) < 0:
        raise ValueError(f"purge_gaps is {text!r}, the least gap is 0 bars")
    if gaps[0] == gaps[1]:
        raise ValueError(f"purge_gaps is {text!r}, which is the same run twice: give two different gaps such as 0,5")
    return gaps[0], gaps[1]


def purge_arms(config: Config, gaps: tuple[int, int]) -> tuple[Config, Config]:
    """The configurations of both arms, the baseline's first.

    Both train on as many bars as the configured gap leaves of `walk_forward.train_window`. With W the configured
    window, g0 the configured gap and g_max the wider one, an arm with gap g has the window W + g - g0, and leaves out
    the first 2 (g_max - g) bars. Its training blocks then hold W - validation_window - g0 bars (more with every fold if
    they expand), and its first test block begins at bar W - g0 + 2 g_max, whatever its g. Labels may overlap if a gap
    needs that. Raises ConfigError for a configuration that leaves no bar to train on.
    """
    baseline, candidate = (_arm(config, gap, max(gaps)) for gap in gaps)
    return baseline, candidate


def _arm(config: Config, gap: int, widest: int) -> Config:
    window = config.walk_forward
    arm = replace(
        config,
        purge_gap=gap,
        allow_label_overlap=config.allow_label_overlap or gap < config.least_purge_gap,
        walk_forward=replace(
            window,
            train_window=window.train_window + gap - config.purge_gap,
            first_bar=window.first_bar + 2 * (widest - gap),
        ),
    )
    if faults := arm.faults():
        raise ConfigError(faults)
    return arm


def check_equal_folds(arms: Sequence[Config], n_bars: int) -> None:
    """Raises ValueError where the arms would be tested on different dates of a table of `n_bars`, or would train on
    different numbers of bars. With `selection: nested` an arm may lack the first fold of the other.
    """
    baseline, candidate = (production_folds(arm, n_bars) for arm in arms)
    fewest = min(len(baseline), len(candidate))
    if len(baseline) != len(candidate):
        raise ValueError(
            f"the arms have {len(baseline)} and {len(candidate)} folds, since with selection: nested the gap decides "
            f"from which fold on there are bars to choose on: set production.max_folds to {fewest}, so that both test "
            f"the same dates"
        )
    for one, other in zip(baseline, candidate, strict=True):
        assert one.test == other.test, "the windows of both arms follow from one test block"
        assert len(one.train) == len(other.train), "a wider gap moves the training block and does not shorten it"


def n_compared(arm: Config, n_bars: int, n_development: int, segment: Compared) -> int:
    """Test bars of the segment on a table of `n_bars`, of which phases 1-4 may see `n_development`; the labelled ones.

    Raises ValueError where they are too few for a Sharpe.
    """
    of_segment = segments(range(n_bars), n_development=n_development, timing=arm.timing) == segment
    tested = {bar for fold in production_folds(arm, n_bars) for bar in fold.test}
    found = sum(bool(of_segment[bar]) for bar in tested)
    if found < MIN_BARS:
        other = "holdout" if segment == "development" else "development"
        raise ValueError(
            f"{found} {segment} bars would be tested, a comparison needs {MIN_BARS}: raise production.max_folds, bring "
            f"more bars, or compare on the {other} with holdout={'true' if other == 'holdout' else 'false'}"
        )
    return found
