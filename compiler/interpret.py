"""The oracle: runs a checked program as it is written, statement by statement, in float64. It is the meaning of the language.

Nothing is simplified, shared or reordered. What an operation does is said in `optc.dsl.semantics.OPERATIONS`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from optc.dsl.errors import OptcError
from optc.dsl.kinds import Extent
from optc.dsl.program import (
    Branch,
    Expression,
    Let,
    Procedure,
    Program,
    Role,
    Scalar,
    State,
    Statement,
    Stop,
    Store,
    Symbol,
)
from optc.dsl.semantics import Value, evaluate, evaluate_static, reads

Array: TypeAlias = npt.NDArray[np.float64]


@dataclass(slots=True)
class ParameterState:
    """One parameter and what is kept for it: arrays shaped like θ, and float64 scalars for states per tensor."""

    theta: Array
    states: dict[str, Array | np.float64] = field(default_factory=dict)
    t: int = 0


class Oracle:
    """A program with values of its hypers, given by their names outside (`betas=(0.9, 0.999)`); the others have their defaults.

    Raises OptcError for an unknown hyper, or where a `require` does not hold.
    """

    def __init__(self, program: Program, hypers: Mapping[str, Any] | None = None) -> None:
        self.program = program
        self._given = dict(hypers or {})
        self._hypers({})

    def new_parameter(self, theta: npt.ArrayLike) -> ParameterState:
        """A parameter before its first step; `theta` is copied."""
        return ParameterState(np.array(theta, dtype=np.float64))

    def step(self, param: ParameterState, gradient: npt.ArrayLike, hypers: Mapping[str, Any] | None = None) -> None:
        """One step: θ, the states and `t` change. `hypers` are in force for this step only."""
        param.t += 1
        _Run(self.program, self.program.procedures[0], self._hypers(hypers or {}), param, {"g": gradient}).run()

    def enter(
        self,
        name: str,
        param: ParameterState,
        inputs: Mapping[str, npt.ArrayLike],
        hypers: Mapping[str, Any] | None = None,
    ) -> None:
        """Runs the entry `name` between steps: `t` is the number of steps done. Creates the states it uses, where missing."""
        procedure = next((p for p in self.program.procedures[1:] if p.name == name), None)
        if procedure is None:
            raise OptcError(f"{self.program.name} has no entry `{name}`")
        if set(inputs) != set(procedure.inputs):
            raise OptcError(f"`{name}` takes the inputs {', '.join(procedure.inputs)}")
        _Run(self.program, procedure, self._hypers(hypers or {}), param, inputs).run()

    def _hypers(self, changes: Mapping[str, Any]) -> dict[str, Scalar]:
        """The values of all hypers by their names inside."""
        given = {**self._given, **changes}
        unknown = set(given) - {h.key for h in self.program.hypers}
        if unknown:
            raise OptcError(f"{self.program.name} has no hyper {', '.join(sorted(unknown))}")
        values: dict[str, Scalar] = {}
        for hyper in self.program.hypers:
            value: Any = given.get(hyper.key, hyper.defaults if hyper.is_tuple else hyper.defaults[0])
            elements = tuple(value) if hyper.is_tuple else (value,)
            if len(elements) != len(hyper.names):
                raise OptcError(f"`{hyper.key}` has {len(hyper.names)} elements")
            values.update(zip(hyper.names, elements, strict=True))
        for require in self.program.requires:
            if not evaluate_static(require.condition, values):
                raise OptcError(require.message)
        return values


class _Run:
    """One run of one procedure on one parameter."""

    def __init__(
        self,
        program: Program,
        procedure: Procedure,
        hypers: Mapping[str, Scalar],
        param: ParameterState,
        tensors: Mapping[str, npt.ArrayLike],
    ) -> None:
        self._program = program
        self._procedure = procedure
        self._hypers = hypers
        self._param = param
        self._tensors: dict[str, Value] = {name: np.array(value, dtype=np.float64) for name, value in tensors.items()}
        self._locals: dict[str, Value] = {}
        self._new: set[str] = set()
        for name, value in self._tensors.items():
            if value.shape != param.theta.shape:
                raise OptcError(f"`{name}` has the shape {value.shape}, θ has {param.theta.shape}")

    def run(self) -> None:
        """Creates the states that are due, all from values before this run; then runs the body."""
        self._param.states.update({s.name: self._shaped(s, self._value(s.initial)) for s in self._due()})
        self._block(self._procedure.body)

    def _due(self) -> list[State]:
        """States to be created: in `step` all whose conditions hold, in an entry those of them that it names."""
        theta = self._param.theta
        due = [
            s
            for s in self._program.states
            if s.name not in self._param.states and evaluate_static(s.exists, self._hypers, theta.ndim, theta.size)
        ]
        if self._procedure is not self._program.procedures[0]:
            due = [s for s in due if s.name in states_of(self._procedure.body)]
        self._new = {s.name for s in due}
        return due

    def _block(self, body: Iterable[Statement]) -> bool:
        """Runs statements in order; False once the step has stopped."""
        for statement in body:
            match statement:
                case Let(target=target, value=value):
                    names = self._tensors if target.role is Role.GRADIENT else self._locals
                    names[target.name] = self._value(value)
                case Store(target=target, value=value) if target.role is Role.THETA:
                    self._param.theta = self._array(self._value(value))
                case Store(target=target, value=value):
                    self._param.states[target.name] = self._shaped(self._program.state(target.name), self._value(value))
                case Branch(condition=condition, then=then, otherwise=otherwise):
                    if not self._block(then if self._value(condition) else otherwise):
                        return False
                case Stop():
                    return False
        return True

    def _value(self, expression: Expression) -> Value:
        return evaluate(expression, self._read, self._param.theta.shape)

    def _read(self, symbol: Symbol) -> Value:
        match symbol.role:
            case Role.HYPER:
                return self._hypers[symbol.name]
            case Role.THETA:
                return self._param.theta
            case Role.STATE:
                return self._param.states[symbol.name]
            case Role.GRADIENT | Role.INPUT:
                return self._tensors[symbol.name]
            case Role.LOCAL:
                return self._locals[symbol.name]
            case Role.STEP:
                return self._param.t
            case Role.SHAPE:
                return self._param.theta.ndim if symbol.name == "ndim" else self._param.theta.size
            case Role.NEW:
                return symbol.name in self._new
        raise TypeError(f"a checked program has no {symbol.role}")

    def _array(self, value: Value) -> Array:
        """A copy with the shape of θ."""
        return np.array(np.broadcast_to(value, self._param.theta.shape), dtype=np.float64)

    def _shaped(self, state: State, value: Value) -> Array | np.float64:
        return np.float64(value) if state.extent is Extent.TENSOR else self._array(value)


def states_of(body: Iterable[Statement]) -> set[str]:
    """The names of all states that statements read or write."""
    found: set[str] = set()
    for statement in body:
        match statement:
            case Let(target=target, value=value) | Store(target=target, value=value):
                found |= {s.name for s in (*reads(value), target) if s.role is Role.STATE}
            case Branch(condition=condition, then=then, otherwise=otherwise):
                found |= {s.name for s in reads(condition) if s.role is Role.STATE} | states_of((*then, *otherwise))
    return found
