"""What every stage promises the next one, checked between them. A failure is a bug in optc, not the user's mistake."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from optc.compiler.ir import InternalError, Update, map_expression, statements, walk
from optc.compiler.plan import Plan, ProcedurePlan
from optc.compiler.verify_phases import verify_host, verify_operations, verify_phases
from optc.dsl.implication import Implication, TooManyCases, negation, static_part
from optc.dsl.kinds import IN_MATRICES
from optc.dsl.program import LOGIC, Apply, Branch, Expression, Let, Program, Read, Role, Statement, Stop, Store
from optc.dsl.scope import HAS_MATRIX


def verify_update(update: Update) -> Update:
    """No early end is left; every operation is known and has its number of arguments."""
    for procedure in update.procedures:
        verify_operations(procedure.body)
        if any(isinstance(s, Stop) for s in statements(procedure.body)):
            raise InternalError(f"{update.program.name}.{procedure.name}: a `stop` was left by lowering")
    return update


def verify_plan(plan: Plan) -> Plan:
    """Every program reads only what is given to it, every state has one place that writes it, and θ is written by `step` alone.

    Host programs and programs of the model export what kernels ask for; totals have their part left by an earlier kernel.
    """
    implied = Implication({n: h for h in plan.program.hypers for n in h.names})
    for procedure in plan.procedures:
        where = f"{plan.program.name}.{procedure.name}"
        verify_host(procedure.host, where)
        verify_phases(procedure, plan, where)
        for kernel in procedure.kernels:
            for body in (
                kernel.body,
                kernel.finish,
                *(b for p in kernel.passes for b in (p.prepare, p.body, p.picked, p.together)),
            ):
                _in_matrices(body, plan, (), implied, f"{where}, kernel {kernel.name}")
        _stores_once(procedure, plan.program, where)
    return plan


def _in_matrices(
    body: tuple[Statement, ...], plan: Plan, around: tuple[Expression, ...], implied: Implication, where: str
) -> None:
    """Values per row, column and matrix are only for tensors of two dimensions or more."""
    for statement in body:
        match statement:
            case Let() | Store():
                found = {e.type.extent for e in walk(statement.value) if isinstance(e, Read | Apply)} & IN_MATRICES
                if found and not _implied(around, implied):
                    raise InternalError(f"{where}: {statement.target.name!r} needs rows and columns outside of `ndim >= 2`")
            case Branch():
                static = static_part(_over_hypers(statement.condition, plan))
                otherwise = static_part(negation(_over_hypers(statement.condition, plan)))
                _in_matrices(statement.then, plan, (*around, static), implied, where)
                _in_matrices(statement.otherwise, plan, (*around, otherwise), implied, where)


def _implied(around: tuple[Expression, ...], implied: Implication) -> bool:
    try:
        return implied.implied(around, HAS_MATRIX)
    except TooManyCases:
        return True  # the checker has told the user


def _over_hypers(condition: Expression, plan: Plan) -> Expression:
    """A condition with static flags written out."""
    meaning = {f.name: f.condition for f in plan.flags}

    def written_out(node: Expression) -> Expression:
        if isinstance(node, Read) and node.symbol.role is Role.FLAG and node.symbol.name in meaning:
            return meaning[node.symbol.name]
        if isinstance(node, Apply) and node.operation in LOGIC:
            return replace(node, type=replace(node.type, static=all(a.type.static for a in node.arguments)))
        return replace(node, type=replace(node.type, static=False)) if isinstance(node, Read) else node

    return map_expression(condition, written_out)


def _stores_once(procedure: ProcedurePlan, program: Program, where: str) -> None:
    """All that the text of a procedure stores is stored by one pass, stage or program, and θ by `step` and nothing else."""
    parts = [procedure.host.body, *(p.model.body for p in procedure.phases if p.model is not None)]
    for kernel in procedure.kernels:
        parts += [b for p in kernel.sweeps for b in (p.prepare, p.body, p.picked)] + [kernel.finish]
    stored = Counter(name for part in parts for name in {s.target.name for s in statements(part) if isinstance(s, Store)})
    if twice := sorted(n for n, places in stored.items() if places > 1):
        raise InternalError(f"{where}: {twice} are stored in more than one place")
    text = next(p.body for p in program.procedures if p.name == procedure.name)
    written = {s.target.name for s in statements(text) if isinstance(s, Store)}
    ends = any(isinstance(s, Stop) for s in statements(text))  # lines after a `stop` on every path are left out
    if not (stored.keys() <= written if ends else stored.keys() == written):
        raise InternalError(f"{where}: it stores {sorted(stored)}, the text says {sorted(written)}")
    if ("theta" in stored) != (procedure.name == "step"):
        raise InternalError(f"{where}: θ must be written by `step` and by nothing else")
