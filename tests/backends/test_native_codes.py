"""Streams that native kernels keep as codes: to the bit what `codebook.py` says, and nothing beside them is touched."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from optc.runtime import native_build
from optc.runtime.codebook import Codebook, table, thresholds
from optc.runtime.native import cut
from optc.runtime.native_build import load_kernel
from optc.runtime.storage import decode, encode

pytestmark = pytest.mark.usefixtures("one_thread")

DTYPES = [torch.float32, torch.float64]
SIZES = [1, 255, 256, 257, 4095, 4096, 4097, 10_001, 0, 2, 15, 16, 17, 63, 65]
INF, NAN = float("inf"), float("nan")


# --- codebooks of every kind --------------------------------------------------------------------------------------------------


def dynamic(signed: bool) -> tuple[float, ...]:
    """Seven decades, each with twice as many levels as the one below it; 0 and 1."""
    shares = [(10.0 ** (e - 6), 2 ** (e + 1 - signed)) for e in range(7)]
    positive = [size * (0.1 + 0.9 * (j + 0.5) / n) for size, n in shares for j in range(n)]
    return tuple(sorted([0.0, 1.0, *positive, *(-x for x in positive if signed)]))


BOOKS = (
    Codebook("dynamic8", dynamic(True), 256),
    Codebook("udynamic8", dynamic(False), 64, ties="up"),
    Codebook("even4", tuple(float(x) for x in range(-8, 8)), 4096, ties="even", unit=7.0),
    Codebook("powers4", tuple(2.0**-k for k in range(16)), 64, least=1e-20),
    Codebook("halves4", tuple((c - 7.5) / 8 for c in range(16)), 64, ties="up"),
    Codebook("fixed4", tuple((c + 1) / 16 for c in range(16)), 4096, ties="up", fixed=True),
    Codebook("close8", tuple(1 + k / 256 for k in range(250)) + (NAN,) * 5 + (-0.25,), 4096, unit=3.0, least=1e-3),
)
"""All streams of one kernel: with and without negative levels and 0, with codes that have no level, units and least scales."""


def test_the_codebooks_differ_in_what_kernels_know() -> None:
    assert {book.bits for book in BOOKS} == {4, 8}
    assert {book.block for book in BOOKS} == {64, 256, 4096}
    assert {table(book).shift for book in BOOKS} == {15, 16}


# --- a kernel that tells what it decodes, and encodes θ -----------------------------------------------------------------------


def struct(book: Codebook) -> str:
    found, unit, least = table(book), np.float32(book.unit), np.float32(book.least)
    return f"""
struct {book.name} {{
    static constexpr int bits = {book.bits}, shift = {found.shift}, base = {found.base}, buckets = {found.buckets};
    static constexpr int64_t block = {book.block if book.scaled else book.together};
    static constexpr bool scaled = {str(book.scaled).lower()};
    static constexpr float unit = {float(unit).hex()}f, least = {float(least).hex()}f;
}};"""


def kernel_text(books: Sequence[Codebook]) -> str:
    """Streams: θ, and for each codebook the decoded numbers plus a scalar, codes or plain numbers, scales, and the codebook."""
    names = [book.name for book in books]

    def each(line: str) -> str:
        return "\n".join(
            line.format(n=name, at=1 + 4 * k, codes=2 + 4 * k, scales=3 + 4 * k, book=4 + 4 * k) for k, name in enumerate(names)
        )

    return f"""namespace optc {{
constexpr bool coded = OPTC_VARIANT & 1, writes = OPTC_VARIANT & 2;
{"".join(map(struct, books))}
constexpr int64_t PIECE = piece_of({", ".join(f"coded ? {name}::block : 0" for name in names)});

static void update(const Chunk& chunk, const double* scalars, const uint8_t*, double) {{
    const math_t added = math_t(scalars[0]);
    const param_t* __restrict theta_at = chunk.row<param_t>(0);
{each("math_t* __restrict {n}_seen = chunk.row<math_t>({at});")}
{each("Kept<{n}, coded, PIECE> {n}_kept(chunk, {codes}, {scales}, {book});")}
    for (int64_t first = 0; first < chunk.size; first += PIECE) {{
        const int64_t end = first + PIECE < chunk.size ? first + PIECE : chunk.size;
{each("auto* __restrict {n}_at = {n}_kept.open(first, end);")}
#pragma omp simd
        for (int64_t i = first; i < end; ++i) {{
            const math_t theta = load(theta_at[i]);
{each("store({n}_seen[i], load({n}_at[i]) + added);")}
{each("if (writes) store({n}_at[i], theta);")}
        }}
{each("if (writes) {n}_kept.close(first, end);")}
    }}
}}

static Update select_update(const double*, const uint8_t*) {{ return update; }}
}}  // namespace optc
"""


@functools.cache
def kernel(books: tuple[Codebook, ...], dtype: torch.dtype, coded: bool = True, writes: bool = True) -> Callable[..., None]:
    types = dict.fromkeys(
        (f"OPTC_{of}_T" for of in ("PARAM", "GRAD", "STATE", "INPUT", "MATH")), {4: "fp32", 8: "fp64"}[dtype.itemsize]
    )
    return load_kernel(kernel_text(books), {**types, "OPTC_VARIANT": str(coded | writes << 1)})


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream of all tensors: what the kernel saw, and what it keeps, as codes and scales or as plain numbers."""

    seen: list[Tensor]
    kept: list[Tensor]
    scales: list[Tensor]


CANARY = 0x5A


def guarded(start: Tensor) -> Tensor:
    """A copy with bytes around it that nothing may write."""
    memory = torch.full((start.nbytes + 128,), CANARY, dtype=torch.uint8)
    inner = memory[64:-64].view(start.dtype)
    return inner.copy_(start)


def untouched(inner: Tensor) -> bool:
    memory = torch.empty(0, dtype=torch.uint8).set_(inner.untyped_storage())
    return bool((memory[:64] == CANARY).all() and (memory[-64:] == CANARY).all())


def in_memory(book: Codebook) -> Tensor:
    """Levels and entries, as kernels find them."""
    return torch.cat([torch.tensor(book.levels, dtype=torch.float32).view(torch.int32), torch.from_numpy(table(book).entries)])


def launch(
    theta: Sequence[Tensor], start: Sequence[Stream], books: tuple[Codebook, ...] = BOOKS,
    added: float = -0.0, coded: bool = True, writes: bool = True,
) -> list[Stream]:  # fmt: skip
    """The streams after one launch over tensors that hold `theta`, each with memory around it that stays as it was."""
    rows = [[guarded(t) for t in theta]]
    after = []
    for book, before in zip(books, start, strict=True):
        after.append(Stream(*([guarded(t) for t in column] for column in (before.seen, before.kept, before.scales))))
        rows += [after[-1].seen, after[-1].kept, after[-1].scales, [in_memory(book)] * len(theta)]
    pointers = np.array([[t.data_ptr() for t in row] for row in rows])
    chunks, scalars = cut([t.numel() for t in theta]), np.array([added])
    columns = (a.ctypes.data for a in (chunks.tensor, chunks.offset, chunks.begin))
    run = kernel(books, theta[0].dtype, coded, writes)
    run(pointers.ctypes.data, len(theta), *columns, len(chunks), scalars.ctypes.data, None, 1.0, 1)
    assert all(untouched(t) for s in after for column in (s.seen, s.kept, s.scales) for t in column)
    return after


# --- numbers ------------------------------------------------------------------------------------------------------------------


def numbers(kind: str, size: int, random: np.random.Generator) -> Tensor:
    x = random.standard_normal(size)
    if kind == "wide":
        x *= 10.0 ** random.uniform(-44, 38, size)
    elif kind == "bits":
        with np.errstate(invalid="ignore"):  # signalling NaN
            x = random.integers(0, 2**32, size, np.uint32).view(np.float32).astype(np.float64)
    elif kind == "small":  # blocks of denormals, below the least scales
        x *= 10.0 ** random.uniform(-46, -3)
    elif kind == "special":
        special = random.choice([0.0, -0.0, INF, -INF, NAN, -NAN, 2.0**-149, -(2.0**-126), 3.4e38, 1e300], size)
        x = np.where(random.random(size) < 0.3, special, x)
        x[size // 3 : size // 2] = 0.0
        x[size // 2 : size // 2 + 700] = random.choice([0.0, -0.0, NAN, INF, -INF])  # no number to take a scale from
    return torch.from_numpy(x)


def at_thresholds(book: Codebook) -> Tensor:
    """Every threshold and its neighbours, in blocks whose scale is 1."""
    bounds = thresholds(book).bounds
    near = np.concatenate([bounds, *(np.nextafter(bounds, np.float32(end)) for end in (-INF, INF))])
    near = near[np.abs(near) <= book.unit]
    blocks = np.resize(near, (-(-len(near) // (book.block - 1)), book.block - 1))
    return torch.from_numpy(np.pad(blocks, ((0, 0), (1, 0)), constant_values=book.unit).reshape(-1))


def random_start(sizes: Sequence[int], dtype: torch.dtype, random: np.random.Generator) -> list[Stream]:
    """Any codes, and scales of all sizes; 0, denormals and infinity among them."""

    def scale(count: int) -> Tensor:
        scales = np.abs(random.standard_normal(count) * 10.0 ** random.uniform(-40, 30, count)).astype(np.float32)
        return torch.from_numpy(
            np.where(random.random(count) < 0.2, random.choice([0.0, 1.0, 2.0**-149, np.inf], count), scales)
        ).float()

    return [
        Stream(
            [torch.full((n,), -7.0, dtype=dtype) for n in sizes],
            [torch.from_numpy(random.integers(0, 256, book.bytes_of(n), np.uint8)) for n in sizes],
            [scale(book.blocks_of(n)) if book.scaled else torch.ones(book.blocks_of(n)) for n in sizes],
        )
        for book in BOOKS
    ]


def same(a: Tensor, b: Tensor) -> bool:
    """Equal to the bit, but that a NaN is as good as another."""
    as_bits = {1: torch.uint8, 4: torch.int32, 8: torch.int64}[a.element_size()]
    return a.dtype == b.dtype and bool(((a.view(as_bits) == b.view(as_bits)) | (a.isnan() & b.isnan())).all())


def check(theta: Sequence[Tensor], added: float = -0.0) -> None:
    """That a launch sees what PyTorch decodes, and keeps what it encodes."""
    random = np.random.default_rng(len(theta))
    start = random_start([t.numel() for t in theta], theta[0].dtype, random)
    after = launch(theta, start, added=added)
    for book, before, now in zip(BOOKS, start, after, strict=True):
        for k, x in enumerate(theta):
            place = f"{book.name}, {x.numel()} numbers"
            seen = decode(before.kept[k], before.scales[k], book, x.numel()).to(x.dtype) + added
            codes, scales = encode(x, book)
            assert same(now.seen[k], seen), place
            assert same(now.scales[k], scales), place
            assert torch.equal(now.kept[k], codes), place


# --- tests --------------------------------------------------------------------------------------------------------------------

KINDS = ["normal", "wide", "bits", "small", "special"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_numbers_are_those_of_pytorch(kind: str, dtype: torch.dtype) -> None:
    random = np.random.default_rng(7)
    check([numbers(kind, size, random).to(dtype) for size in SIZES])


@pytest.mark.parametrize("dtype", DTYPES)
def test_levels_change_where_those_of_pytorch_do(dtype: torch.dtype) -> None:
    check([at_thresholds(book).to(dtype) for book in BOOKS])


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_are_of_rounded_numbers(dtype: torch.dtype) -> None:
    check([torch.ones(5000, dtype=dtype)], added=0.3)


def test_the_update_sees_what_is_not_finite_and_keeps_its_neighbours() -> None:
    theta = torch.tensor([1.0, NAN, 0.5, INF, -INF])
    (after, *_) = launch([theta], random_start([5], torch.float32, np.random.default_rng(1)))
    assert decode(after.kept[0], after.scales[0], BOOKS[0], 5).tolist() == pytest.approx([1, 0, 0.5, 1, -1], abs=0.01)


@pytest.mark.parametrize("dtype", DTYPES)
def test_plain_streams_are_what_they_are_without_codes(dtype: torch.dtype) -> None:
    random, books = np.random.default_rng(3), BOOKS[:1]
    theta, before = ([numbers("special", size, random).to(dtype) for size in SIZES] for _ in range(2))
    start = Stream([torch.zeros_like(t) for t in theta], before, [torch.zeros(0) for _ in theta])
    (after,) = launch(theta, [start], books, coded=False)
    assert all(map(same, after.seen, before)) and all(map(same, after.kept, theta))


def test_streams_that_are_only_read_stay_as_they_are() -> None:
    theta, random = [torch.ones(size) for size in SIZES], np.random.default_rng(4)
    start = random_start(SIZES, torch.float32, random)[:1]
    (after,) = launch(theta, start, BOOKS[:1], writes=False)
    assert all(map(torch.equal, after.kept, start[0].kept)) and all(map(same, after.scales, start[0].scales))
    assert all(
        map(
            same, after.seen, [decode(c, s, BOOKS[0], n) for c, s, n in zip(start[0].kept, start[0].scales, SIZES, strict=True)]
        )
    )


@pytest.mark.usefixtures("fresh_kernels")
@pytest.mark.parametrize("kind", ["normal", "special"])
def test_a_compiler_that_does_not_know_the_cpu_computes_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_build, "LADDER", ((),))
    monkeypatch.setitem(globals(), "kernel", kernel.__wrapped__)
    random = np.random.default_rng(7)
    check([numbers(kind, size, random).float() for size in SIZES])
