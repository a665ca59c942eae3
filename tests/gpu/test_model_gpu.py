"""Rows, columns and numbers of the whole model on a GPU: numbers, capture, launches, several devices."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.gpu.test_triton_gpu import give_gradients, launched, parameters, replay_beside

pytestmark = pytest.mark.gpu
SHAPES: list[tuple[int, ...]] = [(257, 33), (1024,), (), (0,), (7,), (300, 1000), (2, 3, 70, 5)]
MODEL_WIDE = ("Prodigy", "LionProdigy", "DAdaptAdam", "DAdaptSGD", "DAdaptAdaGrad", "AvaGrad", "AdGD")
ROWS = ("Adafactor", "TorchAdafactor", "CAME", "AdaLomo", "Adalite", "AdamMini", "SM3", "AdamP")


def made(name: str, params: list[torch.nn.Parameter], backend: str = "triton", **options: Any) -> Any:
    """Two groups with equal hypers."""
    import optc.generated

    groups = [{"params": params[:2]}, {"params": params[2:]}]
    return getattr(optc.generated, name)(groups, backend=backend, **options)


def numbers(optimizer: Any) -> dict[str, torch.Tensor]:
    first = optimizer.param_groups[0]
    return {state.key: first[state.key] for state in optimizer.schema.of_model if state.key in first}


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("name", [*MODEL_WIDE, *ROWS])
def test_numbers_are_those_of_float64(name: str, capturable: bool) -> None:
    mine = parameters(torch.float32, SHAPES)
    exact = [torch.nn.Parameter(p.detach().double()) for p in mine]
    ours, theirs = made(name, mine, capturable=capturable), made(name, exact, "torch")
    for _ in range(5):
        give_gradients(mine, exact)
        ours.step()
        theirs.step()
    for p, q in zip(mine, exact, strict=True):
        torch.testing.assert_close(p.double(), q, rtol=2e-5, atol=2e-5)
    for key, value in numbers(ours).items():
        torch.testing.assert_close(value, numbers(theirs)[key], rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("name", ["Prodigy", "DAdaptSGD", "AvaGrad", "CAME"])
def test_a_captured_step_replays_like_eager_ones(name: str) -> None:
    captured, eager = parameters(torch.float32, SHAPES), parameters(torch.float32, SHAPES)
    ours, theirs = made(name, captured, capturable=True), made(name, eager)
    replay_beside(ours, theirs, captured, eager)
    for p, q in zip(captured, eager, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(numbers(ours), numbers(theirs), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("name", ["Prodigy", "DAdaptAdam", "Adafactor"])
def test_launches_do_not_grow_and_nothing_waits(name: str, capturable: bool) -> None:
    counts = []
    for count in (6, 300):
        mine = parameters(torch.float32, [(17, 5)] * count)
        ours = made(name, mine, capturable=capturable)
        for _ in range(3):
            give_gradients(mine)
            ours.step()
        counts.append(len(launched(ours.step)))
    assert counts[0] == counts[1] > 0


def test_how_much_a_program_takes_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trees built by many programs and by few."""
    from optc.runtime import triton_reductions

    shapes: list[tuple[int, ...]] = [(3000, 1300), (100_000,), (5, 5)]
    for name in ("LAMB", "CAME"):
        found = []
        for memory in (1 << 20, 1 << 10):
            monkeypatch.setattr(triton_reductions, "left_for_partials", lambda *_, memory=memory: memory)
            mine = parameters(torch.float32, shapes)
            ours = made(name, mine)
            for seed in range(2):
                torch.manual_seed(seed)
                give_gradients(mine)
                ours.step()
            found.append(mine)
        assert all(torch.equal(p, q) for p, q in zip(*found, strict=True)), name


@pytest.mark.parametrize("name", ["LAMB", "Adafactor"])
def test_a_step_needs_less_than_a_mebibyte_beside_its_vectors(name: str) -> None:
    mine = parameters(torch.float32, [(4096, 4096)] * 8)
    ours = made(name, mine)
    for p in mine:
        p.grad = torch.ones_like(p)
    before = torch.cuda.memory_allocated()
    ours.step()
    torch.cuda.synchronize()
    states = sum(x.nbytes for slot in ours.state.values() for x in slot.values() if isinstance(x, torch.Tensor) and x.is_cuda)
    kept = torch.cuda.memory_allocated() - before - states
    schema = ours.schema.procedures[0].kernels[0]
    vectors = 8 * 8 * 4096 * (3 * schema.extents.count("row") + 2 * schema.extents.count("col"))
    assert kept < (1 << 20) + vectors


@pytest.mark.parametrize("name", ["Prodigy", "DAdaptSGD"])
@pytest.mark.parametrize("first", ["cpu", "cuda"])
def test_parameters_on_two_devices_share_the_numbers_of_the_model(name: str, first: str) -> None:
    """Each group where it is; the numbers are those of a model that lies in one place."""
    spread = parameters(torch.float32, SHAPES)
    exact = [torch.nn.Parameter(p.detach().double()) for p in spread]
    places = [first, "cuda" if first == "cpu" else "cpu"]
    spread = [torch.nn.Parameter(p.detach().to(places[i >= 2])) for i, p in enumerate(spread)]
    ours, theirs = made(name, spread, "auto"), made(name, exact, "torch")
    for seed in range(5):
        torch.manual_seed(seed)
        for p, q in zip(spread, exact, strict=True):
            q.grad = torch.randn(q.shape, device="cuda", dtype=torch.float64).float().double()
            p.grad = q.grad.to(p.device, torch.float32)
        ours.step()
        theirs.step()
    for p, q in zip(spread, exact, strict=True):
        torch.testing.assert_close(p.double().cuda(), q, rtol=2e-5, atol=2e-5)
    for key, value in numbers(ours).items():
        assert value.device.type == first
        torch.testing.assert_close(value.cuda(), numbers(theirs)[key], rtol=1e-5, atol=0.0)
