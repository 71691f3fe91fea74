"""Times in every way that tables write them, against the same times written out."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from tft.times import fitting_formats, known_format, read_times

MOMENTS = [datetime(2021, 1, 4, 15, 30, tzinfo=UTC), datetime(2021, 1, 13, 9, 15, tzinfo=UTC)]
EXPECTED = np.array(["2021-01-04T15:30", "2021-01-13T09:15"], dtype="datetime64[us]")
DAYS = EXPECTED.astype("datetime64[D]").astype("datetime64[us]")


@pytest.mark.parametrize("kind", ["whole numbers", "text", "floats"])
@pytest.mark.parametrize(("unit", "power"), [("epoch_s", 0), ("epoch_ms", 3), ("epoch_us", 6), ("epoch_ns", 9)])
def test_counts_since_1970_are_told_apart(unit: str, power: int, kind: str) -> None:
    """The unit is the only one by which the times lie in our days."""
    counts = [int(moment.timestamp()) * 10**power for moment in MOMENTS]
    values = {
        "whole numbers": np.array(counts),
        "text": np.array([str(n) for n in counts]),
        "floats": np.array(counts, float),
    }
    assert read_times(values[kind]).fault.endswith(f'--set data.time_format="{unit}"')
    assert fitting_formats(values[kind]) == (unit,)
    np.testing.assert_array_equal(read_times(values[kind], unit).values, EXPECTED)


@pytest.mark.parametrize(
    ("written", "formats", "expected"),
    [
        (["01/04/2021", "01/13/2021"], ("%m/%d/%Y",), DAYS),
        (["04/01/2021", "13/01/2021"], ("%d/%m/%Y",), DAYS),
        (["04.01.2021", "13.01.2021"], ("%d.%m.%Y",), DAYS),
        (["04-Jan-2021", "13-Jan-2021"], ("%d-%b-%Y",), DAYS),
        ([20210104, 20210113], ("%Y%m%d",), DAYS),
        (["20210104", "20210113"], ("%Y%m%d",), DAYS),
        ([202101041530, 202101130915], ("%Y%m%d%H%M",), EXPECTED),
        (["01/04/2021 15:30", "01/13/2021 09:15"], ("%m/%d/%Y %H:%M",), EXPECTED),
        (["1/4/2021 3:30 PM", "1/13/2021 9:15 AM"], ("%m/%d/%Y %I:%M %p",), EXPECTED),
    ],
)
def test_a_format_is_guessed_but_never_taken_unasked(
    written: list[object], formats: tuple[str, ...], expected: np.ndarray
) -> None:
    values = np.array(written)
    assert fitting_formats(values) == formats
    assert formats[0] in read_times(values).fault
    np.testing.assert_array_equal(read_times(values, formats[0]).values, expected)


def test_where_two_formats_fit_both_are_named() -> None:
    fault = read_times(np.array(["01/04/2021", "02/05/2021"])).fault
    assert fault == (
        "holds text such as 02/05/2021, which is no ISO date or time: say how it is written: "
        '--set data.time_format="%m/%d/%Y" or --set data.time_format="%d/%m/%Y"'
    )


@pytest.mark.parametrize(
    "written",
    [
        ["2021-01-04T15:30", "2021-01-13T09:15"],
        ["2021-01-04 15:30:00.000000", "2021-01-13 09:15:00"],
        ["2021-01-04T15:30Z", "2021-01-13T09:15Z"],
        ["2021-01-04T21:00:00+05:30", "2021-01-13T04:15:00-05:00"],
    ],
)
def test_iso_text_needs_no_format(written: list[str]) -> None:
    read = read_times(np.array(written))
    assert (read.fault, fitting_formats(np.array(written))) == ("", ())
    np.testing.assert_array_equal(read.values, EXPECTED)


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        (["2021-01-04", "2021-01-04 09:15"], "mixes time types"),
        (["2021-01-04 09:15", "2021-01-04 09:15Z"], "mixes times with a zone and without"),
        (["high", "low"], "holds text such as 'high': it must hold dates or times"),
        ([True, False], "holds bool"),
        ([1.5, 2.5], "holds float such as 1.5: it must hold dates or times"),
        ([1, 2], "which is no ISO date or time: say how it is written: --set data.time_format=PATTERN"),
    ],
)
def test_a_column_that_cannot_be_read_as_a_whole_says_why(values: list[object], fault: str) -> None:
    assert fault in read_times(np.array(values)).fault


def test_single_values_that_cannot_be_read_are_marked_and_missing_ones_are_not() -> None:
    read = read_times(np.array(["01/04/2021", "13/13/2021", None, "01/13/2021"], dtype=object), "%m/%d/%Y")
    assert read.unread.tolist() == [False, True, False, False]
    assert np.isnat(read.values).tolist() == [False, True, True, False]


@pytest.mark.parametrize(
    ("time_format", "known"),
    [("%Y%m%d", True), ("epoch_ms", True), ("%H:%M", False), ("%Q", False), ("", False), ("epoch", False)],
)
def test_a_format_has_to_say_the_day(time_format: str, known: bool) -> None:
    assert known_format(time_format) == known


@pytest.mark.parametrize("time_format", ["%Y%m%d", "%m/%d/%Y", "%d/%m/%Y %H:%M", "epoch_s", "epoch_ms", "%Y-%d-%m"])
@pytest.mark.parametrize("written", ["2021-01-04T15:30:00", "2021-01-04 15:30", "2021-01-04T21:00:00+05:30"])
def test_iso_text_is_read_whatever_the_format(time_format: str, written: str) -> None:
    read = read_times(np.array([written, None], dtype=object), time_format)
    assert not read.fault and not read.unread.any()
    assert read.values[0] == EXPECTED[0] and np.isnat(read.values[1])


def test_a_value_is_never_read_in_two_ways() -> None:
    """The format goes first, and ISO text among times in the format is a fault of that value."""
    both = read_times(np.array(["2021-04-01", "2021-13-01"]), "%Y-%d-%m")
    assert both.values.tolist() == [datetime(2021, 1, 4), datetime(2021, 1, 13)]
    assert read_times(np.array(["20210104", "2021-01-13"]), "%Y%m%d").unread.tolist() == [False, True]
