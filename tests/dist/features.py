"""What surrounds a step, on divided parameters; runs in every process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import optc
from tests.dist.training import batch, built, difference, whole


def _backward(model: nn.Module, step: int, rank: int, size: int) -> None:
    model(batch(step, rank, size)).square().mean().backward()


def both(rank: int, engine: str, make: Callable[[nn.Module], Any], body: Callable[..., None], steps: int = 6) -> float:
    """How far `steps` steps are from those of one process with the whole batch; `body` makes one."""
    found = []
    for kind, place, size in ((engine, rank, 2), ("plain", 0, 1)):
        model, _ = built(kind if kind != "zero1" else "plain", "SGD")
        optimizer = make(model)
        if kind == "zero1":
            model = nn.parallel.DistributedDataParallel(model)
            optc.dist.Zero1(optimizer)
        for step in range(steps):
            body(model, optimizer, step, place, size)
        found.append(whole(model))
    return difference(*found)


def plain_step(model: nn.Module, optimizer: Any, step: int, rank: int, size: int) -> None:
    _backward(model, step, rank, size)
    optimizer.step()
    optimizer.zero_grad()


def groups(rank: int, engine: str) -> float:
    """No decay on biases and norms, a schedule compiled in, and the norm of the whole gradient bounded."""

    def make(model: nn.Module) -> Any:
        return optc.create("LAMB + clip_global_norm(max_norm = 0.1) + cosine(T = 6)", optc.groups.no_decay(model, 0.1), lr=1e-2)

    return both(rank, engine, make, plain_step)


def clipped_by_group(rank: int, engine: str) -> float:
    """The norm of each group's gradient bounded."""

    def make(model: nn.Module) -> Any:
        return optc.create("AdamW + clip_group_norm(max_norm = 0.1)", optc.groups.no_decay(model, 0.1), lr=1e-2)

    return both(rank, engine, make, plain_step)


def scheduled(rank: int, engine: str) -> float:
    """A torch scheduler outside."""
    schedulers: dict[int, Any] = {}

    def body(model: nn.Module, optimizer: Any, step: int, place: int, size: int) -> None:
        if id(optimizer) not in schedulers:
            schedulers[id(optimizer)] = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=10)
        plain_step(model, optimizer, step, place, size)
        schedulers[id(optimizer)].step()

    return both(rank, engine, lambda model: optc.create("AdamW", model), body)


def routed(rank: int, engine: str) -> float:
    """Matrices by one optimizer, all else by another."""

    def make(model: nn.Module) -> Any:
        rules = [(lambda name, p: p.ndim == 2, {"type": "Adafactor", "lr": 1e-2})]
        return optc.route(model, rules, otherwise={"type": "LAMB", "lr": 1e-3})

    return both(rank, engine, make, plain_step)


def norm_of_torch(rank: int, engine: str) -> tuple[float, float]:
    """`gradient_norm` beside `torch.nn.utils.get_total_norm`, on divided gradients."""
    model, _ = built(engine, "SGD")
    optimizer = optc.create("AdamW + clip_global_norm", model)
    _backward(model, 0, rank, 2)
    expected = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    expected = expected.full_tensor() if hasattr(expected, "full_tensor") else expected
    optimizer.step()
    found = optimizer.gradient_norm
    assert found is not None
    return float(found), float(expected)


def released(rank: int, name: str, accumulate: int) -> tuple[float, int]:
    """Updates in the backward pass of FSDP2 beside those after it; gradients that are left."""
    found, left = [], 0
    for release in (True, False):
        model, optimizer = built("stage3", name)
        if release:
            optc.release(optimizer, accumulate=accumulate)
        for step in range(4):
            for part in range(accumulate):
                _backward(model, step * accumulate + part, rank, 2)
            left += sum(p.grad is not None for p in model.parameters()) if release else 0
            optimizer.step()
            optimizer.zero_grad()
        found.append(whole(model))
    return difference(*found), left


def refused_release(rank: int, engine: str, name: str) -> str:
    """What `optc.release` says of optimizers that tell other processes something."""
    _, optimizer = built(engine, name)
    try:
        optc.release(optimizer)
    except ValueError as error:
        return str(error)
    return ""


def added_later(rank: int, engine: str) -> float:
    """A layer that joins after two steps, and one that is frozen and forgotten."""

    def make(model: nn.Module) -> Any:
        named = dict(model.named_parameters())
        late = [named.pop("odd.weight")]
        optimizer: Any = optc.create("AdamW", list(named.items()))
        optimizer.late = late
        return optimizer

    def body(model: nn.Module, optimizer: Any, step: int, place: int, size: int) -> None:
        if step == 2:
            optimizer.add_param_group({"params": [("odd.weight", optimizer.late[0])], "lr": 1e-2})
        if step == 4:
            optimizer.forget("last.bias")
        plain_step(model, optimizer, step, place, size)

    return both(rank, engine, make, body)


def replaced(rank: int, name: str) -> float:
    """Parameters that FSDP2 divides once the optimizer has been made, as Accelerate does it."""
    from tests.dist.training import Net

    torch.manual_seed(0)
    model: nn.Module = Net()
    optimizer = optc.create(name, model)
    before = {id(p): name for name, p in model.named_parameters()}
    optc.dist.shard(model)
    after = dict(model.named_parameters())
    for group in optimizer.param_groups:
        group["params"] = [after[before[id(p)]] for p in group["params"]]
    for step in range(6):
        plain_step(model, optimizer, step, rank, 2)
    other, reference = built("plain", name)
    for step in range(6):
        plain_step(other, reference, step, 0, 1)
    return difference(whole(model), whole(other))


def entered(rank: int, engine: str, name: str) -> float:
    """An entry beside the step: what estimates the curvature, given in parts or, under ZeRO 1, whole."""

    def body(model: nn.Module, optimizer: Any, step: int, place: int, size: int) -> None:
        _backward(model, step, place, size)
        if step % 2 == 0:
            optimizer.update_hessian([1 + p.grad.detach().square() for p in model.parameters() if p.grad is not None])
        optimizer.step()
        optimizer.zero_grad()

    return both(rank, engine, lambda model: optc.create(name, model), body)
