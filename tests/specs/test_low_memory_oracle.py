"""Every shipped optimizer that keeps states otherwise, on every backend against the oracle, one step at a time.

Each step of the oracle starts from what the backend has in memory. It is run twice: as written, so that states go through
memory, and with the storages taken out. The first says which code is to be found, the second where its number lies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from optc.compiler.compose.expand import expand
from optc.compiler.interpret import Oracle, ParameterState
from optc.dsl.check import check
from optc.dsl.program import Program
from optc.dsl.read import read
from optc.runtime.codebook import Codebook, thresholds
from optc.runtime.draws import draws
from optc.runtime.optimizer import Optimizer
from optc.runtime.schema import State
from optc.runtime.storage import decode
from tests.matrix.runners import float64, optimizer_class
from tests.oracle import SPECS_FOLDER, spec_path
from tests.reference_cases import Array
from tests.specs.low_memory import codes_in, one_thread, ranks

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # NumPy, inside Triton's interpreter

WITHOUT_BLOCKS = {"adamw_4bit_rank1"}
"""Whose codes are scaled by rows and columns, not by blocks: `test_rank1_codes` compares them, also with the oracle."""
LOW_MEMORY = sorted(path.stem for path in (SPECS_FOLDER / "low_memory").glob("*.opt"))
SPECS = tuple(f"low_memory/{name}" for name in LOW_MEMORY if name not in WITHOUT_BLOCKS)
SHAPES = ((66, 63), (5, 7))
"""One that is kept as codes, with a block and a byte that are not full, and one that is too small for it."""
STEPS = 4
ROUNDINGS = {torch.float32: 4e-7, torch.bfloat16: 4e-7, torch.float64: 1e-15}
"""Seven roundings in a row of the dtype of arithmetic; measured are up to 3."""
STORED = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float64: 2.0**-53}
"""Half a distance of neighbours, relative to the number."""
IN_FLOAT32 = 2.0**-23
"""Of scales, which are rounded to float32 twice, and of what is decoded."""

OTHERS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("low_memory/adamw_8bit", {"amsgrad": True, "weight_decay": 0.1}),
    ("low_memory/adam_4bit", {"amsgrad": True, "weight_decay": 0.1}),
    ("low_memory/rmsprop_8bit", {"momentum": 0.9, "weight_decay": 0.1}),
    ("low_memory/sgd_8bit", {"nesterov": True, "weight_decay": 0.1}),
    ("low_memory/sgd_8bit", {"momentum": 0.0}),
    ("low_memory/prodigy_8bit", {"slice_p": 3}),
)
"""Hypers with which there are more states, or fewer."""


@cache
def programs(spec: str) -> tuple[Program, Program]:
    """As written, and with the storages taken out."""
    expanded = expand(read(spec_path(spec)))
    program = check(expanded.spec, expanded.source)
    return program, replace(program, states=tuple(replace(state, storage=None) for state in program.states))


def numbers(state: State, slot: Mapping[str, Any], p: Tensor) -> Array:
    """What a state means."""
    entry, book = slot[state.key], state.codebook(p.numel())
    if book is None:
        return float64(entry)
    return float64(decode(entry, slot[state.scale_key], book, p.numel()).view(p.shape))


def imported(optimizer: Optimizer, params: Sequence[Tensor], t: int) -> list[ParameterState]:
    """The parameters of a model as the oracle has them."""
    schema, group = optimizer.schema, optimizer.param_groups[0]
    model = {s.name: np.float64(group[s.key]) for s in schema.of_model if s.key in group}
    found = []
    for number, p in enumerate(params):
        slot = optimizer.state.get(p, {})
        states: dict[str, Any] = {}
        for s in schema.of_parameters:
            if s.key in slot:
                states[s.name] = np.float64(slot[s.key]) if s.extent == "tensor" else numbers(s, slot, p)
        found.append(ParameterState(float64(p), states, t, model, number))
    return found


@dataclass(slots=True)
class Count:
    """Numbers that are kept rounded, and those that are not rounded as the oracle has it."""

    codes: int = 0
    flips: int = 0

    def see_codes(self, found: Array, expected: Array, least: Array, most: Array) -> None:
        """Takes account of places among levels. All are where a number lies that is only rounded; most are where it is."""
        assert np.all((least <= found) & (found <= most))
        assert np.abs(found - expected).max(initial=0) <= 1
        self.codes, self.flips = self.codes + found.size, self.flips + int((found != expected).sum())


def compare_codes(count: Count, book: Codebook, codes: Tensor, scales: Tensor, kept: Array, plain: Array, error: float) -> None:
    """Codes of a state, against what the oracle finds in memory and against the number that it has put there."""
    x = plain.reshape(-1)
    blocks = np.pad(np.abs(x), (0, -x.size % book.block)).reshape(-1, book.block)
    expected = np.maximum(blocks.max(axis=1), book.least) / book.unit
    scale = float64(scales)
    started = scale > 0  # else: zeros so far
    assert np.all(np.abs(scale - expected)[started] <= (error + IN_FLOAT32) * expected[started])
    assert np.all(blocks.max(axis=1)[~started] == 0)
    each = np.where(started, scale, 1.0).repeat(book.block)[: x.size]
    place, nearest = ranks(book.levels), thresholds(book)

    def placed(ratio: Array) -> Any:
        return place[nearest.of(ratio.astype(np.float32))]

    around = (error + IN_FLOAT32) * (np.abs(x) / each + book.unit * 2.0**-7)
    found = np.where(started.repeat(book.block)[: x.size], place[codes_in(codes, book)[: x.size]], placed(0 * x))
    count.see_codes(found, placed(kept.reshape(-1) / each), placed(x / each - around), placed(x / each + around))


def compare_cast(
    count: Count, dtype: torch.dtype, found: Array, kept: Array, plain: Array, error: float, down: bool, drawn: bool
) -> None:
    """A state of another dtype; with `down` it was cut off, not rounded.

    Where the step has `drawn` which way it rounds, it has rounded the oracle's, too: the other way where the number in float32
    is on the other side of what was drawn. Those are few.
    """
    distance = 2 * STORED[dtype] * np.abs(plain)
    assert np.all(np.abs(found - plain) <= distance * (1.0 if down or drawn else 0.5) + 2 * error * np.abs(plain))
    count.codes, count.flips = count.codes + found.size, count.flips + int((found != kept).sum()) * (not down)


def compare(
    optimizer: Optimizer, p: Tensor, before: Array, kept: ParameterState, plain: ParameterState, error: float, count: Count
) -> None:
    """One parameter and its states after a step."""
    schema, slot, changed = optimizer.schema, optimizer.state[p], np.abs(plain.theta - before)
    half = STORED[p.dtype] * (2 if optimizer.backend == "triton" else 1)  # the interpreter cuts bfloat16 off
    assert np.array_equal(kept.theta, plain.theta)
    assert np.all(np.abs(float64(p) - plain.theta) <= half * np.abs(plain.theta) + 10 * error * changed + 2 * error)
    for state in schema.of_parameters:
        if state.key not in slot:
            assert state.name not in plain.states
            continue
        ours, exact = np.asarray(kept.states[state.name]), np.asarray(plain.states[state.name])
        book = state.codebook(p.numel())
        if book is not None and book.bits == 1:
            found = numbers(state, slot, p)
            count.codes, count.flips = count.codes + found.size, count.flips + int((found != ours).sum())
        elif book is not None:
            compare_codes(count, book, slot[state.key], slot[state.scale_key], ours, exact, error)
        elif isinstance(state.storage, str):
            down, drawn = optimizer.backend == "triton", any(map(draws, schema.procedures))
            compare_cast(count, getattr(torch, state.storage), float64(slot[state.key]), ours, exact, error, down, drawn)
        else:
            assert np.abs(numbers(state, slot, p) - exact).max() <= 2 * error * np.abs(exact).max(), state.name


def run(spec: str, backend: str, dtype: torch.dtype, hypers: Mapping[str, Any]) -> None:
    """Steps whose gradients are 0 over whole blocks now and then. Few codes are not the oracle's."""
    as_written, without = programs(spec)
    generator, count = torch.Generator().manual_seed(4), Count()
    params = [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in SHAPES]
    optimizer: Optimizer = optimizer_class(spec)(params, **hypers, backend=backend)
    assert [s.name for s in as_written.states if s.storage] == [s.name for s in optimizer.schema.states if s.storage]
    for step in range(STEPS):
        kept, plain = imported(optimizer, params, step), imported(optimizer, params, step)
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator).to(dtype)
            if step % 2 == 0:
                p.grad[: p.shape[0] // 3] = 0
        gradients, before = [float64(p.grad) for p in params if p.grad is not None], [float64(p) for p in params]
        Oracle(as_written, hypers).step_together(kept, gradients)
        Oracle(without, hypers).step_together(plain, gradients)
        optimizer.step()
        for p, old, one, other in zip(params, before, kept, plain, strict=True):
            compare(optimizer, p, old, one, other, ROUNDINGS[dtype], count)
        group = optimizer.param_groups[0]
        for state in optimizer.schema.of_model:
            if state.name in plain[0].model:
                expected = float(plain[0].model[state.name])
                assert abs(float(group[state.key]) - expected) <= 1e-5 * abs(expected), state.name
    assert count.flips <= 2 + 1e-4 * count.codes, count


@pytest.fixture(autouse=True)
def single() -> Iterator[None]:
    with one_thread():
        yield


@pytest.mark.parametrize("backend", ["torch", "native", "triton"])
@pytest.mark.parametrize("spec", SPECS)
def test_every_optimizer(spec: str, backend: str) -> None:
    run(spec, backend, torch.float32, {})


@pytest.mark.parametrize("backend", ["torch", "native", "triton"])
@pytest.mark.parametrize(("spec", "hypers"), OTHERS)
def test_more_and_fewer_states(spec: str, hypers: Mapping[str, Any], backend: str) -> None:
    run(spec, backend, torch.float32, hypers)


@pytest.mark.parametrize("backend", ["torch", "native", "triton"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("spec", ["low_memory/adamw_8bit", "low_memory/lion_4bit", "low_memory/lamb_8bit"])
def test_other_dtypes(spec: str, dtype: torch.dtype, backend: str) -> None:
    run(spec, backend, dtype, {})


@pytest.mark.parametrize("spec", SPECS)
def test_steady_gradients_leave_parameters_finite(spec: str) -> None:
    """Averages of what hardly changes are nearly equal to it and to one another, and kept coarsely: no root may be of less than
    0, nor a divisor 0. Each flag is set in turn."""
    cls = optimizer_class(spec)
    flags: list[dict[str, Any]] = [{hyper.key: True} for hyper in cls.schema.hypers if hyper.kind == "flag"]
    for hypers in ({}, *flags):
        generator = torch.Generator().manual_seed(6)
        p = nn.Parameter(torch.randn(64, 64, generator=generator))
        optimizer = cls([p], **hypers, backend="torch")
        for _ in range(300):
            p.grad = 1 + 0.1 * torch.randn(p.shape, generator=generator)
            optimizer.step()
        assert p.isfinite().all(), hypers
