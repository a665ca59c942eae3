"""States of every p-th element: their shapes, checkpoints, a p that changes, memory orders, and bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import optc
from optc.compiler.interpret import Oracle
from optc.compiler.pipeline import check_source
from optc.dsl.source import Source
from optc.runtime import native
from optc.runtime.optimizer import Optimizer

SPEC = """
optimizer Picked:
    hyper:
        lr = 0.1 in [0, inf)
        p = 3 in int [1, inf)
        β = 0.9 in [0, 1)
    state:
        m = 0
        s = pick(g, p)^2 per pick(p) as sums
        x0 = pick(θ, p) per pick(p)
    step:
        m <- ema(m, g, β)
        s <- ema(s, pick(m, p)^2, β)
        w = norm1(s)/(1 + max(|x0 - pick(θ, p)|)) + mean(s)
        θ <- θ - lr*w*m/(1 + w)
"""
ENTRIES = """
optimizer Entered:
    hyper: lr = 0.1 in [0, inf); p = 3 in int [1, inf)
    state: s = 0 per pick(p); n = 0 per tensor
    step:
        n <- n + mean(s)
        θ <- θ - lr*(1 + n)*g
    entry refresh(z per elem):
        s <- 0.5*s + pick(z, p)^2*max(s + 1)
    entry halve(z per elem):
        if max(|z|) > 0: s <- s/2 + 1
"""
SHAPES = ((4, 5), (7,), (), (0,), (2, 3, 4))


def optimizer_of(shapes: tuple[tuple[int, ...], ...] = SHAPES, **arguments: Any) -> Optimizer:
    torch.manual_seed(0)
    made: Optimizer = optc.compile(SPEC)([torch.nn.Parameter(torch.randn(shape)) for shape in shapes], **arguments)
    return made


def parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def step(optimizer: Optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in parameters(optimizer):
        p.grad = torch.randn(p.shape, generator=generator)
    optimizer.step()


@pytest.mark.parametrize("backend", ["torch", "native", "triton"])
@pytest.mark.parametrize("p", [1, 3, 1000])
def test_shapes_and_first_values(backend: str, p: int) -> None:
    optimizer = optimizer_of(backend=backend, p=p)
    starts = [theta.detach().clone() for theta in parameters(optimizer)]
    step(optimizer, 1)
    for theta, start in zip(parameters(optimizer), starts, strict=True):
        state = optimizer.state[theta]
        assert state["sums"].shape == state["x0"].shape == (-(-theta.numel() // p),)
        assert state["m"].shape == theta.shape
        assert torch.equal(state["x0"], start.flatten()[::p])


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_another_p_is_refused_and_the_old_one_still_works(backend: str) -> None:
    optimizer, untouched = optimizer_of(backend=backend), optimizer_of(backend=backend)
    step(optimizer, 1)
    step(untouched, 1)
    for wrong in (4, 1):
        optimizer.param_groups[0]["p"] = wrong
        with pytest.raises(
            ValueError, match=rf"p was 3 when the states of picked elements were made, and cannot become {wrong}"
        ):
            step(optimizer, 2)
    optimizer.param_groups[0]["p"] = 3
    step(optimizer, 2)
    step(untouched, 2)
    assert all(map(torch.equal, parameters(optimizer), parameters(untouched)))


def test_p_may_change_before_the_first_step_and_differ_between_groups() -> None:
    optimizer = optimizer_of(((5,),))
    optimizer.param_groups[0]["p"] = 2
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(5))], "p": 4})
    step(optimizer, 1)
    assert [optimizer.state[p]["sums"].numel() for p in parameters(optimizer)] == [3, 2]


def test_checkpoints_keep_every_bit_and_say_what_does_not_fit() -> None:
    optimizer, resumed = optimizer_of(), optimizer_of()
    for seed in (1, 2):
        step(optimizer, seed)
    with torch.no_grad():
        for old, new in zip(parameters(optimizer), parameters(resumed), strict=True):
            new.copy_(old)
    resumed.load_state_dict(optimizer.state_dict())
    for one in (optimizer, resumed):
        step(one, 3)
    assert all(map(torch.equal, parameters(optimizer), parameters(resumed)))
    saved = optimizer.state_dict()
    saved["param_groups"][0]["p"] = 2
    with pytest.raises(
        ValueError, match=r"parameter 0: 'sums' must be a tensor of shape \(10,\) \(every 2-th element\), not a tensor"
    ):
        optimizer_of().load_state_dict(saved)


def test_where_all_elements_are_picked_their_shape_may_be_the_parameters() -> None:
    optimizer = optimizer_of(((4, 5),), p=1)
    step(optimizer, 1)
    saved = optimizer.state_dict()
    expected = saved["state"][0]["sums"].clone()
    saved["state"][0]["sums"] = expected.reshape(4, 5)
    resumed = optimizer_of(((4, 5),), p=1)
    resumed.load_state_dict(saved)
    assert torch.equal(resumed.state[parameters(resumed)[0]]["sums"], expected)


def test_a_state_of_another_length_is_refused() -> None:
    optimizer = optimizer_of(((20,),))
    step(optimizer, 1)
    optimizer.state[parameters(optimizer)[0]]["sums"] = torch.zeros(6)
    with pytest.raises(ValueError, match=r"state 'sums' has shape \(6,\), .* must have \(7,\) \(every 3-th element\)"):
        step(optimizer, 2)


@pytest.mark.parametrize("backend", ["torch", "native", "triton"])
def test_elements_are_counted_by_their_indices_not_by_memory(backend: str) -> None:
    ordered = optimizer_of(((6, 5),), backend=backend)
    theta = parameters(ordered)[0].detach().clone()
    transposed = optc.compile(SPEC)([torch.nn.Parameter(theta.t().contiguous().t())], backend=backend)
    for seed in (1, 2, 3):
        step(ordered, seed)
        step(transposed, seed)
    for a, b in zip(parameters(ordered), parameters(transposed), strict=True):
        assert torch.equal(a, b) and torch.equal(ordered.state[a]["sums"], transposed.state[b]["sums"])


@pytest.mark.parametrize("p", [1, 3, 11, 5000])
def test_native_bits_do_not_depend_on_chunks(p: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for most in (native.MOST_CHUNKS, 3):  # chunks of 4096 elements, and longer ones
        monkeypatch.setattr(native, "MOST_CHUNKS", most)
        optimizer = optimizer_of(((40_000,), (5,)), backend="native", p=p)
        for seed in (1, 2, 3):
            step(optimizer, seed)
        found.append([t for q in parameters(optimizer) for t in (q.detach(), optimizer.state[q]["sums"])])
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("backend", ["torch", "native", "triton"])
@pytest.mark.parametrize("p", [1, 3, 50])
def test_entries(backend: str, p: int) -> None:
    oracle, rng = Oracle(check_source(Source("<text>", ENTRIES)), {"p": p}), np.random.default_rng(p)
    shapes = ((7,), (4, 5), ())
    kept = oracle.new_parameters([rng.normal(size=shape) for shape in shapes])
    params = [torch.nn.Parameter(torch.tensor(one.theta)) for one in kept]
    optimizer = optc.compile(ENTRIES)(params, backend=backend, p=p)
    for _ in range(3):
        given = [np.asarray(rng.normal(size=shape)) for shape in shapes]
        for param, g in zip(params, given, strict=True):
            param.grad = torch.tensor(g)
        optimizer.step()
        oracle.step_together(kept, given)
        for entry in ("refresh", "halve"):
            getattr(optimizer, entry)([torch.tensor(z) for z in given])
            for one, z in zip(kept, given, strict=True):
                oracle.enter(entry, one, {"z": z})
    for param, one in zip(params, kept, strict=True):
        np.testing.assert_allclose(param.detach().numpy(), one.theta, rtol=1e-12)
        np.testing.assert_allclose(optimizer.state[param]["s"].numpy(), one.states["s"], rtol=1e-12)


def test_counting_on_the_device() -> None:
    counting, plain = (optimizer_of(backend="triton", capturable=capturable) for capturable in (True, False))
    for seed in (1, 2, 3):
        step(counting, seed)
        step(plain, seed)
    for a, b in zip(parameters(counting), parameters(plain), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
