"""Parameters of 16 bits that are kept as a pair: the parameter, and beside it, as a state, what it lacks.

`split24` and `split32`: 8 or 16 further bits of a bfloat16 parameter, as a signed number: the pair is a float with 24 or 32
bits (of `split24`, rounded to nearest even). The parameter is the pair rounded to nearest, half way up.
`kahan`: what rounding has lost, in the parameter's own dtype; the pair is the sum.
`master`: the whole number in float32, which counts where it rounds to the parameter.

Whoever changes a parameter from outside changes the pair. Parameters of other dtypes are kept as they are.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

Pair: TypeAlias = Literal["split24", "split32", "kahan", "master"]
REST = "theta_rest"
"""The stream of what parameters lack."""

_BITS = {"split24": 8, "split32": 16}
_LOW = (torch.bfloat16, torch.float16)


def rest_dtype(pair: Pair, dtype: torch.dtype) -> torch.dtype | None:
    """The dtype of what parameters of a dtype lack; None where they are kept as they are."""
    if pair in _BITS:
        return {8: torch.int8, 16: torch.int16}[_BITS[pair]] if dtype == torch.bfloat16 else None
    if dtype not in _LOW:
        return None
    return dtype if pair == "kahan" else torch.float32


def first_rest(pair: Pair, p: Tensor) -> Tensor | None:
    """What a parameter lacks before its first step, in memory of its own and the parameter's order."""
    dtype = rest_dtype(pair, p.dtype)
    if dtype is None:
        return None
    rest = torch.empty_like(p, dtype=dtype, requires_grad=False)
    return rest.copy_(p) if pair == "master" else rest.zero_()


def joined(pair: Pair, p: Tensor, rest: Tensor) -> Tensor:
    """The pair, in float32."""
    if pair in _BITS:
        upper = p.view(torch.int16).to(torch.int32) << 16
        return (upper + (rest.to(torch.int32) << (16 - _BITS[pair]))).view(torch.float32)
    if pair == "kahan":
        return p.float() + rest.float()
    return torch.where(rest.to(p.dtype) == p, rest, p.float())


def split_into(pair: Pair, p: Tensor, rest: Tensor, x: Tensor) -> None:
    """Keeps a float32 number as a pair."""
    if pair in _BITS:
        drop = 16 - _BITS[pair]
        bits = x.contiguous().view(torch.int32)
        kept = bits if drop == 0 else (bits + ((1 << drop >> 1) - 1) + (bits >> drop & 1)) >> drop << drop
        upper = (kept + 0x8000) >> 16
        number = ~x.isnan()
        p.view(torch.int16).copy_(torch.where(number, upper, bits >> 16 | 0x40))
        rest.copy_(torch.where(number, (kept - (upper << 16)) >> drop, 0))
        return
    p.copy_(x)
    if pair == "master":
        rest.copy_(x)
    else:
        lost = x - p.float()
        rest.copy_(torch.where(lost.isfinite(), lost, 0))
