"""From the registry to positions: what a trader's process sees."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from mlflow.exceptions import MlflowException

from pipeline.registry.versions import RegistryError
from pipeline.strategy import RegimeOverlay, Signal, TFTStrategy
from tests.conftest import small_panel
from tests.workplace import WholeJob
from tft.checkpoint import TrainedModel, load_checkpoint
from tft.panel import AHEAD, Panel
from tft.predict import REGIMES, Predictor


@pytest.fixture(scope="module")
def trained(whole_job: WholeJob) -> TrainedModel:
    return load_checkpoint(whole_job.folder / whole_job.parent.data.tags["checkpoint"])


@pytest.fixture(scope="module")
def bars(whole_job: WholeJob) -> pl.DataFrame:
    """The table the job ran on."""
    return pl.read_parquet(whole_job.folder / "data/micro.parquet")


def until(bars: pl.DataFrame, n_left_out: int) -> pl.DataFrame:
    """The table as it stood that many bars ago."""
    return bars.filter(pl.col("date") <= bars["date"].unique().sort()[-1 - n_left_out])


def plain(signals: dict[str, Signal]) -> dict[str, tuple[Any, ...]]:
    return {
        name: (s.position, s.conviction, s.probability_up, s.mu, s.sigma, s.regime, str(s.decided_at))
        for name, s in signals.items()
    }


# In a process of its own


def test_nothing_of_the_pipelines_outside_world_is_loaded_before_the_registry_is_asked() -> None:
    """A trader's process that decides from a checkpoint on disk pays for neither MLflow nor boto3."""
    code = "import sys, pipeline.strategy; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    loaded = set(done.stdout.split())
    assert {"pipeline", "tft", "polars", "torch"} <= loaded
    assert loaded & {"mlflow", "boto3", "botocore", "matplotlib", "sklearn", "optuna", "jinja2", "pandas"} == set()


@pytest.mark.slow
def test_strategy_and_served_model_agree_in_a_new_process(
    whole_job: WholeJob, trained: TrainedModel, bars: pl.DataFrame, tmp_path: Path
) -> None:
    """Exactly, in every number; from another folder, with only MLFLOW_TRACKING_URI set; by stage, alias and version."""
    code = """
import json, sys, warnings
warnings.simplefilter("ignore")
import mlflow, pandas as pd, polars as pl
from pipeline.strategy import TFTStrategy

file = sys.argv[1]
asked = {"stage": dict(stage="Production"), "alias": dict(alias="production"), "version": dict(version=sys.argv[2])}
answers, versions = {}, {}
for name, question in asked.items():
    strategy = TFTStrategy.from_registry("tft-micro", **question)
    versions[name] = strategy.version
    signals = strategy.decide(pl.read_parquet(file)).values()
    answers[name] = {s.symbol: [s.position, s.probability_up, s.mu, s.sigma, s.regime] for s in signals}
served = mlflow.pyfunc.load_model("models:/tft-micro@production").predict(pd.read_parquet(file))
columns = ["position", "probability_up", "mu", "sigma", "regime"]
answers["served"] = {row["symbol"]: [row[name] for name in columns] for row in served.to_dict("records")}
print(json.dumps([answers, versions]))
"""
    version = whole_job.client.get_model_version_by_alias("tft-micro", "production").version
    kept = {"PATH", "HOME", "PYTHONPATH", "XDG_CACHE_HOME", "OMP_NUM_THREADS", "OMP_WAIT_POLICY"}
    environment = {name: value for name, value in whole_job.environment().items() if name in kept}
    done = subprocess.run(
        [sys.executable, "-c", code, str(whole_job.folder / "data/micro.parquet"), str(version)],
        cwd=tmp_path,
        env=environment | {"MLFLOW_TRACKING_URI": whole_job.store},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers, versions = json.loads(done.stdout.splitlines()[-1])
    assert answers["stage"] == answers["alias"] == answers["version"] == answers["served"]
    assert set(versions.values()) == {str(version)}
    assert sorted(answers["served"]) == sorted(trained.symbols)
    assert all(isinstance(value, float) for numbers in answers["served"].values() for value in numbers[:4])
    assert all(numbers[4] in REGIMES.values() for numbers in answers["served"].values())
    assert not list(tmp_path.iterdir())  # nothing is written where a trader happens to stand


def test_an_unknown_stage_is_a_sentence(
    whole_job: WholeJob, mlflow_uri: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    mlflow_uri(whole_job.store)
    with pytest.raises(RegistryError, match=r"no model tft-micro with stage 'Staging' in the registry sqlite:///"):
        TFTStrategy.from_registry("tft-micro", stage="Staging")


@pytest.fixture
def web_registry(whole_job: WholeJob) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The registry over HTTP, in a process that can be killed, and its address."""
    code = """
from mlflow.server import app
from werkzeug.serving import make_server

server = make_server("127.0.0.1", 0, app, threaded=True)
print(server.server_port, flush=True)
server.serve_forever()
"""
    own = {
        "_MLFLOW_SERVER_FILE_STORE": whole_job.store,
        "_MLFLOW_SERVER_ARTIFACT_ROOT": str(whole_job.folder / "mlruns"),
    }
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=whole_job.environment() | own,
        cwd=whole_job.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}", process
        finally:
            process.kill()


def test_without_the_registry_the_last_known_version_decides(
    web_registry: tuple[str, subprocess.Popen[str]],
    mlflow_uri: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    bars: pl.DataFrame,
) -> None:
    """A warning names it. What was never asked while the registry was there cannot be answered."""
    address, process = web_registry
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mlflow_uri(address)
    before = TFTStrategy.from_registry("tft-micro", stage="Production")
    process.kill()
    process.wait()
    with pytest.warns(
        UserWarning, match=rf"the registry cannot be reached .*: using version {before.version} as before"
    ):
        after = TFTStrategy.from_registry("tft-micro", stage="Production")
    assert after.version == before.version
    assert plain(after.decide(bars)) == plain(before.decide(bars))
    with pytest.raises(MlflowException, match="registered-models/alias"):
        TFTStrategy.from_registry("tft-micro", alias="production")


# Tables of bars


@pytest.mark.parametrize(
    "as_table", ["pandas", "lazy", "dict", "shuffled", "close only where it is enough", "other symbols too"]
)
def test_every_kind_of_table_gives_the_same(trained: TrainedModel, bars: pl.DataFrame, as_table: str) -> None:
    """polars, pandas, a mapping of arrays; rows in any order; columns and symbols of no concern are left out."""
    table: Any = {
        "pandas": lambda: pd.DataFrame({name: bars[name].to_numpy() for name in bars.columns}),
        "lazy": lambda: bars.lazy(),
        "dict": lambda: {name: bars[name].to_numpy() for name in bars.columns},
        "shuffled": lambda: bars.sample(fraction=1.0, shuffle=True, seed=1),
        "close only where it is enough": lambda: bars.drop("close"),
        "other symbols too": lambda: pl.concat(
            [bars, bars.filter(pl.col("symbol") == "NIFTY").with_columns(symbol=pl.lit("X"))]
        ),
    }[as_table]()
    assert plain(TFTStrategy(trained).decide(table)) == plain(TFTStrategy(trained).decide(bars))


@pytest.mark.parametrize("kind", ["polars", "pandas"])
def test_times_with_a_zone_are_the_same_moments(trained: TrainedModel, bars: pl.DataFrame, kind: str) -> None:
    """10:00 UTC and 15:30 in India are one moment, and one decision."""
    moments = bars.with_columns(timestamp=pl.col("date").cast(pl.Datetime("us")) + pl.duration(hours=10)).drop("date")
    local = moments.with_columns(pl.col("timestamp").dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Kolkata"))
    table: Any = local
    if kind == "pandas":
        columns = {name: local[name].to_numpy() for name in local.columns if name != "timestamp"}
        zoned = pd.Series(moments["timestamp"].to_numpy()).dt.tz_localize("UTC").dt.tz_convert("Asia/Kolkata")
        table = pd.DataFrame(columns | {"timestamp": zoned})
    signals = TFTStrategy(trained).decide(table)
    assert plain(signals) == plain(TFTStrategy(trained).decide(moments))
    assert {str(s.decided_at) for s in signals.values()} == {"2026-02-10T10:00:00.000000"}


def test_a_lacking_column_is_named(trained: TrainedModel, bars: pl.DataFrame) -> None:
    """A feature of the model, or a key; a column the model does not use may lack."""
    feature = trained.feature_names[0]
    with pytest.raises(ValueError, match=f"lacks the column {feature}$"):
        TFTStrategy(trained).decide(bars.drop(feature))
    with pytest.raises(ValueError, match=r"lacks the column symbol$"):
        TFTStrategy(trained).decide(bars.drop("symbol"))
    unused = [name for name in bars.columns[4:] if name not in trained.feature_names]
    assert unused
    assert plain(TFTStrategy(trained).decide(bars.drop(unused))) == plain(TFTStrategy(trained).decide(bars))


@pytest.mark.parametrize(("nonsense", "kind"), [(None, "NoneType"), ([1.0], "list"), ("bars.csv", "str")])
def test_what_is_no_table_is_refused(trained: TrainedModel, nonsense: object, kind: str) -> None:
    with pytest.raises(ValueError, match=f"^bars is {kind}, it must be a polars or pandas table, or a mapping of"):
        TFTStrategy(trained).decide(nonsense)


def test_too_few_bars_are_refused_with_how_many_are_needed(trained: TrainedModel, bars: pl.DataFrame) -> None:
    few = bars.filter(pl.col("date") >= bars["date"].unique().sort()[-3])
    with pytest.raises(ValueError, match=r"the table holds 3 bars.*at least 6 bars"):
        TFTStrategy(trained).decide(few)


# One bar after the other


def test_bar_by_bar_equals_one_pass(trained: TrainedModel, bars: pl.DataFrame) -> None:
    """Positions, probabilities and regimes, to the last bit, each decision on the table as it stood then."""
    strategy = TFTStrategy(trained)
    predictor = Predictor(trained)
    whole = predictor.run(predictor.table({name: bars[name].to_numpy() for name in bars.columns}))
    for left_out in range(12, -1, -1):
        signals = strategy.decide(until(bars, left_out))
        row = len(whole.times) - 1 - left_out
        for i, symbol in enumerate(whole.symbols):
            one = signals[symbol]
            assert one.decided_at == whole.times[row]
            assert one.position == whole.position[row, i]
            assert whole.probability_up is not None and one.probability_up == whole.probability_up[row, i]
            assert one.regime == REGIMES[int(whole.regime[row, i])]


def test_bars_missed_are_caught_up(trained: TrainedModel, bars: pl.DataFrame) -> None:
    """A process that slept for five bars decides as one that did not."""
    slept, awake = TFTStrategy(trained), TFTStrategy(trained)
    slept.decide(until(bars, 6))
    for left_out in range(6, -1, -1):
        last = awake.decide(until(bars, left_out))
    assert plain(slept.decide(bars)) == plain(last)


def test_the_same_bar_asked_again_gets_the_same_answer(trained: TrainedModel, bars: pl.DataFrame) -> None:
    """The smoothing does not move on, nor does it for the next bar."""
    strategy, once = TFTStrategy(trained), TFTStrategy(trained)
    first = strategy.decide(until(bars, 1))
    assert plain(strategy.decide(until(bars, 1))) == plain(first)
    once.decide(until(bars, 1))
    assert plain(strategy.decide(bars)) == plain(once.decide(bars))


def test_an_older_table_is_refused(trained: TrainedModel, bars: pl.DataFrame) -> None:
    strategy = TFTStrategy(trained)
    strategy.decide(bars)
    with pytest.raises(ValueError, match=r"the table ends at 2026-02-\d\dT.*, before the last decision \(2026-02-10T"):
        strategy.decide(until(bars, 1))


def test_a_decision_takes_effect_two_bars_later(trained: TrainedModel, bars: pl.DataFrame) -> None:
    """One bar of delay: decided on Tuesday's close, held on Thursday; weekends are no bars."""
    signal = TFTStrategy(trained).decide(bars)["NIFTY"]
    assert str(signal.decided_at).startswith("2026-02-10")
    assert (str(signal.effective_at)[:10], signal.effective_after_bars) == ("2026-02-12", 2)
    friday = bars.filter(pl.col("date") <= pl.date(2026, 2, 6))
    assert str(TFTStrategy(trained).decide(friday)["NIFTY"].effective_at)[:10] == "2026-02-10"


def test_conviction_is_the_capped_raw_position_as_a_share_of_the_cap(trained: TrainedModel, bars: pl.DataFrame) -> None:
    predictor = Predictor(trained)
    whole = predictor.run(predictor.table({name: bars[name].to_numpy() for name in bars.columns}))
    cap = trained.positions.max_position
    for raw, signal in zip(whole.raw_position[-1], TFTStrategy(trained).decide(bars).values(), strict=True):
        assert signal.conviction == pytest.approx(min(abs(raw), cap) / cap)
        assert 0.0 <= signal.conviction <= 1.0


# Columns known in advance


@pytest.fixture(scope="module")
def with_calendar(trained: TrainedModel) -> tuple[TrainedModel, Panel]:
    """A model of three columns, the last of them known in advance."""
    panel = small_panel(60, 2, 3)
    wide = (*panel.feature_names, panel.feature_names[-1] + AHEAD)
    network = replace(trained, feature_names=wide, symbols=panel.symbols, known=(panel.feature_names[-1],)).network()
    parameters = {name: 0.3 * value.detach()[None] + 0.01 for name, value in network.named_parameters()}
    scaler = replace(trained.scaler, mean=np.zeros(4, np.float32), std=np.ones(4, np.float32))
    return (
        replace(
            trained,
            feature_names=wide,
            symbols=panel.symbols,
            known=(panel.feature_names[-1],),
            parameters=parameters,
            scaler=scaler,
        ),
        panel,
    )


def long_table(panel: Panel) -> dict[str, Any]:
    n_bars, n_assets = panel.returns.shape
    columns: dict[str, Any] = {
        "timestamp": np.repeat(panel.times, n_assets),
        "symbol": np.tile(np.array(panel.symbols), n_bars),
        "ret_1d": panel.returns.reshape(-1),
    }
    return columns | {name: panel.features[:, :, i].reshape(-1) for i, name in enumerate(panel.feature_names)}


def test_known_columns_are_read_from_rows_of_the_future(with_calendar: tuple[TrainedModel, Panel]) -> None:
    """Rows after the last return feed the known column alone: what they say of others, and their own bars, are not
    decided on; what they say of the known column counts."""
    model, panel = with_calendar
    columns = long_table(panel)
    future = columns["timestamp"] > panel.times[-3]
    columns["ret_1d"] = np.where(future, np.nan, columns["ret_1d"])
    first = TFTStrategy(model).decide(columns)
    assert {s.decided_at for s in first.values()} == {panel.times[-3]}
    other = dict(columns)
    for name in panel.feature_names[:2]:
        other[name] = np.where(future, 9.0, columns[name])
    assert plain(TFTStrategy(model).decide(other)) == plain(first)
    known = panel.feature_names[2]
    moved = columns | {known: np.where(columns["timestamp"] == panel.times[-1], 5.0, columns[known])}
    assert plain(TFTStrategy(model).decide(moved)) != plain(first)
    with pytest.raises(ValueError, match=f"lacks the column {known}$"):  # once, though the model sees it twice
        TFTStrategy(model).decide({name: values for name, values in columns.items() if name != known})


# The overlay


def overlay(regime: Any, conviction: float) -> RegimeOverlay:
    when = np.datetime64("2026-02-10")
    return RegimeOverlay(Signal("NIFTY", when, when, 2, 0.1, conviction, 0.6, 0.0, 0.01, None, regime))


@pytest.mark.parametrize("conviction", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("regime", "buy", "sell"), [("bullish", True, False), ("bearish", False, True), ("neutral", True, True)]
)
def test_the_overlay(regime: str, buy: bool, sell: bool, conviction: float) -> None:
    """Bullish only buys, bearish only sells, neutral does both; limit and size go with the conviction."""
    asked = overlay(regime, conviction)
    assert (asked.allows("buy"), asked.allows("sell")) == (buy, sell)
    assert (asked.allows("long"), asked.allows("short")) == (buy, sell)
    assert asked.position_limit(200.0) == 200.0 * conviction
    assert asked.scale(100.0) == (100.0 * conviction if buy else 0.0)
    assert asked.scale(-100.0) == (-100.0 * conviction if sell else 0.0)
    assert asked.scale(0.0) == 0.0


def test_the_overlay_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="side is 'hold', it must be one of buy, long, sell, short"):
        overlay("neutral", 1.0).allows("hold")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"base is -1\.0, a limit must be at least 0"):
        overlay("neutral", 1.0).position_limit(-1.0)
