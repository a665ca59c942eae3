"""Optimizers for deep learning, compiled from math specs.

    from optc.generated import AdamW            # a shipped optimizer: a torch.optim.Optimizer
    optimizer = optc.create("adamw", model.parameters(), lr=3e-4)
    MyOptimizer = optc.compile("my.opt")        # your own, from a spec file or its text
    Cautious = optc.compile("adamw", modifiers=["cautious"])    # a shipped or own one, changed by modifiers
    Small = optc.compile("adamw", storing={"m": "dynamic8", "v": "udynamic8"})    # its states in 8 bits
    theirs.load_state_dict(optc.export_state(optimizer, "bitsandbytes"))    # an optimizer of that library goes on
    scheduler = optc.schedule("cosine", T=1000, warmup=100).on(optimizer)    # or compiled in, as a modifier of that name

Importing `optc` is cheap: PyTorch and the compiler are imported when they are first used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from optc.dsl.errors import OptcError, SpecError

if TYPE_CHECKING:
    from optc import schedules as schedules
    from optc.runtime import Optimizer, ParamsT
    from optc.runtime.schedules import Schedule

__version__ = "0.1.0"

__all__ = ["OptcError", "SpecError", "__version__", "available", "compile", "create", "export_state", "schedule"]


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


def create(name: str, params: ParamsT, **hypers: Any) -> Optimizer:
    """A shipped optimizer by its name, in any spelling (`adamw`, `AdamW`), over `params`.

    Raises ValueError, with near names, where there is none of that name or a hyper is out of its range.
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


def export_state(optimizer: Optimizer, library: Literal["bitsandbytes", "torchao"]) -> dict[str, Any]:
    """A state dict that the same optimizer of another library loads and continues from; everything in it is a copy.

    `library` is "bitsandbytes" or "torchao", which must be installed. The other way needs no function: `load_state_dict` knows
    their state dicts. Raises ValueError, naming the states and hypers, for what the library could not continue from, and
    ImportError where torchao is needed and missing.
    """
    from optc.runtime import export_state

    return export_state(optimizer, library)


def __getattr__(name: str) -> Any:
    """`optc.schedules` without an import of its own."""
    if name != "schedules":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return import_module("optc.schedules")
