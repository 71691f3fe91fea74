"""Long work shows itself: on a terminal by bars, elsewhere by plain lines, and never on standard output."""

from __future__ import annotations

import pytest

from pipeline.tracking.progress import LINE_EVERY_S, Quiet, Reporter
from tft.train import EpochReport


class Clock:
    """Stands for the time module."""

    now = 1000.0

    @classmethod
    def monotonic(cls) -> float:
        return cls.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> type[Clock]:
    monkeypatch.setattr("pipeline.tracking.progress.time", Clock)
    monkeypatch.setattr(Clock, "now", 1000.0)
    return Clock


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    out, err = capsys.readouterr()
    assert out == "", "standard output is for results"
    return [line for line in err.splitlines() if line.strip()]


def test_plain_lines_say_how_far_how_long_and_how_well(clock: type[Clock], capsys: pytest.CaptureFixture[str]) -> None:
    """10 of 40 steps after 100 seconds: 300 seconds are left."""
    with Reporter(terminal=False) as reporter:
        reporter.start("exploration", 40)
        clock.now += 100.0
        reporter.step("fold 3 epoch 2/8 loss 0.5", n=10)
    assert lines(capsys) == ["exploration: 10/40, 1:40 elapsed, 5:00 left, fold 3 epoch 2/8 loss 0.5"]


def test_plain_lines_come_at_intervals_and_at_the_end(clock: type[Clock], capsys: pytest.CaptureFixture[str]) -> None:
    """A step a second for a minute: one line every fifteen seconds, the last one at the last step."""
    reporter = Reporter(terminal=False)
    reporter.start("production", 64)
    for _ in range(64):
        clock.now += 1.0
        reporter.step("")
    done = [int(line.split("/")[0].removeprefix("production: ")) for line in lines(capsys)]
    assert done == [15, 30, 45, 60, 64] and LINE_EVERY_S == 15.0


def test_hours_are_shown_as_such(clock: type[Clock], capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter(terminal=False)
    reporter.start("tuning", 3)
    clock.now += 3661.0
    reporter.step("trial 0")
    assert lines(capsys) == ["tuning: 1/3, 1:01:01 elapsed, 2:02:02 left, trial 0"]


def test_steps_that_will_not_be_needed_are_taken_off(clock: type[Clock], capsys: pytest.CaptureFixture[str]) -> None:
    """A fold that stops early: 10 done, 20 of the other 30 are left out, so 10 remain."""
    reporter = Reporter(terminal=False)
    reporter.start("exploration", 40)
    reporter.skip(20)
    clock.now += 100.0
    reporter.step("", n=10)
    assert lines(capsys) == ["exploration: 10/20, 1:40 elapsed, 1:40 left, "]


def test_each_phase_is_counted_from_zero(clock: type[Clock], capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter(terminal=False)
    reporter.start("exploration", 2)
    clock.now += 50.0
    reporter.step("", n=2)
    reporter.start("production", 4)
    clock.now += 20.0
    reporter.step("")
    assert lines(capsys)[1] == "production: 1/4, 0:20 elapsed, 1:00 left, "


def test_a_sentence_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Square brackets are no markup, with a terminal or without one."""
    for terminal in (False, True):
        with Reporter(terminal=terminal) as reporter:
            reporter.say("data [red]a.parquet[/red] [x]")
        assert lines(capsys)[-1].strip() == "data [red]a.parquet[/red] [x]"


def test_without_a_terminal_there_are_no_bars(capsys: pytest.CaptureFixture[str]) -> None:
    """It finds out by itself: standard error is captured here."""
    with Reporter() as reporter:
        assert not reporter.on_terminal
        reporter.start("tuning", 3)
        reporter.step("trial 0")
    assert lines(capsys) == []


def test_on_a_terminal_bars_show_phase_count_and_detail(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    with Reporter() as reporter:
        assert reporter.on_terminal
        reporter.start("tuning", 8)
        reporter.step("trial 0 fold 1", n=2)
        reporter.skip(1)
        reporter._bars.refresh()
    shown = "\n".join(lines(capsys))
    assert "tuning" in shown and "2/7" in shown and "trial 0 fold 1" in shown


def epoch_of(epoch: int, n_active: int) -> EpochReport:
    """Of folds 3 and 4, trained side by side."""
    return EpochReport(
        folds=(3, 4),
        epoch=epoch,
        train_loss=(1.0, 2.0),
        validation_score=(0.25, 0.75),
        n_active=n_active,
        seconds=0.1,
    )


def test_training_names_folds_epoch_and_score_and_skips_what_stopped_early(
    clock: type[Clock], capsys: pytest.CaptureFixture[str]
) -> None:
    """Two folds of 4 epochs side by side, both stopped after the second: 4 of 4 steps."""
    reporter = Reporter(terminal=False)
    reporter.start("exploration", 8)
    report = reporter.epochs(4, "joint_mle", "joint_mle")
    clock.now += LINE_EVERY_S
    report(epoch_of(0, n_active=2))
    clock.now += LINE_EVERY_S
    report(epoch_of(1, n_active=0))
    reporter.step("done", n=0)
    assert lines(capsys) == [
        "exploration: 2/8, 0:15 elapsed, 0:45 left, fold 3, 4 epoch 1/4 joint_mle loss 1.500 validation 0.500",
        "exploration: 4/8, 0:30 elapsed, 0:30 left, fold 3, 4 epoch 2/4 joint_mle loss 1.500 validation 0.500",
        "exploration: 4/4, 0:30 elapsed, 0:00 left, done",
    ]


def test_a_quiet_one_says_nothing(clock: type[Clock], capsys: pytest.CaptureFixture[str]) -> None:
    with Quiet() as reporter:
        reporter.say("hello")
        reporter.start("exploration", 2)
        report = reporter.epochs(1, "sharpe")
        clock.now += LINE_EVERY_S
        report(epoch_of(0, n_active=0))
        reporter.skip(1)
    assert lines(capsys) == []
