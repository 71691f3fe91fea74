"""The command line: help that a stranger understands, and faults that are sentences."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import polars as pl
import pytest
from click.testing import CliRunner, Result
from mlflow.tracking import MlflowClient

from pipeline.cli.commands import main
from pipeline.cli.errors import EXIT_FAULT
from pipeline.cli.phases import PHASES
from pipeline.config.reading import load_config
from pipeline.job import ensure_sample
from pipeline.tracking.progress import Reporter
from tests.conftest import MICRO, ROOT
from tests.workplace import WholeJob, Workplace, artifacts

COMMANDS = (
    *PHASES,
    "refit",
    "report",
    "compare",
    "placebo",
    "planted",
    "check-lookahead",
    "init",
    "sample-data",
    "predict",
    "models",
    "looks",
)
SINGLE = {
    " ".join([name, *part]): command
    for name, group in main.commands.items()
    for part, command in (
        [([sub], one) for sub, one in group.commands.items()] if isinstance(group, click.Group) else [([], group)]
    )
}
"""Every command with its full name, those of a group one by one."""
WITHOUT_OPTIONS = {"looks list", "looks export", "looks import"}


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_uri: Callable[[str], None]
) -> Iterator[Callable[..., Result]]:
    """A command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    before = signal.getsignal(signal.SIGTERM)
    yield lambda *arguments, **options: CliRunner().invoke(main, arguments, **options)
    signal.signal(signal.SIGTERM, before)


def refused(done: Result) -> list[str]:
    """The sentences of a command that must have been refused without a traceback."""
    assert done.exit_code == EXIT_FAULT == 2, (done.output, done.exception)
    assert isinstance(done.exception, SystemExit)
    assert "Traceback" not in done.output
    lines = done.stderr.splitlines()
    assert lines and all(line.startswith("Error: ") for line in lines), lines
    return [line.removeprefix("Error: ") for line in lines]


# Help


def test_the_commands() -> None:
    assert main.commands.keys() == set(COMMANDS)


@pytest.mark.parametrize("name", SINGLE)
def test_every_option_has_help(name: str) -> None:
    """Each says what it is for, and the command says what it does."""
    command = SINGLE[name]
    assert command.help and command.help.strip().endswith(".")
    options = [option for option in command.params if isinstance(option, click.Option)]
    assert bool(options) == (name not in WITHOUT_OPTIONS)
    assert not [option.name for option in options if not option.help]
    assert not [option.name for option in options if option.help and not option.help.strip().endswith(".")]


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_is_shown(run: Callable[..., Result], name: str, flag: str) -> None:
    """And lists what there is, with defaults."""
    done = run(*([name] if name else []), flag)
    assert done.exit_code == 0
    if not name:
        assert all(command in done.output for command in COMMANDS)
    elif name in PHASES:
        assert all(option in done.output for option in ("--config", "--set", "--run-id", "--fresh"))
        assert "[default: configs/quickstart.yaml]" in done.output


def test_the_version_is_shown(run: Callable[..., Result]) -> None:
    done = run("--version")
    assert done.exit_code == 0 and "version" in done.output


# Faults


@pytest.mark.parametrize("name", PHASES)
def test_a_missing_config_is_a_sentence(run: Callable[..., Result], name: str) -> None:
    (said,) = refused(run(name, "--config", "nowhere.yaml"))
    assert said.startswith("nowhere.yaml does not exist: give --config a YAML file, or one of those shipped: default, ")


def test_every_fault_of_a_config_is_said_at_once(run: Callable[..., Result], tmp_path: Path) -> None:
    """One sentence each, with the nearest known key."""
    (tmp_path / "bad.yaml").write_text("purge_gpa: 5\nholdout_fraction: 2\nmodel: {d_hidden: many, n_heads: 0}\n")
    said = refused(run("production", "--config", "bad.yaml"))
    assert len(said) == 4
    assert any("purge_gpa is not a known key: did you mean purge_gap?" in sentence for sentence in said)
    assert any("model.d_hidden is 'many', it must be a whole number" in sentence for sentence in said)
    assert any("holdout_fraction is 2" in sentence for sentence in said)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.d_hiden=8", "model.d_hiden is not a known key: did you mean d_hidden?"),
        ("model.d_hidden", "--set 'model.d_hidden' lacks an equals sign: write section.key=value"),
        ("seed=-1", "seed is -1, the least is 0"),
        ("purge_gap=0", "set purge_gap to at least 1, or allow_label_overlap: true"),
        ("data=[1", "--set 'data=[1' has a value that is not YAML"),
        ("tuning.space.lr.low=9", "tuning.space.lr.low (9.0) exceeds high"),
    ],
)
def test_a_bad_override_is_a_sentence(run: Callable[..., Result], override: str, said: str) -> None:
    assert any(said in sentence for sentence in refused(run("prefilter", "--config", str(MICRO), "--set", override)))


def test_overrides_in_one_or_several_options_are_all_read(run: Callable[..., Result]) -> None:
    """Separated by `;` or repeated: a fault in each is a sentence of its own."""
    said = refused(run("prefilter", "--config", str(MICRO), "--set", "seed=-1; horizon=0", "--set", "purge_gap=-2"))
    assert [sum(sentence.startswith(key) for sentence in said) for key in ("seed", "horizon")] == [1, 1]
    assert any(sentence.startswith("purge_gap is -2") for sentence in said)


def test_an_unknown_device_is_a_sentence(run: Callable[..., Result]) -> None:
    (said,) = refused(run("prefilter", "--config", str(MICRO), "--set", "device=abacus"))
    assert "abacus" in said


@pytest.mark.parametrize(
    ("command", "options", "said"),
    [
        ("placebo", ("--repetitions", "0"), "placebo.repetitions is 0, the least is 1"),
        ("placebo", ("--repetitions", "100"), "placebo.repetitions is 100, the most is 99"),
        ("placebo", ("--repetitions", "x"), "placebo.repetitions is 'x', it must be a whole number"),
        ("placebo", ("--set", "placebo.exceedances=-1"), "placebo.exceedances is -1, the least is 0"),
        ("placebo", ("--run-id", "none"), "run_id is 'none', and this MLflow store holds no such run: leave it empty"),
        ("planted", ("--repetitions", "0"), "repetitions is 0, it must lie between 1 and 99"),
        ("planted", ("--columns", "no_such"), "columns names no_such, which the table does not have"),
    ],
)
def test_what_cannot_be_judged_is_refused(
    run: Callable[..., Result], command: str, options: tuple[str, ...], said: str
) -> None:
    done = run(command, "--config", str(MICRO), *options)
    assert done.exit_code == EXIT_FAULT
    assert [line for line in done.stderr.splitlines() if "Error" in line or "Traceback" in line] == [f"Error: {said}"]


def test_a_missing_table_is_a_sentence(run: Callable[..., Result], tmp_path: Path) -> None:
    """And leaves no run behind."""
    said = refused(run("prefilter", "--config", str(MICRO), "--set", "data.sample=null;data.source=no.parquet"))
    assert any("there is no such file" in sentence for sentence in said)
    assert not (tmp_path / "mlflow.db").exists()


def test_a_short_table_says_how_many_bars_are_needed(run: Callable[..., Result]) -> None:
    run("sample-data", "--out", "short.parquet", "--n-bars", "60", "--n-features", "10", "--n-degenerate", "0")
    said = refused(run("prefilter", "--config", str(MICRO), "--set", "data.source=short.parquet"))
    assert any("the table has 60 bars" in sentence and "needs" in sentence for sentence in said)


@pytest.mark.slow
def test_one_subprocess_ends_the_same_way(tmp_path: Path) -> None:
    """The real thing: exit code and streams as above."""
    done = Workplace(tmp_path).run_in_a_process("production", "--config", "nowhere.yaml", code=2)
    assert done.stdout == ""
    assert done.stderr.startswith("Error: nowhere.yaml does not exist")
    assert done.stderr.count("\n") == 1


# Checks of the data


def test_a_leak_stops_a_phase_until_it_is_accepted(run: Callable[..., Result], tmp_path: Path) -> None:
    """Exit code 2 and a sentence that names it, the findings in the run that failed; `data.accept` lets it pass."""
    config = load_config(MICRO)
    ensure_sample(config, lambda text: None)
    table = pl.read_parquet("data/micro.parquet")
    tomorrow = pl.col("ret_1d").shift(-1).over("symbol")
    table.with_columns(inst_leak=tomorrow * -100.0).write_parquet("leak.parquet")
    arguments = ("prefilter", "--config", str(MICRO), "--set", "data.source=leak.parquet")
    done = run(*arguments)
    assert done.exit_code == EXIT_FAULT and "Traceback" not in done.output
    said = [line.removeprefix("Error: ") for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert said[0] == "leak.parquet cannot be used:"
    assert [sentence.split(":")[0] for sentence in said[1:]] == ["- column inst_leak, all instruments"]
    assert "it is the return of bar t + 1" in said[1] and "list it in data.accept" in said[1]

    done = run(*arguments, "--set", "data.accept=[inst_leak]")
    assert done.exit_code == 0, done.output
    assert "note: column inst_leak, all instruments: accepted (data.accept): it is the return of bar" in done.stderr
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "tft-production"]
    runs = client.search_runs([experiment.experiment_id], "tags.command = 'prefilter'", order_by=["start_time"])
    assert [one.info.status for one in runs] == ["FAILED", "FINISHED"]
    errors = [one.data.metrics["n_findings_error"] for one in runs]
    assert errors == [1.0, 0.0]
    for one, severity in zip(runs, ("error", "note"), strict=True):
        logged = json.loads((artifacts(one) / "findings.json").read_text())
        assert logged["columns"] == ["severity", "check", "where", "message"]
        leaks = [row for row in logged["data"] if row[1] == "copy of the future"]
        assert [row[:3] for row in leaks] == [[severity, "copy of the future", "column inst_leak, all instruments"]]


def test_a_whole_job_logs_what_was_found(whole_job: WholeJob) -> None:
    """The counts are those of the table."""
    metrics = whole_job.parent.data.metrics
    logged = json.loads((artifacts(whole_job.parent) / "findings.json").read_text())
    counts = {severity: metrics[f"n_findings_{severity}"] for severity in ("error", "warning", "note")}
    assert counts == {severity: sum(row[0] == severity for row in logged["data"]) for severity in counts}
    assert counts["error"] == 0


# check-lookahead


@pytest.fixture
def own_code(run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The command on a user's own module in the current folder."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own_cli_features.py").write_text(
        "import polars as pl\n"
        "def honest(p): return p.select('date', 'symbol', x=pl.col('close').rolling_mean(5).over('symbol'))\n"
        "def peek(p): return p.select('date', 'symbol', x=pl.col('close').shift(-1).over('symbol'))\n"
    )
    run("sample-data", "--out", "prices.csv", "--n-bars", "80", "--n-features", "5", "--n-degenerate", "0")
    return lambda name, *more: run("check-lookahead", f"own_cli_features:{name}", "--data", "prices.csv", *more)


def test_check_lookahead_clears_an_honest_function(own_code: Callable[..., Result]) -> None:
    done = own_code("honest")
    assert done.exit_code == 0, done.output
    assert "own_cli_features:honest does not look ahead: 1 columns" in done.output
    assert "recomputed on 13 prefixes" in done.output


def test_check_lookahead_names_what_looks_ahead(own_code: Callable[..., Result], tmp_path: Path) -> None:
    """Exit code 1, which is no fault of the command's: the table on stdout, every cell in the file."""
    done = own_code("peek", "--prefixes", "12", "--out", "cells.csv")
    assert done.exit_code == 1, done.output
    assert "own_cli_features:peek looks ahead" in done.stdout and "missing" in done.stdout
    assert "recomputed on 15 prefixes" in done.stdout and not done.stderr
    assert set(pl.read_csv(tmp_path / "cells.csv")["column"]) == {"x"}


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("nothing", (), "module own_cli_features has no function nothing: it has honest, peek"),
        ("honest", ("--prefixes", "3"), "3 prefixes show too little: take at least 10"),
        ("peek", ("--out", "cells.txt"), "--out cells.txt must end in .csv"),
    ],
)
def test_check_lookahead_says_what_is_wrong(
    own_code: Callable[..., Result], name: str, more: tuple[str, ...], said: str
) -> None:
    assert refused(own_code(name, *more)) == [said]


# sample-data


def test_sample_data_writes_the_table_and_its_truth(run: Callable[..., Result], tmp_path: Path) -> None:
    sizes = {"n-bars": 120, "n-symbols": 2, "n-features": 12, "n-degenerate": 4, "oracle-sharpe": 5, "seed": 3}
    done = run("sample-data", "--out", "new/table.parquet", *(f"--{name}={value}" for name, value in sizes.items()))
    assert done.exit_code == 0, done.output
    table = pl.read_parquet(tmp_path / "new/table.parquet")
    truth = json.loads((tmp_path / "new/table.truth.json").read_text())
    assert (table["symbol"].n_unique(), table["date"].n_unique(), table.width) == (2, 120, 4 + 12 + 4)
    assert (truth["seed"], truth["oracle_sharpe"], len(truth["planted"])) == (3, 5.0, 5)
    assert "Wrote new/table.parquet and new/table.truth.json" in done.output
    assert all(name in done.output for name in truth["planted"])


def test_sample_data_without_a_signal_plants_nothing(run: Callable[..., Result], tmp_path: Path) -> None:
    done = run("sample-data", "--out", "noise.csv", "--n-bars", "80", "--n-features", "8", "--n-degenerate", "0")
    assert done.exit_code == 0, done.output
    assert "planted" not in done.output
    assert json.loads((tmp_path / "noise.truth.json").read_text())["planted"] == {}


def test_sample_data_refuses_what_it_cannot_write(run: Callable[..., Result]) -> None:
    assert refused(run("sample-data", "--out", "table.xlsx", "--n-bars", "80"))
    assert refused(run("sample-data", "--out", "table.parquet", "--n-bars", "-5"))


def test_a_missing_sample_is_generated_and_said(
    run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the configuration describes it, the very table that the command writes; one that is there stays."""
    config = load_config(MICRO)
    said: list[str] = []
    ensure_sample(config, said.append)
    assert said == [
        "data/micro.parquet did not exist: generated it (300 bars, 3 instruments, 12 columns, oracle Sharpe 8, seed 7)"
    ]
    written = (tmp_path / "data/micro.parquet").read_bytes()
    ensure_sample(config, said.append)
    assert len(said) == 1
    assert (tmp_path / "data/micro.parquet").read_bytes() == written
    sizes = {"n-bars": 300, "n-symbols": 3, "n-features": 12, "n-degenerate": 4, "oracle-sharpe": 8, "seed": 7}
    run("sample-data", "--out", "same.parquet", *(f"--{name}={value}" for name, value in sizes.items()))
    assert pl.read_parquet("same.parquet").equals(pl.read_parquet("data/micro.parquet"))


# predict


@pytest.fixture
def with_store(whole_job: WholeJob, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> WholeJob:
    """The commands see the store of the whole job."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", whole_job.store)
    return whole_job


def test_predict_decides_on_the_last_bar(with_store: WholeJob, run: Callable[..., Result], tmp_path: Path) -> None:
    """On the screen and in a file, one row an instrument, whichever way the model is named."""
    table = str(with_store.folder / "data/micro.parquet")
    named = ("predict", "--name", "tft-micro", "--data", table)
    done = run(*named, "--out", "out.csv")
    assert done.exit_code == 0, done.output
    assert "tft-micro version" in done.output and "NIFTY" in done.output
    frame = pl.read_csv(tmp_path / "out.csv")
    assert frame["symbol"].sort().to_list() == ["BANKNIFTY", "FINNIFTY", "NIFTY"]
    assert {"position", "probability_up", "mu", "sigma", "regime", "effective_at"} <= set(frame.columns)
    assert frame["decided_at"].unique().to_list() == ["2026-02-10"]  # daily bars: no time of day
    for option in (("--alias", "production"), ("--version", "1")):
        done = run(*named, "--out", "again.parquet", *option)
        assert done.exit_code == 0, done.output
    assert "tft-micro version 1" in done.output
    assert pl.read_parquet("again.parquet").columns == frame.columns


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--stage", "Staging"), "no model tft-micro with stage 'Staging' in the registry"),
        (("--name", "nobody"), "no model nobody with stage 'Production' in the registry"),
        (("--version", "99"), "no model tft-micro with version 99 in the registry"),
        (("--out", "out.docx"), "--out out.docx must end in .csv, .parquet, .json"),
    ],
)
def test_predict_says_what_is_wrong(
    with_store: WholeJob, run: Callable[..., Result], options: tuple[str, ...], said: str
) -> None:
    table = str(with_store.folder / "data/micro.parquet")
    done = run("predict", "--name", "tft-micro", "--data", table, *options)
    assert any(said in sentence for sentence in refused(done))


def test_predict_names_the_column_that_lacks(with_store: WholeJob, run: Callable[..., Result], tmp_path: Path) -> None:
    table = pl.read_parquet(with_store.folder / "data/micro.parquet")
    table.select("date", "symbol", "close", "ret_1d").write_parquet(tmp_path / "bare.parquet")
    said = refused(run("predict", "--name", "tft-micro", "--data", "bare.parquet"))
    assert any("the table lacks the column" in sentence for sentence in said)


def test_progress_without_a_terminal_is_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """What is said, and the end of a phase; no control characters."""
    with Reporter(terminal=False) as reporter:
        reporter.say("hello")
        reporter.start("phase", 2)
        reporter.step("first")
        reporter.step("second")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "hello"
    assert lines[-1].startswith("phase: 2/2, 0:00 elapsed, 0:00 left, second")
    assert not any("\x1b" in line for line in lines)


def test_every_shipped_config_is_named_by_a_file_that_exists() -> None:
    """The default of --config is in the repository."""
    (default,) = {option.default for name in PHASES for option in main.commands[name].params if option.name == "path"}
    assert (ROOT / str(default)).exists()
