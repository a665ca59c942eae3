"""Update -> Plan: which kernels, and what each of them streams.

A procedure is one kernel. Where no value depends on a reduction it is one pass over memory: everything is read once before it
is written once. Otherwise `separate.py` tells code per element from code per tensor, and `passes.py` splits at the reductions.
"""

from __future__ import annotations

from optc.compiler.hoist import hoist, static_flags
from optc.compiler.ir import Update, UpdateProcedure, expressions
from optc.compiler.passes import Passes, split
from optc.compiler.plan import Flag, Kernel, Plan, ProcedurePlan, Stream
from optc.compiler.separate import reduces, separate
from optc.compiler.streams import flag_names, over_flags, streams_of
from optc.dsl.program import Program, Statement


def schedule(update: Update) -> Plan:
    """The plan of every procedure."""
    flags = static_flags(update.program, tuple(p.body for p in update.procedures))
    procedures = tuple(_procedure(p, update.program, flags) for p in update.procedures)
    used = {name for p in procedures for k in p.kernels for name in k.static_flags}
    used |= {n for s in update.program.states for n in flag_names(over_flags(s.exists, flags))}
    return Plan(update.program, tuple(f for f in flags if f.name in used), procedures)


def _procedure(procedure: UpdateProcedure, program: Program, flags: tuple[Flag, ...]) -> ProcedurePlan:
    hoisted = hoist(procedure, program, flags)
    streams = streams_of(hoisted.body, program, procedure.inputs, flags)
    passes = Passes((), (), ())
    if reduces(hoisted.body, program):

        def of_pass(body: tuple[Statement, ...]) -> tuple[Stream, ...]:
            return streams_of(body, program, procedure.inputs, flags)

        taken = {*hoisted.host.scalars, *hoisted.host.flags, *(f.name for f in flags), *(s.name for s in program.states)}
        taken |= {"theta", "g", "t", "numel", "ndim", *procedure.inputs, *(n for h in program.hypers for n in h.names)}
        passes = split(separate(hoisted.body, program, frozenset(taken)), program, of_pass, frozenset(f.name for f in flags))
    named = {n for e in expressions(hoisted.body) for n in flag_names(e)}
    named |= {n for s in streams for n in flag_names(s.exists)}
    static = tuple(f.name for f in flags if f.name in named)
    kernel = Kernel(
        name=procedure.name,
        streams=streams,
        scalars=hoisted.host.scalars,
        static_flags=static,
        host_flags=tuple(n for n in hoisted.host.flags if n in named),
        body=hoisted.body,
        passes=passes.passes,
        finish=passes.finish,
        statistics=passes.statistics,
    )
    return ProcedurePlan(procedure.name, procedure.inputs, procedure.every, hoisted.host, (kernel,))
