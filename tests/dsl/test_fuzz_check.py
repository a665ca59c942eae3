"""Whatever a spec says, the checker either accepts it or raises SpecError; and what it accepts, the oracle can run."""

from __future__ import annotations

import dataclasses
import math
import random
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from optc.compiler.interpret import Oracle
from optc.dsl import nodes
from optc.dsl.check import check
from optc.dsl.errors import OptcError, SpecError
from optc.dsl.kinds import Extent
from optc.dsl.parse import parse
from optc.dsl.program import Program, Scalar
from optc.dsl.show import show
from optc.dsl.source import Source
from tests.dsl.sound import check_totals, check_types
from tests.dsl.texts import FACTORED, GLOBAL
from tests.oracle import WRITTEN_OUT
from tests.strategies import specs

NEW = [FACTORED, GLOBAL] * 6
"""Rows, columns and the model, as often as a tenth of the others."""
TEXTS = [*(p.read_text(encoding="utf-8") for p in WRITTEN_OUT), *NEW]
SHAPES = ((2, 3), (3,), (2, 1, 2), ())
MUTATIONS = 100
"""Per kind and seed; a few hundredths of a second each at most."""

_WORDS = re.compile(r"[^\W\d]\w*|\d+(?:\.\d+)?|[^\w\s]")


def accepted(spec: nodes.Spec, source: Source) -> Program | None:
    """The program, or None where the checker refuses with diagnostics that can be shown."""
    try:
        return check(spec, source)
    except SpecError as error:
        assert error.diagnostics
        assert all(d.code and d.message for d in error.diagnostics)
        assert error.render()
        return None


def run(program: Program) -> None:
    """Checks its types and runs it with its defaults and with other branches taken: only a refused hyper may be raised."""
    check_types(program)
    check_totals(program)
    run_with(program, {})
    changed: dict[str, Any] = {}
    for hyper in program.hypers:
        values = tuple(hyper.choices[-1] if hyper.choices else _other(d) for d in hyper.defaults)
        changed[hyper.key] = values if hyper.is_tuple else values[0]
    run_with(program, changed)


def _other(default: Scalar) -> Scalar:
    """Another value, that turns a static condition round."""
    if isinstance(default, bool):
        return not default
    return 2 if default is None else 0.5 if default == 0 else default


def run_with(program: Program, hypers: dict[str, Any]) -> None:
    """Three steps of several parameters, one of which misses the second step, and every entry."""
    try:
        oracle = Oracle(program, hypers)
    except OptcError:
        return  # these violate a `require`
    parameters = oracle.new_parameters([np.linspace(-1, 1, math.prod(s)).reshape(s) for s in SHAPES])
    for turn in range(3):
        taking = [p for p in parameters if turn != 1 or p.theta.ndim != 1]
        oracle.step_together(taking, [np.full(p.theta.shape, 0.5) for p in taking], loss=0.25)
        for entry in program.procedures[1:]:
            for p in taking:
                oracle.enter(entry.name, p, {name: np.ones(p.theta.shape) for name in entry.inputs})
    assert tuple(p.theta.shape for p in parameters) == SHAPES
    assert [p.t for p in parameters] == [3, 2, 3, 3]
    picking = next((h for h in program.hypers if program.pick in h.names), None)
    period = 1 if picking is None else int(hypers.get(picking.key) or picking.defaults[0] or 1)
    for p in parameters:
        for state in program.states:
            kept = p.model if state.extent is Extent.MODEL else p.states
            if state.name in kept:
                shape = (
                    p.theta.shape if state.extent is Extent.ELEM else state.extent.shape(program.view(p.theta.shape), period)
                )
                assert np.shape(kept[state.name]) == shape


@pytest.fixture(scope="module")
def shipped() -> list[nodes.Spec]:
    return [parse(Source("shipped.opt", text)) for text in TEXTS]


def _expressions(spec: nodes.Spec) -> list[nodes.Expression]:
    kinds = nodes.Expression.__args__
    found: list[nodes.Expression] = []
    stack: list[Any] = [spec]
    while stack:
        item = stack.pop()
        if isinstance(item, tuple):
            stack.extend(item)
        elif dataclasses.is_dataclass(item):
            if isinstance(item, kinds):
                found.append(item)
            stack.extend(getattr(item, f.name) for f in dataclasses.fields(item) if f.name not in ("span", "comments"))
    return found


class _Mutation:
    """Rebuilds a spec with one change at a random place: an expression replaced, or a line moved, doubled or left out."""

    def __init__(self, chance: random.Random, pool: list[nodes.Expression], count: int) -> None:
        self.chance, self.pool = chance, pool
        self.names = [e for e in pool if isinstance(e, nodes.Name)]
        self.at = chance.randrange(count)
        self.seen = -1

    def rebuild(self, item: Any, names_only: bool = False) -> Any:
        if isinstance(item, tuple):
            return self._sequence(item, names_only)
        if not isinstance(item, nodes.Node):
            return item
        if isinstance(item, nodes.Expression):
            self.seen += 1
            if self.seen == self.at:
                return self.chance.choice(self.names if names_only else self.pool)
        names = [f.name for f in dataclasses.fields(item) if f.name != "span"]
        # only names can be written
        return dataclasses.replace(item, **{n: self.rebuild(getattr(item, n), names_only=n == "targets") for n in names})

    def _sequence(self, items: tuple[Any, ...], names_only: bool) -> tuple[Any, ...]:
        result = [self.rebuild(item, names_only) for item in items]
        if result and self.chance.random() < 0.05:
            place = self.chance.randrange(len(result))
            match self.chance.randrange(3):
                case 0:
                    result.insert(self.chance.randrange(len(result)), result.pop(place))
                case 1:
                    result.insert(place, result[place])
                case _:
                    del result[place]
        return tuple(result)


@pytest.mark.parametrize("seed", range(4))
def test_mutated_nodes(shipped: list[nodes.Spec], seed: int) -> None:
    chance = random.Random(seed)
    survivors = 0
    for _ in range(MUTATIONS):
        spec, other = chance.choice(shipped), chance.choice(shipped)
        own = _expressions(spec)
        pool = own if chance.random() < 0.7 else _expressions(other)
        mutated = _Mutation(chance, pool, len(own)).rebuild(spec)
        program = accepted(mutated, Source("mutated.opt", show(spec)))
        if program is not None:
            survivors += 1
            run(program)
    assert 0 < survivors < MUTATIONS  # both answers occur


@pytest.mark.parametrize("seed", range(2))
def test_mutated_texts(seed: int) -> None:
    chance = random.Random(seed)
    words = sorted({w for text in TEXTS for w in _WORDS.findall(text)})
    checked = 0
    for _ in range(MUTATIONS):
        text = chance.choice(TEXTS)
        for _ in range(chance.randint(1, 2)):
            place = chance.choice(list(_WORDS.finditer(text)))
            text = text[: place.start()] + chance.choice([*chance.sample(words, 3), ""]) + text[place.end() :]
        source = Source("mutated.opt", text)
        try:
            spec = parse(source)
        except SpecError:
            continue
        checked += 1
        program = accepted(spec, source)
        if program is not None:
            run(program)
    assert checked > 0


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(specs)
def test_random_specs(spec: nodes.Spec) -> None:
    program = accepted(spec, Source("random.opt", show(spec)))
    if program is not None:
        run(program)
