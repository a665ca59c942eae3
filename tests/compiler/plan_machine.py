"""A machine that runs plans on the parameters of one model: kernels and programs have no more than the plan gives them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from optc.compiler.ir import map_expression
from optc.compiler.plan import Kernel, ModelProgram, Pass, Plan, Stream
from optc.compiler.streams import decide
from optc.dsl.kinds import PER_ELEMENT, Extent
from optc.dsl.philox import numbers_of_elements
from optc.dsl.program import PICK, Apply, Branch, Expression, Let, Role, Statement, Store, Symbol
from optc.dsl.semantics import evaluate, evaluate_static

OF_NONE = {"sum": 0.0, "mean": np.nan, "largest": -np.inf, "smallest": np.inf}
"""What a measure leaves on a path without its line."""


@dataclass
class Held:
    """A parameter as the program sees it: its memory, and what is known of it during a step.

    `table`: the statistics kept from pass to pass. `ndim` is that of θ itself, `number` says which parameter it is.
    """

    memory: dict[str, Any]
    ndim: int
    number: int = 0
    t: int = 0
    host: dict[str, Any] = field(default_factory=dict)
    table: dict[str, Any] = field(default_factory=dict)

    @property
    def theta(self) -> Any:
        return self.memory["theta"]

    @property
    def shape(self) -> tuple[int, ...]:
        return np.shape(self.theta)


class Machine:
    """Runs a plan. `whole`: kernels run as one program each (`Kernel.body`), else pass by pass with lines on statistics."""

    def __init__(self, plan: Plan, thetas: Iterable[Any], hypers: Mapping[str, Any], whole: bool = False) -> None:
        self.plan, self.hypers, self.whole = plan, dict(hypers), whole
        self.p = 1 if plan.program.pick is None else int(self.hypers[plan.program.pick])
        view = plan.program.view
        self.params = [Held({"theta": np.array(t).reshape(view(np.shape(t)))}, np.ndim(t), k) for k, t in enumerate(thetas)]
        self.model: dict[str, Any] = {}

    def step(self, gradients: Sequence[Any | None], loss: float = np.nan) -> None:
        """One step of the parameters that have a gradient."""
        taking = [(p, np.array(g).reshape(p.shape)) for p, g in zip(self.params, gradients, strict=True) if g is not None]
        procedure = self.plan.procedures[0]
        for param, g in taking:
            self.begin(param, g)
        parts: dict[str, float] = {}
        for number, phase in enumerate(procedure.phases):
            exports: dict[str, Any] = {}
            if phase.model is not None:
                assert not phase.model.carried or number == len(procedure.phases) - 1
                exports = self.of_model(phase.model, [p for p, _ in taking], parts, loss)
            if phase.kernel is None:
                continue
            for param, g in taking:
                given = {n: exports[n] if n in exports else param.host[n] for n in phase.kernel.scalars}
                given |= {n: param.host[n] for n in (*phase.kernel.static_flags, *phase.kernel.host_flags)}
                (self.as_one if self.whole else self.in_passes)(phase.kernel, param, given, g)
            for name in phase.kernel.parts:
                found = [p.table[name] for p, _ in taking]
                assert all(np.ndim(f) == 0 for f in found)
                parts[name] = float(np.sum(found))

    def begin(self, param: Held, g: Any) -> None:
        """Creates states, runs the host program."""
        param.t += 1
        theta, program = param.theta, self.plan.program
        start = {"theta": theta, "g": g, **self.hypers}
        new = set()
        for state in program.states:
            memory = self.model if state.extent is Extent.MODEL else param.memory
            if state.name in memory or not evaluate_static(state.exists, self.hypers, param.ndim, theta.size):
                continue
            new.add(state.name)
            value = evaluate(state.initial, lambda symbol: start[symbol.name], param.shape, self.p)
            memory[state.name] = np.broadcast_to(value, state.extent.shape(param.shape, self.p)).copy()
        procedure = self.plan.procedures[0]
        host = {"t": param.t, "numel": theta.size, "ndim": param.ndim, **self.hypers}
        host |= {f"new_{s.name}": s.name in new for s in program.states}
        host |= {s.name: float(param.memory[s.name]) for s in program.states if s.host and s.name in param.memory}
        run(procedure.host.body, host, ())
        for name in procedure.host.carried:
            param.memory[name] = host[name]
        flags = {f.name: evaluate_static(f.condition, self.hypers, param.ndim, theta.size) for f in self.plan.flags}
        param.host = {n: host[n] for n in (*procedure.host.scalars, *procedure.host.flags)} | flags
        param.table = {}

    def of_model(self, program: ModelProgram, params: list[Held], parts: Mapping[str, float], loss: float) -> dict[str, Any]:
        """Runs a program of the model once, on what all parameters have in common."""
        given = {n: params[0].host[n] for n in (*program.scalars, *program.flags)}
        for other in params:
            for name, value in given.items():
                np.testing.assert_equal(other.host[name], value, f"{name} differs between parameters")
        values = (
            given
            | {total: parts[part] for total, part in program.totals}
            | ({"loss": loss} if program.loss else {})
            | {n: self.model.get(n, np.nan) for n in program.states}
        )
        assert run(program.body, values, ()) <= set(program.carried)
        self.model |= {n: values[n] for n in program.carried if n in self.model}
        return {n: values[n] for n in program.exports}

    def as_one(self, kernel: Kernel, param: Held, given: dict[str, Any], g: Any) -> None:
        """The kernel as one program with reductions in place."""
        values = (
            given
            | {"numel": param.theta.size}
            | {n: param.table[n] for n in kernel.given}
            | self.streams(kernel.streams, param, given, g)
        )
        self.keep(param, kernel.streams, values, run(kernel.body, values, param.shape, self.p))
        none = {n: OF_NONE[how] for p in kernel.passes for n, how in p.measures}
        param.table |= {n: values.get(n, none.get(n, np.nan)) for n in kernel.leaves}

    def in_passes(self, kernel: Kernel, param: Held, given: dict[str, Any], g: Any) -> None:
        """The kernel pass by pass. Lines on statistics have what has been measured, and leave what their pass needs."""
        measured = param.table
        for sweep in kernel.sweeps:
            needed = self.stage(kernel, sweep.prepare, param, given, measured)
            values = given | {n: (measured | needed)[n] for n in sweep.needs if n in measured or n in needed}
            moved = self.streams(sweep.streams, param, given, g)
            picked = self.picked(kernel, sweep, param, given, g)
            measures = {n: OF_NONE[how] for n, how in sweep.measures}
            if decide(sweep.exists, given) is not False:
                values |= moved
                assert all(np.shape(v) == np.shape(param.theta) for v in moved.values())
                if self.p == 1 and sweep.picked:  # both bodies as one, of flat values
                    values |= {n: np.reshape(v, -1) for n, v in (moved | picked).items()}
                    self.keep(param, sweep.moves, values, run(sweep.together, values, (param.theta.size,), picked=True))
                    measured |= {n: values.get(n, none) for n, none in measures.items()}
                    continue
                of_picked = picked | {n: v for n, v in values.items() if n not in moved}
                self.keep(
                    param, sweep.picked_streams, of_picked, run(sweep.picked, of_picked, param.shape, self.p, picked=True)
                )
                stored = run(sweep.body, values, param.shape, self.p)
                self.keep(param, sweep.streams, values, stored)
                measures = {n: values.get(n, of_picked.get(n, none)) for n, none in measures.items()}
            assert measures.keys().isdisjoint(measured)
            measured |= measures
        left = self.stage(kernel, kernel.finish, param, given, measured)
        measured |= {n: left.get(n, measured.get(n, np.nan)) for n in kernel.parts}

    def picked(self, kernel: Kernel, sweep: Pass, param: Held, given: dict[str, Any], g: Any) -> dict[str, Any]:
        """The old values of streams at picked elements."""
        if kernel.pick is None:
            assert not sweep.picked
            return {}
        assert self.p == given[kernel.pick[0]] and (self.p == 1) == given[kernel.pick[1]]
        whole = {s.name: s.extent is Extent.ELEM for s in sweep.picked_streams}
        read = self.streams(sweep.picked_streams, param, given, g)
        found = {n: np.reshape(v, -1)[:: self.p] if whole[n] else v for n, v in read.items()}
        assert all(np.shape(v) == Extent.PICK.shape(param.shape, self.p) for v in found.values())
        return found

    def stage(
        self, kernel: Kernel, body: tuple[Statement, ...], param: Held, given: dict[str, Any], measured: dict[str, Any]
    ) -> dict[str, Any]:
        """Lines on statistics; what they bind."""
        numbers = tuple(s for s in kernel.streams if s.extent not in PER_ELEMENT)
        values = given | {"numel": param.theta.size} | measured | self.streams(numbers, param, given, None)
        self.keep(param, numbers, values, run(body, values, param.shape, self.p))
        return {n: values[n] for n in kernel.statistics if n in values}

    def streams(self, streams: Iterable[Stream], param: Held, given: dict[str, Any], g: Any) -> dict[str, Any]:
        """The old values of streams that are read."""
        read = [s for s in streams if s.reads and decide(s.exists, given) is not False]
        known = {"g": g, "element": numbers_of_elements(param.number, param.shape)}
        return {s.name: known[s.name] if s.name in known else np.copy(param.memory[s.name]) for s in read}

    def keep(self, param: Held, streams: Iterable[Stream], values: Mapping[str, Any], stored: set[str]) -> None:
        """Writes what was stored."""
        written = {s.name for s in streams if s.writes}
        assert stored <= written
        for name in stored:
            kept, value = param.memory[name], values[name]
            shaped = np.reshape(value, np.shape(kept)) if np.size(value) == np.size(kept) else value
            param.memory[name] = np.broadcast_to(shaped, np.shape(kept)).copy()


def run(
    body: tuple[Statement, ...], values: dict[str, Any], shape: tuple[int, ...], p: int = 1, picked: bool = False
) -> set[str]:
    """Runs lines over `values`; the names that were stored. `picked`: values per element are those of picked ones already."""
    stored: set[str] = set()

    def read(symbol: Symbol) -> Any:
        return values[f"new_{symbol.name}" if symbol.role is Role.NEW else symbol.name]

    def here(expression: Expression) -> Any:
        if picked and isinstance(expression, Apply) and expression.operation == PICK:
            return expression.arguments[0]
        return expression

    for statement in body:
        match statement:
            case Let(target=target, value=value):
                values[target.name] = evaluate(map_expression(value, here), read, shape, p)
            case Store(target=target, value=value):
                values[target.name] = evaluate(map_expression(value, here), read, shape, p)
                stored.add(target.name)
            case Branch(condition=condition, then=then, otherwise=otherwise):
                stored |= run(then if evaluate(condition, read) else otherwise, values, shape, p, picked)
    return stored
