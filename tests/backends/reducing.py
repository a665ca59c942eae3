"""Specs whose kernels take several passes, and how to run them natively."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import optc
from optc.compiler.pipeline import check_source
from optc.dsl.program import Program
from optc.dsl.source import Source
from optc.runtime import schema
from tests.reference_cases import giving

F64 = npt.NDArray[np.float64]

_HYPERS = {
    "lr": "lr = 1e-2 in [0, ∞)",
    "β₁": "β₁ = 0.9 in [0, 1)",
    "β₂": "β₂ = 0.99 in [0, 1)",
    "ε": "ε = 1e-6 in [0, ∞)",
    "weight_decay": "weight_decay = 1e-2 in [0, ∞)",
    "clip": "clip = false",
}


def spec(name: str, states: str, step: str, more: str = "") -> str:
    """The text of a spec, with those hypers that it uses."""
    hypers = "".join(f"        {line}\n" for word, line in _HYPERS.items() if word in states + step + more)
    return f"""
optimizer {name}:
    hyper:
{hypers}
    state:{states}
    step:{step}
{more}"""


LAMB = spec(
    "TrustedAdam",
    """
        m = 0 as exp_avg
        v = 0 as exp_avg_sq
""",
    """
        m ← ema(m, g, β₁)
        v ← ema(v, g², β₂)
        u = debias(m, β₁)/(√debias(v, β₂) + ε) + weight_decay·θ
        w = ‖θ‖
        r = ‖u‖
        q = where(w > 0 and r > 0, w/r, 1)
        θ ← θ - lr·q·u
""",
)
NOVO = spec(
    "NormedMomentum",
    """
        m = 0
        v = 0 per tensor as exp_avg_sq
""",
    """
        s = sum(g²)
        if new(v): v ← s
        else: v ← ema(v, s, β₂)
        d = √v + ε
        if d == 0: stop
        m ← β₁·m + g/d
        n = numel/2
        θ ← θ - lr·m/n
""",
)
CAUTIOUS = spec(
    "ClippedCautious",
    """
        m = 0
        v = 0
""",
    """
        n = ‖g‖
        g = g/max(n, 1)
        m ← ema(m, g, β₁)
        v ← ema(v, g², β₂)
        k = m*g > 0
        m̂ = where(k, m, 0)*numel/(count(k) + 1)
        θ ← θ - lr·m̂/(√v + ε)
""",
)
ALL_KINDS = spec(
    "AllKinds",
    """
        m = 0
        n = 1 per tensor as last_norm
""",
    """
        a = max(g)
        b = min(g)
        c = mean(|θ|)
        u = (g - b)/(a - b + ε)·c/n
        m ← β₁·m + u
        n ← rms(m) + 1
        k = max(|m|) + ε
        θ ← θ - lr·m/k - lr·weight_decay·sign(min(m))·θ
""",
)
BRANCHES = spec(
    "Branches",
    """
        m = 0
        n = 0 per tensor as norm
        if clip: peak = 0 per tensor as largest
""",
    """
        if clip:
            peak ← max(peak·β₂, max(|g|))
            g = g/max(1, peak)
        if t mod 2 == 0:
            c = mean(θ)
            m ← ema(m, g - c, β₁)
            n ← ema(n, ‖m‖, β₂)
        else:
            m ← ema(m, g, β₁)
        if n > 1:
            r = 1/n
        else if n > 0.5:
            r = exp(-n)
        else:
            r = n^1.5 + 1
        θ ← θ - lr·r·m
""",
)
LATE = spec(
    "Late",
    """
        P = 1 per tensor as product
        length = 0 per tensor as length
""",
    """
        r = norm1(g)/numel
        h = where(r > 0, tanh(r), 0)
        θ ← θ - lr·h·g/P
        P ← P·(1 + min(h, 0.5))
        length ← length + lr·h·‖g‖
""",
)
OBSERVED = spec(
    "Observed",
    """
        n = 1 per tensor as scale
""",
    """
        θ ← θ - lr·g/n
""",
    """
    entry observe(x per elem):
        n ← 1 + sum(x)
""",
)


SPECS = [LAMB, NOVO, CAUTIOUS, ALL_KINDS, BRANCHES, LATE, OBSERVED]


def name_of(text: str) -> str:
    return text.split()[1].rstrip(":")


@cache
def program_of(text: str) -> Program:
    return check_source(Source("<text>", text))


@cache
def class_of(text: str) -> type[Any]:
    return optc.compile(text)


def kernel_of(text: str) -> schema.Kernel:
    found: schema.Kernel = class_of(text).schema.procedures[0].kernels[0]
    return found


def random(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def float64(tensor: Tensor) -> F64:
    return tensor.detach().to(torch.float64).numpy().copy()


def run(
    text: str, thetas: Sequence[Tensor], gradients: Sequence[Sequence[Tensor]], losses: Sequence[float] = (), /, **hypers: Any
) -> tuple[list[Tensor], list[Mapping[str, Tensor]]]:
    """Parameters and their states after steps with these gradients, and losses where there are some."""
    parameters = [torch.nn.Parameter(t.clone()) for t in thetas]
    optimizer = class_of(text)(parameters, backend="native", **hypers)
    for t, step in enumerate(gradients):
        for p, g in zip(parameters, step, strict=True):
            p.grad = g.clone()
        optimizer.step(giving(losses[t]) if losses else None)
    return [p.detach() for p in parameters], [dict(optimizer.state[p]) for p in parameters]


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Equal to the bit; all NaNs are one."""
    return torch.equal(torch.nan_to_num(one, nan=-12345.0), torch.nan_to_num(other, nan=-12345.0))


def all_bits(found: tuple[list[Tensor], list[Mapping[str, Tensor]]]) -> list[Tensor]:
    return [*found[0], *(s[key] for s in found[1] for key in sorted(s) if key != "step")]
