"""What a step needs beside parameters and states, counted from shapes alone: no model is made for it."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor

from optc.runtime import gpu, triton_matrices, triton_passes, triton_reductions
from optc.runtime.schema import Kernel, Procedure
from optc.runtime.shapes import keeps_rows, matrices
from optc.runtime.triton_kernel import triton_kernel
from optc.runtime.triton_matrices import Matrices
from optc.runtime.triton_memory import levels
from optc.runtime.triton_reductions import LEAF, Reductions
from optc.runtime.triton_tables import Chunks
from tests.backends.matrices import SPECS as OF_ROWS
from tests.backends.triton.test_triton_reductions import SPECS as REDUCING
from tests.backends.triton.test_triton_reductions import kept, made, randn, same_bits, step
from tests.references import SPECS

if TYPE_CHECKING:
    import triton.language as tl

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # NumPy, inside the interpreter
MIB = 1 << 20
CPU = torch.device("cpu")
LLAMA: list[tuple[int, ...]] = (
    [(128256, 4096)] * 2 + [(4096, 4096), (1024, 4096), (1024, 4096), (4096, 4096)] * 32 + [(4096,)] * 65
)
LLAMA += [(14336, 4096), (14336, 4096), (4096, 14336)] * 32
GPT2: list[tuple[int, ...]] = [(50257, 768), (1024, 768)] + [
    (768, 2304),
    (768, 768),
    (768, 3072),
    (3072, 768),
    (768,),
    (768,),
] * 12
MODELS: dict[str, list[tuple[int, ...]]] = {
    "one number": [()],
    "one tensor of 10^9": [(10**9,)],
    "one tensor of 10^11": [(10**11,)],
    "5,000 tensors of 2·10^7": [(2 * 10**7,)] * 5000,
    "5,000 tensors of 10^9 and less": [(10**9 // (i + 1),) for i in range(5000)],
    "5,000 small tensors": [(64,)] * 5000,
    "GPT-2": GPT2,
    "Llama 3 8B": [*LLAMA],
}
OF_MATRICES: dict[str, list[tuple[int, ...]]] = {
    "one of 4,096²": [(4096, 4096)],
    "one of 16,384²": [(16384, 16384)],
    "one of 316,228²": [(316228, 316228)],
    "one long row": [(1, 10**7)],
    "one long column": [(10**7, 1)],
    "2,000 of 7,071²": [(7071, 7071)] * 2000,
    "2,000 small ones": [(8, 8)] * 2000,
    "a stack of kernels": [(512, 512, 3, 3)] * 100,
    "GPT-2": [s for s in GPT2 if len(s) > 1],
    "Llama 3 8B": [s for s in LLAMA if len(s) > 1],
}


@cache
def reducing() -> dict[str, Procedure]:
    """The procedures of the collection that reduce."""
    names = [spec.rpartition("/")[2] for spec in SPECS]
    found = {name: importlib.import_module(f"optc.generated.{name}").SCHEMA.procedures for name in names}
    return {f"{n}.{p.name}": p for n, every in found.items() for p in every if any(k.passes for k in p.kernels)}


def nbytes(*held: object) -> int:
    """Of all tensors in dataclasses, dictionaries and sequences."""
    tensors: dict[int, Tensor] = {}

    def visit(value: object) -> None:
        if isinstance(value, Tensor):
            tensors[id(value)] = value
        elif isinstance(value, dict):
            for entry in value.values():
                visit(entry)
        elif isinstance(value, Reductions | Matrices | Chunks):
            for one in fields(value):
                visit(getattr(value, one.name))

    for value in held:
        visit(value)
    return sum(t.numel() * t.element_size() for t in tensors.values())


def counted(procedure: Procedure, shapes: Sequence[tuple[int, ...]], real: torch.dtype) -> tuple[int, Reductions]:
    """Bytes of all tables and partials of a procedure, and what is kept."""
    sizes = [math.prod(shape) for shape in shapes]
    of_passes = [k for k in procedure.kernels if k.passes]
    kept = Reductions.of(of_passes, [torch.Size(s) for s in shapes], sizes, real, CPU)
    tables = sum(len(shapes) * (8 * (len(k.streams) + 2) + 4 * bool(k.passes)) for k in procedure.kernels)
    plain = [Chunks.of(sizes, 512, CPU) for k in procedure.kernels if not k.passes]
    return nbytes(kept) + tables + sum(nbytes(c) for c in plain), kept


def vectors(kernels: Sequence[Kernel], shapes: Sequence[tuple[int, ...]], real: torch.dtype) -> int:
    """Values of rows, columns and matrices, reductions of these, and partials: per element nothing.

    Of a row there are up to four partials (more above 32,768 columns), of a column two float32, of a matrix or tensor one for
    each column of panels.
    """
    seen = [matrices(torch.Size(shape), kernels[0].seen) for shape in shapes]
    rows, columns = sum(n * h for n, h, _ in seen), sum(n * w for n, _, w in seen)
    values = {"row": rows, "col": columns, "matrix": sum(n for n, *_ in seen)}
    kept = {extent: max(k.extents.count(extent) for k in kernels) for extent in ("row", "col", "matrix")}
    strips = sum(n * h * max(min(4, -(-w // 1024)), -(-w // 8192)) for n, h, w in seen)
    partials = real.itemsize * strips * max(k.most_measured("row") for k in kernels) + 8 * columns * kept["col"]
    partials += 8 * sum(n * -(-w // 128) for n, _, w in seen) * max(len(p.measures) for k in kernels for p in k.passes)
    reduced = max((f.reduced for k in kernels for f in (*(p.stage for p in k.passes), k.finish) if f is not None), default=0)
    return (
        8 * sum(values[extent] * kept[extent] for extent in values) + partials + 8 * reduced * (values["matrix"] + len(shapes))
    )


@pytest.mark.parametrize("name", MODELS)
def test_a_step_needs_less_than_a_mebibyte(name: str) -> None:
    shapes = MODELS[name]
    for title, procedure in reducing().items():
        flat = [(math.prod(shape),) for shape in shapes]  # rows and columns are counted apart
        size, kept = counted(procedure, flat, torch.float32)  # partials are float64 for any dtype
        assert size < max(MIB, 310 * len(shapes)), (title, size)
        assert size < MIB or len(shapes) > 3000, (title, size)
        if sum(math.prod(shape) for shape in shapes) >= 10**8:
            assert kept.chunks.count >= 1000, title


@pytest.mark.parametrize("name", OF_MATRICES)
def test_rows_and_columns_need_vectors_and_less_than_a_mebibyte(name: str) -> None:
    shapes = OF_MATRICES[name]
    for title, procedure in reducing().items():
        kernels = [k for k in procedure.kernels if k.passes]
        if not any(map(keeps_rows, kernels)):
            continue
        for real in (torch.float32, torch.float64):
            size, _ = counted(procedure, shapes, real)
            assert size < MIB + vectors(kernels, shapes, real), (title, size - vectors(kernels, shapes, real))


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("name", ["LAMB", "many measures"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_how_much_a_program_takes_changes_no_bit(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trees of 7 leaves, smaller ones than usual, built by 7 programs, 4, 2 and 1."""
    monkeypatch.setattr(triton_passes, "LEAF", 512)
    monkeypatch.setattr(triton_reductions, "LEAF", 512)
    shapes = [(6 * 512 + 77,), (3,), (0,)]
    found = []
    for most in (16384, 4, 2, 1):
        monkeypatch.setattr(triton_reductions, "most_programs", lambda *_, most=most: most)
        found.append(after_a_step(REDUCING[name], shapes, dtype))
    assert all(same(found[0], other) for other in found[1:])


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("name", OF_ROWS)
def test_how_tall_a_program_is_changes_no_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four panels down and two across, in one strip: one program after the other, or all panels by one."""
    shapes = [(3 * triton_matrices.PANEL + 5, triton_matrices.PANEL + 4), (3, 3)]
    found: list[list[dict[str, Tensor]]] = []
    tall: list[int] = []
    of = Matrices.of

    def noted(*arguments: Any) -> Matrices:
        made = of(*arguments)
        tall.append(made.tall)
        return made

    monkeypatch.setattr(Matrices, "of", staticmethod(noted))
    for memory in (1 << 20, -(1 << 20)):
        monkeypatch.setattr(triton_reductions, "left_for_partials", lambda *_, memory=memory: memory)
        found.append(after_a_step(OF_ROWS[name], shapes, torch.float32))
    assert tall == [triton_matrices.PANEL, 4 * triton_matrices.PANEL] and all(same(found[0], other) for other in found[1:])


def after_a_step(text: str, shapes: Sequence[Sequence[int]], dtype: torch.dtype) -> list[dict[str, Tensor]]:
    parameters, optimizer = made(text, randn(shapes, dtype, 0))
    step(optimizer, parameters, randn(shapes, dtype, 1))
    return [kept(optimizer, p) for p in parameters]


def same(one: list[dict[str, Tensor]], other: list[dict[str, Tensor]]) -> bool:
    return all(same_bits(a, b) for a, b in zip(one, other, strict=True))


@triton_kernel
def tree_of(leaves: tl.tensor, out: tl.tensor, count: tl.tensor, piece: tl.tensor, LEVELS: tl.constexpr) -> None:
    """The tree over float64 `leaves`, built in pieces as passes and stages do; all pieces by one program."""
    whole = tl.full((16,), 0.0, tl.float64)
    for first in range(0, count, piece):
        stack = tl.full((LEVELS,), 0.0, tl.float64)
        for i in range(first, tl.minimum(first + piece, count)):
            stack = gpu.pushed(stack, tl.load(leaves + i), i - first, "sum")
        whole = gpu.pushed(whole, gpu.folded(stack, "sum"), first // piece, "sum")
    tl.store(out, gpu.folded(whole, "sum"))


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 13, 100, 257])
def test_pieces_of_a_tree_make_the_tree(count: int) -> None:
    """Against the definition: the largest power of two of leaves that leaves some over, and the rest."""

    def tree(x: list[float]) -> float:
        if len(x) == 1:
            return x[0]
        half = 1 << (len(x) - 1).bit_length() - 1
        return tree(x[:half]) + tree(x[half:])

    leaves = torch.randn(count, generator=torch.Generator().manual_seed(count), dtype=torch.float64)
    for piece in (1, 2, 8, 64):
        out = torch.zeros(1, dtype=torch.float64)
        tree_of.jit[(1,)](leaves, out, count, piece, levels(piece))
        assert out.item() == tree(leaves.tolist())


def test_a_thousand_million_ones_are_so_many() -> None:
    """The arithmetic of the tree without its 10^9 elements: a leaf of ones is exact in float32 (8192 < 2^24), and so is every
    node in float64 (integers below 2^53). In general a leaf adds 16 numbers a lane, then 512 lanes, so it is off by
    (16 + 9)·2^-24 at most, 1.5e-6, relative to the sum of the absolute values, and nodes add (17 levels)·2^-53."""
    ones = 10**9
    whole, rest = divmod(ones, LEAF)
    leaf = np.float32(0)
    for _ in range(LEAF):
        leaf += np.float32(1)
    assert leaf == LEAF
    level, total = float(leaf), float(rest)
    while whole:
        if whole & 1:
            total = level + total
        level, whole = level + level, whole >> 1
    assert total == ones and abs(total / ones - 1) < 1e-6
