"""What only a GPU can show: numbers against torch.optim, graph capture, launches per step, no waiting for the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

pytestmark = pytest.mark.gpu

SHAPES = [(257, 33), (1024,), (), (0,), (7,), (300, 1000)]
REFERENCES: dict[str, tuple[Any, dict[str, Any]]] = {
    "Adam": (torch.optim.Adam, {"weight_decay": 0.1}),
    "AdamW": (torch.optim.AdamW, {"amsgrad": True}),
    "NAdam": (torch.optim.NAdam, {}),
    "RAdam": (torch.optim.RAdam, {}),
    "SGD": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
}
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-12, torch.bfloat16: 2.0**-6, torch.float16: 2.0**-9}


def parameters(dtype: torch.dtype, shapes: list[tuple[int, ...]] | None = None) -> list[torch.nn.Parameter]:
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(s, device="cuda").to(dtype)) for s in shapes or SHAPES]


def give_gradients(mine: list[torch.nn.Parameter], others: list[torch.nn.Parameter] | None = None) -> None:
    for i, p in enumerate(mine):
        p.grad = torch.randn(p.shape, device="cuda").to(p.dtype)
        if others is not None:
            others[i].grad = p.grad.to(others[i].dtype)


def optimizer(name: str, params: list[torch.nn.Parameter], **options: Any) -> Any:
    import optc.generated

    return getattr(optc.generated, name)(params, lr=1e-2, backend="triton", **options)


@contextmanager
def no_waiting() -> Iterator[None]:
    """Any wait for the device raises."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def replay_beside(ours: Any, theirs: Any, captured: list[torch.nn.Parameter], eager: list[torch.nn.Parameter]) -> None:
    """Eight steps of both with equal gradients: `ours` takes three eagerly and five as replays of a captured one."""
    give_gradients(captured, eager)
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            ours.step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ours.step()
    for _ in range(3):
        theirs.step()
    for _ in range(5):
        for p, q in zip(captured, eager, strict=True):
            fresh = torch.randn_like(q)
            assert p.grad is not None
            p.grad.copy_(fresh)
            q.grad = fresh
        graph.replay()
        theirs.step()
    torch.cuda.synchronize()


def launched(step: Callable[[], Any]) -> list[str]:
    """The kernels that a step launches, copies and fills aside; it raises where the step waits for the device."""
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as seen, no_waiting():
        step()
    torch.cuda.synchronize()
    on_device = [e for e in seen.events() if e.device_type.name == "CUDA" and not e.is_user_annotation]
    return [e.name for e in on_device if not e.name.startswith(("Memcpy", "Memset"))]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", REFERENCES)
def test_numbers_are_those_of_torch_in_float64(name: str, dtype: torch.dtype) -> None:
    reference, options = REFERENCES[name]
    mine = parameters(dtype)
    exact = [torch.nn.Parameter(p.detach().double()) for p in mine]
    ours, theirs = optimizer(name, mine, **options), reference(exact, lr=1e-2, **options)
    for _ in range(1 if dtype.itemsize == 2 else 8):
        give_gradients(mine, exact)
        ours.step()
        theirs.step()
    for p, q in zip(mine, exact, strict=True):
        torch.testing.assert_close(p.double(), q, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_unaligned_parameters_and_their_neighbours() -> None:
    store = torch.randn(4099, device="cuda")
    kept, theta = store.clone(), torch.nn.Parameter(store[3:4096])
    exact = torch.nn.Parameter(theta.detach().double())
    theta.grad = torch.randn_like(theta)
    exact.grad = theta.grad.double()
    optimizer("AdamW", [theta]).step()
    torch.optim.AdamW([exact], lr=1e-2).step()
    torch.testing.assert_close(theta.double(), exact, rtol=2e-6, atol=2e-6)
    assert torch.equal(store[:3], kept[:3])
    assert torch.equal(store[4096:], kept[4096:])


@pytest.mark.parametrize("name", ["AdamW", "NAdam", "SGD"])
def test_a_captured_step_replays_like_eager_ones(name: str) -> None:
    options = REFERENCES[name][1]
    captured, eager = parameters(torch.float32), parameters(torch.float32)
    ours, theirs = (optimizer(name, p, capturable=c, **options) for p, c in ((captured, True), (eager, False)))
    replay_beside(ours, theirs, captured, eager)
    for p, q in zip(captured, eager, strict=True):
        torch.testing.assert_close(p, q, rtol=3e-6, atol=3e-6)
        if p.numel():
            assert float(ours.state[p]["step"]) == 8.0


def test_eager_steps_after_a_replay_find_their_own_gradients() -> None:
    """A replay rewrites the tables it captured; they must not be the ones that eager steps trust."""
    mine, twin = parameters(torch.float32, [(513,)]), parameters(torch.float32, [(513,)])
    ours, theirs = optimizer("AdamW", mine, capturable=True), optimizer("AdamW", twin)
    give_gradients(mine, twin)
    static = mine[0].grad
    for _ in range(3):
        ours.step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ours.step()
    other = torch.randn_like(mine[0])
    for use_graph in (True, False, True, False, False):
        mine[0].grad = static if use_graph else other
        if use_graph:
            graph.replay()
        else:
            ours.step()
    for gradient in (static, static, static, static, other, static, other, other):
        twin[0].grad = gradient
        theirs.step()
    torch.testing.assert_close(mine[0], twin[0], rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize(("capturable", "kernels"), [(False, 1), (True, 2)])
def test_launches_do_not_grow_with_the_number_of_tensors(capturable: bool, kernels: int) -> None:
    for count in (3, 300):
        mine = parameters(torch.float32, [(17, 5)] * count)
        ours = optimizer("AdamW", mine, capturable=capturable)
        give_gradients(mine)
        for _ in range(3):
            ours.step()
        names = launched(ours.step)
        assert len(names) == kernels, names


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("capturable", [False, True])
def test_a_step_does_not_wait_for_the_device(capturable: bool, dtype: torch.dtype) -> None:
    mine = parameters(dtype)
    ours = optimizer("AdamW", mine, capturable=capturable)
    for _ in range(2):
        give_gradients(mine)
        ours.step()
    give_gradients(mine)
    with no_waiting():
        ours.step()


def test_a_skipped_step_changes_nothing() -> None:
    mine = parameters(torch.float32, [(100,)])
    ours = optimizer("AdamW", mine, capturable=True, amp=True)
    scaler = torch.amp.GradScaler("cuda", init_scale=8.0)
    for bad in (False, True, False):
        before = mine[0].detach().clone()
        mine[0].grad = torch.full_like(mine[0], float("inf") if bad else 8.0)
        scaler.scale(torch.zeros((), device="cuda"))
        scaler.step(ours)
        scaler.update()
        assert torch.equal(mine[0], before) == bad
    assert float(ours.state[mine[0]]["step"]) == 2.0


@pytest.mark.slow
def test_more_than_2_to_the_31_elements() -> None:
    n = 2**31 + 1000
    if torch.cuda.mem_get_info()[0] < 5 * 2 * n:
        pytest.skip("needs 22 GB of free memory")
    theta = torch.nn.Parameter(torch.zeros(n, device="cuda", dtype=torch.bfloat16))
    theta.grad = torch.zeros_like(theta)
    theta.grad[-3:] = 1.0
    optimizer("SGD", [theta]).step()
    assert theta.detach()[-5:].float().tolist() == pytest.approx([0.0, 0.0, -1e-2, -1e-2, -1e-2], rel=1e-2)
    assert not theta.detach()[: 2**20].any()
