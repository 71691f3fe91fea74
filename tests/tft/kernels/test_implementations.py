"""Every implementation of every operation against the reference in torch, forward and backward.

The references themselves are tested against plain formulas and autograd, in the file of each operation.
"""

from __future__ import annotations

import inspect
import subprocess
import sys
import threading
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from tests.tft.kernels.operations import OPERATIONS, Operation, Shape, scan_inputs, windows_of
from tft.kernels import implementation
from tft.kernels.__main__ import main
from tft.kernels.implementation import IMPLEMENTATIONS, fingerprint, in_use, kernels_for
from tft.runtime.graph import Captured

CPU = torch.device("cpu")
EACH = [(kind, operation) for kind, own in IMPLEMENTATIONS.items() for operation in own]
DTYPES = {"cpu": [torch.float32, torch.float64], "cuda": [torch.float32]}


class Tried(NamedTuple):
    """One implementation of one operation."""

    name: str
    operation: Operation
    own: Any
    device: torch.device

    def run(self, given: list[Tensor]) -> list[Tensor]:
        found = self.operation.run(self.own, *(tensor.to(self.device) for tensor in given))
        return [tensor.cpu() for tensor in found]

    def refused(self, shape: Shape, dtype: torch.dtype) -> str | None:
        """Some sizes are too large for a GPU's kernels, which then leave them to torch."""
        first = torch.zeros(1, 1, 1, dtype=dtype, device=self.device)
        if self.name in ("scan", "select"):
            return self.own.refuses(first, shape[3])  # type: ignore[no-any-return]
        return None


@pytest.fixture(params=EACH, ids="-".join)
def tried(request: pytest.FixtureRequest) -> Tried:
    kind, name = request.param
    if kind == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    device, own = torch.device(kind), IMPLEMENTATIONS[kind][name]
    if fault := own.unavailable(device):
        pytest.skip(fault)
    return Tried(name, OPERATIONS[name], own, device)


def cast(given: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    return [tensor.to(dtype) if tensor.dtype == torch.float32 else tensor for tensor in given]


def middle(tried: Tried) -> list[Tensor]:
    """Inputs of some size, several folds and neither a whole block nor a single one."""
    shapes = {
        "adam": (3, 2125),
        "dropout": (3, 10_005),
        "gated_norm": (3, 400, 48),
        "gather": (3, 300, 7, 50, 20),
        "scan": (3, 5, 37, 48),
        "select": (3, 4, 131, 48, 0.3),
    }
    return tried.operation.inputs(*shapes[tried.name])


def error(found: Tensor, truth: Tensor) -> float:
    """Largest deviation, as a share of the largest value."""
    return float((found.double() - truth).abs().max() / truth.abs().max().clamp_min(1e-30))


def assert_as_close(tried: Tried, shape: Shape, ours: Tensor, theirs: Tensor, true: Tensor) -> None:
    """`ours` is nearly as close to the float64 truth as the reference in the same dtype."""
    assert ours.shape == true.shape and ours.dtype == theirs.dtype
    if tried.name == "dropout":
        assert torch.equal(ours, theirs)
    elif tried.name == "adam":
        single = ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=1e-5 if single else 1e-12, atol=5e-7 if single else 1e-14)
    elif ours.dtype == torch.float64:
        assert float((ours - true).abs().max()) <= 1e-10 * float(true.abs().max().clamp_min(1.0))
    elif tried.name == "gather":
        torch.testing.assert_close(ours.double(), true, rtol=1e-5, atol=1e-4)
    elif tried.name == "scan" and tried.device.type == "cuda":
        # Tensor cores cut the sums that torch rounds: an error that grows with the terms.
        assert error(ours, true) <= max(8.0 * error(theirs, true), 1e-6, 2e-8 * shape[-1])
    else:
        # A GPU's selection and norm sum in an order of their own, in tensor cores and across a warp.
        floor = 4e-6 if tried.name in ("gated_norm", "select") and tried.device.type == "cuda" else 2e-6
        assert error(ours, true) <= max(8.0 * error(theirs, true), floor)


def test_values_and_gradients_are_as_close_to_the_truth_as_those_of_the_reference(tried: Tried) -> None:
    taken = 0
    for shape in tried.operation.shapes:
        for dtype in DTYPES[tried.device.type]:
            if tried.refused(shape, dtype):
                continue
            taken += 1
            given = cast(tried.operation.inputs(*shape), dtype)
            theirs = tried.operation.run(tried.operation.reference, *given)
            truth = tried.operation.run(tried.operation.reference, *cast(given, torch.float64))
            for ours, other, true in zip(tried.run(given), theirs, truth, strict=True):
                assert_as_close(tried, shape, ours, other, true)
    assert taken >= len(tried.operation.shapes) - (2 if tried.device.type == "cuda" else 0)


def test_its_functions_have_the_arguments_of_the_reference(tried: Tried) -> None:
    for function in tried.operation.functions:
        theirs = inspect.signature(getattr(tried.operation.reference, function))
        assert inspect.signature(getattr(tried.own, function)) == theirs


def test_repetitions_agree_to_the_last_bit_in_threads_too(tried: Tried) -> None:
    given = middle(tried)
    first = tried.run(given)
    differences: list[bool] = []

    def repeat() -> None:
        for _ in range(10):
            again = tried.run(given)
            differences.append(not all(torch.equal(one, other) for one, other in zip(again, first, strict=True)))

    threads = [threading.Thread(target=repeat) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(differences) == 40 and not any(differences)


def test_folds_do_not_see_each_other(tried: Tried) -> None:
    """To the last bit: whatever fold 0 holds."""
    given = middle(tried)
    changed = [tensor.clone() for tensor in given]
    for tensor in changed:
        if tensor.is_floating_point():
            tensor[0] += 1.0
    for one, other in zip(tried.run(given), tried.run(changed), strict=True):
        assert not torch.equal(one[0], other[0])
        assert torch.equal(one[1:], other[1:])


def test_strides_do_not_matter_nor_does_a_gradient_that_is_one_number_for_all(tried: Tried) -> None:
    given = middle(tried)
    strided = [
        tensor.transpose(0, -1).contiguous().transpose(0, -1) if tensor.dim() > 1 else tensor for tensor in given
    ]
    assert not all(tensor.is_contiguous() for tensor in strided)
    for ours, same in zip(tried.run(strided), tried.run(given), strict=True):
        assert torch.equal(ours, same)
    expanded = torch.tensor(0.5).expand(given[0].shape)
    both = (tried.run([first, *given[1:]]) for first in (expanded, expanded.contiguous()))
    assert all(torch.equal(ours, same) for ours, same in zip(*both, strict=True))


@pytest.mark.parametrize("tried", [pair for pair in EACH if pair[0] == "cuda"], ids="-".join, indirect=True)
def test_it_is_captured_in_a_graph(tried: Tried) -> None:
    given = [tensor.to(tried.device) for tensor in middle(tried)]
    captured = Captured(lambda *inputs: tried.operation.run(tried.own, *inputs), given)
    given[0].mul_(0.5)
    replayed = [tensor.clone() for tensor in captured(*given)]
    for ours, called in zip(replayed, tried.operation.run(tried.own, *given), strict=True):
        assert torch.equal(ours, called)


@pytest.mark.parametrize("tried", [pair for pair in EACH if pair[1] in ("scan", "select")], ids="-".join, indirect=True)
def test_what_keeps_nothing_for_a_backward_gives_the_same_values(tried: Tried) -> None:
    """To the last bit: the values of training are those of a forecast."""
    for shape in tried.operation.shapes:
        if tried.refused(shape, torch.float32):
            continue
        given = [tensor.to(tried.device) for tensor in tried.operation.inputs(*shape)]
        if tried.name == "scan":
            both = [tried.own.forward(given[1], None, *given[2:], for_backward=which) for which in (False, True)]
        else:
            both = [
                tried.own.forward(given[1], given[2], given[3:13], None, for_backward=which) for which in (False, True)
            ]
        assert torch.equal(both[0][0], both[1][0])
        assert all(kept is None for kept in both[0][1:])


@pytest.mark.parametrize("tried", [("cpu", "scan"), ("cuda", "scan")], ids="-".join, indirect=True)
def test_a_scan_without_a_stack_is_that_of_a_stack_of_one(tried: Tried) -> None:
    given = scan_inputs(1, 4, 5, 6)
    for ours, stacked in zip(tried.run([tensor[0] for tensor in given]), tried.run(given), strict=True):
        assert torch.equal(ours, stacked[0])


@pytest.mark.parametrize("tried", [("cpu", "scan"), ("cuda", "scan")], ids="-".join, indirect=True)
def test_a_scan_reads_gates_through_windows(tried: Tried) -> None:
    """States are to the last bit those of the gates laid out beforehand, gradients those of the cells read."""
    windows = windows_of(2, 19, 7, 40)
    d_states, _, *rest = scan_inputs(2, 7, 19, 20)
    gates = torch.randn(2, 40, 4 * 20, generator=torch.Generator().manual_seed(0))
    laid_out = torch.stack([of_fold[index.T] for of_fold, index in zip(gates, windows, strict=True)])
    states, d_gates, *others = tried.run([d_states, gates, *rest, windows])
    expected, d_laid_out, *expected_others = tried.run([d_states, laid_out, *rest])
    assert torch.equal(states, expected)
    for ours, theirs in zip(others, expected_others, strict=True):
        assert torch.equal(ours, theirs)
    added = torch.zeros(gates.shape, dtype=torch.float64)
    for fold in range(2):
        added[fold].index_add_(0, windows[fold].T.flatten(), d_laid_out[fold].double().flatten(0, 1))
    torch.testing.assert_close(d_gates.double(), added, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- which one runs


def test_each_runs_on_its_device_and_the_reference_where_it_is_left_out(tried: Tried) -> None:
    class Reference:
        pass

    def chosen(dtype: torch.dtype = torch.float32) -> Any:
        x = torch.ones(2, 3, 8, dtype=dtype, device=tried.device)
        more = {"scan": (8,), "select": (8,), "gather": (torch.zeros(2, 3, 1), 5)}
        return implementation.of(tried.name, Reference, x, *more.get(tried.name, ()))

    assert chosen() is tried.own
    assert chosen(torch.float16) is Reference
    with implementation.without(tried.name):
        assert chosen() is Reference
        with implementation.without(tried.name):
            pass
        assert chosen() is Reference  # the outer block is not over
    assert chosen() is tried.own


def test_operations_and_implementations_are_the_same_everywhere() -> None:
    assert sorted(OPERATIONS) == implementation.OPERATIONS
    names = {one.operation: one.implementation for one in in_use(CPU)}
    assert sorted(names) == implementation.OPERATIONS
    assert names["gather"] == "torch"


@pytest.mark.usefixtures("native")
def test_what_is_in_use_follows_the_environment_and_so_do_tag_and_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    with_native = fingerprint(CPU)
    assert kernels_for(CPU) == "native"
    assert {one.implementation for one in in_use(CPU)} == {"native", "torch"}
    assert fingerprint(CPU) == with_native
    with implementation.without("adam"):
        assert {one.operation: one.reason for one in in_use(CPU)}["adam"] == "left out by the caller"
        assert fingerprint(CPU) != with_native
    monkeypatch.setenv("TFT_NATIVE", "0")
    assert kernels_for(CPU) == "torch"
    found = in_use(CPU)
    assert {one.implementation for one in found} == {"torch"}
    assert {one.reason for one in found} == {"TFT_NATIVE=0", "the only implementation on a CPU"}
    assert fingerprint(CPU) != with_native


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("part", ["processor", "library"])
def test_the_fingerprint_is_that_of_processor_and_library(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(CPU)
    implementation._fingerprint.cache_clear()
    assert fingerprint(CPU) == before
    implementation._fingerprint.cache_clear()
    if part == "processor":
        monkeypatch.setattr(implementation, "processor", lambda: "another one")
    else:
        monkeypatch.setattr(implementation.cpu, "digest", lambda: "another one")
    assert fingerprint(CPU) != before
    implementation._fingerprint.cache_clear()


def test_a_command_prints_what_is_in_use() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tft.kernels", "cpu"], capture_output=True, text=True, check=True, timeout=120
    )
    rows = [line.split(maxsplit=2) for line in done.stdout.splitlines() if line][:-1]
    assert rows[0] == ["operation", "implementation", "reason"]
    assert [tuple(row) for row in rows[1:]] == [tuple(one) for one in in_use(CPU)]
    assert done.stdout.splitlines()[-1] == f"fingerprint {fingerprint(CPU)}"


@pytest.mark.parametrize("given", [["tpu"], ["cpu", "cuda"]])
def test_the_command_says_how_it_is_used(given: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["kernels", *given])
    with pytest.raises(SystemExit, match=r"^usage: python -m tft.kernels \[cpu\|cuda\]$"):
        main()
