"""Which parameters of a group take part in a step or an entry, and with which tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from types import NoneType
from typing import Any, TypeAlias

from torch import Tensor

from optc.runtime import checks, divisible, hypers, layout, names
from optc.runtime.backend import arithmetic_dtype
from optc.runtime.columns import Columns
from optc.runtime.schema import Procedure, Schema
from optc.runtime.sharding import Shards

_grad_of: Callable[[Tensor], Tensor | None] = attrgetter("grad")

Given: TypeAlias = Sequence[Tensor | None] | Mapping[Tensor, Tensor | None] | None
"""An entry's input: a tensor per parameter (with `requires_grad`, in order), or by parameter, or None for the gradients."""

_USUAL = checks.PLAIN | {NoneType}


@dataclass(frozen=True, slots=True)
class Participants:
    """Parallel columns. `varying` has the gradients, as `g`, where the procedure reads them, and its inputs.

    `varying` has of them what this process has. `contiguous`: everything in it is. `arranged`: everything in it has the memory
    order of its parameter.
    """

    parameters: Sequence[Tensor]
    varying: Columns
    contiguous: bool
    arranged: bool = False


def finders(
    procedure: Procedure,
    groups: Sequence[Mapping[str, Any]],
    labels: Sequence[str],
    inputs: Mapping[str, Given] | None,
    shards: Shards,
) -> list[Callable[[], Participants]]:
    """For each group, which has a label, a function that looks who takes part: in an entry, where there are `inputs`."""
    labelled = zip(groups, labels, strict=True)
    if inputs is None:
        return [partial(of_step, group, label, shards) for group, label in labelled]
    given = {name: by_parameter(name, tensors, groups) for name, tensors in inputs.items()}
    return [partial(of_entry, procedure, group, given, label, shards) for group, label in labelled]


def of_step(group: Mapping[str, Any], label: str, shards: Shards) -> Participants:
    """The parameters with a gradient. Raises ValueError or TypeError for a gradient that cannot be used."""
    parameters: Sequence[Tensor] = group["params"]
    found = list(map(_grad_of, parameters))
    classes = set(map(type, found))
    if NoneType in classes:
        parameters = [p for p, g in zip(parameters, found, strict=True) if g is not None]
    gradients = [g for g in found if g is not None] if NoneType in classes else found
    unusual = not classes <= _USUAL
    return _checked(parameters, {"g": gradients}, unusual, group, label, shards)


def of_one(p: Tensor, group: Mapping[str, Any], label: str, shards: Shards) -> Participants:
    """One parameter of a group, which has a gradient. Raises as `of_step` does."""
    return _checked([p], {"g": [p.grad]}, type(p.grad) not in _USUAL, group, label, shards)


def of_entry(
    procedure: Procedure,
    group: Mapping[str, Any],
    inputs: Mapping[str, Mapping[Tensor, Tensor]],
    label: str,
    shards: Shards,
) -> Participants:
    """The parameters that have every input, and a gradient if the entry reads it. Raises as `of_step` does."""
    reads_g = any(stream.role == "gradient" for kernel in procedure.kernels for stream in kernel.streams)
    complete = [p for p in group["params"] if all(p in given for given in inputs.values())]
    parameters = [p for p in complete if p.grad is not None] if reads_g else complete
    varying = {name: [_input(p, given[p]) for p in parameters] for name, given in inputs.items()}
    if reads_g:
        varying["g"] = [p.grad for p in parameters if p.grad is not None]
    return _checked(parameters, varying, True, group, label, shards)


def by_parameter(name: str, given: Given, groups: Sequence[Mapping[str, Any]]) -> dict[Tensor, Tensor]:
    """An entry's input by parameter, without those that have none. Raises ValueError where it does not fit the parameters."""
    parameters = [p for group in groups for p in group["params"]]
    if given is None:
        return {p: p.grad for p in parameters if p.grad is not None}
    if isinstance(given, Mapping):
        strangers = len(set(given) - set(parameters))
        if strangers:
            raise ValueError(f"{name} has {strangers} tensors for parameters that are not in this optimizer")
        return {p: x for p, x in given.items() if x is not None}
    expected = [p for p in parameters if p.requires_grad]
    if isinstance(given, Tensor) or len(given) != len(expected):
        raise ValueError(f"{name} must have a tensor or None for each of the {len(expected)} parameters with requires_grad")
    return {p: x for p, x in zip(expected, given, strict=True) if x is not None}


def _input(p: Tensor, x: Tensor) -> Tensor:
    """Inputs are read in the arithmetic dtype."""
    return x.detach().to(arithmetic_dtype(p.dtype)) if x.is_floating_point() else x


def _checked(
    parameters: Sequence[Tensor],
    varying: Mapping[str, Sequence[Any]],
    unusual: bool,
    group: Mapping[str, Any],
    label: str,
    shards: Shards,
) -> Participants:
    """Sparse tensors are never contiguous, stand-ins have no address: quick looks find everything that wants a closer one."""
    if unusual or shards.everywhere:
        varying = {name: list(map(shards.companion, parameters, column)) for name, column in varying.items()}
        unusual = any(type(x) not in _USUAL for column in varying.values() for x in column)
    contiguous = all(map(layout.all_contiguous, varying.values()))
    if unusual or not contiguous or not all(all(map(Tensor.data_ptr, column)) for column in varying.values()):
        check(parameters, varying, group, label, shards)
    return Participants(parameters, varying, contiguous)


def admit(schema: Schema, group: Mapping[str, Any], label: str, shards: Shards) -> None:
    """Looks at the parameters of a new group. Raises ValueError or TypeError that names the one that cannot be optimized."""
    checks.no_duplicates(group["params"])
    check(group["params"], {}, group, label, shards)
    shards.cut(schema, group)
    if any(map(shards.divides, group["params"])):
        divisible.require_all(schema, hypers.validate(schema, group), group, shards)


def check(parameters: Sequence[Tensor], varying: Columns, group: Mapping[str, Any], label: str, shards: Shards) -> None:
    """The thorough look: raises ValueError or TypeError that names the parameter. `varying` has what this process has."""
    for index, p in enumerate(parameters):
        try:
            checks.parameter(p)
            for name, column in varying.items():
                checks.companion(shards.here(p), column[index], "its gradient" if name == "g" else f"its {name}")
        except (ValueError, TypeError) as error:
            place = next(i for i, q in enumerate(group["params"]) if q is p)
            raise type(error)(f"{names.parameter(group, place, label)}: {error}") from None
