"""`optc.dist.shard` with its options; runs in every process."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

import optc
from tests.dist.counting import counted
from tests.dist.training import Net, batch, built, difference, train, whole


def collectives(rank: int, stage: int, accumulate: int) -> dict[str, int]:
    """How often FSDP2 talks in a step of so many micro-batches, by the name of the collective."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(4)))
    optc.dist.shard(model, stage=stage)  # type: ignore[arg-type]
    optimizer = optc.create("AdamW", model)
    found: dict[str, int] = {}
    for step in range(2):
        with counted() as sent:
            for part in range(accumulate):
                optc.dist.microbatch(model, part == accumulate - 1)
                model(batch(step, rank, 2)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        found = {}
        for name, _ in sent:
            found[name] = found.get(name, 0) + 1
    return found


def looked_at_before_steps(rank: int, stage: int) -> float:
    """Training with a forward pass between backward pass and step, as to log a sample, beside that of one process."""
    found = []
    for alone in (False, True):
        torch.manual_seed(0)
        model = Net() if alone else optc.dist.shard(Net(), stage=stage)  # type: ignore[arg-type]
        optimizer = optc.create("AdamW", model, lr=1e-2)
        for step in range(4):
            model(batch(step, 0, 1) if alone else batch(step, rank, 2)).square().mean().backward()
            with torch.no_grad():
                model(batch(99, 0, 1))
            optimizer.step()
            optimizer.zero_grad()
        found.append(whole(model))
    return max(float((found[0][k] - found[1][k]).abs().max()) for k in found[0])


def stepped_too_early(rank: int) -> tuple[str, float]:
    """What a step says after a backward pass that was not the last one, and how far parameters have moved."""
    torch.manual_seed(0)
    model = optc.dist.shard(Net(), stage=1)
    optimizer = optc.create("AdamW", model, lr=1e-2)
    other = optc.create("AdamW", Net())
    before = whole(model)
    optc.dist.microbatch(model, last=False)
    model(batch(0, rank, 2)).square().mean().backward()
    other.step()
    try:
        optimizer.step()
        said = ""
    except RuntimeError as error:
        said = str(error)
    moved = max(float((before[k] - x).abs().max()) for k, x in whole(model).items())
    optc.dist.microbatch(model, last=True)
    model(batch(1, rank, 2)).square().mean().backward()
    optimizer.step()
    return said, moved


def made_too_early(rank: int) -> str:
    """What a step of an optimizer says that was made before its model was divided."""
    model = Net()
    optimizer = optc.create("AdamW", model)
    optc.dist.shard(model)
    model(batch(0, rank, 2)).square().mean().backward()
    try:
        optimizer.step()
        said = ""
    except RuntimeError as error:
        said = str(error)
    optc.create("AdamW", model).step()
    return said


def low_precision(rank: int) -> tuple[set[torch.dtype], set[torch.dtype], float]:
    """Dtypes of parameters and states under precision="bf16", and how far six steps are from float32."""
    found = []
    for precision in ("bf16", None):
        torch.manual_seed(0)
        model = optc.dist.shard(Net(torch.float32), precision=precision)
        optimizer = optc.create("LAMB", model)
        train(model, optimizer, range(6))
        found.append((model, optimizer))
    (model, optimizer), (other, _) = found
    dtypes = {x.dtype for slot in optimizer.state.values() for key, x in slot.items() if key != "step"}
    a, b = whole(model), whole(other)
    return {p.dtype for p in model.parameters()}, dtypes, max(float((a[k] - b[k]).abs().max()) for k in a)


def offloaded(rank: int) -> float:
    """Six steps with everything in the CPU's memory, beside those without."""
    found = []
    for offload in (True, False):
        torch.manual_seed(0)
        model = optc.dist.shard(Net(), offload=offload)
        optimizer = optc.create("Adafactor", model)
        train(model, optimizer, range(6))
        found.append(whole(model))
    return max(float((found[0][k] - found[1][k]).abs().max()) for k in found[0])


def blocks(rank: int) -> dict[str, list[str]]:
    """The modules that are gathered as one, by how they were asked for."""
    from torch.distributed.fsdp import FSDPModule

    def of(model: nn.Module) -> list[str]:
        return [name for name, module in model.named_modules() if isinstance(module, FSDPModule)]

    return {
        "lists": of(optc.dist.shard(Net())),
        "classes": of(optc.dist.shard(Net(), blocks=[nn.LayerNorm])),
        "function": of(optc.dist.shard(Net(), blocks=lambda name, module: name == "wide")),
        "children": of(optc.dist.shard(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)))),
    }


def refusals(rank: int) -> list[str]:
    """What wrong options raise."""
    wrong: list[dict[str, Any]] = [
        {"stage": 4},
        {"precision": "fp8"},
        {"blocks": [nn.Conv2d]},
        {"mesh": 3},
        {"offload": "cpu"},
    ]
    said = []
    for options in wrong:
        try:
            optc.dist.shard(Net(), **options)
        except ValueError as error:
            said.append(str(error))
    return said


def divided_twice(rank: int, name: str) -> tuple[list[str], float]:
    """What a second `Zero1` says, before a step and after it, and how far training is from that of one process."""
    model, optimizer = built("zero1", name)
    said = []
    for steps in (range(2), range(2, 4)):
        try:
            optc.dist.Zero1(optimizer)
        except ValueError as error:
            said.append(str(error))
        train(model, optimizer, steps)
    reference, alone = built("plain", name)
    train(reference, alone, range(4), alone=True)
    return said, difference(whole(model), whole(reference))


def zero1_refusals(rank: int) -> list[str]:
    """What `Zero1` says of parameters that it cannot cut, and leaves alone."""
    mesh = dist.device_mesh.init_device_mesh("cpu", (2,))
    placed = nn.Parameter(
        torch.distributed.tensor.distribute_tensor(torch.randn(4, 2), mesh, [torch.distributed.tensor.Shard(0)])
    )
    turned = nn.Parameter(torch.randn(4, 2).t())
    said = []
    for p in (placed, turned):
        optimizer = optc.create("AdamW", [p])
        try:
            optc.dist.Zero1(optimizer)
        except ValueError as error:
            said.append(str(error))
    assert isinstance(placed, DTensor)
    return said
