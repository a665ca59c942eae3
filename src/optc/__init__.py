"""Optimizers for deep learning, compiled from math specs.

    from optc.generated import AdamW            # a shipped optimizer: a torch.optim.Optimizer
    optimizer = optc.create("adamw", model, lr=3e-4)
    optimizer = optc.create("AdamW8bit + cautious", optc.groups.no_decay(model, 0.1), lr=3e-4)
    optimizer = optc.route(model, [("blocks.*.weight", dict(type="SGD", lr=0.1))], otherwise=dict(type="AdamW", lr=3e-4))
    MyOptimizer = optc.compile("my.opt")        # your own, from a spec file or its text
    Cautious = optc.compile("adamw", modifiers=["cautious"])    # a shipped or own one, changed by modifiers
    Small = optc.compile("adamw", storing={"m": "dynamic8", "v": "udynamic8"})    # its states in 8 bits
    theirs.load_state_dict(optc.export_state(optimizer, "bitsandbytes"))    # an optimizer of that library goes on
    optc.release(optimizer)                     # updates in the backward pass, gradients freed at once
    model = optc.dist.shard(model, stage=3)     # ZeRO on many processes, for every optimizer
    scheduler = optc.schedule("cosine", T=1000, warmup=100).on(optimizer)    # or compiled in, as a modifier of that name

Importing `optc` is cheap: PyTorch and the compiler are imported when they are first used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from optc.dsl.errors import OptcError, SpecError

if TYPE_CHECKING:
    from torch import nn

    from optc import dist, groups, schedules
    from optc.runtime import Optimizer, ParamsT, Routed
    from optc.runtime.loss_scale import LossScale as LossScale
    from optc.runtime.registry import Config
    from optc.runtime.release import Release
    from optc.runtime.routing import Routes
    from optc.runtime.schedules import Schedule

__version__ = "0.1.0"

__all__ = [
    "LossScale",
    "OptcError",
    "SpecError",
    "__version__",
    "available",
    "compile",
    "create",
    "dist",
    "export_state",
    "groups",
    "release",
    "route",
    "schedule",
    "schedules",
]


if not TYPE_CHECKING:  # a type checker would take every name for one of these

    def __getattr__(name: str) -> Any:
        """`optc.dist`, `optc.groups`, `optc.schedules` and `optc.LossScale`, imported when they are first used."""
        from importlib import import_module

        if name == "LossScale":
            return import_module("optc.runtime.loss_scale").LossScale
        if name not in ("dist", "groups", "schedules"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return import_module(f"{__name__}.{name}")


def compile(spec: str | Path, modifiers: Sequence[str] = (), storing: Mapping[str, str] | None = None) -> type[Any]:
    """The optimizer class of a spec: a path to an `.opt` file, a shipped name, or the text itself (anything with a newline).

    `modifiers` are added to it, each written as in a composition: `"cautious"`, `"lookahead(k = 6)"`. Their stages settle the
    order of what they do; the class is called after them (`CautiousAdamW`). `storing` says how states are kept in memory, by
    their names in the spec: `{"m": "dynamic8", "v": "udynamic8"}`.

    A subclass of `optc.runtime.Optimizer` that takes the parameters and, by keyword, the hypers of the spec and the modifiers.
    Raises SpecError with every mistake in the spec and for modifiers that cannot be combined, OptcError where the file cannot
    be read.
    """
    from optc.compiler.instant import compile_class

    return compile_class(spec, modifiers, storing)


def available() -> tuple[str, ...]:
    """The names of the shipped optimizers."""
    from optc.runtime import available

    return available()


def create(name: str | type[Optimizer] | Mapping[str, Any], params: ParamsT | nn.Module, **hypers: Any) -> Optimizer:
    """An optimizer by name over `params`: a model, parameters, named parameters, or groups (`optc.groups` makes them).

    `name` is a shipped optimizer in any spelling (`adamw`, `AdamW`), a composition of shipped parts, which is compiled at once
    (`AdamW8bit + cautious`, `adamw without amsgrad + lookahead(k = 6) storing m: dynamic8`), a class, or a dict of one of these
    and hypers: `dict(type="AdamW", lr=1e-4)`. Of a model, frozen parameters are left out.

    Raises ValueError, with near names, for unknown names, and where a hyper is out of its range; SpecError for what cannot be
    combined; TypeError for unknown hypers; ImportError for a composition where the compiler is not installed.
    """
    from optc.runtime import create

    return create(name, params, **hypers)


def schedule(spec: str | Path, /, **hypers: Any) -> Schedule:
    """A schedule of the learning rate: a shipped one by name, one of an `.opt` file or its text, or a chain.

        schedule("cosine", T=1000, warmup=100)
        schedule("ramp(T = 100, first = 0.1) for 100, cosine(T = 900)")

    It is a function of the steps done, `schedule(n, base)`, and `schedule.on(optimizer)` is a torch scheduler.
    Raises ValueError for an unknown name, with near ones, and for hypers out of range, SpecError with every mistake in a text.
    """
    from optc.runtime.schedule_registry import schedule as made

    return made(spec, **hypers)


def route(
    params: groups.Params,
    rules: Routes = (),
    *,
    otherwise: Config | None = None,
    frozen: bool = False,
    backend: str = "auto",
    maximize: bool = False,
    capturable: bool = False,
    amp: bool = False,
    nonfinite: str = "propagate",
    loss_scale: LossScale | None = None,
) -> Routed:
    """One `torch.optim.Optimizer` that updates different parameters by different optimizers, with one state dict.

    `params`: a model, its named parameters, or groups (`optc.groups` makes them). Each parameter goes to the first of `rules`
    that holds for it, the rest to `otherwise`: pairs of a pattern of names (`*` stands for anything), or of a function
    (name, parameter) -> bool, and a dict of a `type`, as for `create`, and hypers, or the type alone. What a group of `params`
    says itself wins. Frozen parameters are left out unless `frozen`. The other keywords are those of every optimizer.

        optc.route(
            optc.groups.no_decay(model),
            [(lambda name, p: p.ndim == 2, dict(type="LAMB", lr=2e-3, weight_decay=0.1))],
            otherwise=dict(type="AdamW", lr=3e-4),
        )

    Raises ValueError for parameters that no rule takes, rules that take none, unknown types and hypers out of range, TypeError
    for unknown hypers, and what `create` raises for compositions.
    """
    from optc.runtime import route

    return route(
        params,
        rules,
        otherwise=otherwise,
        frozen=frozen,
        backend=backend,
        maximize=maximize,
        capturable=capturable,
        amp=amp,
        nonfinite=nonfinite,
        loss_scale=loss_scale,
    )


def export_state(optimizer: Optimizer, library: Literal["bitsandbytes", "torchao"]) -> dict[str, Any]:
    """A state dict that the same optimizer of another library loads and continues from; everything in it is a copy.

    `library` is "bitsandbytes" or "torchao", which must be installed. The other way needs no function: `load_state_dict` knows
    their state dicts. Raises ValueError, naming the states and hypers, for what the library could not continue from, and
    ImportError where torchao is needed and missing.
    """
    from optc.runtime import export_state

    return export_state(optimizer, library)


def release(optimizer: Optimizer | Routed, accumulate: int = 1, *, local: bool = False) -> Release:
    """Updates every parameter in the backward pass, as soon as its gradient is complete, and frees that gradient at once.

        release = optc.release(optimizer)
        for batch in batches:
            loss(batch).backward()      # parameters are updated here
            optimizer.step()            # ends the step: counts it, updates what has a gradient still

    Parameters and states get the same bits as from `backward`, then `step`. With `accumulate` gradients add up over so many
    passes, as in torch (a sum: divide the loss for a mean), and are released in the last one. Hypers are those at the first
    update of a step: schedulers come after `step()`, as usual. What reads `p.grad` after the backward pass finds None: norms
    cannot be clipped there, and a `GradScaler` has nothing to unscale; hooks of one's own that change gradients once they are
    accumulated must be there before. `release.remove()` ends it, and so does the end of
    `with optc.release(optimizer):`. Parameters that join later, or can have a gradient later, are covered after the next step.

    Raises ValueError, naming what it needs, for an optimizer whose step needs all gradients at once or the loss, with
    amp=True, a loss_scale, another `nonfinite` than "propagate", or capturable=True, and for a process group of several
    processes unless `local` says that nothing averages their gradients (DistributedDataParallel does, too late). While it
    trains, RuntimeError for a backward pass too many, for `step()` before the last one, and for hypers that were changed
    between an update and `step()`. After an error in a backward pass `step()` ends the step with what there is.
    """
    from optc.runtime.release import Release

    return Release(optimizer, accumulate, local=local)
