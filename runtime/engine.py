"""FSDP2 set up as ZeRO stage 1, 2 or 3. It owns parameters and gradients; optimizers work on the parts that it makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import chain
from typing import Any, Literal, TypeAlias
from weakref import WeakKeyDictionary, ref

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

Stage: TypeAlias = Literal[1, 2, 3]
Blocks: TypeAlias = Callable[[str, nn.Module], bool] | Sequence[type[nn.Module]] | None

_STAGE = "_optc_stage"
_WAITS = "_optc_waits"
_GATHERED: WeakKeyDictionary[nn.Module, frozenset[int]] = WeakKeyDictionary()
"""Models whose parameters stay gathered after a forward pass, with those that optimizers know: gathered ones are others."""

_REPLACED: dict[int, ref[Any]] = {}
"""Parameters, by identity, that are no longer a model's; those that somebody has still."""


def shard(
    model: nn.Module,
    stage: Stage = 3,
    *,
    mesh: Any = None,
    precision: Any = None,
    offload: bool = False,
    blocks: Blocks = None,
) -> nn.Module:
    """Divides a model's parameters, gradients and optimizer state among processes, by FSDP2; returns the model.

        model = optc.dist.shard(model, stage=3, precision="bf16")
        optimizer = optc.create("AdamW", model, lr=3e-4)            # after: the parameters are new ones

    `stage`: 1 divides the optimizer's state and gathers parameters once a step, 2 gradients, too, 3 parameters as well, which
    are gathered block by block in the forward and in the backward pass. (Between steps all stages keep parameters divided: what
    is gathered still after a step, as by a forward pass to log a sample, is let go.)
    With several backward passes per step call `optc.dist.microbatch` before each: stage 1 then talks in the last one only.

    `mesh`: a DeviceMesh of one dimension, or of two to keep replicas along the first (HSDP); all processes, if it is None.
    `precision`: "bf16" computes in bfloat16 and adds gradients up in float32, with parameters and states in float32; or a
    MixedPrecisionPolicy. `offload` keeps parameters, gradients and states in the CPU's memory. `blocks` are gathered as one:
    classes of modules, or a function (name, module) -> bool; without it the modules of every ModuleList, or the children of the
    model.

    Raises ValueError for a stage, mesh or precision that there is not and for blocks that no module is, RuntimeError without a
    process group, ImportError before torch 2.6.
    """
    import torch.distributed as dist

    if stage not in (1, 2, 3):
        raise ValueError(f"stage = {stage!r}, but it must be 1, 2 or 3")
    if not dist.is_available() or not dist.is_initialized():
        raise RuntimeError("there is no process group: call torch.distributed.init_process_group first")
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

    if mesh is not None and not isinstance(mesh, DeviceMesh):
        raise ValueError(f"mesh = {mesh!r}, but it must be None or what torch.distributed.init_device_mesh makes")
    if not isinstance(offload, bool):
        raise ValueError(f"offload = {offload!r}, but it must be True or False")
    if precision == "bf16":
        precision = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    elif precision is None:
        precision = MixedPrecisionPolicy()
    elif not isinstance(precision, MixedPrecisionPolicy):
        raise ValueError(f"precision = {precision!r}, but it must be None, 'bf16' or a MixedPrecisionPolicy")
    policy = CPUOffloadPolicy(pin_memory=torch.cuda.is_available()) if offload else OffloadPolicy()
    options: dict[str, Any] = {"mesh": mesh, "mp_policy": precision, "offload_policy": policy}
    options["reshard_after_forward"] = stage == 3
    before = list(model.parameters())
    for module in _blocks(model, blocks):
        fully_shard(module, **options)
    fully_shard(model, **options)
    setattr(model, _STAGE, stage)
    now = frozenset(map(id, model.parameters()))
    if stage != 3:
        _GATHERED[model] = now
    for p in before:
        if id(p) not in now:
            _REPLACED[id(p)] = ref(p, partial(_forget, id(p)))
    _watch_steps()
    return model


def _forget(replaced: int, _: ref[Any]) -> None:
    _REPLACED.pop(replaced, None)


@cache
def _watch_steps() -> None:
    """From now on, every step of an optimizer begins with `_require_gradients` and ends with `_let_go`."""
    register_optimizer_step_pre_hook(_require_gradients)
    register_optimizer_step_post_hook(_let_go)


def _require_gradients(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Raises RuntimeError for a step that would find none: on parameters from before, and before gradients are added up."""
    waiting = [_GATHERED[model] for model in _GATHERED if getattr(model, _WAITS, False)]
    if not waiting and not _REPLACED:
        return
    given = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not given.isdisjoint(_REPLACED):
        raise RuntimeError(
            "this optimizer has parameters that optc.dist.shard has replaced, which get no gradients: make it after shard"
        )
    if not given.isdisjoint(chain(*waiting)):
        raise RuntimeError(
            "the gradients are not added up over the processes yet: call optc.dist.microbatch(model, last=True) "
            "before the last backward pass of a step"
        )


def _let_go(*_: Any) -> None:
    """Gathered parameters are copies, which a step does not update: FSDP2 would use the old values in the next forward pass."""
    from torch.distributed.fsdp import FSDPModule

    for model in _GATHERED:
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def microbatch(model: nn.Module, last: bool) -> None:
    """Tells a model of `shard` whether the coming backward pass is the last one before a step; call it before the forward pass.

    Under stage 1 gradients are added up whole until then, and parameters stay gathered; others need not know. A step before
    that raises RuntimeError.
    """
    if getattr(model, _STAGE, None) == 1:
        setattr(model, _WAITS, not last)
        model.set_requires_gradient_sync(last)  # type: ignore[operator]
        model.set_reshard_after_backward(last)  # type: ignore[operator]


def _blocks(model: nn.Module, blocks: Blocks) -> list[nn.Module]:
    """The modules whose parameters are gathered together, without the model itself. Raises ValueError where there are none."""
    if blocks is not None:
        chosen = _by_class(blocks) if not callable(blocks) else blocks
        found = [module for name, module in model.named_modules() if module is not model and chosen(name, module)]
        if not found:
            raise ValueError(f"no module of this model is one of the blocks {blocks!r}")
        return found
    listed = [child for module in model.modules() if isinstance(module, nn.ModuleList) for child in module]
    return [module for module in listed or model.children() if next(module.parameters(), None) is not None]


def _by_class(blocks: Sequence[type[nn.Module]]) -> Callable[[str, nn.Module], bool]:
    return lambda name, module: isinstance(module, tuple(blocks))
