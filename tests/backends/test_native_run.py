"""Native kernels compute what float64 says, for every dtype and shape, and without memory of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from optc.compiler.plan import Kernel
from optc.dsl.program import Branch, Read, Role, Symbol
from optc.runtime.backend import BackendUnavailable
from optc.runtime.native import ChunkTable, cut
from tests.backends import native_kernels as k
from tests.backends.native_kernels import apply
from tests.backends.processes import exit_code, in_child

pytestmark = pytest.mark.usefixtures("one_thread")

F64 = npt.NDArray[np.float64]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SHAPES = [(0,), (), (1,), (7,), (64, 64), (3, 5, 7), (4096,), (4097,), (20_011,), (0, 5), (130_001,)]


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def tensors(dtype: torch.dtype, seed: int = 0, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(s, generator=generator, dtype=torch.float64) * scale).to(dtype) for s in SHAPES]


def float64(tensor: Tensor) -> F64:
    return tensor.to(torch.float64).numpy().copy()


def adamw_by_numpy(
    theta: F64, gradients: Sequence[F64], amsgrad: bool, store: Callable[[F64], F64]
) -> tuple[F64, F64, F64, F64]:
    """AdamW in float64; `store` rounds θ as its dtype does."""
    m, v, v_max = np.zeros_like(theta), np.zeros_like(theta), np.zeros_like(theta)
    for t, g in enumerate(gradients, 1):
        beta1, _, beta2, _, c2, eps, decay, lr_c1 = k.adamw_scalars(t)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        v_max = np.maximum(v_max, v)
        theta = store(decay * theta - lr_c1 * (m / (np.sqrt((v_max if amsgrad else v) / c2) + eps)))
    return theta, m, v, v_max


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_adamw_follows_float64(dtype: torch.dtype, amsgrad: bool) -> None:
    theta, start = tensors(dtype), tensors(dtype)
    zeros = {n: [torch.zeros_like(p, dtype=state_dtype(dtype)) for p in theta] for n in ("m", "v", "v_max")}
    if not amsgrad:
        del zeros["v_max"]
    launcher = k.prepare(k.adamw(), {"theta": theta, **zeros}, dtype, amsgrad=amsgrad)
    steps = [tensors(dtype, seed) for seed in range(1, 5)]
    for t, gradients in enumerate(steps, 1):
        launcher.launch({"g": gradients}, k.adamw_scalars(t), (), 1.0)

    def store(x: F64) -> F64:
        return float64(torch.from_numpy(np.asarray(x)).to(dtype))

    unit = torch.finfo(state_dtype(dtype)).eps
    for at, p in enumerate(start):
        want = adamw_by_numpy(float64(p), [float64(s[at]) for s in steps], amsgrad, store)
        np.testing.assert_allclose(float64(zeros["m"][at]), want[1], rtol=8 * unit, atol=4 * unit)
        np.testing.assert_allclose(float64(zeros["v"][at]), want[2], rtol=8 * unit)
        if amsgrad:
            np.testing.assert_allclose(float64(zeros["v_max"][at]), want[3], rtol=8 * unit)
        # a 16-bit θ may fall to the other side of a tie once per step
        last = torch.finfo(dtype).eps if dtype.itemsize == 2 else 4 * unit
        np.testing.assert_allclose(float64(theta[at]), want[0], rtol=last, atol=last * 1e-2)
        if dtype.itemsize == 2 and p.numel() > 1000:
            assert (float64(theta[at]) == want[0]).mean() > 0.99


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("with_momentum", "nesterov"), [(False, False), (True, False), (True, True)])
def test_sgd_follows_float64_in_every_variant(dtype: torch.dtype, with_momentum: bool, nesterov: bool) -> None:
    theta, start = tensors(dtype), tensors(dtype)
    b = [torch.full_like(p, float("nan"), dtype=state_dtype(dtype)) for p in theta]
    residents = {"theta": theta, "b": b} if with_momentum else {"theta": theta}
    launcher = k.prepare(k.sgd(), residents, dtype, with_momentum=with_momentum, nesterov=nesterov)
    steps = [tensors(dtype, seed) for seed in (1, 2)]
    for gradients, new in zip(steps, (True, False), strict=True):
        launcher.launch({"g": gradients}, (0.1, 0.9, 0.7, 0.01), (new,), -1.0)
    for at, p in enumerate(start):
        want, buffer = float64(p), np.zeros(p.shape)
        for t, gradients in enumerate(steps):
            g = -float64(gradients[at]) + 0.1 * want
            buffer = g if t == 0 else 0.9 * buffer + 0.7 * g
            u = g if not with_momentum else g + 0.9 * buffer if nesterov else buffer
            want = float64(torch.from_numpy(np.asarray(want - 0.01 * u)).to(dtype))
        unit = torch.finfo(dtype).eps
        np.testing.assert_allclose(float64(theta[at]), want, rtol=2 * unit, atol=unit)
        assert not with_momentum or not torch.isnan(b[at]).any()


def test_gradients_may_have_another_dtype_than_parameters() -> None:
    theta = tensors(torch.bfloat16)
    states = {n: [torch.zeros_like(p, dtype=torch.float32) for p in theta] for n in ("m", "v")}
    launcher = k.prepare(k.adamw(), {"theta": theta, **states}, torch.float32, amsgrad=False)
    gradients = tensors(torch.float32, 1)
    launcher.launch({"g": gradients}, k.adamw_scalars(1), (), 0.5)
    for m, g in zip(states["m"], gradients, strict=True):
        torch.testing.assert_close(m, g * 0.5 * torch.tensor(1 - 0.9), rtol=2e-7, atol=0)


def test_an_entry_without_parameters_reads_inputs_of_any_dtype() -> None:
    h, extra = k.state("h"), Read(Symbol(Role.INPUT, "extra"), k.REAL)
    kernel = Kernel("entry", (k.stream(h), k.stream(extra, writes=False)), (), (), (), (k.store(h, k.op("add", h, extra)),))
    states = [torch.ones(100), torch.ones(7)]
    launcher = k.prepare(kernel, {"h": states}, torch.float32)
    for dtype in (torch.float32, torch.bfloat16, torch.float32):
        launcher.launch({"extra": [torch.full((100,), 2.0, dtype=dtype), torch.full((7,), 2.0, dtype=dtype)]}, (), (), 1.0)
    assert all(torch.equal(s, torch.full_like(s, 7.0)) for s in states)


@pytest.mark.parametrize("dtype", DTYPES)
def test_unaligned_views_are_updated_and_nothing_beside_them(dtype: torch.dtype) -> None:
    base, other = torch.randn(10_001).to(dtype), torch.randn(10_003).to(dtype)
    before = base.clone()
    theta, gradient = base[1:-2], other[3:-2]
    kernel = k.function("add", k.theta, k.g)
    m = [torch.zeros_like(theta, dtype=state_dtype(dtype))]
    k.prepare(kernel, {"theta": [theta], "m": m}, dtype).launch({"g": [gradient]}, (), (), 1.0)
    wide = state_dtype(dtype)
    assert torch.equal(base[1:-2], (before[1:-2].to(wide) + gradient.to(wide)).to(dtype))
    assert torch.equal(base[[0, -2, -1]], before[[0, -2, -1]])


def test_a_state_is_left_alone_when_its_branch_does_not_run() -> None:
    m = k.state("m")
    body = (Branch(k.flag("sync"), (k.store(m, k.theta),), ()), k.store(k.theta, m))
    kernel = Kernel("sync", (k.stream(k.theta), k.stream(m)), (), (), ("sync",), body)
    theta, slow = torch.ones(5000), torch.zeros(5000)
    launcher = k.prepare(kernel, {"theta": [theta], "m": [slow]}, torch.float32)
    launcher.launch({}, (), (False,), 1.0)
    assert torch.equal(theta, torch.zeros(5000)) and torch.equal(slow, torch.zeros(5000))
    theta.fill_(3.0)
    launcher.launch({}, (), (True,), 1.0)
    assert torch.equal(theta, torch.full((5000,), 3.0)) and torch.equal(slow, theta)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_and_two_threads_give_the_same_bits(dtype: torch.dtype) -> None:
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        theta = tensors(dtype)
        states = {n: [torch.zeros_like(p, dtype=state_dtype(dtype)) for p in theta] for n in ("m", "v", "v_max")}
        launcher = k.prepare(k.adamw(), {"theta": theta, **states}, dtype, amsgrad=True)
        for t in (1, 2):
            launcher.launch({"g": tensors(dtype, t)}, k.adamw_scalars(t), (), 1.0)
        results.append(theta + states["v"])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_the_bits_of_transcendental_functions_do_not_depend_on_threads() -> None:
    g, m = torch.rand(99_991), torch.rand(99_991)
    found = []
    for count in (1, 2):
        torch.set_num_threads(count)
        found.append(apply(k.op("atan2", k.op("exp", k.g), k.op("pow", k.state("m"), k.g)), g, m))
    assert torch.equal(found[0], found[1])


def test_denormal_numbers_survive_loading_a_kernel() -> None:
    tiny = torch.full((100,), 1e-40)
    assert torch.equal(apply(k.op("add", k.g, k.state("m")), tiny, tiny), tiny * 2)
    assert float((torch.tensor([1e-40]) * 0.5)[0]) > 0


def test_a_forked_child_works_alone_instead_of_hanging() -> None:
    theta, gradient = [torch.zeros(100_000)], [torch.ones(100_000)]
    m = [torch.zeros(100_000)]
    launcher = k.prepare(k.function("add", k.theta, k.g), {"theta": theta, "m": m}, torch.float32)
    torch.set_num_threads(2)
    launcher.launch({"g": gradient}, (), (), 1.0)  # the workers exist from here on

    def work() -> None:
        launcher.launch({"g": gradient}, (), (), 1.0)
        assert theta[0].tolist() == [2.0] * 100_000

    assert exit_code(in_child(work)) == 0


def test_wrong_counts_are_refused_before_anything_is_touched() -> None:
    theta, m = [torch.zeros(10)], [torch.zeros(10)]
    launcher = k.prepare(k.function("add", k.theta, k.g), {"theta": theta, "m": m}, torch.float32)
    with pytest.raises(ValueError):
        launcher.launch({"g": [torch.ones(10), torch.ones(10)]}, (), (), 1.0)
    with pytest.raises(ValueError):
        launcher.launch({"g": [torch.ones(10)]}, (1.0,), (), 1.0)
    assert torch.equal(theta[0], torch.zeros(10))


def test_what_native_code_cannot_do_is_said() -> None:
    kernel = k.function("add", k.theta, k.g)
    with pytest.raises(BackendUnavailable, match="int32"):
        k.prepare(kernel, {"theta": [torch.zeros(3, dtype=torch.int32)], "m": [torch.zeros(3)]}, torch.float32)
    with pytest.raises(BackendUnavailable, match="CPU"):
        k.prepare(kernel, {"theta": [torch.zeros(3, device="meta")], "m": [torch.zeros(3)]}, torch.float32)


# --- memory -------------------------------------------------------------------------------------------------------------


def covered(table: ChunkTable, sizes: Sequence[int]) -> bool:
    """Whether the chunks are every element, once and in order."""
    ends = [0] * len(sizes)
    for c in range(len(table)):
        if table.offset[c] != ends[table.tensor[c]]:
            return False
        ends[table.tensor[c]] += table.begin[c + 1] - table.begin[c]
    return ends == list(sizes)


@pytest.mark.parametrize(
    "sizes",
    [
        [64 * 64] * 500 + [64] * 500,
        [0, 1, 4096, 4097, 0, 123_456],
        [4096 * 11_008] * 22 + [1] * 500,  # 1e9 elements
        [70_000_000_000, 5],  # more than 2^32 in one tensor
    ],
)
def test_the_table_of_chunks_stays_small_for_every_model(sizes: list[int]) -> None:
    table = cut(sizes)
    assert covered(table, sizes)
    assert table.nbytes < 2**20


def peak_kib() -> int:
    """The largest resident memory of this process since it was last reset."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(row.split()[1]) for row in file if row.startswith("VmHWM"))


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak of memory can be reset on Linux only")
def test_a_step_allocates_nothing_per_element() -> None:
    n = 4_000_000
    theta, m, v, g = (torch.ones(n) for _ in range(4))
    launcher = k.prepare(k.adamw(), {"theta": [theta], "m": [m], "v": [v]}, torch.float32, amsgrad=False)
    launcher.launch({"g": [g]}, k.adamw_scalars(1), (), 1.0)
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
    before = peak_kib()
    for t in range(2, 5):
        launcher.launch({"g": [g]}, k.adamw_scalars(t), (), 1.0)
    after = peak_kib()
    temporary = torch.ones(n)  # 16 MB: the gauge must show it
    assert peak_kib() - after > 8_000
    del temporary
    assert after - before < 1024


@pytest.mark.slow
def test_tensors_of_more_than_2_31_elements() -> None:
    code = """
import torch
from optc.compiler.plan import Kernel
from tests.backends import native_kernels as k
from tests.backends.native_kernels import apply
from tests.backends.processes import exit_code, in_child
n = 2**31 + 5000
theta = torch.zeros(n, dtype=torch.bfloat16)
kernel = Kernel("fill", (k.stream(k.theta),), (), (), (), (k.store(k.theta, k.op("add", k.theta, k.number(1))),))
k.prepare(kernel, {"theta": [theta]}, torch.bfloat16).launch({}, (), (), 1.0)
assert bool((theta[:1000] == 1).all()) and bool((theta[2**31 - 1000:] == 1).all())
"""
    subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=120, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    )
