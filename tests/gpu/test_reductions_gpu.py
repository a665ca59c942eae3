"""Kernels of several passes on a GPU: the numbers of the PyTorch code in float64, and no bit that depends on how they ran."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.gpu.test_triton_gpu import give_gradients, launched, optimizer, parameters

pytestmark = pytest.mark.gpu
SHAPES: list[tuple[int, ...]] = [(257, 33), (1024,), (), (0,), (7,), (300, 1000), (3, 70_001)]
NAMES = ("LAMB", "LARS", "NovoGrad", "StableAdamW", "FAdam", "CautiousAdamW", "OrthoAdamW")


def exact_copy(name: str, params: list[torch.nn.Parameter], **options: Any) -> tuple[Any, list[torch.nn.Parameter]]:
    """The same optimizer in float64, by the PyTorch code."""
    import optc.generated

    exact = [torch.nn.Parameter(p.detach().double()) for p in params]
    return getattr(optc.generated, name)(exact, lr=1e-2, backend="torch", **options), exact


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_numbers_are_those_of_float64(name: str, capturable: bool) -> None:
    mine = parameters(torch.float32, SHAPES)
    ours = optimizer(name, mine, capturable=capturable)
    theirs, exact = exact_copy(name, mine)
    for _ in range(6):
        give_gradients(mine, exact)
        ours.step()
        theirs.step()
    for p, q in zip(mine, exact, strict=True):
        torch.testing.assert_close(p.double(), q, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_batch_mates_and_alignment_change_no_bit(name: str) -> None:
    """The same tensor alone, among others, and three elements off alignment."""
    together = parameters(torch.float32, SHAPES)
    index = SHAPES.index((300, 1000))
    alone = [torch.nn.Parameter(together[index].detach().clone())]
    store = torch.empty(together[index].numel() + 3, device="cuda")
    store[3:] = together[index].detach().reshape(-1)
    shifted = [torch.nn.Parameter(store[3:].view(300, 1000))]
    three = [optimizer(name, params) for params in (together, alone, shifted)]
    for _ in range(4):
        give_gradients(together)
        alone[0].grad = together[index].grad
        shifted[0].grad = together[index].grad
        for one in three:
            one.step()
    assert torch.equal(together[index], alone[0])
    assert torch.equal(together[index], shifted[0])


def test_launches_do_not_grow_and_nothing_waits() -> None:
    counts = []
    for count in (3, 300):
        mine = parameters(torch.float32, [(17, 5)] * count)
        ours = optimizer("LAMB", mine)
        for _ in range(3):
            give_gradients(mine)
            ours.step()
        counts.append(len(launched(ours.step)))
    assert counts == [3, 3], "two passes, and a stage between them"


def test_a_captured_step_replays_like_eager_ones() -> None:
    captured, eager = parameters(torch.float32, SHAPES), parameters(torch.float32, SHAPES)
    ours, theirs = optimizer("NovoGrad", captured, capturable=True), optimizer("NovoGrad", eager)
    give_gradients(captured, eager)
    for _ in range(3):
        ours.step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ours.step()
    for _ in range(3):
        theirs.step()
    for _ in range(4):
        graph.replay()
        theirs.step()
    torch.cuda.synchronize()
    for p, q in zip(captured, eager, strict=True):
        torch.testing.assert_close(p, q, rtol=3e-6, atol=3e-6)


def test_nan_in_one_tensor_stays_there() -> None:
    clean, spoiled = parameters(torch.float32, SHAPES), parameters(torch.float32, SHAPES)
    one, other = optimizer("LAMB", clean), optimizer("LAMB", spoiled)
    give_gradients(clean, spoiled)
    assert spoiled[1].grad is not None
    spoiled[1].grad[5] = float("nan")
    one.step()
    other.step()
    for index, (p, q) in enumerate(zip(clean, spoiled, strict=True)):
        assert torch.equal(p, q) == (index != 1)
