"""Parameters that are kept as a pair, in Triton: see `runtime/pairs.py`. Parameters of other dtypes are kept as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optc.runtime.triton_kernel import triton_kernel

if TYPE_CHECKING:
    import triton.language as tl


@triton_kernel
def join_bits(theta_at: tl.tensor, rest_at: tl.tensor, mask: tl.tensor, DROP: tl.constexpr, real: tl.constexpr) -> tl.tensor:
    """`split24` (DROP 8) and `split32` (DROP 0)."""
    theta = tl.load(theta_at, mask)
    if theta.dtype == tl.bfloat16:
        upper = theta.to(tl.int16, bitcast=True).to(tl.int32) << 16
        bits = upper + (tl.load(rest_at, mask).to(tl.int32) << DROP)
        return bits.to(tl.float32, bitcast=True)
    else:
        return theta.to(real)


@triton_kernel
def split_bits(x: tl.tensor, theta_at: tl.tensor, rest_at: tl.tensor, mask: tl.tensor, DROP: tl.constexpr) -> None:
    """The reverse of `join_bits`."""
    if theta_at.dtype.element_ty == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        kept = bits
        if DROP > 0:
            kept = ((bits + ((1 << (DROP - 1)) - 1) + ((bits >> DROP) & 1)) >> DROP) << DROP
        upper = (kept + 0x8000) >> 16
        rest = (kept - (upper << 16)) >> DROP
        number = x == x
        upper = tl.where(number, upper, (bits >> 16) | 0x40)
        tl.store(theta_at, upper.to(tl.int16).to(tl.bfloat16, bitcast=True), mask)
        tl.store(rest_at, tl.where(number, rest, 0).to(rest_at.dtype.element_ty), mask)
    else:
        tl.store(theta_at, x, mask)


@triton_kernel
def rounded(x: tl.tensor, kind: tl.constexpr) -> tl.tensor:
    """x in a dtype, to nearest even; for bfloat16 by its bits, as Triton's interpreter cuts them off."""
    if kind == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        upper = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        upper = tl.where(x == x, upper, (bits >> 16) | 0x40)
        return upper.to(tl.int16).to(tl.bfloat16, bitcast=True)
    else:
        return x.to(kind)


@triton_kernel
def join_sum(theta_at: tl.tensor, rest_at: tl.tensor, mask: tl.tensor, real: tl.constexpr) -> tl.tensor:
    """`kahan`."""
    theta = tl.load(theta_at, mask)
    if theta.dtype.primitive_bitwidth == 16:
        return theta.to(real) + tl.load(rest_at, mask).to(real)
    else:
        return theta.to(real)


@triton_kernel
def split_sum(x: tl.tensor, theta_at: tl.tensor, rest_at: tl.tensor, mask: tl.tensor) -> None:
    """The reverse of `join_sum`."""
    theta = rounded(x, theta_at.dtype.element_ty)
    tl.store(theta_at, theta, mask)
    if theta_at.dtype.element_ty.primitive_bitwidth == 16:
        lost = x - theta.to(tl.float32)
        lost = tl.where(tl.abs(lost) < float("inf"), lost, 0.0)
        tl.store(rest_at, rounded(lost, rest_at.dtype.element_ty), mask)


@triton_kernel
def join_whole(theta_at: tl.tensor, rest_at: tl.tensor, mask: tl.tensor, real: tl.constexpr) -> tl.tensor:
    """`master`."""
    theta = tl.load(theta_at, mask)
    if theta.dtype.primitive_bitwidth == 16:
        whole = tl.load(rest_at, mask)
        return tl.where(rounded(whole, theta.dtype).to(real) == theta.to(real), whole, theta.to(real))
    else:
        return theta.to(real)


@triton_kernel
def split_whole(x: tl.tensor, theta_at: tl.tensor, rest_at: tl.tensor, mask: tl.tensor) -> None:
    """The reverse of `join_whole`."""
    tl.store(theta_at, rounded(x, theta_at.dtype.element_ty), mask)
    if theta_at.dtype.element_ty.primitive_bitwidth == 16:
        tl.store(rest_at, x, mask)
