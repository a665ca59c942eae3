"""The oracle: runs a checked program as it is written, statement by statement, in float64. It is the meaning of the language.

Nothing is simplified, shared or reordered. What an operation does is said in `optc.dsl.semantics.OPERATIONS`. All parameters of
a step run side by side, as a `total` waits for every one of them.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from optc.compiler.interpret_storage import through_memory
from optc.dsl.errors import OptcError
from optc.dsl.kinds import SCALARS, Extent
from optc.dsl.philox import numbers_of_elements
from optc.dsl.program import (
    LOSS,
    TOTAL,
    Apply,
    Branch,
    Constant,
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

_Result = TypeVar("_Result")
_Steps: TypeAlias = Generator[np.float64, float | None, _Result]
"""A run that stops at totals: it yields its part and is sent the total."""


@dataclass(slots=True)
class ParameterState:
    """One parameter and what is kept for it: arrays with the dimensions of θ, and float64 scalars for states per tensor.

    `model` holds the states of the whole model, and how many steps it has made where a hyper counts them, from where that
    started; parameters of one model share the dictionary. `number` is the parameter's in
    the model, by which it gets random numbers of its own. `bf16`: it stands for one in bfloat16; conditions may ask for that.
    """

    theta: Array
    states: dict[str, Array | np.float64] = field(default_factory=dict)
    t: int = 0
    model: dict[str, np.float64] = field(default_factory=dict)
    number: int = 0
    bf16: bool = False


class Oracle:
    """A program with values of its hypers, given by their names outside (`betas=(0.9, 0.999)`); the others have their defaults.

    Raises OptcError for an unknown hyper, or where a `require` does not hold.
    """

    def __init__(self, program: Program, hypers: Mapping[str, Any] | None = None) -> None:
        self.program = program
        self._given = dict(hypers or {})
        self._hypers({})

    def new_parameter(self, theta: npt.ArrayLike) -> ParameterState:
        """A parameter before its first step, and a model by itself; `theta` is copied."""
        return ParameterState(np.array(theta, dtype=np.float64))

    def new_parameters(self, thetas: Iterable[npt.ArrayLike]) -> list[ParameterState]:
        """The parameters of one model before its first step; the arrays are copied."""
        model: dict[str, np.float64] = {}
        arrays = [np.array(theta, dtype=np.float64) for theta in thetas]
        return [ParameterState(array, model=model, number=number) for number, array in enumerate(arrays)]

    def step(
        self,
        param: ParameterState,
        gradient: npt.ArrayLike,
        hypers: Mapping[str, Any] | None = None,
        loss: float | None = None,
    ) -> None:
        """One step in which this parameter alone takes part: θ, the states and `t` change. `hypers` hold for this step only."""
        self.step_together([param], [gradient], [hypers or {}], loss)

    def step_together(
        self,
        params: Sequence[ParameterState],
        gradients: Sequence[npt.ArrayLike],
        hypers: Sequence[Mapping[str, Any]] | None = None,
        loss: float | None = None,
    ) -> None:
        """One step of parameters of one model; `hypers` are those of each parameter, in force for this step only.

        `loss` is the value of what is minimized, where the gradients were taken. Raises OptcError if the step reads it, and
        there is none.
        """
        step = self.program.procedures[0]
        if loss is None and LOSS in symbols_of(step.body):
            raise OptcError(f"a step of {self.program.name} needs the loss")
        counting = next((hyper.names[0] for hyper in self.program.hypers if hyper.counts), None)
        runs: list[_Run] = []
        for param, gradient, changes in zip(params, gradients, hypers or [{}] * len(params), strict=True):
            param.t += 1
            values = self._hypers(changes)
            if counting is not None:
                values[counting] = float(values[counting] or 0) + float(param.model.get(counting, 0.0))
            runs.append(_Run(self.program, step, values, param, {"g": gradient}, loss))
        _together([run.run() for run in runs])
        for run in runs:
            run.keep()
        for model in {id(param.model): param.model for param in params}.values():
            if counting is not None:
                model[counting] = model.get(counting, np.float64(0.0)) + 1

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
        run = _Run(self.program, procedure, self._hypers(hypers or {}), param, inputs)
        _together([run.run()])
        run.keep()

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
        loss: float | None = None,
    ) -> None:
        self._program = program
        self._loss = loss
        self._procedure = procedure
        self._hypers = hypers
        self._param = param
        self._tensors: dict[str, Value] = {name: np.array(value, dtype=np.float64) for name, value in tensors.items()}
        self._locals: dict[str, Value] = {}
        self._model = dict(param.model)
        self._shape = program.view(param.theta.shape)
        self._p = 1 if program.pick is None else int(hypers[program.pick] or 1)
        self._new: set[str] = set()
        self._stored: dict[str, Any] = {}  # with what codes are rounded at random by, or None
        for name, value in self._tensors.items():
            if value.shape != param.theta.shape:
                raise OptcError(f"`{name}` has the shape {value.shape}, θ has {param.theta.shape}")

    def run(self) -> _Steps[None]:
        """Creates the states that are due, all from values before this run; then runs the body.

        Yields this parameter's part of each total, and is sent the total.
        """
        due = self._due()
        values = {s.name: self._shaped(s, evaluate(s.initial, self._read, self._shape, self._p)) for s in due}
        for state in due:
            self._states_of(state.extent)[state.name] = _through_memory(state, values[state.name], True)
        yield from self._block(self._procedure.body)

    def keep(self) -> None:
        """Hands the model's states on: all parameters of a step have computed the same. What was written goes to memory."""
        self._param.model.update(self._model)
        for name, dither in self._stored.items():
            self._param.states[name] = _through_memory(self._program.state(name), self._param.states[name], dither=dither)

    def _due(self) -> list[State]:
        """States to be created: in `step` all whose conditions hold, in an entry those of them that it names."""
        theta = self._param.theta
        due = [
            s
            for s in self._program.states
            if s.name not in self._states_of(s.extent)
            and evaluate_static(s.exists, self._hypers, theta.ndim, theta.size, self._param.bf16)
        ]
        if self._procedure is not self._program.procedures[0]:
            due = [s for s in due if Symbol(Role.STATE, s.name) in symbols_of(self._procedure.body)]
        self._new = {s.name for s in due}
        return due

    def _block(self, body: Iterable[Statement]) -> _Steps[bool]:
        """Runs statements in order; False once the step has stopped."""
        for statement in body:
            match statement:
                case Let(target=target, value=value):
                    result = yield from self._value(value)
                    if target.role is Role.GRADIENT:
                        self._tensors[target.name] = self._array(result)
                    else:
                        self._locals[target.name] = result
                case Store(target=target, value=value) if target.role is Role.THETA:
                    self._param.theta = self._array((yield from self._value(value)))
                case Store(target=target, value=value, dither=dither):
                    state = self._program.state(target.name)
                    self._states_of(state.extent)[state.name] = self._shaped(state, (yield from self._value(value)))
                    if state.storage is not None:
                        drawn = None if dither is None else evaluate(dither, self._read, self._shape, self._p)
                        self._stored[state.name] = drawn
                case Branch(condition=condition, then=then, otherwise=otherwise):
                    holds = yield from self._value(condition)
                    if not (yield from self._block(then if holds else otherwise)):
                        return False
                case Stop():
                    return False
        return True

    def _value(self, expression: Expression) -> _Steps[Value]:
        """The value of an expression; totals in it, innermost first, are waited for."""
        while (waited := self._next_total(expression)) is not None:
            total = yield evaluate(waited.arguments[0], self._read, self._shape, self._p)
            expression = _replaced(expression, waited, Constant(total, waited.type))
        return evaluate(expression, self._read, self._shape, self._p)

    def _next_total(self, expression: Expression) -> Apply | None:
        """The first total that is evaluated: a static condition selects one side."""
        match expression:
            case Apply(operation="where", arguments=(condition, then, otherwise)) if condition.type.static:
                chosen = evaluate(condition, self._read, self._shape, self._p)
                return self._next_total(then if chosen else otherwise)
            case Apply(operation="and" | "or" as operation, arguments=(left, right)) if left.type.static:
                settled = bool(evaluate(left, self._read, self._shape, self._p))
                return None if settled == (operation == "or") else self._next_total(right)
            case Apply(operation=operation, arguments=arguments):
                inner = next((t for a in arguments if (t := self._next_total(a)) is not None), None)
                return inner if inner is not None or operation != TOTAL else expression
        return None

    def _read(self, symbol: Symbol) -> Value:
        match symbol.role:
            case Role.HYPER:
                return self._hypers[symbol.name]
            case Role.THETA:
                return self._param.theta.reshape(self._shape)
            case Role.STATE:
                extent = self._program.state(symbol.name).extent
                value = self._states_of(extent)[symbol.name]
                if extent is Extent.PICK and value.shape != extent.shape(self._shape, self._p):
                    raise OptcError(f"`{symbol.name}` was made with another `{self._program.pick}`, which never changes")
                return value.reshape(self._shape) if extent is Extent.ELEM else value
            case Role.GRADIENT | Role.INPUT:
                return self._tensors[symbol.name].reshape(self._shape)
            case Role.LOCAL:
                return self._locals[symbol.name]
            case Role.ELEMENT:
                return numbers_of_elements(self._param.number, self._shape)
            case Role.STEP:
                return self._param.t
            case Role.LOSS:
                return self._loss
            case Role.SHAPE:
                theta = self._param.theta
                return {"ndim": theta.ndim, "numel": theta.size, "bf16": self._param.bf16}[symbol.name]
            case Role.NEW:
                return symbol.name in self._new
        raise TypeError(f"a checked program has no {symbol.role}")

    def _array(self, value: Value) -> Array:
        """A copy with the shape of θ."""
        return np.array(np.broadcast_to(value, self._shape), dtype=np.float64).reshape(self._param.theta.shape)

    def _states_of(self, extent: Extent) -> dict[str, Any]:
        """Where states of an extent are kept."""
        return self._model if extent is Extent.MODEL else self._param.states

    def _shaped(self, state: State, value: Value) -> Array | np.float64:
        if state.extent in SCALARS:
            return np.float64(value)
        if state.extent is Extent.ELEM:
            return self._array(value)
        return np.array(np.broadcast_to(value, state.extent.shape(self._shape, self._p)), dtype=np.float64)


def _through_memory(
    state: State, value: Array | np.float64, new: bool = False, dither: Array | None = None
) -> Array | np.float64:
    """What the next step finds of a value."""
    if state.storage is None or not isinstance(value, np.ndarray):
        return value
    return through_memory(value, state.storage, new, dither)


def _together(runs: Sequence[_Steps[None]]) -> None:
    """Runs side by side: each waits at a total until all have given their part. They wait at the same ones."""
    waiting = list(runs)
    total: float | None = None
    while waiting:
        parts: list[np.float64] = []
        for run in tuple(waiting):
            try:
                parts.append(np.float64(run.send(total)))
            except StopIteration:
                waiting.remove(run)
        total = float(np.sum(np.array(parts)))


def _replaced(expression: Expression, old: Apply, new: Expression) -> Expression:
    if expression is old:
        return new
    if isinstance(expression, Apply):
        return replace(expression, arguments=tuple(_replaced(a, old, new) for a in expression.arguments))
    return expression


def symbols_of(body: Iterable[Statement]) -> set[Symbol]:
    """All names that statements read or write."""
    found: set[Symbol] = set()
    for statement in body:
        match statement:
            case Let(target=target, value=value) | Store(target=target, value=value):
                found |= {*reads(value), target}
            case Branch(condition=condition, then=then, otherwise=otherwise):
                found |= reads(condition) | symbols_of((*then, *otherwise))
    return found
