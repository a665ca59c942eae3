"""Whether two programs are the same maths: random hypers and models of parameters of every kind, on which both are run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from optc.compiler.interpret import Oracle
from optc.dsl.errors import OptcError
from optc.dsl.program import Bounds, Hyper, HyperKind, Program
from tests.reference_cases import Array, Hypers, Trace, difference
from tests.references_composed import NOTHING_LEFT

PROBES = 24
STEPS = 12
TRIES = 400
SHAPES: tuple[tuple[int, ...], ...] = ((4, 3), (6,), (2, 3, 4), ())
SCALES = (1.0, 1e-3, 30.0)
REAL_DIFFERENCE = 1e-8
"""A program that moves θ and the states by less, on every probe, is taken for the same maths."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Hypers, and a model: starts, and for every step a factor of lr and the gradients, None where a parameter has none."""

    hypers: Hypers
    thetas: tuple[Array, ...]
    gradients: tuple[tuple[Array | None, ...], ...]
    factors: tuple[float, ...]
    entries: tuple[Array, ...]
    leap: int = 0
    """How many steps are taken to have been done in the middle, so that `t` is large at the end."""


def different(program: Program, other: Program, spec: str) -> bool:
    """Whether `other` computes something else than `program`, which is that of `spec`, on some probe.

    Raises what a program raises that reads what does not exist.
    """
    return any(
        difference(ours, theirs) > REAL_DIFFERENCE
        for probe, traces in _probes(spec, program)
        for ours, theirs in zip(run(other, probe), traces, strict=True)
    )


@cache
def _probes(spec: str, program: Program) -> tuple[tuple[Probe, tuple[Trace, ...]], ...]:
    """Probes on which the spec stays finite, and what it does on them."""
    rng = np.random.default_rng(sum(map(ord, spec)))
    found: list[tuple[Probe, tuple[Trace, ...]]] = []
    for number in range(TRIES):
        probe = random_probe(program, rng, number, SHAPES[:-1] if spec in NOTHING_LEFT else SHAPES)
        try:
            traces = run(program, probe)
        except OptcError:  # a `require` does not hold
            continue
        if all(np.isfinite(theta).all() for trace in traces for theta in trace.thetas):
            found.append((probe, traces))
        if len(found) == PROBES:
            break
    assert len(found) >= PROBES // 2, spec
    return tuple(found)


def random_probe(program: Program, rng: np.random.Generator, number: int, shapes: tuple[tuple[int, ...], ...]) -> Probe:
    """Gradients of every size, with zeros; in some probes all are negative, 0 in some steps or rows, or missing, or θ is 0."""
    scale = SCALES[number % len(SCALES)]
    thetas = tuple(np.asarray(rng.normal(size=shape)) * (number % 5 != 4) for shape in shapes)
    drift = tuple(np.asarray(rng.normal(size=shape)) for shape in shapes)
    steps = []
    for step in range(STEPS):
        here: list[Array | None] = []
        for place, shape in enumerate(shapes):
            g = drift[place] * (number % 2) + rng.normal(size=shape) * np.exp(rng.normal(size=shape))
            g = np.asarray(scale * g * (rng.random(shape) > 0.2))
            if number % 7 == 6:
                g = -np.abs(g)
            if number % 4 == 1 and shape:
                g[0] = 0.0
            if number % 3 == 2 and step in (0, 5):
                g = np.zeros(shape)
            here.append(None if number % 4 == 3 and rng.random() < 0.2 else g)
        steps.append(tuple(here))
    hypers = {h.key: _sample(h, rng) for h in program.hypers}
    factors = tuple(float(f) for f in np.exp(0.4 * rng.normal(size=STEPS)))
    entries = tuple(np.asarray(rng.normal(size=shape)) for shape in shapes)
    return Probe(hypers, thetas, tuple(steps), factors, entries, 20_000 if number % 6 == 5 else 0)


def run(program: Program, probe: Probe) -> tuple[Trace, ...]:
    """What the oracle does with a program on a probe; every entry is called in every third step."""
    oracle = Oracle(program, probe.hypers)
    params = oracle.new_parameters(probe.thetas)
    kept: list[list[Array]] = [[] for _ in params]
    for step, (gradients, factor) in enumerate(zip(probe.gradients, probe.factors, strict=True)):
        for param in params:
            param.t += probe.leap * (step == STEPS // 2)
        there = [i for i, g in enumerate(gradients) if g is not None]
        given = [{"lr": probe.hypers["lr"] * factor}] * len(there)
        present, loss = [g for g in gradients if g is not None], 2.0 / (1 + step) + step % 3
        oracle.step_together([params[i] for i in there], present, given, loss)
        for entry in program.procedures[1:]:
            if step % 3 == 1:
                for param, value in zip(params, probe.entries, strict=True):
                    oracle.enter(entry.name, param, dict.fromkeys(entry.inputs, value))
        for param, thetas in zip(params, kept, strict=True):
            thetas.append(param.theta.copy())
    values = [{**param.states, **param.model} for param in params]
    states = [{name: np.asarray(value) for name, value in of.items()} for of in values]
    return tuple(Trace(tuple(thetas), of) for thetas, of in zip(kept, states, strict=True))


def _sample(hyper: Hyper, rng: np.random.Generator) -> Any:
    """A random value that a hyper may have."""
    match hyper.kind:
        case HyperKind.FLAG:
            return bool(rng.random() < 0.5)
        case HyperKind.CHOICE:
            return str(rng.choice(hyper.choices))
        case HyperKind.INTEGER:
            low, high = (hyper.bounds.low, hyper.bounds.high) if hyper.bounds is not None else (1.0, 8.0)
            whole = int(rng.integers(int(max(low, 0)), int(min(high, 8)) + 1))
            return None if hyper.optional and rng.random() < 0.5 else whole
    values = tuple(_number(default, hyper.bounds, rng) for default in hyper.defaults)
    if hyper.optional and rng.random() < 0.5:
        return None
    return values if hyper.is_tuple else values[0]


def _number(default: Any, bounds: Bounds | None, rng: np.random.Generator) -> float:
    low, high = (bounds.low, bounds.high) if bounds is not None else (-np.inf, np.inf)
    if default is None:
        return float(rng.uniform(max(low, 0.1), min(high, 2.0)))
    if default == 0:
        return 0.0 if rng.random() < 0.4 else float(np.clip(rng.uniform(0.05, 0.9), low, high))
    if high == 1 and default > 0.5:  # a decay rate
        return float(rng.uniform(0.3, 0.98))
    if 0 < default < 1e-5:  # what guards a denominator
        return float(10 ** rng.uniform(-6, -1))
    if default > 1e4:  # a start in the far future
        return float(rng.uniform(2, 12))
    if default > 10:  # a bound or size out of reach in so few steps
        return float(rng.uniform(0.05, 5))
    return float(np.clip(default * rng.uniform(0.5, 1.5), low, high))
