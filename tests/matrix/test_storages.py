"""Every optimizer × every storage: two steps on PyTorch and in native code, from memory to memory, and resumed in between.

The second step is done by three: the optimizer itself, one like it that has read its state dict, and one without storages that
has read it, too, and decoded what is there. All compute the same update from the same numbers, on the same backend. What the
second has is equal to the last bit. On PyTorch the last has equal parameters, too (in native code up to the roundings of one
step: `roundings`), and its states are what the first was to keep, within the storage's error: `bound`. Every optimizer is
tested with one of the storages in turn and with `--full` with all; native code of what is not in `tests.references.CORE` with
`--full` only.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import optc
from optc.compiler.pipeline import plan_program
from optc.compiler.traffic import PRECISIONS, default_variant, traffic
from optc.dsl import nodes
from optc.dsl.kinds import Extent
from optc.dsl.program import Storage
from optc.dsl.signs import never_negative
from optc.dsl.storages import CASTS, resolve, shipped
from optc.runtime.backend import BackendUnavailable
from optc.runtime.codebook import Codebook
from optc.runtime.optimizer import Optimizer
from optc.runtime.schema import Schema, State
from optc.runtime.storage import decode
from tests.matrix.runners import float64
from tests.oracle import program_of
from tests.reference_cases import Array
from tests.references import CORE, SPECS, cases_of, rest
from tests.runtime.training import give_gradients, twins
from tests.specs.low_memory import one_thread

pytestmark = pytest.mark.filterwarnings("ignore:.* is kept as .* in the file:UserWarning")
_CLAUSES: dict[str, nodes.Kept] = {
    **{name: nodes.Kept("x", name) for name in (*CASTS, *shipped())},
    **{
        f"{name}(stochastic)": nodes.Kept("x", name, (nodes.Argument(None, nodes.Name("stochastic")),))
        for name in ("linear8", "linear4")
    },
}
STORAGES: dict[str, Storage] = {
    name: found
    for name, clause in _CLAUSES.items()
    if isinstance(found := resolve(clause, ()), Storage) and len(found.levels) != 2
}
"""But those of signs, which no state of these specs is: see `test_factored.py`."""
SMALLEST = {"bfloat16": 2.0**-134, "float16": 2.0**-25}
"""Half of the smallest distance of two numbers; that of float32 is less than arithmetic in float32 can be off."""
SHAPES = ((64, 70), (5, 3), (4100,))
"""Kept as codes with a block that is not full, too small for it, and of one dimension."""
UNIT = 2.0**-24
"""One rounding to float32, as a share of the number."""


@cache
def states_for(spec: str, signed: bool) -> list[str]:
    """The states of an optimizer that can be kept as codes, of signed numbers or of others."""
    program = program_of(spec)
    known = {s.name for s in program.states} if signed else never_negative(program)
    return [s.name for s in program.states if s.extent is Extent.ELEM and s.name in known]


def storages_of(spec: str) -> list[str]:
    """Those that at least one state can be kept in."""
    return [name for name, storage in STORAGES.items() if states_for(spec, storage.signed)]


@cache
def turns(backend: str) -> Mapping[str, str]:
    """A storage for each optimizer that has states per element: the one that was taken least so far.

    In native code it is another one than on PyTorch, where there are two, and what every run tests comes first.
    """
    native, used = backend == "native", Counter[str]()
    before, found = turns("torch") if native else {}, {}
    for spec in sorted(SPECS, key=lambda spec: native and spec not in CORE):
        known = sorted(storages_of(spec), key=lambda name: (name == before.get(spec), used[name]))
        if known:
            found[spec] = known[0]
            used[known[0]] += 1
    return found


def hypers_of(spec: str, schema: Schema) -> Mapping[str, Any]:
    """Those of the case in the table with which most states exist."""

    def count(hypers: Mapping[str, Any]) -> int:
        values: dict[str, Any] = {"ndim": 2, "numel": 4480, "bf16": False}
        for hyper in schema.hypers:
            given = hypers.get(hyper.key, hyper.defaults if hyper.is_tuple else hyper.defaults[0])
            values.update(zip(hyper.names, given if hyper.is_tuple else (given,), strict=True))
        return sum(state.exists is None or state.exists.holds(values) for state in schema.states)

    return max((case.hypers for case in cases_of(spec)), key=count)


def step(optimizer: Optimizer, params: Sequence[Tensor], seed: int) -> None:
    """A step, and every entry, on new gradients."""
    give_gradients(seed, params)
    optimizer.step(lambda: 2.0 / (1 + seed))
    for procedure in optimizer.schema.procedures[1:]:
        generator = torch.Generator().manual_seed(100 + seed)
        given = {name: [torch.randn(p.shape, generator=generator) for p in params] for name in procedure.inputs}
        getattr(optimizer, procedure.name)(**given)


def through_a_file(state: Mapping[str, Any]) -> Any:
    """As `torch.save` and `torch.load` give it back."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def lacks_codes(schema: Schema, backend: str) -> bool:
    """Whether kernels of a backend go through memory in another order than codes need."""
    rows = {"triton": {"row", "col", "matrix"}, "native": set[str](), "torch": set[str]()}[backend]
    return any(
        any(isinstance(s.storage, Codebook) for s in kernel.streams)
        and (not rows.isdisjoint(kernel.extents) or (backend != "torch" and any(one.picks for one in kernel.passes)))
        for procedure in schema.procedures
        for kernel in procedure.kernels
    )


def numbers(state: State, slot: Mapping[str, Any], p: Tensor) -> Array:
    """What a state means, flat."""
    book = state.codebook(p.numel())
    if book is None:
        return float64(slot[state.key]).reshape(-1)
    return float64(decode(slot[state.key], slot[state.scale_key], book, p.numel()))


def largest_around(x: Array, book: Codebook) -> Array:
    """For each number the largest |x| of its block, or what is taken for it where that is less."""
    blocks = np.pad(np.abs(x), (0, -x.size % book.block)).reshape(-1, book.block)
    found: Array = blocks.max(axis=1, initial=book.least).repeat(book.block)[: x.size]
    return found


@cache
def roundings(spec: str, backend: str) -> float:
    """How far a step with codes may be from one without, as a share of the largest number around.

    PyTorch runs the same operations on the same numbers. In native code these are two kernels: the compiler joins products and
    sums to FMA, or does not, in each as it likes, so that each operation may round or not.
    """
    if backend == "torch":
        return 0.0
    plan = plan_program(program_of(spec))[1]
    costs = [traffic(procedure, default_variant(plan), PRECISIONS[0]) for procedure in plan.procedures]
    return UNIT * sum(cost.operations + cost.picked.operations for cost in costs)


def bound(state: State, storage: Storage, exact: Array, arithmetic: float) -> Array:
    """How far what is kept may be from finite numbers, which may be off by `arithmetic` themselves.

    A cast rounds once, by `storage.error` of the number, or by half of the smallest distance of two numbers where that is more.
    Of codes the scale s is max/unit·(1 + a), x/s is rounded to r = x/s·(1 + b) and the level l to l·s·(1 + c), where |a|, |b|
    and |c| are `UNIT` at most; l is compared with r exactly. So |l·s·(1 + c) - x| <= |l - r|·s + |x·b| + |l·s·c|, of which the
    first is `storage.error`·max·(1 + a) at most: that error and four roundings of the largest |x|, with room for products.
    """
    book, off = state.codebook(exact.size), np.full(exact.shape, arithmetic)
    if book is not None:
        off += (storage.error + 4 * UNIT) * (largest_around(exact, book) + off)
    elif isinstance(state.storage, str):
        off += np.maximum(storage.error * (np.abs(exact) + off), SMALLEST.get(state.storage, 0.0))
    return off


def to_keep(state: State, exact: Array) -> Array:
    """The numbers that memory can keep: in codes NaN is 0, and infinities are as large as the largest of their block."""
    book = state.codebook(exact.size)
    if book is None:
        return exact
    largest = largest_around(np.where(np.isfinite(exact), exact, 0.0), book)
    return np.clip(np.where(np.isnan(exact), 0.0, exact), -largest, largest)


def size_of(x: Array) -> float:
    """The largest |x| that is finite."""
    return float(np.abs(x[np.isfinite(x)]).max(initial=0.0))


def all_near(found: Array, expected: Array, most: Array | float) -> bool:
    """Whether numbers are as they should be."""
    with np.errstate(invalid="ignore"):
        equal = (found == expected) | (np.isnan(found) & np.isnan(expected))
        return bool(np.all(equal | (np.abs(found - expected) <= most)))


def entries(optimizer: Optimizer, params: Sequence[Tensor]) -> Iterator[Tensor]:
    """Parameters and all that is kept for them."""
    for p in params:
        yield p.detach()
        yield from (torch.as_tensor(optimizer.state[p][key]) for key in sorted(optimizer.state[p]))


def classes(spec: str, name: str) -> tuple[type[Optimizer], type[Optimizer]]:
    """An optimizer with all states in a storage that can be kept so, and without."""
    base = spec.rpartition("/")[2]
    return optc.compile(base, storing=dict.fromkeys(states_for(spec, STORAGES[name].signed), name)), optc.compile(base)


def parameters() -> list[nn.Parameter]:
    """New ones."""
    generator = torch.Generator().manual_seed(5)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def refused(cls: type[Optimizer], hypers: Mapping[str, Any], backend: str) -> None:
    """A backend says that it has no such kernels, before anything has changed."""
    params = parameters()
    optimizer = cls(params, **hypers, backend=backend)
    with pytest.raises(BackendUnavailable, match="picked elements do not keep states as codes"):
        step(optimizer, params, 0)
    assert not optimizer.state
    assert all(torch.equal(p, q) for p, q in zip(params, parameters(), strict=True))


def check(spec: str, name: str, backend: str) -> None:
    """One optimizer in one storage."""
    coded, plain = classes(spec, name)
    hypers, label, off = hypers_of(spec, plain.schema), f"{spec} {name}", roundings(spec, backend)
    if lacks_codes(coded.schema, backend):
        refused(coded, hypers, backend)
        return
    params = parameters()
    optimizer = coded(params, **hypers, backend=backend)
    step(optimizer, params, 0)
    saved = through_a_file(optimizer.state_dict())
    again, other = twins(params), twins(params)
    resumed, without = coded(again, **hypers, backend=backend), plain(other, **hypers, backend=backend)
    resumed.load_state_dict(saved)
    without.load_state_dict(saved)
    for one, its in ((optimizer, params), (resumed, again), (without, other)):
        step(one, its, 1)
    for a, b in zip(entries(optimizer, params), entries(resumed, again), strict=True):
        assert a.dtype == b.dtype and same(a, b), f"{label}: resumed"
    for p, q in zip(params, other, strict=True):
        expected = float64(q)
        assert all_near(float64(p), expected, off * size_of(expected)), f"{label}: θ"
        for state in coded.schema.of_parameters:
            if state.extent == "elem" and state.key in optimizer.state[p]:
                exact = to_keep(state, float64(without.state[q][state.key]).reshape(-1))
                kept, most = numbers(state, optimizer.state[p], p), bound(state, STORAGES[name], exact, off * size_of(exact))
                assert all_near(kept, exact, most), f"{label}: {state.name}"
                assert optimizer.state[p][state.key].dtype == in_memory(state, p.numel()), f"{label}: {state.name}"


def same(a: Tensor, b: Tensor) -> bool:
    """Whether numbers are equal. NaN is NaN: a root of the difference of coarse averages may be."""
    return np.array_equal(float64(a), float64(b), equal_nan=True)


def in_memory(state: State, numel: int) -> torch.dtype:
    """The dtype of a state of a float32 parameter of this size."""
    if state.codebook(numel) is not None:
        return torch.uint8
    dtype: torch.dtype = getattr(torch, state.storage) if isinstance(state.storage, str) else torch.float32
    return dtype


@pytest.fixture(autouse=True)
def single() -> Iterator[None]:
    with one_thread():
        yield


def test_every_storage_has_its_turns() -> None:
    on_torch = Counter(turns("torch").values())
    in_native = Counter(name for spec, name in turns("native").items() if spec in CORE)
    assert {name for name in STORAGES if on_torch[name] >= 5 and in_native[name] >= 2} == set(STORAGES), (on_torch, in_native)


@pytest.mark.parametrize("spec", SPECS)
def test_pytorch(spec: str) -> None:
    """One storage. What native code and Triton have no kernels for they say."""
    name = turns("torch").get(spec)
    if name is None:
        assert not storages_of(spec)
        return
    check(spec, name, "torch")
    coded, plain = classes(spec, name)
    for backend in ("native", "triton"):
        if lacks_codes(coded.schema, backend):
            refused(coded, hypers_of(spec, plain.schema), backend)


@pytest.mark.parametrize("spec", [pytest.param(spec, marks=rest(spec)) for spec in SPECS])
def test_native(spec: str) -> None:
    """Another one."""
    name = turns("native").get(spec)
    if name is not None:
        check(spec, name, "native")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "native"])
@pytest.mark.parametrize("spec", SPECS)
def test_every_storage(spec: str, backend: str) -> None:
    for name in storages_of(spec):
        check(spec, name, backend)
