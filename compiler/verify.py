"""What every stage promises the next one, checked between them. A failure is a bug in optc, not the user's mistake."""

from __future__ import annotations

from optc.compiler.ir import InternalError, Update, expressions, reads, statements, walk
from optc.compiler.plan import HostProgram, Kernel, Plan, Stream
from optc.compiler.separate import is_measure
from optc.dsl.kinds import Extent
from optc.dsl.program import BINARY, REDUCTIONS, TERNARY, UNARY, Apply, Branch, Let, Role, Statement, Stop, Store

_ARITY = {**dict.fromkeys(UNARY | REDUCTIONS, 1), **dict.fromkeys(BINARY, 2), **dict.fromkeys(TERNARY, 3)}
_IN_KERNELS = (
    Role.THETA, Role.GRADIENT, Role.INPUT, Role.STATE, Role.LOCAL, Role.SCALAR, Role.FLAG, Role.STATISTIC, Role.SHAPE,
)  # fmt: skip
_ON_HOST = (Role.HYPER, Role.STEP, Role.SHAPE, Role.NEW, Role.LOCAL, Role.STATE)


def verify_update(update: Update) -> Update:
    """No early end is left; every operation is known and has its number of arguments."""
    for procedure in update.procedures:
        _operations(procedure.body)
        if any(isinstance(s, Stop) for s in statements(procedure.body)):
            raise InternalError(f"{update.program.name}.{procedure.name}: a `stop` was left by lowering")
    return update


def verify_plan(plan: Plan) -> Plan:
    """Kernels read only what is given to them, host programs export what kernels ask for, and θ is written by `step` alone."""
    for procedure in plan.procedures:
        where = f"{plan.program.name}.{procedure.name}"
        _host(procedure.host, where)
        for kernel in procedure.kernels:
            _kernel(kernel, {f.name for f in plan.flags}, procedure.host, where)
        writes_theta = any(s.role is Role.THETA and s.writes for k in procedure.kernels for s in k.streams)
        if writes_theta != (procedure.name == "step"):
            raise InternalError(f"{where}: θ must be written by `step` and by nothing else")
    return plan


def _operations(body: tuple[Statement, ...]) -> None:
    for expression in expressions(body):
        for node in walk(expression):
            if isinstance(node, Apply) and len(node.arguments) != _ARITY.get(node.operation):
                raise InternalError(f"operation {node.operation!r} with {len(node.arguments)} arguments")


def _host(host: HostProgram, where: str) -> None:
    _operations(host.body)
    for expression in expressions(host.body):
        for read in reads(expression):
            if read.symbol.role not in _ON_HOST:
                raise InternalError(f"{where}: the host program reads {read.symbol}")
    twice = set(host.scalars) & set(host.flags)
    if twice:
        raise InternalError(f"{where}: {sorted(twice)} are both scalars and flags")


def _kernel(kernel: Kernel, static: set[str], host: HostProgram, where: str) -> None:
    if missing := set(kernel.scalars) - set(host.scalars) or set(kernel.host_flags) - set(host.flags):
        raise InternalError(f"{where}: the host program does not export {sorted(missing)}")
    if unknown := set(kernel.static_flags) - static:
        raise InternalError(f"{where}: unknown static flags {sorted(unknown)}")
    _body(kernel.body, kernel.streams, kernel, set(), where)
    numbers = tuple(s for s in kernel.streams if s.extent is Extent.TENSOR)
    measured: set[str] = set()
    for index, one in enumerate(kernel.passes):
        place = f"{where}, pass {index}"
        bound = _body(one.prepare, numbers, kernel, measured, place)
        if missing := set(one.needs) - measured - bound:
            raise InternalError(f"{place}: nothing leaves {sorted(missing)}")
        _body(one.body, one.streams, kernel, set(one.needs), place)
        lines = {s.target.name for s in statements(one.body) if isinstance(s, Let) and is_measure(s)}
        if lines != {name for name, _ in one.measures}:
            raise InternalError(f"{place}: it measures {sorted(lines)}")
        measured |= lines
    _body(kernel.finish, numbers, kernel, measured, f"{where}, after the last pass")
    if kernel.passes:
        _stores_once(kernel, where)


def _body(
    body: tuple[Statement, ...], given_streams: tuple[Stream, ...], kernel: Kernel, statistics: set[str], where: str
) -> set[str]:
    """Checks lines that are given these streams and statistics; returns the statistics that they bind themselves."""
    _operations(body)
    streams = {s.name: s for s in given_streams}
    bound = {s.target for s in statements(body) if isinstance(s, Let)}
    given = {
        Role.SCALAR: set(kernel.scalars),
        Role.FLAG: set(kernel.static_flags) | set(kernel.host_flags),
        Role.LOCAL: {t.name for t in bound if t.role is Role.LOCAL},
        Role.STATISTIC: statistics | {t.name for t in bound if t.role is Role.STATISTIC},
        Role.SHAPE: {"numel"},
    }
    for expression in expressions(body):
        for read in reads(expression):
            role, name = read.symbol.role, read.symbol.name
            if role not in _IN_KERNELS or name not in given.get(role, streams):
                raise InternalError(f"{where}: it reads {name!r} ({role.value}), which it is not given")
    for statement in statements(body):
        match statement:
            case Store() if not (statement.target.name in streams and streams[statement.target.name].writes):
                raise InternalError(f"{where}: {statement.target.name!r} is stored but is no written stream")
            case Branch() if any(r.symbol.role is not Role.FLAG for r in reads(statement.condition)):
                raise InternalError(f"{where}: a branch reads more than flags")
    return {t.name for t in bound if t.role is Role.STATISTIC}


def _stores_once(kernel: Kernel, where: str) -> None:
    """Every stream is written by one pass or stage only, and all that the kernel writes are."""
    parts = [one.body for one in kernel.passes] + [one.prepare for one in kernel.passes] + [kernel.finish]
    written = [{s.target.name for s in statements(part) if isinstance(s, Store)} for part in parts]
    if sorted(n for names in written for n in names) != sorted(s.name for s in kernel.streams if s.writes):
        raise InternalError(f"{where}: its passes do not write each of its streams once")
