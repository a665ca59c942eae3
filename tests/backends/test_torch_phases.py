"""Numbers of the whole model in PyTorch: phases agree with the oracle, nothing is read back, arguments stay as they are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from optc.runtime.backend import Residents
from optc.runtime.schema import ModelProgram, Procedure
from optc.runtime.torch_launch import TORCH
from tests.backends.together import FREE, SHAPES, class_of, differences, slopes, start, worst

SPECS = {
    "clipping": """
optimizer Clipped:
    hyper: lr = 0.1 in [0, ∞); β = 0.9 in [0, 1); max_norm = 1.0 shared in (0, ∞)
    state: m = 0
    step:
        g = min(1, max_norm/(total_norm(g) + 1e-6))·g
        m ← ema(m, g, β)
        θ ← θ - lr·m
""",
    "a model that counts and stops": """
optimizer Stopping:
    hyper: lr = 0.1 in [0, ∞); β = 0.9 in [0, 1); ε = 1e-6 in [0, ∞); most = 1.2 shared in (0, ∞)
    state: m = 0; v = 0; seen = 0 per tensor; peak = 0 per model; k = 0 per model
    step:
        k ← k + 1
        n = total_norm(g)
        peak ← max(0.9·peak, n)
        if n > most·peak or k == 3: stop
        c = min(1, 2/(n + ε))
        m ← ema(m, c·g, β)
        v ← ema(v, (c·g)², 0.75)
        u = m/(1 - β^k)/(√(v/(1 - 0.75^k)) + ε)
        seen ← seen + ‖u‖·c
        θ ← θ - lr·‖θ‖/(‖u‖ + ε)·u
""",
    "a distance": """
optimizer Distant:
    hyper:
        lr = 1.0 in [0, ∞)
        betas = (β1 = 0.9, β2 = 0.99) shared in [0, 1)
        decay = 0.01 in [0, ∞)
        d0 = 1e-2 shared in (0, ∞)
        growing = true shared
    state:
        m = 0; v = 0; s = 0; x0 = θ
        d = d0 per model; r = 0 per model
        if growing: d_max = d0 per model
    step:
        η = d·lr
        r ← √β2·r + total(d/d0·η·⟨g, x0 - θ⟩)
        s ← √β2·s + d/d0·η·g
        m ← β1·m + (1 - β1)·d·g
        v ← β2·v + (1 - β2)·d²·g²
        D = total(norm1(s))
        if D == 0: stop
        d_hat = r/D
        if growing:
            if d == d0: d ← max(d, d_hat)
            d_max ← max(d_max, d_hat)
            d ← d_max
        u = m/(√v + d·1e-8)
        θ ← (1 - decay·η)·θ - η·u
""",
    "two totals in a row": """
optimizer Twice:
    hyper: lr = 0.1 in [0, ∞)
    state: m = 0; k = 1 per tensor; w = 0 per model
    step:
        n = total(numel)
        mean_g = total(sum(g))/n
        spread = √(total(sum((g - mean_g)²))/n)
        w ← w + total(k)/n
        k ← k + numel·w
        m ← ema(m, where(|g - mean_g| > 2·spread, sign(mean_g)·spread, g), 0.5)
        θ ← θ - lr·tanh(w·m)/(1 + k/numel)
""",
    "states that change places": """
optimizer Swapped:
    hyper: lr = 0.1 in [0, ∞)
    state: a = 1 per model; b = 2 per model; c = 3 per model
    step:
        n = total_norm(g)
        (a, b) ← (b, a)
        before = c
        c ← a + n
        θ ← θ - lr·(a + 2·b + 3·c + 4·before)/(1 + 10·n)·g
""",
    "a number that comes later than another kernel": """
optimizer Late:
    hyper: lr = 0.1 in [0, ∞); watch = true shared
    state:
        if watch: peak = 0 per model; low = 0 per model; size = 0 per tensor
    step:
        θ ← θ - lr·g
        if watch:
            size ← ‖θ‖ + peak
            peak ← max(peak, total(max(|g|)))
            low ← min(low, total(min(g)) - total(size))
""",
    "arithmetic of the model": """
optimizer Arithmetic:
    hyper: lr = 0.1 in [0, ∞); p = 0.5 shared in [0, ∞)
    state: x = 0 per model; y = 0 per model; q = 1 per model
    step:
        n = total(sum(g))
        z = total(mean(θ))
        x ← exp(-|n|) + ln(1 + n²) + sin(z) - cos(n·z) + atan2(n, z) + floor(10·z) + (10·n) mod 3
        y ← where(n > z and not (z > 1) or q == 1, min(x, z) + max(n, 0.1), p/(1 + n²)) - sign(z)
        q ← (n² + p)^p + 0^(x·0) + 2^z - q/3 + tanh(y)
        θ ← θ - lr·tanh(x + y)·g/(1 + |q|)
""",
    "the loss": """
optimizer Polyak:
    hyper: lr = 0.1 in [0, ∞); floor_value = 0.25 shared in [0, ∞); keep = true shared
    state:
        m = 0; best = ∞ per model; k = 0 per model; calm = 0 per tensor
        if keep: before = 0 per model
    step:
        k ← k + 1
        best ← min(best, loss)
        if loss > 40·best: stop
        η = min(lr, (loss - floor_value)/(total(sum(g²)) + 1e-8))
        if keep:
            η = where(k > 1 and loss > before, η/2, η)
            before ← loss
        calm ← calm + where(loss < 1, 1, ‖g‖)
        m ← ema(m, where(g > loss, loss, g), 0.5)
        θ ← θ - η·m/(1 + 0.01·calm)
""",
    "the loss alone": """
optimizer Alone:
    hyper: lr = 0.1 in [0, ∞)
    state: m = 0; last = 0 per model
    step:
        c = loss
        last ← loss
        if ndim ≥ 2 and loss > 1.5: m ← m + loss
        θ ← θ - lr·(tanh(c)·g + last·m)
""",
}
OTHERWISE: dict[str, dict[str, Any]] = {
    "a distance": {"growing": False},
    "a number that comes later than another kernel": {"watch": False},
    "the loss": {"keep": False},
}
CASES = [pytest.param(name, {}, id=name) for name in SPECS]
CASES += [pytest.param(name, hypers, id=f"{name} otherwise") for name, hypers in OTHERWISE.items()]


@pytest.mark.parametrize("dtype", FREE)
@pytest.mark.parametrize(("name", "hypers"), CASES)
def test_steps_agree_with_the_oracle(name: str, hypers: dict[str, Any], dtype: torch.dtype) -> None:
    assert worst(SPECS[name], dtype, hypers) <= FREE[dtype]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 0.0])
@pytest.mark.parametrize("name", SPECS)
def test_ieee_rules_hold_for_numbers_of_the_model(name: str, bad: float) -> None:
    shapes = ((3, 2), (4,))
    grads = slopes(shapes, 3)
    for g in grads[1]:
        g[...] = bad
    with np.errstate(all="ignore"):
        assert max(differences(SPECS[name], torch.float64, {}, start(shapes), grads)) <= FREE[torch.float64]


# --- the programs -------------------------------------------------------------------------------------------------------------


def programs(name: str) -> list[tuple[ModelProgram, bool]]:
    """The programs of the model of a spec, with all their flags set or none."""
    models = [phase.model for phase in class_of(SPECS[name]).schema.procedures[0].phases]
    return [(model, flag) for model in models if model is not None for flag in (True, False)]


def arguments(program: ModelProgram, flag: bool, device: str) -> tuple[list[Any], list[Tensor]]:
    """Scalars, flags, totals and the loss; states."""
    totals = len(program.totals) + program.loss
    values = [torch.tensor(0.5 + k, dtype=torch.float64, device=device) for k in range(totals + len(program.states))]
    scalars = [0.25 + 0.125 * k for k in range(len(program.scalars))]
    return [*scalars, *[flag] * len(program.flags), *values[:totals]], values[totals:]


@pytest.mark.parametrize("name", SPECS)
def test_a_program_of_the_model_reads_nothing_back(name: str) -> None:
    """A meta tensor has no value to read."""
    for program, flag in programs(name):
        given, states = arguments(program, flag, "meta")
        exports, carried = program.function(*given, *states)
        assert (len(exports), len(carried)) == (len(program.exports), len(program.carried))
        for value in (*exports, *carried):
            assert (value.dtype, value.shape) == (torch.float64, ())
            assert value.is_meta or (not flag and value.isnan())  # what has no meaning in a variant without states or totals


@pytest.mark.parametrize("name", SPECS)
def test_a_program_of_the_model_changes_no_argument_and_hands_none_out_that_will_change(name: str) -> None:
    for program, flag in programs(name):
        given, states = arguments(program, flag, "cpu")
        before = [x.clone() for x in states]
        exports, carried = program.function(*given, *states)
        assert states == before
        changing = {n: x for n, x in zip(program.states, states, strict=True) if n in program.carried}
        for stored, value in zip(program.carried, carried, strict=True):  # they are written one after the other
            assert not any(value is x for n, x in changing.items() if n != stored)
        untouched = {n for n, value in zip(program.carried, carried, strict=True) if value is changing[n]}
        assert not any(value is x for value in exports for n, x in changing.items() if n not in untouched)


@pytest.mark.parametrize("name", SPECS)
def test_a_kernel_given_numbers_of_the_model_reads_nothing_back(name: str) -> None:
    schema = class_of(SPECS[name]).schema
    exported = {n for phase in schema.procedures[0].phases if phase.model is not None for n in phase.model.exports}
    for kernel in schema.procedures[0].kernels:
        number = torch.empty((), dtype=torch.float64, device="meta")
        streams = [number if s.extent != "elem" else torch.empty(3, 4, device="meta") for s in kernel.streams]
        scalars = [number if n in exported else 0.5 for n in kernel.scalars]
        flags = [True] * len(kernel.static_flags + kernel.host_flags)
        size = [12.0] if all(s.role == "state" for s in kernel.streams) else []
        left = kernel.torch(*streams, *scalars, *flags, *[number] * len(kernel.given), *size)
        assert len(left or ()) == len(kernel.leaves)


# --- launchers ----------------------------------------------------------------------------------------------------------------

MEASURED = """
optimizer Measured:
    hyper: lr = 0.1 in [0, ∞); extra = false shared
    state: k = 0 per tensor
    step:
        a = sum(g)
        c = total(max(g))
        if extra: e = total(‖θ‖)
        else: e = c
        k ← k + c·a
        θ ← θ - lr·(e + a)·g
"""


def residents(procedure: Procedure, thetas: list[Tensor], ks: list[Tensor], flag: bool) -> list[Residents]:
    columns = {"theta": thetas, "k": ks}
    found = []
    for kernel in procedure.kernels:
        names = [s.name for s in kernel.streams if s.name in columns]
        variant = dict.fromkeys(kernel.static_flags, flag)
        found.append(Residents({n: columns[n] for n in names}, torch.float64, variant, [x.shape for x in thetas]))
    return found


def test_launchers_share_what_kernels_leave_however_a_batch_is_divided() -> None:
    procedure = class_of(MEASURED).schema.procedures[0]
    grads = [torch.tensor([1.0, 2.0, -4.0]), torch.tensor([[3.0, 5.0]]), torch.tensor(7.0)]
    grads = [g.double() for g in grads]

    def run(first: list[list[int]], second: list[list[int]]) -> tuple[list[Tensor], list[Tensor], Tensor]:
        thetas, ks = [torch.ones_like(g) for g in grads], [torch.zeros((), dtype=torch.float64) for _ in grads]
        kernels = procedure.kernels
        launchers = TORCH.prepare(kernels, residents(procedure, thetas, ks, False))
        parts = torch.zeros(len(grads), len(kernels[0].parts), dtype=torch.float64)
        total = torch.tensor(14.0).double()
        for launcher, kernel, division in zip(launchers, kernels, (first, second), strict=True):
            for members in division:
                part = launcher.only(members)
                values = [0.1 if n == "lr" else total for n in kernel.scalars]
                part.launch({"g": [grads[i] for i in members]}, values, [], 1.0)
                if kernel is kernels[0]:
                    parts[members] = part.parts()
        return thetas, ks, parts

    whole = run([[0, 1, 2]], [[0, 1, 2]])
    divided = run([[0, 2], [1]], [[0], [1, 2]])
    assert torch.equal(whole[2], divided[2])
    assert whole[2].tolist() == [[2.0, 0.0], [5.0, 0.0], [7.0, 0.0]]
    for one, other in zip(whole[0] + whole[1], divided[0] + divided[1], strict=True):
        assert torch.equal(one, other)
    assert whole[1][0].item() == 14.0 * -1.0
    assert whole[1][1].item() == 14.0 * 8.0


@pytest.mark.parametrize("extra", [True, False])
def test_parts_that_a_variant_lacks_add_nothing(extra: bool) -> None:
    assert worst(MEASURED, torch.float64, {"extra": extra}) <= FREE[torch.float64]
    procedure = class_of(MEASURED).schema.procedures[0]
    kernel = procedure.kernels[0]
    theta, k = torch.full((2, 2), 3.0).double(), torch.zeros((), dtype=torch.float64)
    (launcher, *_) = TORCH.prepare(procedure.kernels, residents(procedure, [theta], [k], extra))
    launcher.launch({"g": [torch.ones(2, 2).double()]}, [0.1] * len(kernel.scalars), [], 1.0)
    found = dict(zip(kernel.parts, launcher.parts()[0].tolist(), strict=True))
    assert sorted(found.values()) == ([1.0, 6.0] if extra else [0.0, 1.0])


COUNTED = """
optimizer Counted:
    hyper: lr = 0.1 in [0, ∞)
    state: k = 1 per tensor; w = 0 per model
    step:
        n = total(numel)
        w ← w + total(k)/n
        k ← k + numel·w
        θ ← θ - lr·tanh(w)·g/k
"""


def test_a_kernel_without_tensors_like_theta_is_told_their_size() -> None:
    first = class_of(COUNTED).schema.procedures[0].kernels[0]
    assert {s.role for s in first.streams} == {"state"}
    assert worst(COUNTED, torch.float64, shapes=((0, 3), (), (2, 3))) <= FREE[torch.float64]


def test_empty_parameters_take_part() -> None:
    for text in SPECS.values():
        assert worst(text, torch.float64, shapes=((0, 4), (3,), (0,))) <= FREE[torch.float64]


def test_float32_parameters_do_not_become_float64_beside_numbers_of_the_model() -> None:
    text = SPECS["a model that counts and stops"]
    parameters = [torch.nn.Parameter(torch.tensor(x, dtype=torch.float32)) for x in start(SHAPES)]
    optimizer = class_of(text)(parameters, backend="torch")
    for p in parameters:
        p.grad = torch.ones_like(p)
    optimizer.step()
    for p in parameters:
        assert (p.dtype, optimizer.state[p]["m"].dtype) == (torch.float32, torch.float32)
    group = optimizer.param_groups[0]
    assert (group["peak"].dtype, group["peak"].shape) == (torch.float64, ())
