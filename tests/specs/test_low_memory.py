"""Codes and optimizers that keep them, against torchao and bitsandbytes: levels, codes of a million numbers, whole runs.

Both libraries compute in float32, in another order: that is 1e-7 of a number, and turns one code in 100,000 into its neighbour.
Where our side starts each step from the other's codes nothing adds up, and parameters agree to 1e-6; where both run free, one
code that differs moves its parameter by a share of lr from then on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from optc.runtime import storage
from optc.runtime.codebook import Codebook, thresholds
from tests.matrix.runners import optimizer_class
from tests.specs.low_memory import (
    OF_ADAM,
    OF_ADAMW,
    OF_BITSANDBYTES,
    STEPS,
    Theirs,
    assert_as_one,
    assert_near,
    book_of,
    codes_in,
    of_torchao,
    one_thread,
    ours_like,
    quietly,
    side_by_side,
    starts,
)

BACKENDS = ["torch", "native"]
SIMD = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
"""Elsewhere `torch.linspace`, from which the libraries compute their levels, rounds otherwise."""


@pytest.fixture(scope="module", autouse=True)
def single() -> Iterator[None]:
    with one_thread():
        yield


# --- levels -------------------------------------------------------------------------------------------------------------------


def assert_levels(name: str, found: Any) -> None:
    """Equal to the last bit where PyTorch computes as it does on x86-64."""
    expected = torch.as_tensor(found, dtype=torch.float32).numpy()
    np.testing.assert_allclose(np.array(book_of(name).levels, dtype=np.float32), expected, rtol=0 if SIMD else 2.4e-7)


@pytest.mark.usefixtures("torchao")
def test_levels_are_those_of_torchao() -> None:
    from torchao.optim import subclass_4bit, subclass_8bit
    from torchao.optim.quant_utils import create_dynamic_map

    assert_levels("dynamic8", subclass_8bit.get_qmap_signed())
    assert_levels("udynamic8", subclass_8bit.get_qmap_unsigned())
    assert_levels("dynamic4", subclass_4bit.get_qmap_signed())
    assert_levels("linear4", subclass_4bit.get_qmap_unsigned())
    ours, theirs = np.array(book_of("udynamic4").levels), np.array(create_dynamic_map(False, 3, 4))
    np.testing.assert_allclose(ours, theirs, rtol=1.2e-7)  # rounded once, and theirs at every step


def test_levels_are_those_of_bitsandbytes(bitsandbytes: Any) -> None:
    functional = bitsandbytes.functional
    assert_levels("dynamic8", functional.create_dynamic_map(signed=True))
    assert_levels("udynamic8", functional.create_dynamic_map(signed=False))
    theirs = functional.create_linear_map(signed=False, total_bits=8).numpy()
    np.testing.assert_allclose(np.array(book_of("ulinear8").levels), theirs, rtol=1.2e-7)
    theirs = functional.create_linear_map(signed=True, total_bits=8).numpy()
    ours = np.array(book_of("linear8").levels)
    np.testing.assert_allclose(ours[:255], np.delete(theirs, 127), rtol=1.2e-7, atol=4e-9)  # it has 0 twice
    assert np.isnan(ours[255])


@pytest.mark.parametrize(("name", "dtype"), [("e4m3", torch.float8_e4m3fn), ("e5m2", torch.float8_e5m2)])
def test_levels_are_those_of_the_dtypes(name: str, dtype: torch.dtype) -> None:
    """All bytes, signs of zeros too; a code of infinity is left out."""
    expected = torch.arange(256, dtype=torch.uint8).view(dtype).float()
    expected[expected.isinf()] = torch.nan
    found = torch.tensor(book_of(name).levels, dtype=torch.float32)
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.equal(found.nan_to_num(0).view(torch.int32), expected.nan_to_num(0).view(torch.int32))


# --- codes --------------------------------------------------------------------------------------------------------------------


def numbers_for(book: Codebook, signed: bool) -> Tensor:
    """A million of many sizes, and blocks of zeros, of numbers near 0, denormal and large, none of them infinite or NaN."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(1 << 20, generator=generator) * torch.exp(4 * torch.randn(1 << 20, generator=generator))
    x = x.view(-1, book.block)
    x[::7] = torch.randn(x[::7].shape, generator=generator)  # blocks of one size
    x[0], x[1] = 0.0, -0.0
    for row, scale in enumerate((1e-12, 1e-13, 1e-20, 1e-39, 1e-44, 1e30, 1e38), start=2):
        x[row] = (torch.rand(book.block, generator=generator) - 0.5) * scale
    x[9], x[10], x[11] = 3.4028234663852886e38, 1e-45, 1.0
    x[12, ::2] = 0.0
    return x.reshape(-1) if signed else x.reshape(-1).abs()


def assert_equal_memory(book: Codebook, x: Tensor, codes: Tensor, scales: Tensor, numbers: Tensor) -> None:
    """Our codes, scales and decoded numbers are these, bit for bit. (-0 is 0: of its two codes ours takes the first.)"""
    found, found_scales = storage.encode(x, book)
    of_zero = np.flatnonzero(np.array(book.levels) == 0)
    expected = codes_in(codes, book)
    expected[np.isin(expected, of_zero[1:])] = of_zero[0] if len(of_zero) else 0
    assert np.array_equal(codes_in(found, book), expected)
    assert torch.equal(found_scales.view(torch.int32), scales.view(torch.int32))
    mine = storage.decode(found, found_scales, book, x.numel())
    assert torch.equal(mine + 0.0, numbers.reshape(-1) + 0.0)


@pytest.mark.skipif(not SIMD, reason="the library's levels are other ones here")
@pytest.mark.parametrize("name", ["dynamic8", "udynamic8", "dynamic4", "linear4"])
@pytest.mark.usefixtures("torchao")
def test_codes_are_those_of_torchao(name: str) -> None:
    from torchao.optim.quant_utils import dequant_with_qmap
    from torchao.optim.subclass_4bit import OptimState4bit
    from torchao.optim.subclass_8bit import OptimState8bit

    book, signed = book_of(name), name in ("dynamic8", "dynamic4")
    x = numbers_for(book, signed)
    kept: Any = (OptimState8bit if book.bits == 8 else OptimState4bit).zeros((x.numel(),), signed, book.block)
    kept.copy_(x)
    codes = torch.from_numpy(codes_in(kept.codes, book).astype(np.uint8))
    assert_equal_memory(book, x, kept.codes.view(-1), kept.scale, dequant_with_qmap(codes, kept.qmap, kept.scale))
    assert torch.equal(kept.dequantize(), storage.decode(kept.codes, kept.scale, book, x.numel()))


@pytest.mark.usefixtures("torchao")
def test_codes_in_eight_bits_of_floating_point_are_those_of_torchao() -> None:
    from torchao.optim.subclass_fp8 import OptimStateFp8

    book = book_of("e4m3")
    x = numbers_for(book, True)
    kept: Any = OptimStateFp8.zeros((x.numel(),), book.block)
    kept.copy_(x)
    assert_equal_memory(book, x, kept.codes.view(torch.uint8), kept.scale, kept.dequantize())


def test_codes_of_e5m2_are_those_of_a_cast() -> None:
    book = book_of("e5m2")
    x = numbers_for(book, True)
    blocks = x.view(-1, book.block)
    scales = blocks.abs().amax(1).clamp(min=1e-12) / 57344
    cast = (blocks / scales[:, None]).to(torch.float8_e5m2)
    assert_equal_memory(book, x, cast.view(torch.uint8).view(-1), scales, cast.float() * scales[:, None])


@pytest.mark.skipif(not SIMD, reason="the library's levels are other ones here")
@pytest.mark.parametrize("name", ["dynamic8", "udynamic8", "dynamic4", "linear4"])
@pytest.mark.usefixtures("torchao")
def test_numbers_beside_thresholds_have_the_codes_of_torchao(name: str) -> None:
    """It compares two rounded differences, ours is exact: within three roundings of a threshold two numbers may differ."""
    from torchao.optim.quant_utils import quantize_4bit_with_qmap, quantize_8bit_with_qmap

    book = book_of(name)
    bounds = thresholds(book).bounds
    near = [bounds]
    for to in (-np.inf, np.inf):
        x = bounds
        for _ in range(3):
            x = np.nextafter(x, np.float32(to))
            near.append(x)
    ratio = np.concatenate(near)
    theirs = (quantize_8bit_with_qmap if book.bits == 8 else quantize_4bit_with_qmap)(
        torch.from_numpy(ratio), torch.tensor(book.levels)
    )
    apart = np.abs(thresholds(book).of(ratio).astype(int) - theirs.numpy())
    assert apart.max(initial=0) <= 1 and apart.sum() <= 2
    assert np.array_equal(thresholds(book).of(bounds), theirs.numpy()[: len(bounds)])  # equally near: the upper one


# --- optimizers of torchao ----------------------------------------------------------------------------------------------------

SHAPES = ((64, 64), (20, 16, 16), (4095,), (5, 3), ())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["Adam8bit", "AdamW8bit", "Adam4bit", "AdamW4bit", "AdamFp8", "AdamWFp8"])
def test_optimizers_of_torchao(name: str, backend: str, torchao: Any) -> None:
    hypers = OF_ADAMW if name.startswith("AdamW") else OF_ADAM
    for imports in (True, False):
        # 33 blocks of 128, no whole number of blocks of 256: there torchao keeps numbers, and ours a short block
        mine, others = starts((*SHAPES, (4224,)) if name.endswith("4bit") else SHAPES)
        ours, theirs = ours_like(name)(mine, **hypers, backend=backend), getattr(torchao, name)(others, **hypers)
        seen = side_by_side(ours, theirs, of_torchao, STEPS, imports)
        assert seen.codes == STEPS * 2 * (9216 + 4224 * name.endswith("4bit"))
        if imports:
            assert_as_one(seen)
        else:
            assert_near(seen, hypers["lr"])


# --- optimizers of bitsandbytes -----------------------------------------------------------------------------------------------


SHORT_BLOCKS = ((64, 64), (70, 66), (4095,), (5, 3), ())
"""70·66 is no whole number of blocks."""


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("like", OF_BITSANDBYTES, ids=lambda like: like.name)
def test_optimizers_of_bitsandbytes(like: Theirs, backend: str, bitsandbytes: Any) -> None:
    for imports in (True, False):
        mine, others = starts(SHORT_BLOCKS)
        ours = like.ours()(mine, **like.hypers, backend=backend)
        theirs = getattr(bitsandbytes.optim, like.name)(others, **like.hypers)
        seen = side_by_side(ours, theirs, like.exported, STEPS, imports)
        assert seen.codes == STEPS * len(like.places) * (64 * 64 + 70 * 66)
        if imports:
            assert_as_one(seen)
        else:
            assert_near(seen, like.hypers["lr"])


@pytest.mark.parametrize(("name", "most"), [("AdamW8bit", 1e-3), ("Lion8bit", 4e-3)])
def test_shipped_optimizers_are_near_those_of_bitsandbytes(name: str, most: float) -> None:
    """With its own encoder, which misses the nearest level now and then: a code that differs is a share of lr, or a sign.

    No gradient is exactly 0: it does not keep 0 as 0.
    """
    with quietly():
        import bitsandbytes.optim

    mine, others = starts(SHORT_BLOCKS)
    ours = optimizer_class(f"low_memory/{name[:-4].lower()}_8bit")(mine, **OF_BITSANDBYTES[2].hypers)
    theirs = getattr(bitsandbytes.optim, name)(others, **OF_BITSANDBYTES[2].hypers)
    exported = next(like.exported for like in OF_BITSANDBYTES if like.name == name)
    seen = side_by_side(ours, theirs, exported, STEPS, imports=False, zeros=False)
    assert seen.theta <= most and seen.exempt <= 1e-6, seen
