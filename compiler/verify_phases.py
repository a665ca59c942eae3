"""The promises of a procedure's parts: the host program, and in every phase the program of the model and the kernel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from optc.compiler.conditions import FALSE
from optc.compiler.extents import ON_STATISTICS, is_measure, is_total, of_picked
from optc.compiler.ir import InternalError, expressions, reads, statements, walk
from optc.compiler.plan import HostProgram, Kernel, ModelProgram, Plan, ProcedurePlan, Stream
from optc.compiler.streams import STREAMED
from optc.dsl.kinds import PER_ELEMENT, Extent
from optc.dsl.program import (
    BINARY,
    DRAW,
    GATHERING,
    LOSS,
    PICK,
    TERNARY,
    UNARY,
    Apply,
    Branch,
    Let,
    Read,
    Role,
    Statement,
    Store,
)

_ARITY = {
    operation: count
    for count, group in ((1, UNARY | GATHERING), (2, BINARY | {PICK}), (3, TERNARY), (6, {DRAW}))
    for operation in group
}
_ON_HOST = (Role.HYPER, Role.STEP, Role.SHAPE, Role.NEW, Role.LOCAL, Role.STATE)


def verify_operations(body: tuple[Statement, ...]) -> None:
    """Every operation is known and has its number of arguments."""
    for expression in expressions(body):
        for node in walk(expression):
            if isinstance(node, Apply) and len(node.arguments) != _ARITY.get(node.operation):
                raise InternalError(f"operation {node.operation!r} with {len(node.arguments)} arguments")


def verify_host(host: HostProgram, where: str) -> None:
    """The host program reads what the host has."""
    verify_operations(host.body)
    for expression in expressions(host.body):
        for read in reads(expression):
            if read.symbol.role not in _ON_HOST:
                raise InternalError(f"{where}: the host program reads {read.symbol}")
    twice = set(host.scalars) & set(host.flags)
    if twice:
        raise InternalError(f"{where}: {sorted(twice)} are both scalars and flags")


def verify_phases(procedure: ProcedurePlan, plan: Plan, where: str) -> None:
    """Every phase is given what it reads: by the host program, or by the phases before it."""
    static = {f.name for f in plan.flags}
    left: dict[str, bool] = {}  # statistic that kernels before have left -> whether a pass has measured it
    parts: set[str] = set()
    tables = {(k.statistics, k.extents) for k in procedure.kernels if k.passes}
    if len(tables) > 1:
        raise InternalError(f"{where}: its kernels keep different statistics")
    for number, phase in enumerate(procedure.phases):
        exports: tuple[str, ...] = ()
        if phase.model is not None:
            _model(phase.model, procedure.host, static, parts, f"{where}, program of the model {number}")
            exports = phase.model.exports
            if phase.model.carried and number != len(procedure.phases) - 1:
                raise InternalError(f"{where}: states of the model are written before the last phase")
        if phase.kernel is not None:
            given = {*procedure.host.scalars, *exports}
            _kernel(phase.kernel, static, procedure.host, given, left, f"{where}, kernel {number}")
            measured = {name for one in phase.kernel.passes for name, _ in one.measures}
            left |= {name: name in measured for name in phase.kernel.leaves}
            parts |= set(phase.kernel.parts)


def _model(program: ModelProgram, host: HostProgram, static: set[str], parts: set[str], where: str) -> None:
    """It reads numbers of the model only, and binds what it exports on every path."""
    verify_operations(program.body)
    if shared := set(program.exports) & set(host.scalars):
        raise InternalError(f"{where}: {sorted(shared)} are exported by the host program, too")
    if missing := {part for _, part in program.totals} - parts:
        raise InternalError(f"{where}: no kernel before leaves {sorted(missing)}")
    if unknown := set(program.flags) - static - set(host.flags) or set(program.scalars) - set(host.scalars):
        raise InternalError(f"{where}: the host program does not export {sorted(unknown)}")
    bound = {s.target for s in statements(program.body) if isinstance(s, Let)}
    given = {
        Role.SCALAR: {*program.scalars, *(t.name for t in bound if t.role is Role.SCALAR)},
        Role.LOCAL: {t.name for t in bound if t.role is Role.LOCAL},
        Role.FLAG: set(program.flags),
        Role.STATISTIC: {total for total, _ in program.totals},
        Role.STATE: set(program.states),
        Role.LOSS: {LOSS.name} if program.loss else set(),
    }
    _given(program.body, given, where)
    for expression in expressions(program.body):
        if wide := [e for e in walk(expression) if isinstance(e, Read | Apply) and e.type.extent is not Extent.MODEL]:
            raise InternalError(f"{where}: it reads a value per {wide[0].type.extent.value}, {wide[0]}")
        if any(isinstance(e, Apply) and e.operation in GATHERING for e in walk(expression)):
            raise InternalError(f"{where}: it gathers")
    if unsure := set(program.exports) - _bound_on_every_path(program.body):
        raise InternalError(f"{where}: {sorted(unsure)} have no value on some path")
    stored = {s.target.name for s in statements(program.body) if isinstance(s, Store)}
    if stored != set(program.carried) or not stored <= set(program.states):
        raise InternalError(f"{where}: it stores {sorted(stored)} and carries {sorted(program.carried)}")
    _branches(program.body, where)


def _bound_on_every_path(body: tuple[Statement, ...]) -> set[str]:
    bound: set[str] = set()
    for statement in body:
        match statement:
            case Let():
                bound.add(statement.target.name)
            case Branch():
                bound |= _bound_on_every_path(statement.then) & _bound_on_every_path(statement.otherwise)
    return bound


def _kernel(
    kernel: Kernel, static: set[str], host: HostProgram, scalars: set[str], left: Mapping[str, bool], where: str
) -> None:
    if missing := set(kernel.scalars) - scalars or set(kernel.host_flags) - set(host.flags):
        raise InternalError(f"{where}: nothing before it exports {sorted(missing)}")
    if unknown := set(kernel.static_flags) - static:
        raise InternalError(f"{where}: unknown static flags {sorted(unknown)}")
    if missing := set(kernel.given) - left.keys():
        raise InternalError(f"{where}: no kernel before leaves {sorted(missing)}")
    extents = dict(zip(kernel.statistics, kernel.extents, strict=True))
    if wide := set(extents.values()) - ON_STATISTICS:
        raise InternalError(f"{where}: it keeps statistics of the extents {sorted(e.value for e in wide)}")
    if wrong := {n for n in kernel.parts if extents.get(n) is not Extent.TENSOR} | set(kernel.parts) - set(kernel.leaves):
        raise InternalError(f"{where}: {sorted(wrong)} are no numbers per tensor that it leaves")
    _body(kernel.body, kernel.streams, kernel, set(), where, also=kernel.given)
    numbers = tuple(s for s in kernel.streams if s.extent not in PER_ELEMENT)
    if not kernel.passes and (other := [s for s in kernel.streams if s.extent is not Extent.ELEM]):
        raise InternalError(f"{where}: code per element moves through {other[0].name!r}, per {other[0].extent.value}")
    if kernel.pick is None and (any(p.picked for p in kernel.passes) or any(s.extent is Extent.PICK for s in kernel.streams)):
        raise InternalError(f"{where}: it picks elements, and is not told which")
    if kernel.pick is not None and (kernel.pick[0] not in kernel.scalars or kernel.pick[1] not in kernel.static_flags):
        raise InternalError(f"{where}: it is not given {kernel.pick}")
    measured = {name for name, by_a_pass in left.items() if by_a_pass}
    for index in range(len(kernel.passes)):
        measured |= _pass(kernel, index, numbers, measured, f"{where}, pass {index}")
    bound = _body(kernel.finish, numbers, kernel, measured, f"{where}, after the last pass")
    if unleft := set(kernel.parts) - measured - bound:
        raise InternalError(f"{where}: nothing leaves {sorted(unleft)}")
    if kernel.passes:
        _writes(kernel, where)


def _pass(kernel: Kernel, index: int, numbers: tuple[Stream, ...], measured: set[str], where: str) -> set[str]:
    """Checks a pass and the lines on statistics before it; returns what it measures."""
    one = kernel.passes[index]
    bound = _body(one.prepare, numbers, kernel, measured, where)
    if missing := set(one.needs) - measured - bound:
        raise InternalError(f"{where}: nothing leaves {sorted(missing)}")
    if unkept := {*one.needs, *(name for name, _ in one.measures)} - set(kernel.statistics):
        raise InternalError(f"{where}: {sorted(unkept)} are no statistics of the kernel")
    if wide := [s for s in one.streams if s.extent is not Extent.ELEM]:
        raise InternalError(f"{where}: code per element moves through {wide[0].name!r}, per {wide[0].extent.value}")
    if wide := [s for s in one.picked_streams if s.extent not in PER_ELEMENT or (s.writes and s.extent is not Extent.PICK)]:
        raise InternalError(f"{where}: code on picked elements moves through {wide[0].name!r}, per {wide[0].extent.value}")
    bodies = (one.body, one.streams), (one.picked, one.picked_streams)
    _body(one.together, one.moves, kernel, set(one.needs), where)
    found: set[str] = set()
    for body, streams in bodies:
        if one.exists == FALSE and any(isinstance(s, Store) or is_measure(s) for s in statements(body)):
            raise InternalError(f"{where}: it never runs, yet stores or measures")
        _body(body, streams, kernel, set(one.needs), where)
        lines = {s.target.name for s in statements(body) if isinstance(s, Let) and is_measure(s)}
        if wrong := [s for s in statements(body) if is_measure(s) and of_picked(s) is not (body is one.picked)]:
            raise InternalError(f"{where}: {wrong[0]} stands in the code on other elements")
        if lines & (measured | found):
            raise InternalError(f"{where}: it measures {sorted(lines)}")
        found |= lines
    stored = [
        {s.target.name for s in statements(body) if isinstance(s, Store)} for body in (one.body, one.picked, one.together)
    ]
    both = found | stored[0] | stored[1]
    done = {s.target.name for s in statements(one.together) if is_measure(s) and isinstance(s, Let)} | stored[2]
    if one.picked and both != done:
        raise InternalError(f"{where}: with all elements picked it does {sorted(done)}, otherwise {sorted(both)}")
    if found != {name for name, _ in one.measures}:
        raise InternalError(f"{where}: it measures {sorted(found)}")
    return found


def _body(
    body: tuple[Statement, ...],
    given_streams: tuple[Stream, ...],
    kernel: Kernel,
    statistics: set[str],
    where: str,
    also: Iterable[str] = (),
) -> set[str]:
    """Checks lines that are given these streams and statistics; returns the statistics that they bind themselves.

    `also`: statistics that are given under names of locals.
    """
    verify_operations(body)
    streams = {s.name: s for s in given_streams}
    bound = {s.target for s in statements(body) if isinstance(s, Let)}
    if any(is_total(s) for s in statements(body)):
        raise InternalError(f"{where}: a kernel cannot add up over the model")
    given: dict[Role, set[str]] = {
        Role.SCALAR: set(kernel.scalars),
        Role.FLAG: set(kernel.static_flags) | set(kernel.host_flags),
        Role.LOCAL: {t.name for t in bound if t.role is Role.LOCAL} | set(also),
        Role.STATISTIC: statistics | {t.name for t in bound if t.role is Role.STATISTIC},
        Role.SHAPE: {"numel"},
    }
    given |= {role: set(streams) for role in STREAMED}
    _given(body, given, where)
    for statement in statements(body):
        if isinstance(statement, Store) and not (statement.target.name in streams and streams[statement.target.name].writes):
            raise InternalError(f"{where}: {statement.target.name!r} is stored but is no written stream")
    _branches(body, where)
    return {t.name for t in bound if t.role is Role.STATISTIC}


def _given(body: tuple[Statement, ...], given: Mapping[Role, set[str]], where: str) -> None:
    for expression in expressions(body):
        for read in reads(expression):
            if read.symbol.name not in given.get(read.symbol.role, ()):
                raise InternalError(f"{where}: it reads {read.symbol.name!r} ({read.symbol.role.value}), which it is not given")


def _branches(body: tuple[Statement, ...], where: str) -> None:
    for statement in statements(body):
        if isinstance(statement, Branch) and any(r.symbol.role is not Role.FLAG for r in reads(statement.condition)):
            raise InternalError(f"{where}: a branch reads more than flags")


def _writes(kernel: Kernel, where: str) -> None:
    """The passes and stages write what the kernel writes as one program."""
    parts = (
        [body for one in kernel.passes for body in (one.body, one.picked)]
        + [one.prepare for one in kernel.passes]
        + [kernel.finish]
    )
    written = {s.target.name for part in parts for s in statements(part) if isinstance(s, Store)}
    if written != {s.name for s in kernel.streams if s.writes and s.role is not Role.REST}:
        raise InternalError(f"{where}: its passes write {sorted(written)}")
