"""Program of the whole model -> PyTorch: one readable line per line of the spec, on 0-dim float64 tensors of any device.

Nothing is read back to the host, and no argument is changed: a state's name stands for its new value after the line that
stores it. Where a returned value would share memory with a state that is about to change, it is copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from optc.compiler.backends.host import INDENT
from optc.compiler.backends.names import PYTHON, Namer
from optc.compiler.backends.pytorch.chains import Printer
from optc.compiler.backends.pytorch.emit import Emitter, numbers_of, tuple_of
from optc.compiler.ir import expressions, map_symbols, reads, statements
from optc.compiler.plan import ModelProgram
from optc.dsl.program import LOSS, Branch, Let, Role, Statement, Store, Symbol
from optc.dsl.source import Source


def emit_model(model: ModelProgram, name: str, source: Source) -> str:
    """`def {name}(scalars, flags, totals, loss, states) -> (exports, carried)`: floats, bools and 0-dim float64 tensors."""
    namer = Namer(PYTHON | {"torch", "Tensor", "ieee", "sign", "cospi"})
    results = (*model.exports, *model.carried)
    body = _of_locals(model.body)
    totals = [total for total, _ in model.totals]
    given = [*totals, *[LOSS.name] * model.loss]
    like = next(iter((*given, *_always_there(model))), "")
    printer = Printer(namer, like=like, numbers=numbers_of(body, frozenset(), (*results, *given, *model.states)))
    emitter = Emitter(printer, source, frozenset(), results, kept=set(model.carried))
    parameters = [f"{namer(n)}: float" for n in model.scalars]
    parameters += [f"{namer(n)}: bool" for n in model.flags]
    parameters += [f"{namer(n)}: Tensor" for n in (*given, *model.states)]
    return "\n".join(
        [
            f"def {name}(",
            *(f"{INDENT}{p}," for p in parameters),
            ") -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:",
            f'{INDENT}"""Numbers that all parameters share: what the next kernels need of them, and new values of states."""',
            *emitter.block(body, body, INDENT),
            f"{INDENT}return (",
            f"{INDENT * 2}{tuple_of(map(namer, model.exports))},  # exports",
            f"{INDENT * 2}{tuple_of(map(namer, model.carried))},  # carried",
            f"{INDENT})",
        ]
    )


def _of_locals(body: tuple[Statement, ...]) -> tuple[Statement, ...]:
    """The body with a local for everything that it is given as a tensor, or gives a value."""
    bound = {s.target for s in statements(body) if isinstance(s, Let)}

    def local(symbol: Symbol) -> Symbol:
        given = symbol.role in (Role.STATE, Role.STATISTIC, Role.LOSS) or symbol in bound
        return Symbol(Role.LOCAL, symbol.name) if given else symbol

    return tuple(_rebinding(map_symbols(body, local)))


def _rebinding(body: tuple[Statement, ...]) -> Iterator[Statement]:
    """Stores give their name a new value."""
    for statement in body:
        match statement:
            case Store(target=target, value=value, span=span):
                yield Let(target, value, span)
            case Branch(then=then, otherwise=otherwise):
                yield replace(statement, then=tuple(_rebinding(then)), otherwise=tuple(_rebinding(otherwise)))
            case _:
                yield statement


def _always_there(model: ModelProgram) -> list[str]:
    """The states that exist in every variant, for all that this program tells: it uses them outside branches."""
    lines = tuple(s for s in model.body if isinstance(s, Let | Store))
    used = [*(s.target for s in lines), *(r.symbol for e in expressions(lines) for r in reads(e))]
    return list(dict.fromkeys(s.name for s in used if s.role is Role.STATE))
