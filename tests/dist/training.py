"""A small model trained on every engine, and saved and loaded between them; runs in every process."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import optc
from tests.dist import layouts
from tests.dist.layouts import OF_ANY_SIZE, mesh

ENGINES = ("plain", "ddp", "zero1", "stage1", "stage2", "stage3", "hsdp", "tensor")


class Net(nn.Module):
    """Blocks with uneven rows, a layer of one row, biases, and one that is large enough for codes.

    Processes add up gradients in another order than one process does, and optimizers that divide by their size magnify the last
    bits of small ones: what is compared with one process is in float64 by default.
    """

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self._dtype = dtype
        self.first = nn.Linear(8, 64)
        self.blocks = nn.ModuleList(nn.Linear(64, 64) for _ in range(2))
        self.wide = nn.Linear(64, 128)
        self.norm = nn.LayerNorm(128)
        self.odd = nn.Linear(128, 5)
        self.last = nn.Linear(5, 1)
        self.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x.double() if self._dtype == torch.float64 else x))
        for block in self.blocks:
            x = x + torch.tanh(block(x))
        x = self.odd(self.norm(self.wide(x)))
        found: Tensor = self.last(torch.tanh(x)).squeeze(-1)
        return found


class SmallNet(nn.Module):
    """Quick to train, in float32: a layer of one row, one of uneven rows, biases, and one that is large enough for codes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 64)
        self.blocks = nn.ModuleList([nn.Linear(64, 64)])
        self.odd = nn.Linear(64, 5)
        self.last = nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(torch.tanh(self.odd(torch.tanh(self.blocks[0](torch.tanh(self.first(x)))))))
        return found


class NetInBlocks(nn.Module):
    """However it is divided, parts are whole blocks of codes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 1024)
        self.last = nn.Linear(1024, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(torch.tanh(self.first(x)))
        return found


def built(engine: str, name: str, net: Callable[[], nn.Module] = Net, **hypers: Any) -> tuple[nn.Module, Any]:
    """A model and its optimizer; the same weights everywhere."""
    torch.manual_seed(0)
    model = net()
    if engine.startswith("stage"):
        optc.dist.shard(model, stage=int(engine[-1]))  # type: ignore[arg-type]
    elif engine == "hsdp":
        optc.dist.shard(model, stage=3, mesh=mesh(dist.get_world_size(), "replicas", "shards"))
    elif engine == "tensor":
        _in_both_ways(model, in_blocks="bit" in name)
    optimizer = made(name, model, **hypers)
    if engine in ("ddp", "zero1"):
        model = DistributedDataParallel(model)
    if engine == "zero1":
        optc.dist.Zero1(optimizer)
    return model, optimizer


def made(name: str, model: nn.Module, **options: Any) -> Any:
    """The optimizer of this name; of two, such as "LAMB | AdamW", the first one for small matrices, the other for the rest."""
    first, _, second = name.partition(" | ")
    if not second:
        return optc.create(name, model, **options)
    rules = [(lambda _, p: p.ndim == 2 and p.numel() < 8192, {"type": first})]
    return optc.route(model, rules, otherwise={"type": second}, **options)


def _in_both_ways(model: nn.Module, *, in_blocks: bool) -> None:
    """FSDP2 over tensor parallelism, by columns and by rows; with `in_blocks` none is parted inside of blocks of codes."""
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    both = mesh(dist.get_world_size(), "data", "tensor")
    by_columns, by_rows = ColwiseParallel(output_layouts=Replicate()), RowwiseParallel(input_layouts=Replicate())
    plan = {"first": by_columns, "blocks.0": by_columns, "odd": by_rows} | ({} if in_blocks else {"blocks.1": by_rows})
    parallelize_module(model, both["tensor"], {name: way for name, way in plan.items() if name in dict(model.named_modules())})
    optc.dist.shard(model, stage=3, mesh=both["data"])


def batch(step: int, rank: int, size: int) -> Tensor:
    """This process's part of a batch of 8."""
    return torch.randn(8, 8, generator=torch.Generator().manual_seed(step))[rank::size]


def train(
    model: nn.Module,
    optimizer: Any,
    steps: range,
    *,
    alone: bool = False,
    accumulate: int = 1,
    scale: Callable[[Tensor], Tensor] = lambda loss: loss,
    scaler: torch.amp.GradScaler | None = None,
    spoil: Callable[[int], None] = lambda step: None,
) -> list[float]:
    """Steps on batches that are divided among the processes, unless each has all of them; the losses of what is here.

    `spoil` may do something to the gradients of a step.
    """
    scale = scale if scaler is None else scaler.scale
    rank, size = (0, 1) if alone else (dist.get_rank(), dist.get_world_size())
    if not alone and any(
        "tensor" in (p.device_mesh.mesh_dim_names or ()) for p in model.parameters() if hasattr(p, "device_mesh")
    ):
        rank, size = rank // (size // 2), 2  # those of one tensor-parallel group have the same batch
    losses = []
    for step in steps:
        x = batch(step, rank, size)
        for part, piece in enumerate(x.chunk(accumulate)):
            optc.dist.microbatch(model, part == accumulate - 1)
            loss = model(piece).square().mean() / accumulate
            torch.autograd.backward(scale(loss))
            losses.append(loss.item())
        spoil(step)
        if scaler is not None:
            scaler.step(optimizer)
            scaler.update()
        else:
            _stepped(optimizer)
        optimizer.zero_grad()
    return losses


def whole(model: nn.Module) -> dict[str, Tensor]:
    """All parameters, whole."""
    found = {}
    for name, p in model.named_parameters():
        found[name.removeprefix("module.")] = layouts.whole(p).detach().clone()
    return found


def difference(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """The largest, over all parameters; infinite where one is NaN."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().nan_to_num(nan=torch.inf).max()) for name in one)


def trained(rank: int, engine: str, name: str, accumulate: int = 1, **hypers: Any) -> float:
    """How far ten steps are from those of one process on the whole batch."""
    model, optimizer = built(engine, name, **hypers)
    train(model, optimizer, range(10), accumulate=accumulate)
    reference, alone = built("plain", name, **hypers)
    train(reference, alone, range(10), alone=True)
    return difference(whole(model), whole(reference))


def beside_whole(rank: int, engine: str, names: Sequence[str], steps: int) -> dict[str, float | str]:
    """For each optimizer how far training on an engine is from steps on whole parameters with the gradients of that training.

    One process has the whole parameters.
    """
    found: dict[str, float | str] = {}
    for name in names:
        net = NetInBlocks if name in OF_ANY_SIZE else SmallNet
        model, optimizer = built(engine, name, net)
        reference, alone = built("plain", name, net)
        for step in range(steps):
            train(model, optimizer, range(step, step + 1), spoil=partial(_give_gradients, model, reference))
            if rank == 0:
                _stepped(alone)
        every = whole(model)
        found[name] = difference(every, whole(reference)) if rank == 0 else 0.0
    return found


def _give_gradients(model: nn.Module, reference: nn.Module, step: int) -> None:
    """The whole gradients of a model to another one."""
    for p, q in zip(_inner(model).parameters(), reference.parameters(), strict=True):
        assert p.grad is not None
        q.grad = layouts.whole(p.grad).detach().clone()


def _stepped(optimizer: Any) -> None:
    """A step, with a loss where one is read."""
    if any(schema.reads_loss for schema, _ in optimizer._schemas()):
        optimizer.step(lambda: torch.tensor(0.5))
    else:
        optimizer.step()


def saved(rank: int, engine: str, name: str, path: Path) -> dict[str, Tensor]:
    """Three steps, a save, three more; the parameters then."""
    model, optimizer = built(engine, name)
    train(model, optimizer, range(3))
    optc.dist.save(path, optimizer, _inner(model))
    train(model, optimizer, range(3, 6))
    return whole(model)


def saved_alone(name: str, path: Path) -> dict[str, Tensor]:
    """The same in a process without a group."""
    model, optimizer = built("plain", name)
    train(model, optimizer, range(3), alone=True)
    optc.dist.save(path, optimizer, model)
    train(model, optimizer, range(3, 6), alone=True)
    return whole(model)


def resumed(rank: int, engine: str, name: str, path: Path) -> dict[str, Tensor]:
    """What was saved, and three more steps; the parameters then."""
    model, optimizer = built(engine, name)
    optc.dist.load(path, optimizer, _inner(model))
    train(model, optimizer, range(3, 6))
    return whole(model)


def resumed_alone(engine: str, name: str, path: Path) -> dict[str, Tensor]:
    """The same in a process without a group."""
    model, optimizer = built("plain", name)
    optc.dist.load(path, optimizer, model)
    train(model, optimizer, range(3, 6), alone=True)
    return whole(model)


def whole_state(rank: int, engine: str, name: str, path: Path, load: bool) -> list[Any]:
    """The state, whole, that was saved after three steps, or what is loaded of it."""
    model, optimizer = built(engine, name)
    if load:
        optc.dist.load(path, optimizer, _inner(model))
    else:
        train(model, optimizer, range(3))
        optc.dist.save(path, optimizer, _inner(model))
    packed = optc.dist.full_state_dict(optimizer)
    return [packed["state"], [{k: v for k, v in g.items() if k != "params"} for g in packed["param_groups"]]]


def _inner(model: nn.Module) -> nn.Module:
    return model.module if isinstance(model, DistributedDataParallel) else model


def converted(rank: int, path: Path) -> tuple[list[Any], str]:
    """States of numbers, whole, as others that stand for them: divided and not; and what is said where they are in parts."""
    model, optimizer = built("zero1", "AdamW")
    train(model, optimizer, range(3))
    packed, found = optc.dist.full_state_dict(optimizer), []
    for engine in ("zero1", "plain"):
        _, other = built(engine, "AdamWFactored")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # which say that
            other.load_state_dict(packed)
        found.append(optc.dist.full_state_dict(other)["state"])
    optc.dist.save(path, optimizer)
    _, last = built("zero1", "AdamWFactored")
    try:
        optc.dist.load(path, last)
    except (ValueError, RuntimeError) as error:
        return found, str(error)
    return found, ""
