"""A plan: how the parameters of one group go through one procedure. Built when something changed, then reused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter, is_

import torch
from torch import Tensor

from optc.runtime import layout, rows
from optc.runtime import state as states
from optc.runtime.backend import arithmetic_dtype
from optc.runtime.batches import Batch, Members, Prepare
from optc.runtime.capturable import DeviceBatch, bind
from optc.runtime.choose import Choice
from optc.runtime.columns import Column
from optc.runtime.hypers import Values, holds
from optc.runtime.participants import Participants
from optc.runtime.schema import Condition, Procedure, Schema
from optc.runtime.survey import Survey

_bytes_of: Callable[[Tensor], int] = attrgetter("nbytes")
_strides_of: Callable[[Tensor], tuple[int, ...]] = Tensor.stride


@dataclass(frozen=True, slots=True)
class Guards:
    """What must not have changed since the plan was built, where Python has to look: cheap passes over thousands of tensors.

    The size in bytes of a gradient or input stands for its dtype and length. Strides count too, as `p.data = p.data.t()` keeps
    address and size; None stands for those of contiguous parameters.
    """

    parameters: list[Tensor]
    pointers: list[int]
    strides: list[tuple[int, ...]] | None
    sizes: Mapping[str, list[int]]

    @staticmethod
    def of(taking: Participants) -> Guards:
        """The present ones."""
        sizes = {name: list(map(_bytes_of, column)) for name, column in taking.varying.items()}
        pointers = list(map(Tensor.data_ptr, taking.parameters))
        strides = None if layout.all_contiguous(taking.parameters) else list(map(_strides_of, taking.parameters))
        return Guards(list(taking.parameters), pointers, strides, sizes)

    def hold(self, taking: Participants) -> bool:
        """Whether parameters, memories and sizes are the ones the plan was built for."""
        return (
            len(taking.parameters) == len(self.parameters)
            and all(map(is_, taking.parameters, self.parameters))
            and list(map(Tensor.data_ptr, taking.parameters)) == self.pointers
            and self._strides_hold(taking.parameters)
            and all(list(map(_bytes_of, taking.varying[name])) == sizes for name, sizes in self.sizes.items())
        )

    def _strides_hold(self, parameters: Sequence[Tensor]) -> bool:
        if self.strides is None:
            return layout.all_contiguous(parameters)
        return list(map(_strides_of, parameters)) == self.strides


@dataclass(frozen=True, slots=True)
class Request:
    """What a plan is built from: a group, and those of its parameters that take part.

    `counting`: the backend's name where counts are kept on the device.
    """

    schema: Schema
    procedure: Procedure
    group: Sequence[Tensor]
    taking: Participants
    factor: float | Tensor
    values: Values
    prepare: Prepare
    counting: Choice | None


@dataclass(slots=True)
class Plan:
    """`once`: some states were created, and the host program asks about that, so that the plan is for this step only.

    `parameters` take part; `single` are the places of those with one element. `survey` looks where it can, else `guards`.
    """

    procedure: Procedure
    parameters: Sequence[Tensor]
    thetas: list[Tensor]
    contiguous: bool
    single: list[int]
    staged: list[tuple[Tensor, Tensor]]
    rows: list[rows.Row]
    batches: list[Batch]
    device_batches: list[DeviceBatch]
    statics: Callable[[Values], object]
    static: object
    once: bool
    values: Values
    guards: Guards
    survey: Survey | None

    def look(self, group: Sequence[Tensor], values: Values, find: Callable[[], Participants]) -> tuple[Participants, bool]:
        """Who takes part in this step, and whether the plan can run it as it is. `find` looks in Python.

        Gradients found by the survey stay alive until `release`.
        """
        fits = values is self.values or self.statics(values) == self.static
        if fits:
            self.values = values
        gradients = self.survey.look(group) if fits and self.survey is not None else None
        if gradients is not None:
            return Participants(self.parameters, {"g": gradients}, contiguous=False, arranged=True), True
        taking = find()
        return taking, fits and self.guards.hold(taking)

    def release(self) -> None:
        """Lets go of gradients."""
        if self.survey is not None:
            self.survey.release()

    def ready(
        self, taking: Participants, factor: float | Tensor, found_inf: Tensor | None, tensors: Mapping[str, Tensor]
    ) -> Callable[[], None]:
        """Does all that may fail (host programs, compilation, copies of gradients); the function returned updates.

        `tensors` are the hypers that live on the device.
        """
        varying = taking.varying
        if not taking.arranged and not (self.contiguous and taking.contiguous):
            varying = {name: self._arranged(column) for name, column in varying.items()}
        varying = {name: self._resolved(column) for name, column in varying.items()}
        outcomes = [row.evaluate(self.procedure, self.values) for row in self.rows]
        launches = [launch for batch in self.batches for launch in batch.ready(outcomes)]
        for batch in self.device_batches:
            batch.ready(self.values)

        def update() -> None:
            for p, copy in self.staged:
                copy.copy_(p)
            for bound, outcome in launches:
                bound.launch(outcome, varying, float(factor))
            for batch in self.device_batches:
                batch.launch(varying, factor, found_inf, tensors)
            for p, copy in self.staged:
                p.copy_(copy)
            for row, outcome in zip(self.rows, outcomes, strict=True):
                row.commit(self.procedure, outcome)

        return update

    def _arranged(self, column: Column) -> list[Tensor]:
        """Gradients or inputs in the memory order of their parameters; copies only what is not."""
        return [layout.arranged(x, theta, x.dtype) for x, theta in zip(column, self.thetas, strict=True)]

    def _resolved(self, column: Column) -> Column:
        """Autograd may hand out the conjugate's imaginary part, a view that negates what lies in memory.

        With more than one element such a view has gaps, and `_arranged` copies it; with one it passes for contiguous.
        """
        negated = {place for place in self.single if column[place].is_neg()}
        return [x.resolve_neg() if place in negated else x for place, x in enumerate(column)] if negated else column


def build(request: Request, edits: states.Edits) -> Plan:
    """Creates missing states, sorts parameters into rows and batches. What it writes to the state can be undone."""
    schema, procedure, values, taking = request.schema, request.procedure, request.values, request.taking
    wanted = states.needed(schema, procedure)
    staged: list[tuple[Tensor, Tensor]] = []
    thetas, created = [], []
    for p in taking.parameters:
        theta = p.detach()
        if not layout.is_dense(p):
            theta = torch.empty_like(p, memory_format=torch.contiguous_format, requires_grad=False).copy_(p)
            staged.append((p, theta))
        thetas.append(theta)
        gradient = _Gradient(p.grad, arithmetic_dtype(theta.dtype), request.factor)
        created.append(states.prepare(edits, wanted, values, p, theta, gradient))
    once = any(created) and bool(rows.news_read(schema, procedure))
    statics = _statics(schema, taking.parameters)
    members = _members(request, thetas, edits.states)
    surveyable = procedure.name == "step" and not once and not staged
    plan = Plan(
        procedure=procedure,
        parameters=taking.parameters,
        thetas=thetas,
        contiguous=layout.all_contiguous(thetas),
        single=[place for place, theta in enumerate(thetas) if theta.numel() == 1],
        staged=staged,
        rows=[],
        batches=[],
        device_batches=[],
        statics=statics,
        static=statics(values),
        once=once,
        values=values,
        guards=Guards.of(taking),
        survey=Survey.of(request.group, taking.parameters) if surveyable else None,
    )
    if request.counting is not None and not once:
        plan.device_batches = [bind(request.counting, schema, procedure, m, taking.parameters, edits) for m in members]
    else:
        plan.rows = rows.sort(schema, procedure, edits, request.group, taking.parameters, created)
        row_of = {member: number for number, row in enumerate(plan.rows) for member in row.members}
        for m in members:
            parts: dict[int, list[int]] = {}
            for place, position in enumerate(m.positions):
                parts.setdefault(row_of[position], []).append(place)
            plan.batches.append(Batch(procedure, m, parts, request.prepare, len(thetas)))
    return plan


@dataclass(slots=True)
class _Gradient:
    """g in the arithmetic dtype with its factor, made when first asked for."""

    raw: Tensor | None
    dtype: torch.dtype
    factor: float | Tensor
    made: Tensor | None = None

    def __call__(self) -> Tensor | None:
        if self.made is None and self.raw is not None:
            self.made = self.raw.detach().to(self.dtype) * self.factor
        return self.made


def _members(request: Request, thetas: Sequence[Tensor], slots: states.States) -> list[Members]:
    """Sorts by device, dtypes and variant."""
    taking = request.taking
    flags = request.schema.flags
    variants: dict[tuple[int, int], dict[str, bool]] = {}
    sorted_: dict[tuple[object, ...], tuple[dict[str, bool], list[int]]] = {}
    column = taking.varying.get("g") or thetas
    for index, theta in enumerate(thetas):
        shape = theta.ndim, theta.numel()
        if shape not in variants:
            variants[shape] = {name: holds(condition, request.values, *shape) for name, condition in flags}
        present = tuple(s.key in slots[taking.parameters[index]] for s in request.schema.states)
        key = (theta.device, theta.dtype, column[index].dtype, *variants[shape].values(), present)
        sorted_.setdefault(key, (variants[shape], []))[1].append(index)
    names = [name for hyper in request.schema.hypers if hyper.kind == "choice" for name in hyper.names]
    choices = {name: value for name in names if isinstance(value := request.values[name], str)}
    found = []
    for variant, positions in sorted_.values():
        first = positions[0]
        tensors = {"theta": [thetas[i] for i in positions]}
        for state in request.schema.states:
            entries = [slots[taking.parameters[i]].get(state.key) for i in positions]
            if not state.host and states.exists(state, request.values, thetas[first]) and entries[0] is not None:
                tensors[state.name] = [entry for entry in entries if entry is not None]
        found.append(Members(tuple(positions), thetas[first].device, column[first].dtype, variant, choices, tensors))
    return found


def _statics(schema: Schema, parameters: Sequence[Tensor]) -> Callable[[Values], object]:
    """A function of the hypers that changes its result whenever a variant or the presence of a state does."""
    conditions: list[Condition] = [condition for _, condition in schema.flags]
    conditions += [state.exists for state in schema.states if state.exists is not None]
    shapes: set[tuple[int, int]] = {(0, 0)}
    if any(not {"ndim", "numel"}.isdisjoint(condition.arguments) for condition in conditions):
        shapes = {(p.ndim, p.numel()) for p in parameters}
    ordered = sorted(shapes)
    choices = [name for hyper in schema.hypers if hyper.kind == "choice" for name in hyper.names]

    def result(values: Values) -> object:
        return [values[name] for name in choices], [holds(c, values, *shape) for shape in ordered for c in conditions]

    return result
