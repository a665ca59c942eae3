"""Specs with values per row, column and matrix, in all their kinds."""

from __future__ import annotations

from tests.backends.reducing import spec

FACTORED = spec(
    "Factored",
    """
        if ndim >= 2:
            R = 0 per row as exp_avg_sq_row
            C = 0 per col as exp_avg_sq_col
        else:
            V = 0 as exp_avg_sq
""",
    """
        q = g² + ε
        if ndim >= 2:
            R ← ema(R, rowmean(q), β₂)
            C ← ema(C, colmean(q), β₂)
            v = R/colmean(R)·C
        else:
            V ← ema(V, q, β₂)
            v = V
        u = g/√v
        u = u/max(1, rms(u))
        θ ← θ - lr·max(ε, rms(θ))·u
""",
)
EVERY_EXTENT = spec(
    "EveryExtent",
    """
        m = 0
        n = 0 per tensor
        if ndim >= 2:
            R = 0.5 per row
            C = 0.25 per col
            D = 1 per matrix
""",
    """
        s = 1
        if ndim >= 2:
            a = rowmax(g)
            b = colmin(g·θ)
            c = colsum(rowsum(g²))
            D ← ema(D, c + colmax(R), β₂)
            if t mod 2 == 0:
                R ← ema(R, a - rowmin(g), β₁)
            C ← C + |b - rowmean(C)|
            s = 1 + mean(R) + mean(D) + max(C)
            m ← ema(m, where(a > 0.5, g, g/2)/(1 + R + C)/√(1 + D), β₁)
        else:
            m ← ema(m, g, β₁)
        n ← ema(n, s + ‖m‖, β₂)
        θ ← θ - lr·m/(1 + n)/s
""",
)
AFTER_THE_STEP = spec(
    "AfterTheStep",
    """
        if ndim >= 2: V = 1 per row
        else: w = 1 per tensor
""",
    """
        if ndim >= 2:
            u = (g - rowmean(g))/√(V + ε)
            V ← ema(V, rowmean(u²), β₂)
        else:
            u = g/√(w + ε)
            w ← ema(w, mean(u²), β₂)
        θ ← θ - lr·u
""",
).replace("    hyper:", "    shape: matrix\n    hyper:")
SPECS = {"factored": FACTORED, "every extent": EVERY_EXTENT, "after the step": AFTER_THE_STEP}
