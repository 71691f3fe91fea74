"""Windows per second, in training and in inference, of this project and of other TFT implementations.

    python benchmarks/peers.py                     # this project, neuralforecast, pytorch-forecasting, Darts
    python benchmarks/peers.py --only ours
    python benchmarks/peers.py --electricity       # this project alone, at the size of NVIDIA's published throughput
    python benchmarks/peers.py --device cuda --peers-env FOLDER

The peers are installed once, at the versions in PEERS and with the running interpreter's torch, into an environment of
their own (.cache/peers); `--peers-env` names another one, or a folder of packages for the running interpreter. Each
implementation is timed alone, in a process of its own (peers_timing.py), with the same number of threads.

Everyone gets the same panel (noise; 4 instruments, 260 bars, 73 variables), random windows of 63 bars, hidden width 48,
4 heads, 1 LSTM layer, dropout 0.23, batch 16, float32 (no TF32 without `--tf32`), a head of seven quantiles, the
quantile loss, Adam, no context set. What differs, and whom it favours:

- Of the peers only the step itself is timed, on batches that lie ready: forward, loss, backward, Adam. Their data
  loaders, windowing, logging and callbacks are left out, which favours them. Of this project it is `fit_folds` as it
  trains: drawing and gathering the windows, clipping, guards against what is not finite, the Sharpe term of the loss;
  all but the validation forecast at the end of an epoch.
- On a CPU this project trains as many folds at once as there are threads, one thread each, which is how it works, and
  its windows are those of all of them; a peer trains one network with all threads. `--threads 1` leaves that out.
- Inference of the peers is the forward pass under no_grad on ready batches of 64. Of this project it is `forecast_fit`
  over all bars of the panel, from the panel's numbers to forecasts on the host, in its own blocks of 64 targets and, on
  a CPU, at most two threads. It encodes each (bar, instrument) cell once, a peer as often as windows hold it: here
  1,040 cells for 792 windows, there 63 cells for each window. In training, too, this project encodes no cell twice in a
  step, but 16 random windows overlap little; how many of their cells are distinct is printed.
- A peer's decoder has at least one step and one variable known in advance (one of the 73): horizon 1. This project has
  no decoder: it forecasts from the last bar of the window.
- neuralforecast takes no categorical variable: the instrument is one static number. The others embed it.
- pytorch-forecasting and Darts embed a number in 8 dimensions unless told otherwise and interpolate from there to the
  hidden width; the paper, neuralforecast and this project embed it in the hidden width. Both are timed: the rows that
  say 8 are of a smaller network.

`--electricity`: batch 1024, hidden width 128, 7 variables, 4 heads, dropout 0.1, 369 instruments, windows of 192 bars
that hardly overlap. NVIDIA's samples are as long (168 + 24 steps), and all 24 steps of their decoder are forecast; here
it is the last bar alone. `--steps` is the number of steps of an epoch there.

Medians over `--repeats` after a warm-up: of the peers blocks of `--steps` steps, of this project epochs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from peers_timing import Setting

ROOT = Path(__file__).resolve().parents[1]
TIMING = Path(__file__).with_name("peers_timing.py")
OWN_ENVIRONMENT = ROOT / ".cache" / "peers"
PEERS = {
    "neuralforecast": "neuralforecast==3.3.0",
    "pytorch-forecasting": "pytorch-forecasting==1.8.0",
    "darts": "darts[torch]==0.48.1",
}
NARROW = 8
"""Default width of a number's embedding in pytorch-forecasting and Darts."""
PUBLISHED = {"TF32": 12_435, "AMP": 17_608}
"""Training items/s of NVIDIA's TFT on electricity, batch 1024, one A100."""

ELECTRICITY = Setting(
    n_features=7, d_hidden=128, embedding=128, dropout=0.1, seq_len=192, batch=1024, instruments=369, bars=4000
)


def peers_python(given: Path | None) -> tuple[str, dict[str, str]]:
    """The interpreter that the peers run in, and what its environment adds."""
    if given is None:
        return str(install()), {}
    if (given / "bin" / "python").exists():
        return str((given / "bin" / "python").absolute()), {}
    if not given.is_dir():
        raise click.UsageError(f"--peers-env {given} is neither an environment nor a folder of packages")
    return sys.executable, {"PYTHONPATH": str(given.resolve())}


def install() -> Path:
    """Python of the peers' environment, which is rebuilt if PEERS or torch has changed."""
    wanted = "\n".join([f"torch=={torch.__version__.split('+')[0]}", *PEERS.values()])
    python, installed = OWN_ENVIRONMENT / "bin" / "python", OWN_ENVIRONMENT / "installed"
    if not installed.exists() or installed.read_text() != wanted:
        click.echo(f"installing {', '.join(wanted.split())} into {OWN_ENVIRONMENT}", err=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(OWN_ENVIRONMENT)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *wanted.split()], check=True)
        installed.write_text(wanted)
    return python


def measure(setting: Setting, python: str, environment: dict[str, str]) -> dict[str, Any] | None:
    """The worker's report; None if it failed, with the reason on stderr."""
    done = subprocess.run(
        [python, str(TIMING), json.dumps(asdict(setting))],
        env={
            **os.environ,
            "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
            **environment,
            "OMP_NUM_THREADS": str(setting.threads),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        click.echo(f"{setting.implementation} failed:\n{done.stderr[-2000:]}", err=True)
        return None
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def row(name: str, setting: Setting, result: dict[str, Any] | None, own: dict[str, float]) -> str:
    """A row of the table; `own` collects this project's figures, with which the others are compared."""
    if result is None:
        return f"| {name} | - | failed | | | | |"
    train = setting.batch * setting.stack * result["at_once"] / median(result["step_s"])
    inference = result["inference_windows"] / median(result["inference_s"]) if result["inference_s"] else None
    if name == "this project":
        own.update({"train": train, "inference": inference or 0.0})
    cells = [name, result["version"], f"{train:,.0f}", f"{own['train'] / train:.2f} x" if own else "-"]
    cells += [f"{inference:,.0f}", f"{own['inference'] / inference:.2f} x" if own else "-"] if inference else ["-", "-"]
    return f"| {' | '.join([*cells, format(result['parameters'], ',')])} |"


@click.command(help="Windows a second of this project and of other TFTs; see the top of the file.")
@click.option("--only", multiple=True, type=click.Choice(["ours", *PEERS]), help="Time only these; may be repeated.")
@click.option("--electricity", is_flag=True, help="This project at the size of NVIDIA's published figures.")
@click.option("--device", default="auto", show_default=True)
@click.option("--threads", default=len(os.sched_getaffinity(0)), show_default=True)
@click.option("--tf32", is_flag=True, help="Let a GPU multiply float32 in TF32, for everyone.")
@click.option("--stack", default=1, show_default=True, help="Time this project also with so many folds side by side.")
@click.option("--steps", default=10, show_default=True, help="Peers: steps timed at once; electricity: of an epoch.")
@click.option("--repeats", default=5, show_default=True)
@click.option("--batch", type=int, help="Instead of 16, or of 1024.")
@click.option("--bars", type=int, help="Instead of 260, or of 4000.")
@click.option("--instruments", type=int, help="Instead of 4, or of 369.")
@click.option("--peers-env", type=click.Path(path_type=Path), help="Use this environment or folder of packages.")
def main(
    only: tuple[str, ...],
    electricity: bool,
    device: str,
    threads: int,
    tf32: bool,
    stack: int,
    steps: int,
    repeats: int,
    batch: int | None,
    bars: int | None,
    instruments: int | None,
    peers_env: Path | None,
) -> None:
    base = replace(ELECTRICITY, epoch_steps=steps) if electricity else Setting()
    base = replace(base, device=device, threads=threads, tf32=tf32, steps=steps, repeats=repeats)
    sizes = {"batch": batch, "bars": bars, "instruments": instruments}
    base = replace(base, **{name: value for name, value in sizes.items() if value is not None})
    chosen = ["ours"] if electricity else list(only or ("ours", *PEERS))
    rows: list[tuple[str, Setting]] = []
    if "ours" in chosen:
        rows.append(("this project", base))
        if stack > 1:
            rows.append((f"this project, {stack} folds side by side", replace(base, stack=stack)))
    for peer in PEERS:
        if peer in chosen:
            own = replace(base, implementation=peer)
            rows.append((peer, own))
            if peer != "neuralforecast":
                rows.append((f"{peer}, embeddings {NARROW} wide", replace(own, embedding=NARROW)))

    peers_in = peers_python(peers_env) if set(chosen) != {"ours"} else None
    lines, results = [], []
    figures: dict[str, float] = {}
    for name, setting in rows:
        click.echo(f"{name} ...", err=True)
        if setting.implementation == "ours":
            path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
            result = measure(setting, sys.executable, {"PYTHONPATH": path})
        else:
            assert peers_in is not None
            result = measure(setting, *peers_in)
        results.append(result)
        lines.append(row(name, setting, result, figures))

    done = [result for result in results if result]
    if done:
        click.echo(
            f"{base.n_features} variables, d_hidden {base.d_hidden}, {base.n_heads} heads, seq_len {base.seq_len}, "
            f"batch {base.batch}, {base.instruments} instruments, {base.bars:,} bars\n"
            f"{done[0]['device']}, {threads} threads, torch {', '.join(sorted({result['torch'] for result in done}))}, "
            f"{'TF32' if tf32 else 'float32'}\n"
            f"a batch's windows hold {base.batch * base.seq_len:,} cells, {done[0]['distinct_cells']:,.0f} of them "
            f"distinct on average; the panel has {base.bars * base.instruments:,}\n"
        )
    click.echo("| implementation | version | train windows/s | ours is | inference windows/s | ours is | parameters |")
    click.echo("|---|---|---|---|---|---|---|")
    click.echo("\n".join(lines))
    if electricity:
        published = ", ".join(f"{rate:,} in {precision}" for precision, rate in PUBLISHED.items())
        click.echo(f"\nNVIDIA's TFT on one A100, published, items/s in training: {published}")
    if len(done) < len(rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
