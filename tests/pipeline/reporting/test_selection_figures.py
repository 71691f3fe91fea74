"""What the figures of variable selection must show; a comment above an assertion states the rule."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.text import Text

from pipeline.reporting import selection_figures
from pipeline.statistics.false_discovery import ProbeNull
from pipeline.statistics.pooled_null import PooledNull
from tests.pipeline.reporting.test_figures import drawn
from tests.pipeline.reporting.test_page import ranked_rows


@pytest.mark.parametrize(("n_columns", "n_folds"), [(3, 1), (276, 11)])
def test_the_heat_map_shows_the_best_forty_columns_with_weight_and_group(n_columns: int, n_folds: int) -> None:
    ranked = ranked_rows(n_columns, n_folds)
    figure = selection_figures.vsn_heatmap(ranked, range(n_folds))
    (image,) = figure.axes[0].images
    assert np.ma.shape(image.get_array()) == (min(n_columns, 40), n_folds)
    text = drawn(figure)
    for row in ranked[:40]:
        assert row.feature in text
        assert re.search(rf"{row.relative_weight:.2f}×  {row.group}\b", text)


def test_a_weight_missing_from_a_fold_is_masked() -> None:
    ranked = ranked_rows(3, 4)
    ranked[1] = replace(ranked[1], weights=(0.1, float("nan"), 0.1, 0.1))
    figure = selection_figures.vsn_heatmap(ranked, range(4))
    (image,) = figure.axes[0].images
    assert np.argwhere(np.ma.getmaskarray(image.get_array())).tolist() == [[1, 1]]
    drawn(figure)


def test_stability_shows_columns_probes_and_what_was_needed() -> None:
    ranked = ranked_rows(30, 6)
    figure = selection_figures.stability_against_weight(ranked, [0.9, 1.1], [0.5, 0.25], 1.25)
    text = drawn(figure)
    n_selected = sum(row.selected for row in ranked)
    assert f"column, selected ({n_selected})" in text
    assert f"column, not selected ({30 - n_selected})" in text
    assert "(2)" in text
    assert "needed: 1.25×" in text
    # The twelve best are named, and no two names overlap.
    named = [a for a in figure.axes[0].texts if a.get_text() in {row.feature for row in ranked}]
    assert {a.get_text() for a in named} == {row.feature for row in ranked[:12]}
    boxes = [Text.get_window_extent(a) for a in named]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_stability_without_probes_and_with_a_column_of_no_weight() -> None:
    ranked = ranked_rows(4, 2)
    ranked[3] = replace(ranked[3], relative_weight=float("nan"), stability=float("nan"))
    text = drawn(selection_figures.stability_against_weight(ranked, [], [], 1.0))
    assert "probe" not in text
    assert ranked[2].feature in text
    assert ranked[3].feature not in text


@pytest.mark.parametrize("threshold", [1.25, float("inf")])
def test_the_null_shows_columns_probes_the_fitted_tail_and_what_was_needed(threshold: float) -> None:
    """Where no weight is enough there is no line. A column without a weight is left out."""
    ranked = ranked_rows(30, 6)
    ranked[-1] = replace(ranked[-1], relative_weight=float("nan"))
    probes = np.exp(np.random.default_rng(1).normal(0.0, 0.2, 20)).tolist()
    null = ProbeNull.of(probes) if threshold > 2.0 else PooledNull.fit(np.array([0.5, 0.7, *probes]), 1)
    figure = selection_figures.probe_null(ranked, [*probes, float("nan")], null, threshold, 0.1)
    text = drawn(figure)
    assert "columns (29)" in text and "probes (20)" in text and "rate of 0.1" in text
    assert ("needed: 1.25×" in text) == np.isfinite(threshold)
    # The black line is the p-value, and what is needed is ten times as much.
    lines = {str(line.get_label()): line for line in figure.axes[0].lines}
    p_value, needed = lines["p-value: what noise gives"], lines["share needed at a rate of 0.1"]
    expected = null.p_values(p_value.get_xdata())
    np.testing.assert_allclose(np.asarray(p_value.get_ydata()), expected)
    np.testing.assert_allclose(np.asarray(needed.get_ydata()), 10.0 * expected)


def test_stability_where_no_weight_is_enough_has_no_line() -> None:
    text = drawn(selection_figures.stability_against_weight(ranked_rows(4, 2), [0.9], [0.5], float("inf")))
    assert "needed" not in text and "probe" in text


def test_a_few_dominant_columns_are_drawn_on_a_ratio_scale() -> None:
    ranked = [replace(row, relative_weight=40.0 if row.rank == 1 else 1.0) for row in ranked_rows(9, 2)]
    figure = selection_figures.stability_against_weight(ranked, [], [], 1.0)
    assert figure.axes[0].get_xscale() == "log"
    drawn(figure)


def test_a_dollar_sign_in_a_name_is_no_formula() -> None:
    ranked = [replace(row, feature=rf"px_$\frac{{{row.rank}$", group="p$x$") for row in ranked_rows(3, 2)]
    for figure in (
        selection_figures.vsn_heatmap(ranked, range(2)),
        selection_figures.stability_against_weight(ranked, [], [], 1.0),
    ):
        drawn(figure)  # which raises if a name is read as a formula
        texts = [text.get_text() for text in figure.findobj(Text)]
        assert any("frac" in text for text in texts)
