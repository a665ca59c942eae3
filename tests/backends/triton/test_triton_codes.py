"""Numbers kept as codes, in Triton: the bits of `runtime/codebook.py` in the interpreter, and what compilers make of them."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor

from optc.compiler.aot import TARGETS, AotReport, _report
from optc.runtime import codebook, gpu, gpu_codes, storage
from optc.runtime.codebook import Codebook
from optc.runtime.triton_kernel import triton_kernel

if TYPE_CHECKING:
    import triton.language as tl

pytest.importorskip("triton")
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # NumPy, inside the interpreter
INF, NAN = math.inf, math.nan


def dynamic(signed: bool) -> tuple[float, ...]:
    """256 levels, the denser the nearer to 0: seven decades, and twice as many levels in each as in the one below."""
    sizes = [2 ** (e + (not signed)) for e in range(7)]
    levels = [10.0 ** (e - 6) * (0.1 + 0.9 * (j + 0.5) / n) for e, n in enumerate(sizes) for j in range(n)]
    return tuple(sorted([*levels, *(-x for x in levels if signed), 0.0, 1.0]))


SIGNED, UNSIGNED = dynamic(True), dynamic(False)
LINEAR = tuple((i + 1) / 16 for i in range(16))
FEW = (-0.8875, -0.6625, -0.4375, -0.2125, -0.0775, -0.0325, -0.0055, 0.0, 0.0055, 0.0325, 0.0775, 0.2125, 0.4375, 0.6625,
       0.8875, 1.0)  # fmt: skip
OFTEN = (NAN, *(i / 127 for i in range(-127, 128)))
"""Equally far apart, and code 0 is never chosen."""


@triton_kernel
def decoded(
    out: tl.tensor, codes: tl.tensor, scales: tl.tensor, book: tl.tensor, n: tl.tensor,
    bits: tl.constexpr, block: tl.constexpr, SIZE: tl.constexpr,
) -> None:  # fmt: skip
    """All tiles of one chunk."""
    whole = n // SIZE
    for j in range(whole):
        i = j * SIZE + tl.arange(0, SIZE)
        tl.store(out + i, gpu_codes.decode(codes, scales, book, j * SIZE, n, bits, block, SIZE, True))
    for j in range(whole * SIZE, n, SIZE):
        i = j + tl.arange(0, SIZE)
        tl.store(out + i, gpu_codes.decode(codes, scales, book, j, n - j, bits, block, SIZE, False), i < n)


@triton_kernel
def encoded(
    x: tl.tensor, codes: tl.tensor, scales: tl.tensor, book: tl.tensor, n: tl.tensor,
    bits: tl.constexpr, block: tl.constexpr, shift: tl.constexpr, base: tl.constexpr, buckets: tl.constexpr,
    unit: tl.constexpr, least: tl.constexpr, SIZE: tl.constexpr,
) -> None:  # fmt: skip
    """All tiles of one chunk; lanes that do not exist hold NaN or large numbers."""
    whole = n // SIZE
    for j in range(whole):
        values = tl.load(x + j * SIZE + tl.arange(0, SIZE))
        gpu_codes.encode(values, codes, scales, book, j * SIZE, n, bits, block, shift, base, buckets, unit, least, SIZE, True)
    for j in range(whole * SIZE, n, SIZE):
        lane = tl.arange(0, SIZE)
        values = tl.load(x + j + lane, j + lane < n, other=0.0)
        values = tl.where(j + lane < n, values, tl.where(lane % 2 == 0, float("nan"), 3e38))
        gpu_codes.encode(
            values, codes, scales, book, j, n - j, bits, block, shift, base, buckets, unit, least, SIZE, False
        )  # fmt: skip


def memory_of(book: Codebook) -> Tensor:
    """The codebook as kernels find it."""
    levels = torch.tensor(book.levels, dtype=torch.float32).view(torch.int32)
    return torch.cat((levels, torch.from_numpy(codebook.table(book).entries)))


def guarded(numel: int, dtype: torch.dtype) -> Tensor:
    """Memory with room for what must not be written."""
    return torch.full((numel + 4096,), 77, dtype=dtype)


def check(x: Tensor, book: Codebook, tile: int) -> None:
    """Codes, scales and decoded numbers are PyTorch's, and nothing else is written."""
    n, table, memory = x.numel(), codebook.table(book), memory_of(book)
    expected, expected_scales = storage.encode(x, book)
    codes, scales, out = guarded(len(expected), torch.uint8), guarded(len(expected_scales), torch.float32), guarded(n, x.dtype)
    if not book.scaled:
        scales[: len(expected_scales)] = 1  # from the start
    shape = (book.bits, book.block if book.scaled else 0)
    bucket = (table.shift, table.base, table.buckets, book.unit, book.least)
    encoded.jit[(1,)](x, codes, scales, memory, n, *shape, *bucket, tile)
    assert torch.equal(codes[: len(expected)], expected)
    assert torch.equal(scales[: len(expected_scales)].view(torch.int32), expected_scales.view(torch.int32))
    decoded.jit[(1,)](out, expected, expected_scales, memory, n, *shape, tile)
    assert torch.equal(out[:n].view(torch.int32), storage.decode(expected, expected_scales, book, n).view(torch.int32))
    for kept, written in ((codes, len(expected)), (scales, len(expected_scales)), (out, n)):
        assert (kept[written:] == 77).all()


def randn(n: int, seed: int = 0) -> Tensor:
    """Numbers of many sizes, of either sign."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, generator=generator) * torch.exp(4 * torch.randn(n, generator=generator))


BOOKS = [
    Codebook("signed", SIGNED, 256), Codebook("unsigned", UNSIGNED, 1024, "up"), Codebook("often", OFTEN, 64, "even", 127.0),
    Codebook("linear", LINEAR, 128), Codebook("few", FEW, 64, "up"), Codebook("least", SIGNED, 128, "down", 7.0, 1e-3),
    Codebook("fixed", LINEAR, 64, "up", fixed=True), Codebook("signed, fixed", OFTEN, 64, "even", fixed=True),
]  # fmt: skip


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.name)
def test_codes_scales_and_numbers_are_those_of_pytorch(book: Codebook) -> None:
    """Chunks that end in a tile, a block and a byte, in tiles of one block and of several."""
    for n in (1, 2, book.block - 1, book.block, book.block + 1, 4 * book.block + 3, 6 * book.block - 2):
        for tile in (book.block, 4 * book.block):
            check(randn(n, n), book, tile)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.name)
def test_numbers_beside_every_threshold(book: Codebook) -> None:
    """In blocks whose scale is a power of two, so that ratios are exactly the numbers that were meant."""
    bounds = codebook.thresholds(book).bounds
    near = np.concatenate([bounds, *(np.nextafter(bounds, np.float32(to)) for to in (-INF, INF))])
    rest = book.block - 1
    rows = np.pad(near, (0, -len(near) % rest)).reshape(-1, rest)
    blocks = torch.from_numpy(np.pad(rows, ((0, 0), (1, 0)), constant_values=book.unit))
    for scale in (1.0, 2.0**-100, 2.0**90):
        check((blocks * scale).reshape(-1), book, 2 * book.block)


SPECIAL = {
    "not finite": [NAN, INF, -INF, -0.0, 0.0, 1.0, -2.0, 1e-30],
    "nothing finite": [NAN, INF, -INF],
    "zeros": [0.0, -0.0],
    "zeros and infinities": [0.0, INF, -0.0, -INF, NAN],
    "denormals": [1e-45, -1e-45, 1e-40, -1e-39, 0.0, -0.0],
    "denormals and infinities": [1e-45, INF, -INF, NAN, 3e-45],
    "some denormals": [1e-45, -1e-45, 1e-40, -1e-39, 0.0, 1e-37],
    "largest": [3.4028234663852886e38, -3.4028234663852886e38, 1.0, 1e-38, INF],
}


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("numbers", SPECIAL.values(), ids=SPECIAL)
def test_special_numbers(numbers: list[float]) -> None:
    """They fill one block; the one before and the one after it are usual, and the tile ends inside the next."""
    for book in BOOKS:
        for turn in range(2):
            special = torch.tensor((numbers * book.block)[turn : turn + book.block])
            check(torch.cat((randn(book.block, 1), special, randn(book.block + 5, 2), special[:-3])), book, 2 * book.block)


# --- a kernel with states of codes --------------------------------------------------------------------------------------------


@triton_kernel
def step_tile(
    theta_at: tl.tensor, g_at: tl.tensor, m_at: tl.tensor, m_scales: tl.tensor, v_at: tl.tensor, v_scales: tl.tensor,
    m_book: tl.tensor, v_book: tl.tensor, mask: tl.tensor, first: tl.tensor, count: tl.tensor, lr: tl.tensor,
    bits: tl.constexpr, block: tl.constexpr, shift: tl.constexpr, m_base: tl.constexpr, m_buckets: tl.constexpr,
    v_base: tl.constexpr, v_buckets: tl.constexpr, SIZE: tl.constexpr, WHOLE: tl.constexpr,
) -> None:  # fmt: skip
    """AdamW on one block of elements."""
    theta = tl.load(theta_at, mask).to(tl.float32)
    g = tl.load(g_at, mask).to(tl.float32)
    m = gpu_codes.decode(m_at, m_scales, m_book, first, count, bits, block, SIZE, WHOLE)
    v = gpu_codes.decode(v_at, v_scales, v_book, first, count, bits, block, SIZE, WHOLE)
    m = 0.875 * m + 0.125 * g
    v = 0.9375 * v + 0.0625 * gpu.square(g)
    u = gpu.div(m, gpu.sqrt(v) + 1e-8)
    theta = 0.75 * theta - lr * u
    tl.store(theta_at, theta, mask)
    gpu_codes.encode(
        m, m_at, m_scales, m_book, first, count, bits, block, shift, m_base, m_buckets, 1.0, 0.0, SIZE, WHOLE
    )  # fmt: skip
    gpu_codes.encode(
        v, v_at, v_scales, v_book, first, count, bits, block, shift, v_base, v_buckets, 1.0, 0.0, SIZE, WHOLE
    )  # fmt: skip


@triton_kernel
def step_triton(
    residents: tl.tensor, m_book: tl.tensor, v_book: tl.tensor, chunk: tl.tensor, lr: tl.tensor, theta_type: tl.constexpr,
    bits: tl.constexpr, block: tl.constexpr, shift: tl.constexpr, m_base: tl.constexpr, m_buckets: tl.constexpr,
    v_base: tl.constexpr, v_buckets: tl.constexpr, LANES: tl.constexpr, BLOCK: tl.constexpr, TAIL: tl.constexpr,
) -> None:  # fmt: skip
    """One tensor, one chunk per program: θ, g, codes and scales of m and v, and how many elements there are."""
    base = tl.program_id(0).to(tl.int64) * chunk
    n = tl.minimum(tl.load(residents + 6) - base, chunk).to(tl.int32)
    theta_at = tl.load(residents + 0).to(tl.pointer_type(theta_type)) + base
    g_at = tl.load(residents + 1).to(tl.pointer_type(theta_type)) + base
    m_at = tl.load(residents + 2).to(tl.pointer_type(tl.uint8)) + base // (8 // bits)
    m_scales = tl.load(residents + 3).to(tl.pointer_type(tl.float32)) + base // block
    v_at = tl.load(residents + 4).to(tl.pointer_type(tl.uint8)) + base // (8 // bits)
    v_scales = tl.load(residents + 5).to(tl.pointer_type(tl.float32)) + base // block
    theta_by = tl.multiple_of(theta_at, LANES * theta_at.dtype.element_ty.primitive_bitwidth // 8)
    g_by = tl.multiple_of(g_at, LANES * g_at.dtype.element_ty.primitive_bitwidth // 8)
    m_by = tl.multiple_of(m_at, LANES * bits // 8)
    v_by = tl.multiple_of(v_at, LANES * bits // 8)
    whole = n // BLOCK
    for j in range(whole):
        i = j * BLOCK + tl.arange(0, BLOCK)
        step_tile(
            theta_by + i, g_by + i, m_by, m_scales, v_by, v_scales, m_book, v_book, None, j * BLOCK, n, lr,
            bits, block, shift, m_base, m_buckets, v_base, v_buckets, BLOCK, True,
        )  # fmt: skip
    for j in range(whole * BLOCK, n, TAIL):
        i = j + tl.arange(0, TAIL)
        step_tile(
            theta_at + i, g_at + i, m_at, m_scales, v_at, v_scales, m_book, v_book, i < n, j, n - j, lr,
            bits, block, shift, m_base, m_buckets, v_base, v_buckets, TAIL, False,
        )  # fmt: skip


def books_of(bits: int) -> tuple[Codebook, Codebook]:
    """Those of m and v."""
    if bits == 8:
        return Codebook("m", SIGNED, 256), Codebook("v", UNSIGNED, 256)
    return Codebook("m", FEW, 128), Codebook("v", LINEAR, 128)


def constants_of(bits: int, lanes: int, block: int) -> dict[str, Any]:
    """Compile-time parameters but `theta_type`, by name."""
    m, v = books_of(bits)
    of_m, of_v = codebook.table(m), codebook.table(v)
    assert of_m.shift == of_v.shift
    return {
        "bits": bits, "block": m.block, "shift": of_m.shift, "m_base": of_m.base, "m_buckets": of_m.buckets,
        "v_base": of_v.base, "v_buckets": of_v.buckets, "LANES": lanes, "BLOCK": block, "TAIL": m.block,
    }  # fmt: skip


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("bits", [8, 4])
def test_steps_are_those_of_pytorch(bits: int) -> None:
    """Two steps of a tensor in three chunks: what is multiplied and added is not fused in either."""
    import triton.language as tl

    books = books_of(bits)
    n, lr = 5 * 1024 + 3 * books[0].block + 37, 0.0625
    theta = randn(n, 5)
    expected, numbers = theta.clone(), [torch.zeros(n), torch.zeros(n)]
    if bits == 4:  # its levels for v have no 0
        numbers[1] += 1
    kept = [storage.encode(x, book) for x, book in zip(numbers, books, strict=True)]
    for seed in (6, 7):
        g = randn(n, seed)
        pointers = torch.tensor([t.data_ptr() for t in (theta, g, *kept[0], *kept[1])] + [n])
        tables = [memory_of(book) for book in books]
        step_triton.jit[(3,)](pointers, *tables, 2048, lr, theta_type=tl.float32, **constants_of(bits, 4, 1024))
        m, v = 0.875 * numbers[0] + 0.125 * g, 0.9375 * numbers[1] + 0.0625 * (g * g)
        # MKL's square root, which PyTorch calls, is not correctly rounded in float32
        expected = 0.75 * expected - lr * (m / (v.double().sqrt().float() + 1e-8))
        assert torch.equal(theta, expected)
        for i, (x, book) in enumerate(zip((m, v), books, strict=True)):
            codes, scales = storage.encode(x, book)
            assert torch.equal(kept[i][0], codes) and torch.equal(kept[i][1], scales)
            numbers[i] = storage.decode(codes, scales, book, n)


# --- ahead of time ------------------------------------------------------------------------------------------------------------

COMPILE = """
import json, sys
import triton
import triton.language as tl
from dataclasses import asdict
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from optc.compiler import aot
from optc.compiler.assembly import gcn_loops, ptx_loops

function = aot._load(sys.argv[1]).step_triton
found = []
for dtype, target, constants in json.load(sys.stdin):
    amd = target.startswith("gfx")
    machine = GPUTarget("hip", target, 64) if amd else GPUTarget("cuda", int(target.removeprefix("sm_")), 32)
    constants["theta_type"] = getattr(tl, dtype)
    kinds = {"residents": "*i64", "m_book": "*i32", "v_book": "*i32", "chunk": "i32", "lr": "fp32"}
    signature = {name: kinds.get(name, "constexpr") for name in function.parameters}
    places = {(function.parameters.index(name),): value for name, value in constants.items()}
    made = triton.compile(ASTSource(function.jit, signature, constexprs=places), target=machine, options={"num_warps": 4})
    text, shared = made.asm["amdgcn" if amd else "ptx"], made.metadata.shared
    constants["WARPS"] = 4
    request, loops = aot.Request("step_triton", target), (gcn_loops if amd else ptx_loops)(text)
    if amd:
        report = aot._amd_report(request, loops, text, constants, shared)
    else:
        report = aot._nvidia_report(request, loops, text, made.asm["cubin"], constants, shared)
    found.append([asdict(report), sorted({w for w in ("div.full", ".approx", ".ftz") if w in text})])
json.dump(found, sys.stdout)
"""


def compiled(cases: list[tuple[str, int, str]], tile: int) -> list[tuple[AotReport, list[str]]]:
    """Reports on the kernel above, and which estimates its PTX has, in a process without the interpreter."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    requests = [(dtype, target, constants_of(bits, lanes_of(dtype), tile)) for dtype, bits, target in cases]
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, __file__], input=json.dumps(requests), capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return [(_report(report), estimates) for report, estimates in json.loads(done.stdout)]


def lanes_of(dtype: str) -> int:
    """Elements of θ in 16 bytes: as many codes are read at once, so that all tensors of a tile share a layout."""
    return 8 if dtype == "bfloat16" else 4


CASES = [("float32", 8, t) for t in TARGETS] + [("bfloat16", 4, t) for t in TARGETS]
OTHERS = [("bfloat16", 8, t) for t in TARGETS] + [("float32", 4, t) for t in TARGETS]


@pytest.mark.parametrize("cases", [CASES, pytest.param(OTHERS, marks=pytest.mark.slow)], ids=["some", "others"])
def test_kernels_with_codes_compile_for_every_target(cases: list[tuple[str, int, str]]) -> None:
    """Tiles of 1,024 elements: no spills, one access for all codes of a thread that lie together, little shared memory."""
    for (dtype, bits, target), (report, estimates) in zip(cases, compiled(cases, 1024), strict=True):
        assert (report.stack, report.local, report.spills, report.atomics) == (0, 0, 0, 0), report
        assert report.registers <= 96 and report.shared <= 512, report
        assert estimates == [], report
        per_thread = 1024 // (256 if target.startswith("gfx") else 128)
        lanes = min(lanes_of(dtype), per_thread)
        turns, wide, of_codes = per_thread // lanes, lanes * (2 if dtype == "bfloat16" else 4), lanes * bits // 8
        # θ, g, codes of m and v; two look-ups per element and state
        loads = Counter(report.load_widths)
        loads.subtract([wide, wide, of_codes, of_codes] * turns + [4] * 4 * per_thread)
        stores = Counter(report.store_widths)
        stores.subtract([wide, of_codes, of_codes] * turns)
        for scales in (loads, stores):
            assert 0 < scales.pop(4) <= 2 * turns and not any(scales.values()), report
