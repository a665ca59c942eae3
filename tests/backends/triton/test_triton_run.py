"""What Triton kernels compute, in the interpreter: against NumPy in float64, in every dtype, for every kind of tensor."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from optc.runtime.backend import BackendUnavailable, Residents
from optc.runtime.triton_launch import TRITON
from tests.backends import native_kernels as plans
from tests.backends.triton.kernels import bind, optimizer, runnable

pytestmark = [
    pytest.mark.usefixtures("interpreted"),
    pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning"),  # NumPy, inside the interpreter
]
Array = NDArray[np.float64]

SIZES = (1, 0, 7, 127, 128, 511, 512, 513, 1025, 3000)
SCALARS = plans.adamw_scalars(3, lr=0.1)


def adamw(theta: Array, g: Array, m: Array, v: Array, v_max: Array | None) -> list[Array]:
    beta1, one_minus_beta1, beta2, one_minus_beta2, c2, eps, decay, lr_c1 = SCALARS
    m = beta1 * m + one_minus_beta1 * g
    v = beta2 * v + one_minus_beta2 * g**2
    v_max = v if v_max is None else np.maximum(v_max, v)
    return [decay * theta - lr_c1 * m / (np.sqrt(v_max / c2) + eps), m, v, v_max]


def random(sizes: tuple[int, ...], dtype: torch.dtype, positive: bool = False) -> list[Tensor]:
    made = [torch.randn(n).to(dtype) for n in sizes]
    return [x.abs() for x in made] if positive else made


def float64(tensors: list[Tensor]) -> list[Array]:
    return [t.double().numpy().copy() for t in tensors]


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize(
    ("dtype", "state", "tolerance"),
    [
        (torch.float64, torch.float64, 1e-14),
        (torch.float32, torch.float32, 5e-7),
        (torch.bfloat16, torch.float32, 2.0**-7),  # the interpreter truncates: one unit in the last place
        (torch.float16, torch.float32, 2.0**-11),
    ],
)
def test_one_step_of_adamw_equals_numpy(dtype: torch.dtype, state: torch.dtype, tolerance: float, amsgrad: bool) -> None:
    torch.manual_seed(0)
    theta, g = random(SIZES, dtype), random(SIZES, dtype)
    tensors = {"theta": theta, "m": random(SIZES, state), "v": random(SIZES, state, positive=True)}
    if amsgrad:
        tensors["v_max"] = random(SIZES, state, positive=True)
    before = {name: float64(column) for name, column in tensors.items()}
    bind(plans.adamw(), tensors, dtype, plans.ADAMW_SOURCE, amsgrad=amsgrad).launch({"g": g}, SCALARS, [], -0.5)
    for i, gradient in enumerate(float64(g)):
        expected = adamw(
            before["theta"][i], -0.5 * gradient, before["m"][i], before["v"][i], before["v_max"][i] if amsgrad else None
        )
        for name, value in zip(tensors, expected, strict=False):
            limit = tolerance if name == "theta" else min(tolerance, 5e-7)
            np.testing.assert_allclose(tensors[name][i].double().numpy(), value, rtol=limit, atol=min(limit, 1e-6))


@pytest.mark.parametrize("offset", [1, 3])
def test_unaligned_views_are_updated_and_their_neighbours_are_not(offset: int) -> None:
    torch.manual_seed(1)
    stores = [torch.randn(n + 8) for n in SIZES]
    theta = [s[offset : offset + n] for s, n in zip(stores, SIZES, strict=True)]
    g, m, v = random(SIZES, torch.float32), random(SIZES, torch.float32), random(SIZES, torch.float32, positive=True)
    kept = [s.clone() for s in stores]
    before = [float64(column) for column in (theta, g, m, v)]
    bind(plans.adamw(), {"theta": theta, "m": m, "v": v}, torch.float32, plans.ADAMW_SOURCE, amsgrad=False).launch(
        {"g": g}, SCALARS, [], 1.0
    )
    for i, n in enumerate(SIZES):
        expected = adamw(before[0][i], before[1][i], before[2][i], before[3][i], None)[0]
        np.testing.assert_allclose(theta[i].double().numpy(), expected, rtol=1e-6, atol=1e-6)
        assert torch.equal(stores[i][:offset], kept[i][:offset])
        assert torch.equal(stores[i][offset + n :], kept[i][offset + n :])


@pytest.mark.parametrize("momentum", [False, True])
@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_flags_choose_the_lines_of_sgd(dtype: torch.dtype, new: bool, momentum: bool) -> None:
    torch.manual_seed(2)
    theta, g, b = (random((700, 5), dtype) for _ in range(3))
    before = [float64(column) for column in (theta, g, b)]
    tensors = {"theta": theta, "b": b} if momentum else {"theta": theta}
    launcher = bind(plans.sgd(), tensors, dtype, plans.ADAMW_SOURCE, with_momentum=momentum, nesterov=True)
    launcher.launch({"g": g}, [0.1, 0.9, 0.5, 0.01], [new], 1.0)
    for i in range(2):
        t, gradient, buffer = (column[i] for column in before)
        gradient = gradient + 0.1 * t
        buffer = gradient if new else 0.9 * buffer + 0.5 * gradient
        u = gradient + 0.9 * buffer if momentum else gradient
        np.testing.assert_allclose(theta[i].double().numpy(), t - 0.01 * u, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(b[i].double().numpy(), buffer if momentum else before[2][i], rtol=1e-6, atol=1e-6)


def python_sign(x: Array) -> Array:
    return np.where(np.isnan(x), np.nan, np.sign(x))


FUNCTIONS: dict[str, tuple[int, Callable[..., Array]]] = {
    "neg": (1, np.negative), "sqrt": (1, np.sqrt), "exp": (1, np.exp), "log": (1, np.log), "sin": (1, np.sin),
    "cos": (1, np.cos),
    "tanh": (1, np.tanh), "abs": (1, np.abs), "sign": (1, python_sign), "floor": (1, np.floor), "mod": (2, np.mod),
    "div": (2, np.divide), "pow": (2, np.power), "min": (2, np.minimum), "max": (2, np.maximum), "atan2": (2, np.arctan2),
}  # fmt: skip
SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 3.0, math.inf, -math.inf, math.nan]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_operations_follow_ieee(name: str, dtype: torch.dtype) -> None:
    arity, function = FUNCTIONS[name]
    pairs = [(a, b) for a in SPECIAL for b in (SPECIAL if arity == 2 else [1.0])]
    theta, g, m = (torch.tensor(column, dtype=dtype) for column in ([0.0] * len(pairs), *zip(*pairs, strict=True)))
    kernel = plans.function(name, *[plans.g, plans.state("m")][:arity])
    bind(kernel, {"theta": [theta], "m": [m]}, dtype, plans.ADAMW_SOURCE).launch({"g": [g]}, [], [], 1.0)
    with np.errstate(all="ignore"):
        expected = function(*(x.numpy() for x in (g, m)[:arity]))
    np.testing.assert_allclose(theta.numpy(), expected, rtol=4e-7 if dtype == torch.float32 else 1e-15)
    if name in ("neg", "div", "floor", "sqrt"):
        numbers = ~np.isnan(expected)
        np.testing.assert_array_equal(np.signbit(theta.numpy())[numbers], np.signbit(expected)[numbers])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constants_keep_the_precision_of_the_arithmetic(dtype: torch.dtype) -> None:
    """0.1 as the argument of a function must not pass through float32 in float64 code."""
    third, tenth = plans.number(1 / 3), plans.number(0.1)
    value = plans.op("max", plans.op("div", tenth, plans.g), plans.op("where", plans.op("gt", plans.g, third), third, tenth))
    kernel = plans.function("add", value, plans.op("pow", tenth, plans.g))
    theta, g = torch.zeros(4, dtype=dtype), torch.tensor([0.25, 0.5, 3.0, 7.0], dtype=dtype)
    bind(kernel, {"theta": [theta], "m": [theta.clone()]}, dtype, plans.ADAMW_SOURCE).launch({"g": [g]}, [], [], 1.0)
    x = g.double().numpy()
    expected = np.maximum(0.1 / x, np.where(x > 1 / 3, 1 / 3, 0.1)) + 0.1**x
    np.testing.assert_allclose(theta.double().numpy(), expected, rtol=1e-15 if dtype == torch.float64 else 3e-7)


def test_fifty_tensors_take_one_launch() -> None:
    launches: list[object] = []
    kernel = runnable(plans.adamw(), plans.ADAMW_SOURCE)
    kernel.triton.jit.add_pre_run_hook(lambda *a, **k: launches.append(a))
    sizes = tuple(range(1, 51))
    tensors = {name: random(sizes, torch.float32, positive=True) for name in ("theta", "m", "v")}
    before = {name: float64(column) for name, column in tensors.items()}
    expected = [adamw(before["theta"][i], before["v"][i], before["m"][i], before["v"][i], None) for i in range(50)]
    g = [v.clone() for v in tensors["v"]]
    (launcher,) = TRITON.prepare([kernel], [Residents(tensors, torch.float32, {"amsgrad": False})])
    launcher.launch({"g": g}, SCALARS, [], 1.0)
    assert len(launches) == 1
    for theta, want in zip(tensors["theta"], expected, strict=True):
        np.testing.assert_allclose(theta.double().numpy(), want[0], rtol=1e-5, atol=1e-6)


def test_offsets_beyond_2_to_the_31_elements_reach_the_right_place() -> None:
    """The table points 2^33 bytes before the tensor, the chunk begins beyond 2^31 elements: 32-bit arithmetic would wrap."""
    tensors = {"theta": [torch.ones(5)], "m": [torch.ones(5)]}
    launcher = bind(plans.function("add", plans.g, plans.theta), tensors, torch.float32, plans.ADAMW_SOURCE)
    theta, g = torch.ones(5), torch.arange(5.0)
    base = 2**31 + 1024
    launcher.table = torch.tensor([[theta.data_ptr() - 4 * base, theta.data_ptr() - 4 * base, base + 5]])
    launcher.varying.aligned = torch.tensor([False])
    launcher.chunks.first.fill_(-base // 1024)
    shifted = torch.tensor([[g.data_ptr() - 4 * base, 0]])
    launcher.function.jit[(1,)](
        launcher.table, shifted, launcher.chunks.tensors, launcher.chunks.first, 1024, 1.0, None, None, 1,
        *_constants(launcher), num_warps=4,
    )  # fmt: skip
    assert theta.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]


def _constants(launcher: Any) -> list[Any]:
    import triton.language as tl

    shape = launcher.geometry
    return [tl.float32] * 3 + [tl.float32, shape.lanes, shape.block, shape.tail, False, False]


def test_gradients_that_move_are_found_again() -> None:
    launcher = bind(plans.function("add", plans.theta, plans.g), {"theta": [theta := torch.zeros(9)], "m": [torch.zeros(9)]},
                    torch.float32, plans.ADAMW_SOURCE)  # fmt: skip
    kept = [torch.full((9,), float(i)) for i in range(3)]
    for g in (*kept, kept[0], kept[2]):
        launcher.launch({"g": [g]}, [], [], 1.0)
    assert theta.tolist() == [0.0 + 1.0 + 2.0 + 0.0 + 2.0] * 9


@pytest.mark.parametrize("name", ["adamw", "sgd", "nadam"])
def test_an_optimizer_on_triton_follows_its_float64_twin(name: str) -> None:
    torch.manual_seed(3)
    shapes = [(3, 5), (), (0,), (1030,)]
    exact = [torch.nn.Parameter(torch.randn(s, dtype=torch.float64)) for s in shapes]
    mine = [torch.nn.Parameter(p.detach().float()) for p in exact]
    options = {"momentum": 0.9, "nesterov": True} if name == "sgd" else {}
    pair = optimizer(name)(exact, backend="torch", **options), optimizer(name)(mine, backend="triton", **options)
    for _ in range(4):
        for p, q in zip(exact, mine, strict=True):
            q.grad = torch.randn(q.shape)
            p.grad = q.grad.double()
        for each in pair:
            each.step()
    for p, q in zip(exact, mine, strict=True):
        torch.testing.assert_close(q.double(), p, rtol=3e-6, atol=3e-6)


def test_kernels_of_other_devices_are_refused_with_a_reason() -> None:
    kernel = runnable(plans.adamw(), plans.ADAMW_SOURCE)
    tensors = {name: [torch.empty(3, device="meta")] for name in ("theta", "m", "v")}
    with pytest.raises(BackendUnavailable, match="CUDA and ROCm devices, not on 'meta'"):
        TRITON.prepare([kernel], [Residents(tensors, torch.float32, {"amsgrad": False})])
