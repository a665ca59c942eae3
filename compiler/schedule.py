"""Update -> Plan: which kernels, and what each of them streams.

A procedure is one kernel. Where no value depends on a reduction it is one pass over memory: everything is read once before it
is written once. Otherwise `separate.py` tells code per element from code on statistics and of the model, `passes.py` splits at
the reductions, and `phases.py` at the totals.
"""

from __future__ import annotations

from dataclasses import replace

from optc.compiler.hoist import hoist, static_flags
from optc.compiler.ir import Update, UpdateProcedure, expressions
from optc.compiler.phases import phases_of
from optc.compiler.picking import is_one, period, picks
from optc.compiler.plan import Flag, Kernel, Phase, Plan, ProcedurePlan, Stream
from optc.compiler.separate import reduces, separate
from optc.compiler.storing import coded_when
from optc.compiler.streams import flag_names, over_flags, streams_of
from optc.dsl.program import Program, Statement


def schedule(update: Update) -> Plan:
    """The plan of every procedure."""
    flags = static_flags(update.program, tuple(p.body for p in update.procedures))
    procedures = tuple(_procedure(p, update.program, flags) for p in update.procedures)
    used = {name for p in procedures for k in p.kernels for name in k.static_flags}
    used |= {name for p in procedures for phase in p.phases if phase.model is not None for name in phase.model.flags}
    kept = (when for s in update.program.states for when in (s.exists, coded_when(s)) if when is not None)
    used |= {n for when in kept for n in flag_names(over_flags(when, flags))}
    return Plan(update.program, tuple(f for f in flags if f.name in used), procedures)


def _procedure(procedure: UpdateProcedure, program: Program, flags: tuple[Flag, ...]) -> ProcedurePlan:
    hoisted = hoist(procedure, program, flags)
    host, p = hoisted.host, period(program)

    def streams(body: tuple[Statement, ...]) -> tuple[Stream, ...]:
        return streams_of(body, program, procedure.inputs, flags)

    def kernel(number: int, body: tuple[Statement, ...], scalars: tuple[str, ...]) -> Kernel:
        moved = streams(body)
        named = {n for e in expressions(body) for n in flag_names(e)}
        named |= {n for s in moved for when in (s.exists, s.coded) if when is not None for n in flag_names(when)}
        name = procedure.name if number == 0 else f"{procedure.name}_{number + 1}"
        pick = None
        if p is not None and picks(body, program):
            pick = p.symbol.name, next(f.name for f in flags if f.condition == is_one(p))
            named.add(pick[1])
            scalars = tuple(dict.fromkeys((*scalars, pick[0])))
        static = tuple(f.name for f in flags if f.name in named)
        return Kernel(name, moved, scalars, static, tuple(n for n in host.flags if n in named), body, pick=pick)

    if not reduces(hoisted.body, program):
        phases: tuple[Phase, ...] = (Phase(None, kernel(0, hoisted.body, host.scalars)),)
    else:
        taken = {*host.scalars, *host.flags, *(f.name for f in flags), *(s.name for s in program.states)}
        taken |= {"theta", "g", "t", "numel", "ndim", "bf16", *procedure.inputs, *(n for h in program.hypers for n in h.names)}
        separated = separate(hoisted.body, program, frozenset(taken))
        phases = phases_of(separated, program, streams, frozenset(f.name for f in flags), kernel)
        if len(phases) == 1 and phases[0].model is None and phases[0].kernel is not None:  # one program, as it was written
            passes = phases[0].kernel
            whole = kernel(0, hoisted.body, host.scalars)
            one = replace(
                whole, passes=passes.passes, finish=passes.finish, statistics=passes.statistics, extents=passes.extents
            )
            phases = (Phase(None, one),)
    return ProcedurePlan(procedure.name, procedure.inputs, procedure.every, host, phases)
