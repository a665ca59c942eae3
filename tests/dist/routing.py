"""Several optimizers in one, on divided parameters; runs in every process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

import optc
from optc.runtime.communication import of_optimizer
from tests.dist.counting import counted
from tests.dist.faults import refused
from tests.dist.features import both, plain_step
from tests.dist.training import batch, built, difference, made, train, whole

CLIP = "clip_global_norm(max_norm = 0.1)"
CLIPPED = f"LAMB + {CLIP} | AdamW + {CLIP}"


def trained(rank: int, engine: str, name: str) -> float:
    """How far six steps are from those of one process with the whole batch."""
    return both(rank, engine, lambda model: made(name, model), plain_step)


def bounded_as_by_torch(rank: int, engine: str) -> tuple[float, float, float]:
    """How far parameters are from those of optimizers that torch bounds before; the last norms, ours and torch's."""
    model, optimizer = built(engine, CLIPPED)
    other, reference = built("plain", "LAMB | AdamW")
    expected = torch.zeros(())
    for step in range(4):
        plain_step(model, optimizer, step, rank, 2)
        other(batch(step, 0, 1)).square().mean().backward()
        expected = nn.utils.clip_grad_norm_(other.parameters(), 0.1)
        reference.step()
        reference.zero_grad()
    return difference(whole(model), whole(other)), float(optimizer.gradient_norm), float(expected)


def joined_later(rank: int) -> float:
    """Under ZeRO 1 a group of a new type joins, and another leaves."""

    def make(model: nn.Module) -> Any:
        named = dict(model.named_parameters())
        late = [("odd.weight", named.pop("odd.weight"))]
        optimizer: Any = made("LAMB | AdamW", list(named.items()))  # type: ignore[arg-type]
        optimizer.late = late
        return optimizer

    def body(model: nn.Module, optimizer: Any, step: int, place: int, size: int) -> None:
        if step == 2:
            optimizer.add_param_group({"params": optimizer.late, "type": "Adafactor", "lr": 1e-3})
        if step == 4:
            optimizer.forget("last.bias")
        plain_step(model, optimizer, step, place, size)

    return both(rank, "zero1", make, body)


def cut_after_steps(rank: int, name: str) -> float:
    """ZeRO 1 for an optimizer that has a state already."""
    found = []
    for cut in (True, False):
        model, optimizer = built("plain", name)
        for step in range(4):
            if step == 2 and cut:
                optc.dist.Zero1(optimizer)
            model(batch(step, 0, 1)).square().mean().backward()  # all have the whole batch
            optimizer.step()
            optimizer.zero_grad()
        found.append(whole(model))
    return difference(*found)


def state_elements(rank: int, name: str) -> tuple[int, int]:
    """How many numbers of the state are here, and in one process."""
    counts = []
    for engine in ("zero1", "plain"):
        model, optimizer = built(engine, name)
        train(model, optimizer, range(1))
        counts.append(sum(x.numel() for slot in optimizer.state.values() for x in slot.values() if x.ndim))
    return counts[0], counts[1]


def told_and_sent(rank: int, engine: str, name: str) -> tuple[list[int], list[int]]:
    """Bytes of the messages that are told of a step, and of those that are sent."""
    model, optimizer = built(engine, name)
    train(model, optimizer, range(1))
    model(batch(1, rank, 2)).square().mean().backward()
    with counted() as sent:
        optimizer.step()
    return sorted(message.nbytes for message in of_optimizer(optimizer)), sorted(n for _, n in sent)


def saved_and_full(rank: int, engine: str, path: Path) -> bool:
    """Whether a state dict of whole tensors gives each process what it had."""
    model, optimizer = built(engine, "LAMB | AdamW8bit")
    train(model, optimizer, range(2))
    other, again = built(engine, "LAMB | AdamW8bit")
    again.load_state_dict(optc.dist.full_state_dict(optimizer))
    other.load_state_dict(model.state_dict())
    for one, its in ((model, optimizer), (other, again)):
        train(one, its, range(2, 4))
    return difference(whole(model), whole(other)) == 0


def compared(rank: int) -> list[str]:
    """One process has another hyper of the second optimizer, then another optimizer: what each of some steps raises."""
    said = []
    model, optimizer = built("stage3", "LAMB | AdamW")
    optc.dist.compare(optimizer, 1)
    for step in range(2):
        if rank == 1 and step == 1:
            optimizer.param_groups[1]["lr"] = 0.5
        model(batch(step, rank, 2)).square().mean().backward()
        said.append(refused(optimizer.step))
    model, optimizer = built("plain", "LAMB | AdamW" if rank == 0 else "LAMB | Lion")
    optc.dist.compare(optimizer, 1)
    return [*said, refused(optimizer.step)]


def not_finite(rank: int, engine: str, policy: str) -> tuple[str, bool, float]:
    """A gradient that is inf in one process: what is raised, whether it was skipped, how far parameters moved."""
    model, optimizer = built(engine, CLIPPED, nonfinite=policy)
    train(model, optimizer, range(1))
    before = whole(model)
    model(batch(1, rank, 2)).square().mean().backward()
    gradients: list[Any] = [p.grad for p in model.parameters()]
    if rank == 1 or engine == "zero1":
        here = getattr(gradients[0], "_local_tensor", gradients[0])
        here.view(-1)[-1] = torch.inf
    said = refused(optimizer.step)
    return said, bool(optimizer.last_step_skipped), difference(before, whole(model))


def scaled(rank: int, engine: str, own: bool) -> list[Any]:
    """An optc.LossScale or a GradScaler where one process's part overflows: whether each step moved anything, and the scale."""
    scale = optc.LossScale(8.0) if own else None
    model, optimizer = built(engine, CLIPPED, **({"loss_scale": scale} if own else {"amp": True}))
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    found: list[Any] = []
    for step in range(3):
        before = whole(model)
        loss = model(batch(step, rank, 2)).square().mean()
        torch.autograd.backward(scaler.scale(loss) if scale is None else scale(loss))
        if step == 1 and (rank == 1 or engine == "zero1"):
            gradient: Any = next(iter(model.parameters())).grad
            getattr(gradient, "_local_tensor", gradient).view(-1)[-1] = torch.inf
        if scale is None:
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step()
        optimizer.zero_grad()
        found.append((difference(before, whole(model)) > 0, scaler.get_scale() if scale is None else scale.value))
    return found


def released(rank: int) -> tuple[float, list[str]]:
    """Updates in the backward pass of FSDP2 beside those after it; what is said where that cannot be."""
    found = []
    for release in (True, False):
        model, optimizer = built("stage3", "Lion | AdamW")
        if release:
            optc.release(optimizer)
        train(model, optimizer, range(4))
        found.append(whole(model))
    cases = [("stage3", "LAMB | AdamW"), ("zero1", "Lion | AdamW")]
    return difference(*found), [refused(lambda case=case: optc.release(built(*case)[1])) for case in cases]  # type: ignore[misc]
